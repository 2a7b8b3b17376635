# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads infrared images and masks from files and from memory, with all of their depth."""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError


ImageLike = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor

GREY_MODES = ("L", "I", "I;16", "I;16B", "I;16L", "F")

# What Pillow raises for damaged files, depending on their format and on what is damaged.
DAMAGES = (
    *(OSError, SyntaxError, TypeError, ValueError, LookupError, EOFError, OverflowError, struct.error, zlib.error),
    *(Image.DecompressionBombError, RuntimeError),
)


@contextmanager
def open_image(file: BinaryIO, name: str) -> Iterator[ImageFile.ImageFile]:
    """
    Opens an image file with Pillow.

    Args:
        file (`BinaryIO`): The open file, or `io.BytesIO`. TIFF files that are opened by path may be mapped into
            memory, and Pillow then rotates them wrongly.
        name (`str`): What messages call it.

    Raises:
        ValueError: if, here or while it is decoded in the block, it turns out to be damaged, not an image, or larger
            than Pillow opens. The message names it.
    """
    try:
        opened = Image.open(file)
        if opened.format == "PNG":
            opened.verify()  # its checksums, which decoding does not look at
            file.seek(0)
            opened = Image.open(file)
        with opened:
            yield opened
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{name!r} is not an image that Pillow can read. If it is an image of another kind (float64 TIFF, raw "
            "counts), read it with another library and pass the array."
        ) from error
    except DAMAGES as error:
        if isinstance(error, ValueError):  # Pillow's, or a sentence of the block
            raise error if name in str(error) else ValueError(f"{name!r}: {error}") from error
        what = "too large" if isinstance(error, Image.DecompressionBombError) else "damaged"
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"The image {name!r} is {what}: {reason}.") from error


def read_image(image: ImageLike, keep_palette_ids: bool = False) -> np.ndarray:
    """
    Reads an image or a mask as an array with its values and its depth.

    Args:
        image: Path of a file that Pillow reads (the first of several pages), `PIL.Image.Image` of mode 1, L, P, RGB,
            I, I;16 or F, `np.ndarray` or `torch.Tensor`. An alpha channel is dropped if nothing is transparent.
        keep_palette_ids (`bool`, *optional*, defaults to `False`): Whether to return the ids of a palette or
            black-and-white image instead of its colours, as masks need it.

    Returns:
        `np.ndarray` of the shape that was given. Files and PIL images give `(height, width)` or `(height, width, 3)`,
        turned upright if EXIF says so.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a file is not an image, or has channels or a depth that would be lost.
    """
    if isinstance(image, np.ndarray):
        return image.astype(image.dtype.newbyteorder("="), copy=False)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        return (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    if isinstance(image, Image.Image):
        return _read_pil_image(image, getattr(image, "filename", "") or "The image", keep_palette_ids)
    if not isinstance(image, (str, os.PathLike)):
        raise ValueError(f"An image must be a path, a PIL image, an array or a tensor, got {type(image).__name__}.")
    path = os.fspath(image)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r} (addresses are not downloaded).")
    with open(path, "rb") as file, open_image(file, path) as opened:
        return _read_pil_image(opened, path, keep_palette_ids)


