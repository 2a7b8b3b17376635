# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes images of any kind grey, and limits their size."""

import functools
import io

import numpy as np
from PIL import Image

from ...modeling.image_processing_unip import UnipImageProcessor
from ...modeling.image_reading_unip import open_image, read_image


class UnusableImage(ValueError):
    """A file is damaged, not an image, or has channels or a depth that would be lost. The message names it."""


def read_grey(encoded: bytes, name: str, crop_border: int = 0, keep_colour: bool = False) -> np.ndarray:
    """
    Decodes an image and makes it grey as in UNIP's pre-training (`convert("L")`, ITU-R 601 luminance). It is turned
    upright if EXIF says so. Grey images keep their values and their depth.

    Args:
        encoded (`bytes`): A file that Pillow reads.
        name (`str`): What messages call it.
        crop_border (`int`, *optional*, defaults to 0): Pixels to cut off on each side.
        keep_colour (`bool`, *optional*, defaults to `False`): Whether to leave colour images as they are.

    Returns:
        `np.ndarray` of shape `(height, width)`: uint8, or uint16, int32 or float32 if the file has more than 8 bits.
        With `keep_colour`, of a colour image, uint8 of shape `(height, width, 3)`.

    Raises:
        UnusableImage: if it cannot be read, or holds NaN.
        ValueError: if the crop leaves nothing.
    """
    try:
        with open_image(io.BytesIO(encoded), name) as opened:
            array = read_image(opened.convert("RGB") if opened.mode == "CMYK" else opened)  # (H, W) or (H, W, 3)
    except ValueError as error:
        raise UnusableImage(f"The image {name!r} cannot be used: {error}") from error
    if not np.isfinite(array).all():
        raise UnusableImage(f"The image {name!r} cannot be used: it holds NaN or infinite values.")
    if array.ndim == 3 and not keep_colour:
        array = np.asarray(Image.fromarray(array).convert("L"))
    height, width = array.shape[:2]
    if min(height, width) <= 2 * crop_border:
        raise ValueError(f"crop_border {crop_border} leaves nothing of the image {name!r} of {width}x{height} pixels.")
    return array[crop_border : height - crop_border, crop_border : width - crop_border]


@functools.cache
def _default_processor() -> UnipImageProcessor:
    return UnipImageProcessor()


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """
    Keeps 8-bit values, and scales others between percentiles of the image, as [`UnipImageProcessor`] does.

    Args:
        image (`np.ndarray` of shape `(height, width)`): Any depth.

    Returns:
        uint8 `np.ndarray` of the same shape.
    """
    if image.dtype == np.uint8:
        return image
    return (_default_processor().scale_intensities(image) * 255 + 0.5).astype(np.uint8)


def prepare_grey(image: np.ndarray, shortest_edge: int | None, image_format: str) -> np.ndarray:
    """
    What is written of an image from [`read_grey`]: 8 bits, or 16 if it has more than 8 and the format is PNG. Integers
    that fit are kept, and other values are scaled between percentiles of the image. The shorter side is shrunk
    (bicubic, antialiased) to at most `shortest_edge` pixels, if there is such a limit.
    """
    if image_format != "png" or image.dtype == np.uint8:
        image = to_8_bits(image)
    elif image.dtype.kind in "ui" and image.min() >= 0 and image.max() <= 65535:
        image = image.astype(np.uint16)
    else:
        image = (_default_processor().scale_intensities(image) * 65535 + 0.5).astype(np.uint16)
    height, width = image.shape
    if shortest_edge is None or min(height, width) <= shortest_edge:
        return image
    scale = shortest_edge / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))  # (h, w)


__all__ = ["UnusableImage", "prepare_grey", "read_grey", "to_8_bits"]
