# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The files of a dataset as they were downloaded: a folder, a zip file, or a folder that holds zip files."""

import hashlib
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..files import IMAGE_SUFFIXES, walk


LARGEST_MEMBER = 2**30  # bytes of one file in an archive; a larger one is no image


class SourceFile(NamedTuple):
    """
    One file, in a folder or in a zip file. It is small, because lists of them are handed to other processes.

    Args:
        container (`str`): Path of the folder or of the zip file.
        name (`str`): Path in the folder, with forward slashes, or the name of the member of the zip file.
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
            FileNotFoundError: if it no longer exists.
            ValueError: if its checksum or its compression is wrong, or a password is needed. The message names it.
        """
        if not self.is_zipped:
            path = Path(self.container, self.name)
            if not path.is_file():  # to read a pipe might never end
                raise FileNotFoundError(f"There is no file {str(path)!r}.")
            return path.read_bytes()
        status = os.stat(self.container)
        try:
            archive = _open_archive(self.container, status.st_size, status.st_mtime_ns, os.getpid())
            if (size := archive.getinfo(self.name).file_size) > LARGEST_MEMBER:  # zipfile reads no more than this
                raise ValueError(f"it has {size / 2**30:.1f} GB. Unpack the archive if that is right")
            return archive.read(self.name)
        except KeyError as error:
            raise FileNotFoundError(f"The member {self.name!r} is no longer in {self.container!r}.") from error
        except MemoryError:
            raise
        except Exception as error:  # damaged archives can lead zipfile and its decoders to any exception
            raise ValueError(f"The member {self.name!r} of {self.container!r} cannot be read: {error}.") from error


class SourceFiles:
    """
    All files below a path by their names. Members of a zip file have the names they would have if it were unpacked
    into its folder. If they are unpacked there as well, they count once. Hidden files and what macOS adds to archives
    are left out.

    Args:
        data_dir (`str` or `os.PathLike`): A zip file, or a folder, which may hold zip files.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if a zip file is damaged, one of its members has a path that leads out of it, or two members have
            the same path.
    """

    def __init__(self, data_dir: str | os.PathLike):
        self.data_dir = os.path.abspath(data_dir)
        self._fingerprint = hashlib.sha256()
        unpacked: dict[str, SourceFile] = {}
        archives = []
        if os.path.isdir(self.data_dir):
            for parent, folders, names in walk(self.data_dir):
                folders[:] = [name for name in folders if not _is_hidden(name)]
                folder = os.path.relpath(parent, self.data_dir).replace(os.sep, "/")
                prefix = "" if folder == "." else f"{folder}/"
                for name in names:
                    if name.lower().endswith(".zip"):
                        archives.append((os.path.join(parent, name), prefix))
                    elif not _is_hidden(name):
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
                        f"{name!r} is in {zipped[prefix + name].container!r} and in {path!r}. Give the path of the "
                        "one you mean, or unpack them into separate folders and remove the zip files."
                    )
        self._files = dict(sorted({**zipped, **unpacked}.items()))
        nearest = {name.rpartition("/")[0] for name in self._files}
        all_folders = {str(parent) for name in nearest for parent in (name, *PurePosixPath(name).parents)}
        self._folders = sorted(all_folders - {"", "."})

    def _count(self, path: str) -> None:
        status = os.stat(path)
        name = os.path.relpath(path, self.data_dir)
        self._fingerprint.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())

    @property
    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written, but not when all files are moved."""
        return self._fingerprint.hexdigest()[:16]

    @property
    def names(self) -> list[str]:
        """Paths below `data_dir` or in zip files, with forward slashes, sorted."""
        return list(self._files)

    def find_folder(self, *names: str) -> str | None:
        """
        Finds a folder by its name, wherever it is. Upper and lower case are the same.

        Args:
            names (`str`): Names, or ends of paths such as `"train/images"`. The first one that exists is returned.

        Returns:
            Its path, or `None`.

        Raises:
            ValueError: if there are several.
        """
        return self._find(self._folders, "folders", names)

    def find_file(self, *names: str) -> SourceFile | None:
        """Finds a file, such as a list of names, as [`find_folder`] finds a folder."""
        found = self._find(self.names, "files", names)
        return None if found is None else self._files[found]

    def _find(self, paths: Sequence[str], kind: str, names: Sequence[str]) -> str | None:
        for name in names:
            found = [path for path in paths if f"/{path}".lower().endswith(f"/{name}".lower())]
            if len(found) > 1:
                raise ValueError(
                    f"{self.data_dir!r} has several {kind} {name!r}, {' and '.join(map(repr, found[:3]))}. Give the "
                    "path of the dataset that you mean."
                )
            if found:
                return found[0]
        return None

    def images(self, folder: str) -> dict[str, SourceFile]:
        """
        The image files in a folder (as [`find_folder`] returns it, or `"."` for all) and in the folders below, by
        their path from there without suffix, sorted by file name.

        Raises:
            ValueError: if two files differ only in their suffix.
        """
        prefix = "" if folder == "." else f"{folder}/"
        images: dict[str, SourceFile] = {}
        for name, file in self._files.items():
            if name.startswith(prefix) and name.lower().endswith(IMAGE_SUFFIXES):
                stem = name[len(prefix) :].rpartition(".")[0]
                if images.setdefault(stem, file) != file:
                    raise ValueError(f"{images[stem].path!r} and {file.path!r} have the same stem. Remove one.")
        return images


def read_names(file: SourceFile) -> list[str]:
    """
    The first word of each line of a text file. Empty lines are left out.

    Raises:
        ValueError: if the file is not UTF-8, repeats a name, or has none.
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


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _members(path: str) -> dict[str, str]:
    """The files in an archive: path with forward slashes -> name in the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.filename for member in archive.infolist() if not member.is_dir()]
    except Exception as error:  # damaged archives can lead zipfile to any exception
        raise ValueError(
            f"{path!r} is not a zip file, or it is damaged: {error}. If it is an archive of another kind, unpack it. "
            "Otherwise download it again."
        ) from error
    names: dict[str, str] = {}
    for member in members:
        name = member.replace("\\", "/")  # some Windows programs write backslashes
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or name[1:2] == ":":
            raise ValueError(f"The member {member!r} of {path!r} has a path that leads out of the archive.")
        name = posixpath.normpath(name)
        if name in names:
            raise ValueError(f"The member {member!r} occurs twice in {path!r}.")
        names[name] = member
    return {name: member for name, member in names.items() if not any(map(_is_hidden, name.split("/")))}


@lru_cache(maxsize=16)
def _open_archive(path: str, size: int, modified: int, process: int) -> zipfile.ZipFile:
    """
    Archives stay open, because reading the directory of a large one takes a while. They are opened again when they
    have been replaced, and in other processes, which cannot share a file position.
    """
    return zipfile.ZipFile(path)


__all__ = ["SourceFile", "SourceFiles", "read_names"]
