# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that appear whole or not at all, and which files are images and videos."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


TIFF_SUFFIXES = (".tif", ".tiff")
JPEG_SUFFIXES = (".jpg", ".jpeg")
IMAGE_SUFFIXES = (".png", *JPEG_SUFFIXES, ".bmp", ".webp", ".pgm", ".ppm", ".pnm", ".jp2", ".gif", *TIFF_SUFFIXES)
VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


@contextmanager
def write_whole(target: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a temporary path on the disk of `target`. The file or folder that is written there becomes `target` when the
    block ends without an error, and is removed otherwise.

    Args:
        target: File or folder. A file is replaced. In a folder that exists, files of the same names are replaced and
            all others stay.

    Raises:
        OSError: if it cannot be written, for example because the disk is full. The message names `target`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".incomplete-") as folder:
            staged = Path(folder) / target.name
            yield staged
            if staged.is_dir() and target.exists():
                for file in staged.iterdir():
                    os.replace(file, target / file.name)
            else:
                os.replace(staged, target)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two from torch and safetensors
        raise could_not_write(target, error) from error


def could_not_write(target: Path, error: Exception) -> OSError:
    """An error that names what was not written and how much space is left, which writers do not always say."""
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    reason = getattr(error, "strerror", None) or error
    return OSError(f"Could not write {str(target)!r}, where {free:,.0f} MB are free: {reason}")


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
    "could_not_write",
    "image_files",
    "write_whole",
]
