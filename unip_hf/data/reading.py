# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads rows of a dataset with all of their depth, and names their files when something is wrong with them."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from ..modeling.image_reading_unip import to_channels_last
from .class_names import IGNORE_INDEX
from .encoded import encoded_bytes, read_encoded
from .mask_feature import MaskImage, mask_name, read_ids


VISIBLE_COLUMN = "rgb"  # beside `image`, the infrared one
HOW_TO_GET_PAIRS = (
    "Choose the configuration both of a benchmark or of the scenes (--dataset_config both), or, in your own folder, "
    'put the visible images into "visible" beside "images".'
)


class Sample(NamedTuple):
    """
    One image and its mask.

    Args:
        name (`str`): Path of the image's file, or what messages call it.
        image (`np.ndarray` of shape `(height, width, channels)`): Raw intensities with the depth of the file, with
            one channel or three.
        ids (`np.ndarray` of shape `(height, width)`, *optional*): Class ids as they are in the mask.
        visible (`np.ndarray` of shape `(height, width, channels)`, *optional*): The visible image of a pair, if it is
            wanted. `image` is then the infrared one.
    """

    name: str
    image: np.ndarray
    ids: np.ndarray | None
    visible: np.ndarray | None = None


def without_decoding(dataset: Any) -> Any:
    """A dataset (or dictionary of datasets) whose rows hold encoded files, for [`read_sample`]."""
    if isinstance(dataset, dict):
        return type(dataset)({split: without_decoding(rows) for split, rows in dataset.items()})
    for column in ("image", "annotation", VISIBLE_COLUMN):
        if column in (dataset.column_names or ()):
            feature = (dataset.features or {}).get(column)
            encoded = datasets.Image(decode=False)
            if isinstance(feature, MaskImage):
                encoded = replace(feature, is_deferred=True)
            dataset = dataset.cast_column(column, encoded)
    return dataset


def check_pairs(dataset: Any) -> None:
    """
    Raises:
        ValueError: if the rows of a dataset are not pairs.
    """
    if not has_pairs(dataset):
        raise ValueError(f"The model reads pairs, but the dataset has no visible images. {HOW_TO_GET_PAIRS}")


def has_pairs(dataset: Any) -> bool:
    """Whether the rows of a dataset are pairs of an infrared and a visible image."""
    return VISIBLE_COLUMN in (dataset.column_names or ())


def read_sample(row: dict[str, Any], number: int | None = None, with_visible: bool = False) -> Sample:
    """
    Reads a row of a dataset that went through [`without_decoding`].

    Args:
        row (`dict`): Holds the encoded files `image` and, optionally, `annotation` and `rgb`.
        number (`int`, *optional*): Number of the row. It names what has no path.
        with_visible (`bool`, *optional*, defaults to `False`): Whether to read the visible image of the pair, too.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a file is damaged, the visible image is wanted and missing, or sizes differ. The message names
            the file.
    """
    name = row["image"]["path"] or f"image {number}"
    image = to_channels_last(read_encoded(row["image"], name))  # (H, W, C)
    ids = visible = None
    if row.get("annotation") is not None:
        name_of_mask = mask_name(row["annotation"], number)
        ids = read_ids(row["annotation"], name_of_mask, image.shape[:2])  # (H, W)
        if ids.shape != image.shape[:2]:
            raise ValueError(
                f"Image and mask differ in size (height, width): {name} has {image.shape[:2]}, {name_of_mask} "
                f"{ids.shape}. Add --resize_masks (resize_masks=True) to resize masks of a folder."
            )
    if with_visible:
        if row.get(VISIBLE_COLUMN) is None:
            raise ValueError(f"{name} has no visible image, and pairs are needed. {HOW_TO_GET_PAIRS}")
        name_of_visible = visible_name(row, number)
        visible = to_channels_last(read_encoded(row[VISIBLE_COLUMN], name_of_visible))  # (H, W, C)
        if visible.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"Infrared and visible image differ in size (height, width): {name} has {image.shape[:2]}, "
                f"{name_of_visible} {visible.shape[:2]}. Align the images of each pair first."
            )
    return Sample(name, image, ids, visible)


def visible_name(row: dict[str, Any], number: int | None = None) -> str:
    """What messages call the visible image of a row, which may have the file name of the infrared one."""
    path = row[VISIBLE_COLUMN]["path"]
    if not path or path == row["image"]["path"]:
        return f"the visible image of {path or f'row {number}'}"
    return path


def check_ids(ids: np.ndarray, classes: Collection[int], name: str, ignore_index: int = IGNORE_INDEX) -> None:
    """
    Raises:
        ValueError: if an id is neither in `classes` nor `ignore_index`. The message names the file and the ids.
    """
    found = np.flatnonzero(count_ids(ids)) if ids.dtype == np.uint8 else np.unique(ids)
    unknown = set(found.tolist()) - set(classes) - {ignore_index}
    if unknown:
        raise ValueError(
            f"The mask of {name} holds the ids {sorted(unknown)}, but the classes are {min(classes)} to "
            f"{max(classes)} and {ignore_index} to ignore. Correct the mask, or name the classes in id2label.json."
        )


def count_ids(ids: np.ndarray) -> np.ndarray:
    """Pixels of each id, none below 0, in a mask: shape `(256,)`, or longer where there are larger ids."""
    if ids.dtype == np.uint8:
        return np.array(Image.fromarray(ids).histogram())  # half the time of np.bincount()
    return np.bincount(ids.ravel(), minlength=IGNORE_INDEX + 1)


__all__ = [
    "IGNORE_INDEX",
    "VISIBLE_COLUMN",
    "Sample",
    "check_ids",
    "check_pairs",
    "count_ids",
    "encoded_bytes",
    "has_pairs",
    "read_encoded",
    "read_sample",
    "visible_name",
    "without_decoding",
]
