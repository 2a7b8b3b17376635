# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a dataset as they were downloaded: an unpacked folder, a zip file, or a folder with zip files in it."""

import hashlib
import os
import posixpath
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..files import IMAGE_SUFFIXES


class SourceFile(NamedTuple):
    """
    One file, in a folder or in a zip file; small, so that lists of them can be handed to other processes.

    Args:
        container (`str`): Path of the folder or of the zip file.
        name (`str`): Path in it, with forward slashes, or, in a zip file, the name that stands there.
        is_zipped (`bool`): Whether the container is a zip file.
    """

    container: str
    name: str
    is_zipped: bool

    @property
    def path(self) -> str:
        """What messages call it."""
        return f"{self.container}: {self.name}" if self.is_zipped else os.path.join(self.container, self.name)

    @property
    def stem(self) -> str:
        """The file name without folders and suffix."""
        return PurePosixPath(self.name.replace("\\", "/") if self.is_zipped else self.name).stem

    def read(self) -> bytes:
        """
        Raises:
            FileNotFoundError: if it is gone.
            ValueError: if its checksum or its compression is wrong, or a password is needed; the message names it.
        """
        if not self.is_zipped:
            return Path(self.container, self.name).read_bytes()
        status = os.stat(self.container)
        try:
            return _open_archive(self.container, status.st_size, status.st_mtime_ns, os.getpid()).read(self.name)
        except KeyError as error:
            raise FileNotFoundError(f"The member {self.name!r} is no longer in {self.container!r}.") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"The member {self.name!r} of {self.container!r} cannot be read: {error}.") from error


