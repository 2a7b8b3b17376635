# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that appear whole or not at all, and which files are images and videos."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError


try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
TIFF_SUFFIXES = (".tif", ".tiff")
JPEG_SUFFIXES = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (".png", *JPEG_SUFFIXES, ".bmp", ".webp", ".pgm", ".ppm", ".pnm", ".jp2", ".gif", *TIFF_SUFFIXES)
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
        folder = target.parent / f".incomplete-{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            with lock(folder / LOCK):
                staged = folder / target.name
                yield staged
                settle(staged, folder)
                if staged.is_dir() and target.exists():
                    for file in staged.iterdir():
                        os.replace(file, target / file.name)
                else:
                    os.replace(staged, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two from torch and safetensors
        raise could_not_write(target, error) from error


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
    name = getattr(error, "filename", None)
    # Where a copy finds the disk full, it names the source.
    is_full = getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
    )
    what = f" {str(name)!r}" if name and not is_full and ".incomplete-" not in str(name) else ""
    return OSError(f"Could not write {str(target)!r}, where {free:,.0f} MB are free: {reason}{what}")


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
        is_ours: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
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


def remove_leftovers(folder: Path, pattern: str = "**/.incomplete-*") -> None:
    """Removes what [`write_whole`] left in a folder, and below, in processes that were killed."""
    for leftover in list(folder.glob(pattern)):
        with suppress(OSError):
            with lock(leftover / LOCK) as is_left:
                pass
            if is_left:  # its process has no lock any more
                shutil.rmtree(leftover)


@lru_cache
def _remove_leftovers_once(folder: Path) -> None:
    remove_leftovers(folder, ".incomplete-*")  # in a folder of many files this takes longer than to write one


def image_files(folder: str | os.PathLike, left_out: Collection[str] = ()) -> Iterator[Path]:
    """
    The image files in a folder and in the folders below, sorted by name. Hidden files and folders are left out.

    Args:
        folder: The folder.
        left_out (`Collection[str]`, *optional*): Names of folders to leave out, in lower case.
    """
    for parent, folders, names in os.walk(os.fspath(folder), followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != "." and name.lower() not in left_out)
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and name[0] != ".":
                yield Path(parent, name)


__all__ = [
    "IMAGE_SUFFIXES",
    "JPEG_SUFFIXES",
    "TIFF_SUFFIXES",
    "VIDEO_SUFFIXES",
    "alone",
    "could_not_write",
    "image_files",
    "lock",
    "remove_leftovers",
    "settle",
    "write_whole",
]
