# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Downloaded files, in folders and in archives that may be damaged, dishonest, or replaced."""

import multiprocessing
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

from unip_hf.data.source_files import SourceFile, SourceFiles, read_names

from .benchmark_archives import write_files


FILES = {
    "set/images/b.png": b"b",
    "set/images/a.JPG": b"a",
    "set/images/deep/c.png": b"c",
    "set/images2/a.png": b"2",
    "set/train.txt": b"a b\n",
    "set/images/.hidden.png": b"",
    "__MACOSX/set/images/._a.jpg": b"",
}


@pytest.mark.parametrize("target", ["set.zip", "unpacked"])
def test_files_of_a_folder_and_of_a_zip_file(target: str, tmp_path: Path) -> None:
    files = SourceFiles(write_files(tmp_path / target, FILES))
    assert files.names == sorted(name for name in FILES if "/." not in name and "MACOSX" not in name)
    assert files.find_folder("nothing", "IMAGES") == "set/images" == files.find_folder("set/images")
    assert files.find_folder("mages") is None and files.find_folder("a.jpg") is None
    images = files.images("set/images")
    assert list(images) == ["a", "b", "deep/c"]
    assert images["deep/c"].stem == "c" and images["a"].read() == b"a"
    assert list(files.images(".")) == ["set/images/a", "set/images/b", "set/images/deep/c", "set/images2/a"]
    list_file = files.find_file("TRAIN.txt")
    assert read_names(pickle.loads(pickle.dumps(list_file))) == ["a"]
    assert files.find_file("rain.txt") is None


def test_members_stand_where_they_would_be_unpacked(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "set.zip", {"./images/a.png": b"zipped", "labels\\a.png": b"label"})
    (tmp_path / "data" / "deep").mkdir(parents=True)
    archive.rename(tmp_path / "data" / "deep" / "set.ZIP")
    write_files(tmp_path / "data", {"deep/images/a.png": b"unpacked"})
    files = SourceFiles(tmp_path / "data")
    assert files.names == ["deep/images/a.png", "deep/labels/a.png"]
    assert files.images("deep/images")["a"].read() == b"unpacked"
    label = files.images("deep/labels")["a"]
    assert label.read() == b"label" and label.stem == "a"


