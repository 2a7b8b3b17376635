"""Files that appear whole or not at all: their modes, what killed processes leave, and errors."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unip_hf.files import alone, lock, remove_leftovers, write_whole


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_modes_are_what_the_umask_says_whatever_wrote_the_files(umask: int, tmp_path: Path) -> None:
    with write_whole(tmp_path / "new" / "folder") as staged:
        (staged / "inside").mkdir(parents=True)
        staged.chmod(0o700)
        for name in ("file", "inside/file"):
            (staged / name).touch(0o600)  # as safetensors does
    with write_whole(tmp_path / "new" / "file") as staged:
        staged.touch(0o600)
    found = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    folders = dict.fromkeys(("new", "new/folder", "new/folder/inside"), 0o750)
    assert found == folders | dict.fromkeys(("new/file", "new/folder/file", "new/folder/inside/file"), 0o640)


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_stays(tmp_path: Path) -> None:
    for name in ("left", "older/left"):
        (tmp_path / name.replace("left", ".incomplete-left")).mkdir(parents=True)
    alive = tmp_path / ".incomplete-alive"
    alive.mkdir()
    with lock(alive / ".lock") as is_ours:
        assert is_ours
        with write_whole(tmp_path / "file") as staged:
            staged.write_text("whole")
            assert sorted(path.name for path in tmp_path.iterdir() if path != staged.parent) == [alive.name, "older"]
            remove_leftovers(tmp_path)
        assert sorted(path.name for path in tmp_path.rglob("*")) == [alive.name, ".lock", "file", "older"]
    remove_leftovers(tmp_path)
    assert not alive.exists()


def test_what_threads_write_is_no_leftover_even_before_it_is_locked(tmp_path: Path) -> None:
    def write(name: int) -> None:
        remove_leftovers(tmp_path)
        with write_whole(tmp_path / str(name)) as staged:
            staged.touch()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(500)))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == list(range(500))


def test_an_error_names_the_target_and_what_was_missing(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    message = rf"Could not write '{tmp_path}/folder', where .* MB are free: No such file or directory '{missing}'$"
    with pytest.raises(OSError, match=message), write_whole(tmp_path / "folder"):
        missing.read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f": File exists '{tmp_path}/file'$"), write_whole(tmp_path / "file" / "page"):
        pass
    with pytest.raises(OSError, match=r"are free: Is a directory$"), write_whole(tmp_path / "folder") as staged:
        staged.mkdir()
        with write_whole(staged / "page") as page:  # one message, not one in another
            page.mkdir()
            page.write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_second_run_is_kept_out_of_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with alone(tmp_path), pytest.raises(OSError, match=f"is writing into '{tmp_path}'"), alone(tmp_path):
            pass
