# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the image files of a benchmark, of which any may be damaged, and encodes what is stored in their place."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...modeling.image_reading_unip import read_image, read_mask
from ..folder import LOSSY_SUFFIXES
from ..reading import IGNORE_INDEX
from ..source_files import SourceFile


class EncodedImage(NamedTuple):
    """
    An image as it is stored.

    Args:
        name (`str`): Of its file, with suffix.
        content (`bytes`): The file.
        shape (`tuple[int, int]`): Height and width.
    """

    name: str
    content: bytes
    shape: tuple[int, int]


def read_bytes(file: SourceFile) -> bytes:
    """
    Raises:
        ValueError: if a file is damaged or gone; the message names it.
    """
    try:
        return file.read()
    except OSError as error:  # of which datasets would make "Cannot find data file"
        raise ValueError(f"{file.path!r} cannot be read: {error.strerror or error}.") from error


@contextmanager
def open_image(content: bytes, name: str) -> Iterator[Image.Image]:
    """
    Opens an encoded file.

    Raises:
        ValueError: if it turns out, here or while it is decoded in the block, to be damaged, no image, or not what the
            block asks for; the message names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as checked:
            checked.verify()  # the checksums of PNG, which decoding passes over
        with Image.open(io.BytesIO(content)) as opened:
            opened.filename = repr(name)  # for messages
            yield opened
    except UnidentifiedImageError as error:
        raise ValueError(f"{name!r} is not an image that Pillow can read.") from error
    except (OSError, SyntaxError, EOFError, OverflowError, struct.error, zlib.error) as error:
        raise ValueError(f"The image {name!r} is damaged: {error}.") from error
    except (ValueError, Image.DecompressionBombError) as error:
        raise error if repr(name) in str(error) else ValueError(f"{name!r}: {error}") from error


def read_image_file(file: SourceFile) -> EncodedImage:
    """
    An image as it is, decoded once to see whether it can be.

    Raises:
        ValueError: if it is gone or damaged, or has channels or a depth that would be lost; the message names it.
    """
    content = read_bytes(file)
    with open_image(content, file.path) as opened:
        height, width = read_image(opened).shape[:2]
    return EncodedImage(PurePosixPath(file.name).name, content, (height, width))


def read_ids(file: SourceFile) -> np.ndarray:
    """
    The ids in a mask.

    Returns:
        `np.ndarray` of shape `(height, width)` of integers.

    Raises:
        ValueError: if it is gone, damaged, a JPEG, or holds anything but one integer for each pixel; the message names
            it.
    """
    if file.name.lower().endswith(LOSSY_SUFFIXES):
        raise ValueError(f"The mask {file.path!r} is a JPEG, which alters ids.")
    with open_image(read_bytes(file), file.path) as opened:
        ids = read_mask(read_image(opened, keep_palette_ids=True))  # (H, W)
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def encode_mask(ids: np.ndarray, palette: np.ndarray) -> bytes:
    """
    A palette PNG: the indices are the ids, and image viewers show the colours.

    Args:
        ids (`np.ndarray` of shape `(height, width)`): uint8.
        palette (`np.ndarray` of shape `(classes, 3)`): uint8 colours; 255 is white.
    """
    # All 256 colours: with fewer, Pillow would store fewer bits, and 255 would be lost.
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = 255
    picture = Image.fromarray(ids)
    picture.putpalette(colours.tobytes())
    return encode_png(picture)


def encode_png(image: Image.Image) -> bytes:
    """A PNG file in memory."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


__all__ = [
    "EncodedImage",
    "encode_mask",
    "encode_png",
    "open_image",
    "read_bytes",
    "read_ids",
    "read_image_file",
]
