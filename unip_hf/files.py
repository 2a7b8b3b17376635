# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that appear whole or not at all, and which files are images and videos."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".pnm", ".jp2", ".gif", *TIFF_SUFFIXES)
VIDEO_SUFFIXES = (".mp4", ".m4v", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


@contextmanager
def write_whole(target: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a temporary path on the disk of `target`; what was written there, a file or a folder, takes its place when
    the block ends without an error, and vanishes otherwise.

    Args:
        target: File or folder. A file is replaced. In a folder that exists, files of the same names are replaced and
            all others stay.

    Raises:
        OSError: if the disk is full, say; the message names `target`.
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
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own kinds
        raise could_not_write(target, error) from error


def could_not_write(target: Path, error: Exception) -> OSError:
    """An error that names what was not written, and how much space there is, which writers do not always say."""
    folder = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    reason = getattr(error, "strerror", None) or error
    return OSError(f"Could not write {str(target)!r}, where {free:,.0f} MB are free: {reason}")


__all__ = ["IMAGE_SUFFIXES", "TIFF_SUFFIXES", "VIDEO_SUFFIXES", "could_not_write", "write_whole"]
