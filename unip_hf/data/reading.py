# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads rows of a dataset with all of their depth, and names their files when something is wrong with them."""

import io
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..modeling.image_reading_unip import read_image, read_mask, to_channels_last


IGNORE_INDEX = 255


class Sample(NamedTuple):
    """
    One image and its mask.

    Args:
        name (`str`): Path of the image's file, or what messages call it.
        image (`np.ndarray` of shape `(height, width, channels)`): Raw intensities with the depth of the file, with
            one channel or three.
        ids (`np.ndarray` of shape `(height, width)`, *optional*): Class ids as they are in the mask.
    """

    name: str
    image: np.ndarray
    ids: np.ndarray | None


def without_decoding(dataset: Any) -> Any:
    """A dataset (or dictionary of datasets) whose rows hold encoded files, for [`read_sample`]."""
    if isinstance(dataset, dict):
        return type(dataset)({split: without_decoding(rows) for split, rows in dataset.items()})
    for column in ("image", "annotation"):
        if column in (dataset.column_names or ()):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def ignore_sigterm(worker_id: int) -> None:
    """
    `worker_init_fn` of a `DataLoader`. SIGTERM usually reaches a whole process group, and a worker that it ended would
    stop the run before it is saved. Workers end with their loader or with the main process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def encoded_bytes(value: dict[str, Any]) -> bytes:
    """The bytes of an encoded file, `{"path": ..., "bytes": ...}`, which are read from the path if they are `None`."""
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
    try:
        with Image.open(io.BytesIO(value["bytes"])) as opened:
            return read_image(opened, keep_palette_ids)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that Pillow can read.") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"The image {name} is damaged: {error}.") from error


def read_sample(row: dict[str, Any], number: int | None = None) -> Sample:
    """
    Reads a row of a dataset that went through [`without_decoding`].

    Args:
        row (`dict`): Holds the encoded files `image` and, optionally, `annotation`.
        number (`int`, *optional*): Number of the row. It names what has no path.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is damaged, or image and mask differ in size. The message names the file.
    """
    name = row["image"]["path"] or f"image {number}"
    image = to_channels_last(read_encoded(row["image"], name))  # (H, W, C)
    if row.get("annotation") is None:
        return Sample(name, image, None)
    mask_name = row["annotation"]["path"] or f"mask {number}"
    try:
        ids = read_mask(read_encoded(row["annotation"], mask_name, keep_palette_ids=True))  # (H, W)
    except ValueError as error:
        raise error if mask_name in str(error) else ValueError(f"{mask_name}: {error}") from error
    if ids.shape != image.shape[:2]:
        raise ValueError(
            f"Image and mask differ in size (height, width): {name} has {image.shape[:2]}, {mask_name} {ids.shape}."
        )
    return Sample(name, image, ids)


def check_ids(ids: np.ndarray, classes: Collection[int], name: str, ignore_index: int = IGNORE_INDEX) -> None:
    """
    Raises:
        ValueError: if an id is neither in `classes` nor `ignore_index`. The message names the file and the ids.
    """
    unknown = set(np.unique(ids).tolist()) - set(classes) - {ignore_index}
    if unknown:
        raise ValueError(
            f"The mask of {name} holds the ids {sorted(unknown)}, but the classes are {min(classes)} to "
            f"{max(classes)} and {ignore_index} to ignore. Correct the mask, or name the classes in id2label.json."
        )


__all__ = [
    "IGNORE_INDEX",
    "Sample",
    "check_ids",
    "encoded_bytes",
    "ignore_sigterm",
    "read_encoded",
    "read_sample",
    "without_decoding",
]
