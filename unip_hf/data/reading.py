# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads rows of a dataset with all of their depth, and names their files when something is wrong with them."""

import signal
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import datasets
import numpy as np

from ..modeling.image_reading_unip import to_channels_last
from .class_names import IGNORE_INDEX
from .encoded import encoded_bytes, read_encoded
from .mask_feature import MaskImage, mask_name, read_ids


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
            feature = (dataset.features or {}).get(column)
            encoded = datasets.Image(decode=False)
            if isinstance(feature, MaskImage):
                encoded = replace(feature, is_deferred=True)
            dataset = dataset.cast_column(column, encoded)
    return dataset


def ignore_sigterm(worker_id: int) -> None:
    """
    `worker_init_fn` of a `DataLoader`. SIGTERM usually reaches a whole process group, and a worker that it ended would
    stop the run before it is saved. Workers end with their loader or with the main process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


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
    name_of_mask = mask_name(row["annotation"], number)
    ids = read_ids(row["annotation"], name_of_mask, image.shape[:2])  # (H, W)
    if ids.shape != image.shape[:2]:
        raise ValueError(
            f"Image and mask differ in size (height, width): {name} has {image.shape[:2]}, {name_of_mask} "
            f"{ids.shape}. Add --resize_masks (resize_masks=True) to resize masks of a folder."
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