def _read_pil_image(image: Image.Image, name: str, keep_palette_ids: bool) -> np.ndarray:
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    bits, sample_format = tags.get(258, (0,)), tags.get(339, (1,))[0]
    is_deep = max(bits) > 8 or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    if is_deep and image.mode not in GREY_MODES:
        raise ValueError(
            f"{name} has 16 bits in each of several channels, which Pillow would cut to 8. Read it with another "
            "library (tifffile, imageio, OpenCV) and pass the array."
        )
    is_opaque = image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255)
    if image.mode not in (*GREY_MODES, "RGB", "P", "1", "YCbCr", "LAB", "HSV") and not is_opaque:
        raise ValueError(
            f"{name} has the mode {image.mode}. Its last channel may be transparency or, as in MFNet, the thermal "
            "image. Save it without transparency, or pass the array of the channels you mean, e.g. "
            "np.asarray(image)[..., 3] for MFNet."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == "LA" or (image.mode == "1" and not keep_palette_ids):
        image = image.convert("L")
    elif image.mode not in (*GREY_MODES, "RGB", "1") and not (image.mode == "P" and keep_palette_ids):
        image = image.convert("RGB")  # palettes, 8-bit colour spaces, and opaque colours
    array = np.asarray(image)
    stored = {1: "u", 2: "i"}.get(sample_format)
    if tags and stored and array.dtype.kind in "ui" and max(bits) == 8 * array.dtype.itemsize:
        array = array.view(array.dtype.str.replace(array.dtype.kind, stored))  # Pillow knows only int32 and uint8
    return read_image(array)


def to_channels_last(array: np.ndarray, input_data_format: str | None = None) -> np.ndarray:
    """
    Brings an image array into the shape `(height, width, channels)` with 1 or 3 channels.

    Args:
        array (`np.ndarray`): `(height, width)`, or with 1 or 3 channels, first or last.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, if the shape is ambiguous.

    Raises:
        ValueError: if the shape is not that of an image, or is ambiguous.
    """
    if array.ndim == 2 and array.size:
        return array[..., None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"An image must have 2 or 3 dimensions, got an array of shape {array.shape}.")
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f'input_data_format must be "channels_first" or "channels_last", got {input_data_format!r}.')
    is_first = array.shape[0] in (1, 3) and input_data_format != "channels_last"
    is_last = array.shape[2] in (1, 3) and input_data_format != "channels_first"
    if is_first and is_last:
        raise ValueError(
            f"The channels of an array of shape {array.shape} may be the first or the last dimension. "
            'Pass input_data_format="channels_first" or "channels_last".'
        )
    if not (is_first or is_last):
        raise ValueError(
            f"An array of shape {array.shape} has neither 1 nor 3 {input_data_format or 'channels'}. Pass one image "
            "or a list of images. Of more channels, pass those you mean (MFNet: image[..., 3] is thermal)."
        )
    return np.moveaxis(array, 0, 2) if is_first else array


def read_mask(mask: ImageLike) -> np.ndarray:
    """
    Reads a mask as class ids, `(height, width)`. It accepts what [`read_image`] accepts.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the mask does not hold one integer for each pixel, or ids are beyond 2**53.
    """
    ids = read_image(mask, keep_palette_ids=True)
    ids = ids.squeeze(-1) if ids.ndim == 3 and ids.shape[-1] == 1 else ids
    ids = ids.squeeze(0) if ids.ndim == 3 and ids.shape[0] == 1 else ids
    if ids.ndim != 2 or ids.dtype.kind not in "uib":
        raise ValueError(
            f"A mask must hold one integer id for each pixel, got {ids.dtype} of shape {ids.shape}. Turn colours into "
            "ids first."
        )
    if ids.dtype.itemsize == 8 and ids.size and max(-int(ids.min()), int(ids.max())) > 2**53:
        raise ValueError(f"A mask must hold class ids, got {ids.min()} to {ids.max()}.")
    return ids


def as_list(images: Any) -> list:
    """Makes a list of one image or several. An array of four dimensions is a batch."""
    found = list(images) if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4 else [images]
    if not found:
        raise ValueError("There are no images: the list is empty.")
    return found


def check_same_sizes(images: Sequence[np.ndarray], others: Sequence[np.ndarray], what: str) -> None:
    """
    Checks that there are as many masks or auxiliary images (`what` they are) as images, each of the size of its image.

    Raises:
        ValueError: if not. The message says which one differs.
    """
    if len(others) != len(images):
        raise ValueError(f"There are {len(images)} images but {len(others)} {what}s.")
    for index, (image, other) in enumerate(zip(images, others)):
        if image.shape[:2] != other.shape[:2]:
            raise ValueError(
                f"Image and {what} number {index} differ in size: the image has {image.shape[:2]} (height, width), "
                f"the {what} {other.shape[:2]}."
            )


__all__ = [
    "DAMAGES",
    "ImageLike",
    "as_list",
    "check_same_sizes",
    "open_image",
    "read_image",
    "read_mask",
    "to_channels_last",
]
