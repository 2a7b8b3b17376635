# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Decodes encoded files, `{"path": ..., "bytes": ...}`, with all of their depth."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..modeling.image_reading_unip import open_image, read_image


def encoded_bytes(value: dict[str, Any]) -> bytes:
    """
    The bytes of an encoded file, `{"path": ..., "bytes": ...}`, which are read from the path if they are `None`.

    Raises:
        FileNotFoundError: if there is no such file, or it is none.
    """
    if value["bytes"] is None and not Path(value["path"]).is_file():  # to read a pipe might never end
        raise FileNotFoundError(f"There is no file {value['path']!r}.")
    return Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]


def read_encoded(value: dict[str, Any], name: str, keep_palette_ids: bool = False) -> np.ndarray:
    """
    Decodes an encoded file, `{"path": ..., "bytes": ...}`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is damaged, not an image, or has channels or a depth that would be lost.
    """
    if value["bytes"] is None:
        return read_image(value["path"], keep_palette_ids)
    with open_encoded(value, name) as opened:
        return read_image(opened, keep_palette_ids)


@contextmanager
def open_encoded(value: dict[str, Any], name: str) -> Iterator[Image.Image]:
    """
    Opens an encoded file with Pillow.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is damaged or not an image. The message names it.
    """
    with open_image(io.BytesIO(encoded_bytes(value)), name) as opened:
        yield opened


__all__ = ["encoded_bytes", "open_encoded", "read_encoded"]
