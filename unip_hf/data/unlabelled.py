# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads images without labels, for pre-training."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from ..files import IMAGE_SUFFIXES, image_files
from .folder import MASK_FOLDERS
from .infmix.loading import source_names, without_sources
from .loading import load_infrared_dataset
from .parquet import parquet_files
from .reading import without_decoding


NOT_IMAGES = {*MASK_FOLDERS, "segmentationclass", "segmentationobject"}  # the last two are Pascal VOC's


def load_unlabelled(
    name: str,
    data_dir: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    config_name: str | None = None,
    allow_partial: bool = False,
    leave_out: Sequence[str] = (),
    keep_colour: bool = False,
) -> datasets.Dataset | datasets.IterableDataset:
    """
    Loads the images of a dataset, as encoded files in a single column `image`.

    Args:
        name (`str`):
            "folder" means every image file below one folder or several, whatever its split. Folders called masks,
            labels, annotations, SegmentationClass or SegmentationObject, and hidden ones, are left out. Any other
            name, or a folder that `unip prepare-dataset` or `unip prepare-infmix` wrote, is loaded by
            [`load_infrared_dataset`].
        data_dir (`str`, `os.PathLike` or several, *optional*): Where the dataset is.
        split (`str`, *optional*): "train" by default, or "validation", "test", "train+validation", ... A folder of
            images has no splits: give the folder of the split.
        streaming (`bool`, *optional*, defaults to `False`): Whether to give an iterable dataset, which caches nothing.
        num_proc, config_name, allow_partial (*optional*): As in [`load_infrared_dataset`].
        leave_out (`Sequence[str]`, *optional*): Sources of InfMix whose images are left out; `"infrared"` stands for
            all but `"imagenet"` and `"coco"`.
        keep_colour (`bool`, *optional*, defaults to `False`): Whether colours will be read. What
            `unip prepare-infmix` wrote has none.

    Returns:
        `Dataset`, or `IterableDataset` with `streaming`. Its rows are `{"image": {"path": ..., "bytes": ...}}`, where
        bytes are `None` for the files of a folder.

    Raises:
        OSError: if a folder is missing, or files cannot be read.
        ValueError: if there are no images, name, configuration, split or source are unknown, a file is damaged, or
            images have no colours or sources that are asked for.
    """
    given = [data_dir] if data_dir is None or isinstance(data_dir, (str, os.PathLike)) else list(data_dir)
    folders = [folder for folder in given if folder is not None]
    mixes = [folder for folder in folders if os.path.isfile(os.path.join(folder, "infmix.json"))]
    if keep_colour and mixes:
        raise ValueError(
            f"InfMix in {str(mixes[0])!r} is grey. To keep colours, give the folders that it was prepared from, as "
            'the dataset "folder".'
        )
    if leave_out and name != "infmix":
        raise ValueError(f'leave_out is for the dataset "infmix", got {name!r}: give the folders that you want.')
    rows: Any
    if name == "folder" and folders and not any(map(parquet_files, folders)) and not (config_name or allow_partial):
        if split is not None:
            raise ValueError(f"A folder of images has no split {split!r}. Give the folder that holds its images.")
        paths = [str(path) for folder in folders for path in _images_below(folder)]
        if streaming:
            random.Random(0).shuffle(paths)  # because a stream is shuffled only within its buffer
        features = datasets.Features({"image": datasets.Image(decode=False)})
        rows = datasets.Dataset.from_dict({"image": paths}, features=features)
        return rows.to_iterable_dataset(num_shards=min(64, len(rows))) if streaming else rows
    if len(folders) > 1:
        raise ValueError(f"Only folders of images can be several, got {', '.join(map(repr, map(str, folders)))}.")
    place = folders[0] if folders else None
    if name == "folder" and place is None:
        raise ValueError('The dataset "folder" needs data_dir, one folder of images or several.')
    split = "train" if split is None else split
    rows = load_infrared_dataset(name, place, split, streaming, num_proc, config_name, allow_partial)
    if leave_out:
        rows = without_sources(rows, leave_out, source_names(mixes[0]) if mixes else None)
    if not streaming and len(rows) == 0:
        raise ValueError(f"The split {split!r} of {str(place or name)!r} holds no images. Choose another one.")
    return without_decoding(rows.select_columns(["image"]))


def _images_below(folder: str | os.PathLike) -> list[Path]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    paths = list(image_files(os.path.abspath(folder), left_out=NOT_IMAGES))
    if not paths:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"There are no images below {str(folder)!r}. Give a folder with files {kinds}.")
    return paths


__all__ = ["load_unlabelled"]
