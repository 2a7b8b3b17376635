# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that appear whole or not at all, JSON and YAML of any origin, and which files are images and videos."""

import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

INCOMPLETE, LOCK = ".incomplete-", ".lock"
TIFF_SUFFIXES = (".tif", ".tiff")
JPEG_SUFFIXES = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (".png", *JPEG_SUFFIXES, ".bmp", ".webp", ".pgm", ".ppm", ".pnm", ".jp2", ".gif", *TIFF_SUFFIXES)
MAX_REFERENCES = 20  # in a YAML file: nested ones multiply
VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


@contextmanager
def write_whole(target: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a temporary path on the disk of `target`. The file or folder that is written there becomes `target` when the
    block ends without an error, and is removed otherwise. What killed processes left beside it is removed as well.

    Args:
        target: File or folder. A file is replaced. In a folder that exists, files of the same names are replaced and
            all others stay.

    Raises:
        OSError: if it cannot be written, for example because the disk is full. The message names `target`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers_once(target.parent.absolute())
        with _own_folder(target.parent) as folder:
            staged = folder / target.name
            yield staged
            settle(staged, folder)
            if staged.is_dir() and target.exists():
                _replace_files(staged, target)
            else:
                os.replace(staged, target)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two from torch and safetensors
        raise could_not_write(target, error) from error


@contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A new folder, locked, which is removed at the end."""
    with ExitStack() as stack:
        for _ in range(100):  # until none is taken for a leftover and removed, before it is locked
            folder = parent / f"{INCOMPLETE}{secrets.token_hex(4)}"
            folder.mkdir()
            with suppress(FileNotFoundError):
                if stack.enter_context(lock(folder / LOCK)) is not False:
                    break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _replace_files(staged: Path, target: Path) -> None:
    """Moves files one by one. Meanwhile no configuration stands beside weights that it may not describe."""
    before, after = target / "config.json", staged / "config.json"
    if before.is_file() and after.is_file() and before.read_bytes() != after.read_bytes():
        before.unlink()
    for file in sorted(staged.iterdir(), key=after.__eq__):  # the configuration last
        os.replace(file, target / file.name)


def settle(path: Path, new_folder: Path) -> None:
    """
    Prepares a file, or a folder with all that is in it, for its final name: others may read it as the umask says,
    whatever the library did that wrote it, and it is on the disk, so that not even a power cut leaves it half there.

    Args:
        path: What was written.
        new_folder: A folder that `mkdir()` made there, for its mode.
    """
    mode = stat.S_IMODE(new_folder.stat().st_mode)
    for written in [path, *path.rglob("*")]:
        wanted = mode if written.is_dir() else mode & 0o666
        if stat.S_IMODE(written.stat().st_mode) != wanted:
            written.chmod(wanted)
        if written.is_file():
            with open(written, "rb") as file:
                os.fsync(file.fileno())


def could_not_write(target: Path, error: Exception) -> OSError:
    """An error that names what was not written and how much space is left, which writers do not always say."""
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    if isinstance(error.__cause__, OSError):
        error = error.__cause__  # of a file within a folder
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of all files of a folder that was copied
        reason = str(error.args[0][0][-1]).split(": ")[0]
    if "inline_container" in str(reason):  # all that torch says of an error of the disk
        reason = "not all of it could be written"
    name = getattr(error, "filename", None)
    # Where a copy finds the disk full, it names the source.
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    what = f" {str(name)!r}" if name and not is_full and INCOMPLETE not in str(name) else ""
    return OSError(f"Could not write {str(target)!r}, where {free:,.0f} MB are free: {reason}{what}")


def could_not_read(path: str, error: OSError) -> ValueError:
    """An error that names what cannot be read, and why."""
    return ValueError(f"{path!r} cannot be read: {str(error.strerror or error).rstrip('.')}.")


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[bool | None]:
    """
    Locks a file or folder against other processes. The lock of a process that is killed ends with it.

    Args:
        path: A file, which is made if there is none, or a folder, which is only locked for this machine.
        wait: Whether to wait for another process that has locked it.

    Yields:
        Whether it is locked now; `None` where that is not possible.
    """
    if fcntl is None:
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_ours: bool | None = os.path.samestat(os.fstat(descriptor), os.stat(path))
        except (BlockingIOError, FileNotFoundError):  # or the last one that locked it has removed it
            is_ours = False
        except OSError:  # some disks of other machines
            is_ours = None
        yield is_ours
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """
    Keeps other runs out of a folder that exists.

    Raises:
        OSError: if another run is at work there.
    """
    with lock(folder) as is_ours:
        if is_ours is False:
            raise OSError(
                f"Another process is writing into {str(folder)!r}: wait until it has ended, or choose another folder."
            )
        yield


def remove_leftovers(folder: Path, below: bool = True) -> None:
    """Removes what [`write_whole`] left in a folder, and `below` it, in processes that were killed."""
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            if name.startswith(INCOMPLETE):
                with suppress(OSError), lock(Path(parent, name, LOCK)) as is_left:
                    if is_left:  # its process has no lock any more
                        shutil.rmtree(Path(parent, name))
        if not below:
            return


@lru_cache
def _remove_leftovers_once(folder: Path) -> None:
    remove_leftovers(folder, below=False)  # in a folder of many files this takes longer than to write one


def read_json(path: str | os.PathLike, example: str = "") -> Any:
    """
    The content of a JSON file. An error shows the `example`, if there is one.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON in UTF-8, is nested too deeply, or names something twice. The message names it.
    """
    try:
        return json.loads(Path(path).read_text("utf-8-sig"), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        form = f" such as {example}" if example else ""
        raise ValueError(f"{str(path)!r} is not JSON{form}: {error}.") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def read_yaml(path: str | os.PathLike) -> Any:
    """
    The content of a YAML file: plain values, lists and dictionaries.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not YAML in UTF-8, or refers to its parts so often that they might become huge. The
            message names it.
    """
    import yaml

    try:
        text = Path(path).read_text("utf-8-sig")
        references = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        if references > MAX_REFERENCES:
            raise ValueError(f"it has {references} references (*name), and at most {MAX_REFERENCES} are allowed")
        return yaml.safe_load(text)
    except OSError:
        raise
    except Exception as error:  # PyYAML raises any, for a wrong value behind a tag
        raise ValueError(f"{str(path)!r} is not YAML: {str(error) or type(error).__name__}.") from error


def image_files(folder: str | os.PathLike, left_out: Collection[str] = ()) -> Iterator[Path]:
    """
    The image files in a folder and in the folders below, sorted by name. Hidden files and folders are left out.

    Args:
        folder: The folder.
        left_out (`Collection[str]`, *optional*): Names of folders to leave out, in lower case.
    """
    for parent, folders, names in walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name.lower() not in left_out]
        for name in names:
            if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != ".":
                if not name.isprintable() and name.encode("utf-8", "replace").decode() != name:
                    raise ValueError(f"The name of the file {os.path.join(parent, name)!r} is not UTF-8: rename it.")
                yield Path(parent, name)


def walk(folder: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """
    As `os.walk()` with links followed: path, folders and files of a folder and of those below, sorted. A link to a
    folder above itself is left out, and the folders that are left in the list are walked through.

    Raises:
        OSError: if a folder cannot be read. One that does not exist has nothing in it.
    """

    def stop(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    above = {os.fspath(folder): {os.path.realpath(folder)}}
    for parent, folders, names in os.walk(os.fspath(folder), onerror=stop, followlinks=True):
        own = above.pop(parent)
        real = {name: os.path.realpath(os.path.join(parent, name)) for name in folders}
        folders[:] = sorted(name for name in folders if real[name] not in own)
        yield parent, folders, sorted(names)
        above |= {os.path.join(parent, name): {*own, real[name]} for name in folders}


__all__ = [
    "IMAGE_SUFFIXES",
    "JPEG_SUFFIXES",
    "TIFF_SUFFIXES",
    "VIDEO_SUFFIXES",
    "alone",
    "could_not_read",
    "could_not_write",
    "image_files",
    "lock",
    "read_json",
    "read_yaml",
    "remove_leftovers",
    "settle",
    "walk",
    "write_whole",
]
