# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads the labelled datasets: benchmarks, drawn scenes, and folders of images and masks."""

import os
from pathlib import Path
from typing import Any

import datasets

from ..files import could_not_write
from .benchmarks import BENCHMARKS
from .class_names import ID2LABEL_EXAMPLE, IGNORE_INDEX, read_id2label
from .coco import class_ids, regions_of
from .folder import FolderScan, scan_folder
from .mask_feature import MaskImage
from .masks import MaskMeaning, MaskValues, find_meaning
from .parquet import check_prepared, load_parquet, parquet_files
from .reading import VISIBLE_COLUMN
from .scenes_builder import InfraredScenes


BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {"scenes": InfraredScenes, **BENCHMARKS}
LABELLED_NAMES = ("folder", *BUILDERS)


def load_labelled(
    name: str,
    data_dir: str | os.PathLike | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    config_name: str | None = None,
    allow_partial: bool = False,
    mask_values: MaskValues | None = None,
    mask_suffix: str | None = None,
    image_suffix: str | None = None,
    resize_masks: bool = False,
) -> Any:
    """All splits of a labelled dataset. [`load_infrared_dataset`] describes arguments, return value and errors."""
    _check_name(name)
    is_prepared = data_dir is not None and bool(parquet_files(data_dir))
    if (name != "folder" or is_prepared) and (mask_values is not None or mask_suffix or image_suffix or resize_masks):
        what = f"{str(data_dir)!r} is already prepared, and its masks hold ids" if is_prepared else f"{name!r} is none"
        raise ValueError(
            "mask_values, mask_suffix, image_suffix and resize_masks are for folders of images and masks, but "
            f"{what}. Leave these options out."
        )
    if name == "folder" and config_name is not None:
        raise ValueError(
            'The dataset "folder" has no configurations. It holds pairs if a folder "visible" lies beside "images".'
        )
    if name not in BENCHMARKS and allow_partial:
        raise ValueError(f"The dataset {name!r} cannot be partial.")
    if data_dir is not None and (files := parquet_files(data_dir)):
        default_config_name = getattr(BUILDERS.get(name), "DEFAULT_CONFIG_NAME", None)
        check_prepared(data_dir, name, config_name, default_config_name, allow_partial)
        return load_parquet(files, data_dir, streaming, num_proc)
    if name == "folder":
        folder = _given(data_dir)
        scan = scan_folder(folder, mask_suffix, image_suffix)
        if scan.problems:
            count = len(scan.problems)
            more = f" There are {count} such problems; `unip check-dataset` lists all." if count > 3 else ""
            raise ValueError(" ".join(scan.problems[:3]) + more)
        loaded = dataset_from_scan(scan, folder, mask_values, resize_masks)
        if streaming:
            return datasets.IterableDatasetDict(
                {split: rows.to_iterable_dataset(num_shards=min(64, len(rows))) for split, rows in loaded.items()}
            )
        return loaded
    names = list(BUILDERS[name].builder_configs)
    if config_name is not None and config_name not in names:
        raise ValueError(f"The dataset {name!r} has no configuration {config_name!r}, only {', '.join(names)}.")
    options: dict[str, Any] = {"data_dir": None if data_dir is None else os.fspath(data_dir)}
    if allow_partial:
        options["allow_partial"] = True
    try:
        builder = BUILDERS[name](dataset_name=name, config_name=config_name, **options)
    except PermissionError as error:
        raise OSError(
            f"{error}. If the cache of datasets belongs to another user, set HF_DATASETS_CACHE to one of your own, or "
            "let all users share it with umask 002."
        ) from error
    if streaming:
        return builder.as_streaming_dataset()
    try:
        builder.download_and_prepare(num_proc=num_proc)
    except OSError as error:  # of the cache: a file that cannot be read is a ValueError
        raise could_not_write(Path(builder.cache_dir), error) from error
    return builder.as_dataset()