class SourceFiles:
    """
    All files below a path by their names. Members of a zip file stand where they would be if it were unpacked into the
    folder it lies in; what is unpacked there as well counts once. Hidden files and what macOS adds to archives are
    passed over.

    Args:
        data_dir (`str` or `os.PathLike`): A zip file, or a folder, in which zip files are looked into as well.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if a zip file is damaged, one of its members has a path that leads out of it, or two members have
            the same path.
    """

    def __init__(self, data_dir: str | os.PathLike):
        self.data_dir = os.path.abspath(data_dir)
        self._fingerprint = hashlib.sha256()
        unpacked: dict[str, SourceFile] = {}
        archives = []
        if os.path.isdir(self.data_dir):
            for parent, folders, names in os.walk(self.data_dir, followlinks=True):
                folders[:] = sorted(name for name in folders if not _is_passed_over(name))
                folder = os.path.relpath(parent, self.data_dir).replace(os.sep, "/")
                prefix = "" if folder == "." else f"{folder}/"
                for name in sorted(names):
                    if name.lower().endswith(".zip"):
                        archives.append((os.path.join(parent, name), prefix))
                    elif not _is_passed_over(name):
                        unpacked[prefix + name] = SourceFile(self.data_dir, prefix + name, False)
                        self._count(os.path.join(parent, name))
        elif os.path.isfile(self.data_dir):
            archives.append((self.data_dir, ""))
        else:
            raise FileNotFoundError(f"There is no folder or zip file {str(data_dir)!r}.")
        zipped: dict[str, SourceFile] = {}
        for path, prefix in archives:
            self._count(path)
            for name, member in _members(path).items():
                file = SourceFile(path, member, True)
                if zipped.setdefault(prefix + name, file) != file:
                    raise ValueError(
                        f"{name!r} is in {zipped[prefix + name].container!r} and in {path!r}: give the path of the "
                        "one you mean, or unpack them into folders of their own and remove the zip files."
                    )
        self._files = dict(sorted({**zipped, **unpacked}.items()))
        self._names = list(self._files)
        folders_of_names = {name.rpartition("/")[0] for name in self._names}
        all_folders = {str(parent) for name in folders_of_names for parent in (name, *PurePosixPath(name).parents)}
        self._folders_by_last_part = _by_last_part(sorted(folder for folder in all_folders if folder not in ("", ".")))
        self._files_by_last_part = _by_last_part(self._names)

    def _count(self, path: str) -> None:
        status = os.stat(path)
        name = os.path.relpath(path, self.data_dir)
        self._fingerprint.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed, or written; the same wherever the files lie."""
        return self._fingerprint.hexdigest()[:16]

    @property
    def names(self) -> list[str]:
        """Paths below `data_dir` or in zip files, with forward slashes, sorted."""
        return self._names

    def find_folder(self, *names: str) -> str | None:
        """
        The folder with one of these names, wherever it lies; upper and lower case are the same.

        Args:
            names (`str`): Names, or ends of paths such as `"train/images"`; the first one that occurs is meant.

        Returns:
            Its path, or `None`.

        Raises:
            ValueError: if there are several.
        """
        return self._find(self._folders_by_last_part, "folders", names)

    def find_file(self, *names: str) -> SourceFile | None:
        """As [`find_folder`], a file, such as a list of names; in the order of `names`."""
        found = self._find(self._files_by_last_part, "files", names)
        return None if found is None else self._files[found]

    def _find(self, by_last_part: Mapping[str, list[str]], kind: str, names: Sequence[str]) -> str | None:
        for name in names:
            end = f"/{name}".lower()
            found = [path for path in by_last_part.get(end.rpartition("/")[2], []) if f"/{path}".lower().endswith(end)]
            if len(found) > 1:
                raise ValueError(
                    f"{self.data_dir!r} has several {kind} {name!r}, {' and '.join(map(repr, found[:3]))}: give the "
                    "path of the dataset that you mean."
                )
            if found:
                return found[0]
        return None

    def images(self, folder: str) -> dict[str, SourceFile]:
        """
        The image files in a folder (as [`find_folder`] returns it; `"."` means all) and in the folders below, by their
        path from there without suffix; sorted by file name.

        Raises:
            ValueError: if two files differ in their suffix only.
        """
        prefix = "" if folder == "." else f"{folder}/"
        images: dict[str, SourceFile] = {}
        for index in range(bisect_left(self._names, prefix), len(self._names)):
            name = self._names[index]
            if not name.startswith(prefix):
                break
            if name.lower().endswith(IMAGE_SUFFIXES):
                file = self._files[name]
                stem = name[len(prefix) :].rpartition(".")[0]
                if images.setdefault(stem, file) != file:
                    raise ValueError(f"{images[stem].path!r} and {file.path!r} have the same stem: remove one.")
        return images


def read_names(file: SourceFile) -> list[str]:
    """
    The first word of each line of a text file, empty lines left out.

    Raises:
        ValueError: if it is not UTF-8, a name stands there twice, or there is none.
    """
    try:
        lines = file.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"The list {file.path!r} is not text in UTF-8: {error}.") from error
    names = [line.split()[0] for line in lines if line.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"The list {file.path!r} names {', '.join(map(repr, repeated[:3]))} more than once.")
    if not names:
        raise ValueError(f"The list {file.path!r} is empty.")
    return names


def _is_passed_over(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _by_last_part(paths: Sequence[str]) -> dict[str, list[str]]:
    """Looking paths up by their ends should not go through all of them."""
    paths_of_part = defaultdict(list)
    for path in paths:
        paths_of_part[path.rpartition("/")[2].lower()].append(path)
    return paths_of_part


def _members(path: str) -> dict[str, str]:
    """The files in an archive: path with forward slashes -> name in the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.filename for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(
            f"{path!r} is no zip file, or a damaged one: {error}. Unpack it if it is an archive of another kind, "
            "otherwise download it again."
        ) from error
    names: dict[str, str] = {}
    for member in members:
        name = member.replace("\\", "/")  # some programs for Windows write the other slash
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or name[1:2] == ":":
            raise ValueError(f"The member {member!r} of {path!r} has a path that leads out of the archive.")
        name = posixpath.normpath(name)
        if name in names:
            raise ValueError(f"The member {member!r} occurs twice in {path!r}.")
        names[name] = member
    return {name: member for name, member in names.items() if not any(map(_is_passed_over, name.split("/")))}


@lru_cache(maxsize=16)
def _open_archive(path: str, size: int, modified: int, process: int) -> zipfile.ZipFile:
    """
    Kept open, since reading the directory of a large archive takes a while. Opened again when the archive has been
    replaced, and in another process, since a file position cannot be shared.
    """
    return zipfile.ZipFile(path)


__all__ = ["SourceFile", "SourceFiles", "read_names"]