@pytest.mark.parametrize(("members", "message"), [
    (["../../escape.png"], r"The member '../../escape.png' of .*set.zip' has a path that leads out"),
    (["images/../../x.png"], r"'images/../../x.png' of .* leads out"),
    (["/etc/x.png"], r"'/etc/x.png' of .* leads out"),
    (["C:\\x.png"], r"x.png' of .* leads out"),
    (["a\\..\\..\\x.png"], r"x.png' of .* leads out"),
    (["images/a.png", "images/a.png"], r"The member 'images/a.png' occurs twice in .*set.zip'"),
    (["images/a.png", "./images/a.png"], r"The member './images/a.png' occurs twice in .*set.zip'"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_dishonest_archives(members: list[str], message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in members:
            archive.writestr(name, b"")
    for data_dir in (tmp_path / "set.zip", tmp_path):
        with pytest.raises(ValueError, match=message):
            SourceFiles(data_dir)


def test_what_is_there_twice(tmp_path: Path) -> None:
    write_files(
        tmp_path / "data", {"x/images/a.png": b"", "y/images/a.jpg": b"", "y/images/a.png": b"", "x/l.txt": b""}
    )
    write_files(
        tmp_path / "data", {"y/L.TXT": b"a\nb\nb\n", "empty.txt": b"\n \n", "wide.txt": "a\n".encode("utf-16")}
    )
    files = SourceFiles(tmp_path / "data")
    with pytest.raises(ValueError, match="several folders 'images', 'x/images' and 'y/images'"):
        files.find_folder("images")
    with pytest.raises(ValueError, match=r"several files 'l.txt', 'x/l.txt' and 'y/L.TXT'"):
        files.find_file("l.txt")
    with pytest.raises(ValueError, match=r"y/images/a.jpg' and .*y/images/a.png' have the same stem"):
        files.images("y/images")
    with pytest.raises(ValueError, match=r"y/L.TXT' names 'b' more than once"):
        read_names(files.find_file("y/l.txt"))
    with pytest.raises(ValueError, match=r"empty.txt' is empty"):
        read_names(files.find_file("empty.txt"))
    with pytest.raises(ValueError, match=r"wide.txt' is not text in UTF-8"):
        read_names(files.find_file("wide.txt"))
    write_files(tmp_path / "data" / "1.zip", {"images/a.png": b"1"})
    write_files(tmp_path / "data" / "2.zip", {"images/a.png": b"2"})
    with pytest.raises(ValueError, match=r"'images/a.png' is in .*1.zip' and in .*2.zip'"):
        SourceFiles(tmp_path / "data")


def test_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder or zip file .*missing'"):
        SourceFiles(tmp_path / "missing")
    (tmp_path / "page.zip").write_text("<html>Sign in to download</html>")
    with pytest.raises(ValueError, match=r"page.zip' is not a zip file, or it is damaged"):
        SourceFiles(tmp_path / "page.zip")
    for method, name in ((zipfile.ZIP_STORED, "stored"), (zipfile.ZIP_DEFLATED, "deflated")):
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.png", os.urandom(1000))
            archive.writestr("b.png", b"whole")
        content = bytearray(path.read_bytes())
        content[500] ^= 0xFF
        path.write_bytes(content)
        images = SourceFiles(path).images(".")
        with pytest.raises(ValueError, match=rf"The member 'a.png' of .*{name}.zip' cannot be read"):
            images["a"].read()
        assert images["b"].read() == b"whole"
        path.write_bytes(content[:700])
        with pytest.raises(ValueError, match=rf"{name}.zip' is not a zip file"):
            SourceFiles(path)
    path = tmp_path / "locked.zip"
    write_files(path, {"a.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag of encryption, in the directory and at the member
    content[content.index(b"PK\3\4") + 6] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"The member 'a.png' of .*locked.zip' cannot be read: .*password"):
        SourceFiles(path).images(".")["a"].read()


def test_archive_replaced_while_it_is_open(tmp_path: Path) -> None:
    path = write_files(tmp_path / "set.zip", {"a.png": b"old", "b.png": b"old"})
    images = SourceFiles(path).images(".")
    assert images["a"].read() == b"old"
    write_files(tmp_path / "new.zip", {"b.png": b"younger", "c.png": b""})
    os.replace(tmp_path / "new.zip", path)
    assert images["b"].read() == b"younger"
    with pytest.raises(FileNotFoundError, match=r"'a.png' is no longer in .*set.zip'"):
        images["a"].read()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        images["b"].read()


def _read_many(files: list[SourceFile]) -> bool:
    return all(file.read() == file.stem.encode() * 5000 for file in files * 20)


def test_processes_read_one_archive(tmp_path: Path) -> None:
    path = write_files(tmp_path / "set.zip", {f"{index}.png": str(index).encode() * 5000 for index in range(20)})
    files = list(SourceFiles(path).images(".").values())
    assert _read_many(files[:1])  # now this process has the archive open
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(_read_many, [files, files[::-1]]))


def test_fingerprint(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "data", {"images/a.png": b"a"})
    write_files(folder / "more.zip", {"labels/a.png": b"a"})
    fingerprints = [SourceFiles(folder).fingerprint]
    shutil.move(folder, tmp_path / "moved")
    assert SourceFiles(tmp_path / "moved").fingerprint == fingerprints[0]
    folder = tmp_path / "moved"
    (folder / "images" / "b.png").write_bytes(b"")
    fingerprints.append(SourceFiles(folder).fingerprint)
    (folder / "images" / "b.png").rename(folder / "images" / "c.png")
    fingerprints.append(SourceFiles(folder).fingerprint)
    status = (folder / "images" / "a.png").stat()
    os.utime(folder / "images" / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    fingerprints.append(SourceFiles(folder).fingerprint)
    write_files(folder / "more.zip", {"labels/a.png": b"longer"})
    fingerprints.append(SourceFiles(folder).fingerprint)
    assert len(set(fingerprints)) == len(fingerprints)
