# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads every dataset by its name."""

import os
from typing import Any

import datasets

from ..progress import bars_on_terminals_only
from .infmix.loading import load_infmix
from .labelled import load_labelled, select_split
from .masks import MaskValues


def load_infrared_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    config_name: str | None = None,
    allow_partial: bool = False,
    mask_values: MaskValues | None = None,
    mask_suffix: str | None = None,
    image_suffix: str | None = None,
    resize_masks: bool = False,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """
    Loads a dataset. Its rows hold `image` and `annotation`. They are decoded when they are read, to PIL images with
    the depth of the files: 16-bit images have the mode I;16. Annotations are images of class ids, whatever a folder
    holds (see [`MaskMeaning`] and [`draw_regions`]). Where there are pairs of images, `image` is the infrared one and
    `rgb` the visible one.

    Args:
        name (`str`):
            - "folder": your own images and masks in one of the layouts of [`scan_folder`], read in place.
            - "scenes": drawn street scenes (400 train, 50 validation, 50 test).
            - "soda", "mfnet" and the other keys of `BENCHMARKS`: the benchmarks, from the files that you downloaded.
            - "infmix": unlabelled images for pre-training, the published set or what `unip prepare-infmix` wrote.

            Scenes and benchmarks are checked and copied into the cache of `datasets` once, unless `streaming`.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder. For a benchmark also the zip file as it was downloaded, or what `unip prepare-dataset` wrote.
        split (`str`, *optional*):
            "train", "validation" or "test", or several of them, "validation+test". By default a dictionary of all.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to give iterable datasets, which cache nothing.
        num_proc (`int`, *optional*):
            Processes that prepare a dataset which is not in the cache yet.
        config_name (`str`, *optional*):
            Configuration of a benchmark that has several, such as "thermal" (default), "rgb" and "both", or of the
            scenes, "thermal" (default) and "both".
        allow_partial (`bool`, *optional*, defaults to `False`):
            Whether to take what is there of a benchmark. By default a missing file is an error.
        mask_values (`Mapping[int, int]` or `str`, *optional*):
            For a folder whose masks hold values that are not ids: the id of each, `{0: 0, 255: 1}` or `"0=0,255=1"`.
            By default as in `mask_values.json`.
        mask_suffix, image_suffix (`str`, *optional*):
            For a folder: how the names of masks and images end, `"_gt"` for `a_gt.png`. See [`scan_folder`].
        resize_masks (`bool`, *optional*, defaults to `False`):
            For a folder: whether masks of another size than their images are resized, with nearest neighbour.

    Returns:
        `DatasetDict`, or `Dataset` with `split`; `IterableDatasetDict` and `IterableDataset` with `streaming`.

    Raises:
        OSError: if files cannot be read, or the cache cannot be written.
        ValueError: if name, configuration or split are unknown, or something is wrong with a file, which is named.
    """
    masks: dict[str, Any] = {
        "mask_values": mask_values, "mask_suffix": mask_suffix, "image_suffix": image_suffix,
        "resize_masks": resize_masks,
    }  # fmt: skip
    if name == "infmix" and (config_name is not None or allow_partial or any(masks.values())):
        raise ValueError('The dataset "infmix" has no configurations and no masks, and it cannot be partial.')
    loaded: Any
    with bars_on_terminals_only():
        if name == "infmix":
            loaded = load_infmix(data_dir, streaming, num_proc)
        else:
            loaded = load_labelled(name, data_dir, streaming, num_proc, config_name, allow_partial, **masks)
    return loaded if split is None else select_split(loaded, split)


__all__ = ["load_infrared_dataset"]
