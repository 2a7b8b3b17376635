# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the image files of a benchmark, any of which may be damaged, and encodes masks and images as PNG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...files import JPEG_SUFFIXES, could_not_read
from ...modeling.image_reading_unip import open_image as open_encoded_image
from ...modeling.image_reading_unip import read_image, read_mask
from ..reading import IGNORE_INDEX
from ..source_files import SourceFile


class EncodedImage(NamedTuple):
    """
    An image as it is stored.

    Args:
        name (`str`): Name of its file, with suffix.
        content (`bytes`): The file.
        shape (`tuple[int, int]`): Height and width.
    """

    name: str
    content: bytes
    shape: tuple[int, int]


@contextmanager
def open_image(file: SourceFile) -> Iterator[tuple[bytes, Image.Image]]:
    """
    Reads and opens an image file.

    Yields:
        Its bytes, and the image.

    Raises:
        ValueError: if the file cannot be read or, here or while it is decoded in the block, turns out to be damaged,
            not an image, or not what the block asks for. The message names the file.
    """
    path = file.path
    try:
        content = file.read()
    except OSError as error:
        raise could_not_read(path, error) from error
    with open_encoded_image(io.BytesIO(content), path) as opened:
        opened.filename = repr(path)  # for messages
        yield content, opened


def read_image_file(file: SourceFile) -> EncodedImage:
    """
    An image file as it is. It is decoded once to see whether it can be.

    Raises:
        ValueError: if the file is damaged, or has channels or a depth that would be lost. The message names it.
    """
    with open_image(file) as (content, opened):
        height, width = read_image(opened).shape[:2]
    return EncodedImage(PurePosixPath(file.name).name, content, (height, width))


def read_ids(file: SourceFile) -> np.ndarray:
    """
    The ids in a mask.

    Returns:
        `np.ndarray` of shape `(height, width)` of integers.

    Raises:
        ValueError: if the file is damaged, a JPEG, or does not hold one integer for each pixel. The message names it.
    """
    if file.name.lower().endswith(JPEG_SUFFIXES):
        raise ValueError(f"The mask {file.path!r} is a JPEG, which alters ids.")
    with open_image(file) as (_, opened):
        ids = read_mask(read_image(opened, keep_palette_ids=True))  # (H, W)
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def encode_mask(ids: np.ndarray, palette: np.ndarray) -> bytes:
    """
    A palette PNG: the indices are the ids, and image viewers show the colours.

    Args:
        ids (`np.ndarray` of shape `(height, width)`): uint8.
        palette (`np.ndarray` of shape `(classes, 3)`): uint8 colours. The colour of 255 is white.
    """
    # All 256 colours: with fewer, Pillow would store fewer bits, and 255 would be lost.
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = 255
    picture = Image.fromarray(ids)
    picture.putpalette(colours.tobytes())
    return encode_image(picture)


def encode_image(image: Image.Image, image_format: str = "png", **settings: Any) -> bytes:
    """An image file in memory. The settings are those of Pillow, such as `quality` for JPEG."""
    file = io.BytesIO()
    image.save(file, format=image_format, **settings)
    return file.getvalue()


__all__ = ["EncodedImage", "encode_image", "encode_mask", "open_image", "read_ids", "read_image_file"]
