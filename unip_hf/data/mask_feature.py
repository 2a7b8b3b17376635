# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Masks of any kind as a column of `datasets`: rows hold where a mask comes from, and reading one gives class ids."""

import io
import json
import os
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow
from datasets.features.features import register_feature
from PIL import Image

from ..modeling.image_reading_unip import read_image, read_mask
from .coco import draw_regions
from .encoded import encoded_bytes, open_encoded
from .masks import MaskError, is_of_colours, pack_colours, to_ids


MAX_COLOURS = 64  # of one mask, kept for a proposal
NAMES = ("bytes", "path", "image", "regions")


@dataclass
class MaskImage(datasets.Image):
    """
    A column of masks. Its rows are read as PIL images of class ids: palette images keep their palette, grey in three
    channels becomes one, values and colours become ids, and the annotations of COCO JSON are drawn.

    A row holds `path`, the file of the mask or the COCO JSON; `image`, the file of the image; for COCO also
    `regions`, the annotations of the image. `bytes` are those of a file of ids, once it was made.

    Args:
        ids (`dict[str, int]`, *optional*): Ids by values or colours, as in [`MaskMeaning`]. By default values are ids.
        source (`str`): The file or option that lists them, for messages.
        resize (`bool`, *optional*, defaults to `False`): Whether masks take the size of their images.
        is_deferred (`bool`, *optional*, defaults to `False`): Whether rows are read as dictionaries for [`read_ids`],
            without opening a file.
    """

    ids: dict[str, int] | None = None
    source: str = ""
    resize: bool = False
    is_deferred: bool = False
    pa_type: ClassVar[Any] = pyarrow.struct(
        {"bytes": pyarrow.binary(), "path": pyarrow.string(), "image": pyarrow.string(), "regions": pyarrow.string()}
    )
    _type: str = field(default="MaskImage", init=False, repr=False)

    def encode_example(self, value: Any) -> dict[str, Any]:
        encoded = value if isinstance(value, dict) else super().encode_example(value)
        return {name: encoded.get(name) for name in NAMES}

    def decode_example(self, value: dict[str, Any], token_per_repo_id: Any = None) -> Any:
        if self.is_deferred:
            return {**value, "feature": self}
        if not isinstance(value, dict):
            return value  # it is an image already
        if self._is_file_of_ids(value):
            return super().decode_example(value, token_per_repo_id)
        return Image.fromarray(self.read(value, mask_name(value)))

    def cast_storage(self, storage: Any) -> pyarrow.StructArray:
        if not pyarrow.types.is_struct(storage.type):
            storage = super().cast_storage(storage)
        given = {storage.type.field(index).name for index in range(storage.type.num_fields)}
        arrays = [
            storage.field(name).cast(self.pa_type.field(name).type)
            if name in given
            else pyarrow.nulls(len(storage), self.pa_type.field(name).type)
            for name in NAMES
        ]
        return pyarrow.StructArray.from_arrays(arrays, fields=list(self.pa_type), mask=storage.is_null())

    def embed_storage(self, storage: Any, *_: Any, **__: Any) -> pyarrow.StructArray:
        """Makes files of ids. Those that are some already keep their bytes."""
        rows = [None if row is None else self._embedded(row) for row in storage.to_pylist()]
        return pyarrow.array(rows, type=self.pa_type)

    def _embedded(self, row: dict[str, Any]) -> dict[str, Any]:
        name = os.path.basename((row["path"] if row["regions"] is None else row["image"]) or "") or None
        if self._is_file_of_ids(row):
            return {"bytes": encoded_bytes(row), "path": name}
        buffer = io.BytesIO()
        Image.fromarray(self.read(row, mask_name(row))).save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": os.path.splitext(str(name))[0] + ".png"}

    def _is_file_of_ids(self, value: dict[str, Any]) -> bool:
        """Whether the file of a row can be used as it is. Reads at most the header of the file."""
        if value["bytes"] is not None:
            return True
        if value["regions"] is not None or self.ids is not None:
            return False
        with open_encoded(value, value["path"]) as opened:
            if opened.mode in ("RGB", "RGBA", "LA"):
                return False
            return not self.resize or value["image"] is None or _size(opened) == _image_size(value["image"])

    def read(self, value: dict[str, Any], name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """
        The ids of a row.

        Args:
            value (`dict`): The row.
            name (`str`): What messages call it.
            size (`tuple[int, int]`, *optional*): Height and width of the image, if it was read.

        Returns:
            `np.ndarray` of shape `(height, width)`.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if the mask cannot be made. The message names the file.
        """
        if value["bytes"] is not None:
            return _read_file(value, name, None, "")
        if size is None and value.get("image") is not None and (self.resize or value.get("regions") is not None):
            size = _image_size(value["image"])
        if value.get("regions") is None:
            ids = _read_file(value, name, self.ids, self.source)
        else:
            told = tuple(json.loads(value["regions"])["size"])
            if size != told and not self.resize:
                raise MaskError(
                    f"{value['image']} has the size {size} (height, width), but {value['path']} gives it the size "
                    f"{told}.",
                    "size",
                )
            ids = draw_regions(value["regions"], name)
        if self.resize and size is not None and ids.shape != size:
            height, width = size
            ids = np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
        return ids


def mask_name(value: dict[str, Any], number: int | None = None) -> str:
    """What messages call an undecoded mask. The number of the row names what has no path."""
    if value.get("regions") is not None:
        return f"{value['image']} in {value['path']}"
    return value["path"] or f"mask {number}"


def read_ids(value: dict[str, Any], name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """
    The class ids of an undecoded row of any column of masks.

    Args:
        value (`dict`): `{"path": ..., "bytes": ...}`, or what a deferred [`MaskImage`] gives.
        name (`str`): What messages call it.
        size (`tuple[int, int]`, *optional*): Height and width of the image, if it was read.

    Returns:
        `np.ndarray` of shape `(height, width)`, of the size that the mask has.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the mask cannot be read. The message names the file.
    """
    try:
        return value.get("feature", MaskImage()).read(value, name, size)
    except ValueError as error:
        if isinstance(error, MaskError) or name in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error


def _read_file(value: dict[str, Any], name: str, ids: dict[str, int] | None, source: str) -> np.ndarray:
    with open_encoded(value, name) as opened:
        pixels = read_image(opened, keep_palette_ids=True)  # (H, W) or (H, W, 3)
        if ids is not None and is_of_colours(ids) and opened.mode == "P":
            palette = np.zeros((256, 3), np.uint8)
            colours = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette[: len(colours)] = colours
            pixels = palette[pixels]  # (H, W, 3)
    if ids is not None and is_of_colours(ids):
        return to_ids(pack_colours(pixels, name), ids, name, source)
    if pixels.ndim == 3 and (pixels[..., :1] == pixels[..., 1:]).all():
        pixels = pixels[..., 0]  # grey that was saved as RGB
    if pixels.ndim == 3:
        found = [f"#{colour:06x}" for colour in np.unique(pack_colours(pixels, name)).tolist()]
        some = ", ".join(found[:3]) + ", ..." * (len(found) > 3)
        message = f"{name} is in colour ({some}). List its colours in mask_colours.json."
        raise MaskError(message, "colour_mask", found[:MAX_COLOURS])
    pixels = read_mask(pixels)
    return pixels if ids is None else to_ids(pixels, ids, name, source)


def _size(opened: Image.Image) -> tuple[int, int]:
    """Height and width of an image as it is read, which EXIF may turn."""
    width, height = opened.size
    is_turned = opened.getexif().get(Image.ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if is_turned else (height, width)


def _image_size(path: str) -> tuple[int, int]:
    with open_encoded({"path": path, "bytes": None}, path) as opened:
        return _size(opened)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # that the function is experimental
    register_feature(MaskImage, "MaskImage")


__all__ = ["MaskImage", "mask_name", "read_ids"]
