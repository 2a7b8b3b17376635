# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads the labelled datasets: benchmarks, drawn scenes, and folders of images and masks."""

import json
import os
from pathlib import Path
from typing import Any

import datasets

from ..files import could_not_write
from .benchmarks import BENCHMARKS
from .folder import FolderScan, scan_folder
from .parquet import check_prepared, load_parquet, parquet_files
from .reading import IGNORE_INDEX
from .scenes_builder import InfraredScenes


BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {"scenes": InfraredScenes, **BENCHMARKS}
LABELLED_NAMES = ("folder", *BUILDERS)
ID2LABEL_EXAMPLE = '{"0": "background", "1": "person", "2": "car"}'


def load_labelled(
    name: str,
    data_dir: str | os.PathLike | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    config_name: str | None = None,
    allow_partial: bool = False,
) -> Any:
    """All splits of a labelled dataset. [`load_infrared_dataset`] describes arguments, return value and errors."""
    _check_name(name)
    if name not in BENCHMARKS and (config_name is not None or allow_partial):
        raise ValueError(f"The dataset {name!r} has no configurations, and it cannot be partial.")
    if data_dir is not None and (files := parquet_files(data_dir)):
        default_config_name = getattr(BUILDERS.get(name), "DEFAULT_CONFIG_NAME", None)
        check_prepared(data_dir, name, config_name, default_config_name, allow_partial)
        return load_parquet(files, data_dir, streaming, num_proc)
    if name == "folder":
        scan = scan_folder(_given(data_dir))
        if scan.problems:
            count = len(scan.problems)
            more = f" There are {count} such problems; `unip check-dataset` lists all." if count > 3 else ""
            raise ValueError(" ".join(scan.problems[:3]) + more)
        loaded = dataset_from_scan(scan)
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
    builder = BUILDERS[name](dataset_name=name, config_name=config_name, **options)
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
            `{"0": "background", "1": "person"}` or `{"background": 0, "person": 1}`.

    Raises:
        ValueError: if the file is missing, or ids are not 0, 1, 2, ...; the message shows what it should look like.
    """
    _check_name(name)
    if name != "folder":
        return dict(enumerate(BUILDERS[name].CLASSES))
    path = _given(data_dir) / "id2label.json"
    if not path.is_file():
        raise ValueError(
            f"There is no file {str(path)!r}. It should name the classes, such as {ID2LABEL_EXAMPLE}. "
            "`unip check-dataset` lists the ids that occur."
        )
    try:
        content = list(json.loads(path.read_text("utf-8-sig")).items())
        if all(isinstance(value, int) for _, value in content):
            content = [(id, label) for label, id in content]
        content = sorted(((int(id), label) for id, label in content), key=lambda pair: pair[0])
        if not all(isinstance(label, str) and label for _, label in content):
            raise ValueError("names must be texts")
    except (ValueError, AttributeError) as error:  # no JSON, ids or names; no dictionary
        raise ValueError(f"{str(path)!r} is not of the form {ID2LABEL_EXAMPLE}: {error}.") from error
    ids, labels = [id for id, _ in content], [label for _, label in content]
    if len(set(ids)) < len(ids) or len(set(labels)) < len(labels):
        raise ValueError(f"{str(path)!r} names an id or a class twice: {content}.")
    if not ids or ids != list(range(len(ids))) or len(ids) > IGNORE_INDEX:
        raise ValueError(
            f"The ids in {str(path)!r} must be 0, 1, 2, ... without a gap, up to {IGNORE_INDEX - 1} "
            f"({IGNORE_INDEX} means ignore and has no name), got {ids}."
        )
    return dict(content)


def dataset_from_scan(scan: FolderScan) -> datasets.DatasetDict:
    """The pairs that [`scan_folder`] found, as a dataset of their paths. No file is read or copied."""
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"image": [str(image) for image, _ in pairs], "annotation": [str(mask) for _, mask in pairs]},
                features=features,
                split=datasets.NamedSplit(split),
            )
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