def select_split(loaded: Any, split: str) -> Any:
    """
    A split, or several joined by "+", of a dictionary of datasets.

    Raises:
        ValueError: if there is no such split.
    """
    for part in split.split("+"):
        if part not in loaded:
            raise ValueError(f"There is no split {part!r}, only {', '.join(loaded)}.")
    parts = [loaded[part] for part in split.split("+")]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def load_id2label(name: str, data_dir: str | os.PathLike | None = None) -> dict[int, str]:
    """
    Names of the classes by their ids.

    Args:
        name (`str`): Name of a labelled dataset, as [`load_infrared_dataset`] takes it.
        data_dir (`str` or `os.PathLike`, *optional*): The folder, for "folder". Its `id2label.json` names the classes,
            `{"0": "background", "1": "person"}` or `{"background": 0, "person": 1}`. Without it, the files that list
            colours (see [`find_meaning`]) and COCO JSON name them.

    Raises:
        ValueError: if nothing names them, or ids are not 0, 1, 2, ...; the message shows what it should look like.
    """
    _check_name(name)
    if name != "folder":
        return dict(enumerate(BUILDERS[name].CLASSES))
    folder = _given(data_dir)
    found = read_id2label(folder)
    if found is not None:
        return found
    if (meaning := find_meaning(folder)) is not None and meaning.names:
        return dict(enumerate(meaning.names))
    if folder.is_dir() and (coco := scan_folder(folder).coco):
        ids = class_ids(list(coco.values()), folder)
        return {id: label for label, id in ids.items() if id != IGNORE_INDEX}
    raise ValueError(
        f"There is no file {str(folder / 'id2label.json')!r}. It should name the classes, such as {ID2LABEL_EXAMPLE}. "
        "`unip check-dataset` lists the ids that occur."
    )


def dataset_from_scan(
    scan: FolderScan, folder: Path, mask_values: MaskValues | None = None, resize_masks: bool = False
) -> datasets.DatasetDict:
    """
    What [`scan_folder`] found, as a dataset of paths. No file is read or copied. If there are visible images, they are
    the column `rgb`.

    Args:
        scan ([`FolderScan`]): What was found.
        folder (`Path`): The folder, which may hold `id2label.json` and the files of [`find_meaning`].
        mask_values, resize_masks: As in [`load_infrared_dataset`].

    Raises:
        ValueError: if what masks mean is not clear.
    """
    meaning = find_meaning(folder, mask_values)
    if meaning is not None and scan.coco:
        raise ValueError(
            f"{meaning.source} says what masks mean, but {str(folder)!r} holds COCO JSON, not masks. Leave it out."
        )
    meaning = meaning or MaskMeaning({}, "")
    feature = MaskImage(ids=meaning.ids or None, source=meaning.source, resize=resize_masks)
    ids = class_ids(list(scan.coco.values()), folder) if scan.coco else {}

    def annotation(image: Path, mask: Path) -> dict[str, str]:
        value = {"path": str(mask), "image": str(image)}
        if mask in scan.coco:
            file = scan.coco[mask]
            value["regions"] = regions_of(file.images_by_path[image], ids, file.categories)
        return value

    features = datasets.Features({"image": datasets.Image(), "annotation": feature})
    if scan.visible:
        features[VISIBLE_COLUMN] = datasets.Image()

    def columns(pairs: list[tuple[Path, Path]]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {
            "image": [str(image) for image, _ in pairs],
            "annotation": [annotation(image, mask) for image, mask in pairs],
        }
        if scan.visible:
            paths = (scan.visible.get(image) for image, _ in pairs)
            found[VISIBLE_COLUMN] = [None if path is None else str(path) for path in paths]
        return found

    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(columns(pairs), features=features, split=datasets.NamedSplit(split))
            for split, pairs in scan.splits.items()
        }
    )


def _check_name(name: str) -> None:
    if name not in LABELLED_NAMES:
        names = ", ".join(LABELLED_NAMES)
        raise ValueError(f'There is no labelled dataset {name!r}. There are {names}, and "infmix" without labels.')


def _given(data_dir: str | os.PathLike | None) -> Path:
    if data_dir is None:
        raise ValueError('The dataset "folder" needs data_dir, the folder that holds images and masks.')
    return Path(data_dir)


__all__ = ["BUILDERS", "LABELLED_NAMES", "dataset_from_scan", "load_id2label", "load_labelled", "select_split"]
