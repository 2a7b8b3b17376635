# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads the datasets by name, with the columns `image` and `annotation`."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import multiprocess
from datasets.exceptions import DatasetGenerationError

from ..files import could_not_write
from ..progress import bars_on_terminals_only
from .benchmarks import BENCHMARKS
from .folder import FolderScan, scan_folder
from .infmix import load_infmix
from .parquet import check_prepared, parquet_files
from .reading import IGNORE_INDEX
from .scenes_builder import InfraredScenes


BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {"scenes": InfraredScenes, **BENCHMARKS}
DATASET_NAMES = ("folder", *BUILDERS, "infmix")
ID2LABEL_EXAMPLE = '{"0": "background", "1": "person", "2": "car"}'


def load_infrared_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    config_name: str | None = None,
    allow_partial: bool = False,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """
    Loads a dataset. Its rows hold `image` and `annotation`, decoded when they are read to PIL images of the depth of
    the files: 16-bit images have the mode I;16.

    Args:
        name (`str`):
            - "folder": images and masks of your own in one of the layouts of [`scan_folder`], read in place.
            - "scenes": drawn street scenes (400 train, 50 validation, 50 test).
            - "soda", "mfnet", "scut-seg", "msrs", "pst900", "fmb", "nyuv2-depth", "sun-rgbd-depth", "ade20k": the
              benchmarks, from the files that you downloaded.
            - "infmix": unlabelled images for pre-training, see [`load_infmix`].

            Drawn and downloaded ones are checked and copied into the cache of `datasets` once, unless `streaming`.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder; for a benchmark also the zip file as it was downloaded, or what `unip prepare-dataset` wrote.
        split (`str`, *optional*):
            "train", "validation" or "test", or several of them, "validation+test"; by default a dictionary of all.
        streaming (`bool`, *optional*, defaults to `False`):
            Give an iterable dataset, which caches nothing.
        num_proc (`int`, *optional*):
            Processes that prepare a dataset which is not in the cache yet.
        config_name (`str`, *optional*):
            Of a benchmark that has several configurations, such as "thermal" (default), "rgb" and "both".
        allow_partial (`bool`, *optional*, defaults to `False`):
            Take what is there of a benchmark. By default a file too few is an error.

    Returns:
        `DatasetDict`, or `Dataset` with `split`; `IterableDatasetDict` and `IterableDataset` with `streaming`.

    Raises:
        OSError: if files cannot be read.
        ValueError: if name, configuration or split are unknown, or something is wrong with a file, which is named.
    """
    _check_name(name)
    if name not in BENCHMARKS and (config_name is not None or allow_partial):
        raise ValueError(f"The dataset {name!r} has no configurations, and no part of it can be missing.")
    with bars_on_terminals_only(), _with_the_cause(data_dir or name):
        loaded: Any
        if name == "infmix":
            loaded = load_infmix(data_dir, streaming=streaming, num_proc=num_proc)
        elif data_dir is not None and (files := parquet_files(data_dir)):
            default_config_name = getattr(BUILDERS.get(name), "DEFAULT_CONFIG_NAME", None)
            check_prepared(data_dir, name, config_name, default_config_name, allow_partial)
            loaded = datasets.load_dataset("parquet", data_files=files, streaming=streaming, num_proc=num_proc)
        elif name == "folder":
            loaded = dataset_from_scan(_scan_without_problems(_given(data_dir)))
            if streaming:
                loaded = datasets.IterableDatasetDict(
                    {key: rows.to_iterable_dataset(num_shards=min(64, len(rows))) for key, rows in loaded.items()}
                )
        else:
            builder = make_builder(name, data_dir, config_name, allow_partial)
            if streaming:
                loaded = builder.as_streaming_dataset()
            else:
                try:
                    builder.download_and_prepare(num_proc=num_proc)
                except OSError as error:  # of the cache: what is wrong with the files read is a ValueError
                    reason = str(error).rpartition("Original error:\n")[2]  # without what datasets puts before
                    raise could_not_write(Path(builder.cache_dir), OSError(reason)) from error
                loaded = builder.as_dataset()
    return loaded if split is None else select_split(loaded, split)


def make_builder(
    name: str,
    data_dir: str | os.PathLike | None = None,
    config_name: str | None = None,
    allow_partial: bool = False,
) -> datasets.GeneratorBasedBuilder:
    """The builder behind a name of [`load_infrared_dataset`], which describes the arguments."""
    if name not in BUILDERS:
        raise ValueError(f"There is no builder {name!r}; there are {', '.join(BUILDERS)}.")
    names = list(BUILDERS[name].builder_configs)
    if config_name is not None and config_name not in names:
        raise ValueError(f"The dataset {name!r} has no configuration {config_name!r}, only {', '.join(names)}.")
    options: dict[str, Any] = {"data_dir": None if data_dir is None else os.fspath(data_dir)}
    if allow_partial:
        options["allow_partial"] = True
    return BUILDERS[name](dataset_name=name, config_name=config_name, **options)


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
        name (`str`): Name of a dataset, as [`load_infrared_dataset`] takes it.
        data_dir (`str` or `os.PathLike`, *optional*): The folder, for "folder". Its `id2label.json` names the classes,
            `{"0": "background", "1": "person"}` or `{"background": 0, "person": 1}`.

    Raises:
        ValueError: if the file is missing, or ids are not 0, 1, 2, ...; the message shows what it should look like.
    """
    _check_name(name)
    if name == "infmix":
        raise ValueError('The images of "infmix" have no labels: it is for pre-training.')
    if name != "folder":
        return dict(enumerate(BUILDERS[name].CLASSES))
    path = _given(data_dir) / "id2label.json"
    if not path.is_file():
        raise ValueError(
            f"There is no {str(path)!r} to name the classes, such as {ID2LABEL_EXAMPLE}; `unip check-dataset` lists "
            "the ids that occur."
        )
    try:
        content = list(json.loads(path.read_text("utf-8-sig")).items())
        if all(isinstance(value, int) for _, value in content):
            content = [(id, label) for label, id in content]
        content = sorted(((int(id), label) for id, label in content), key=lambda pair: pair[0])
        if not all(isinstance(label, str) and label for _, label in content):
            raise ValueError("names are texts")
    except (ValueError, AttributeError) as error:  # no JSON, ids or names; no dictionary
        raise ValueError(f"{str(path)!r} is not of the form {ID2LABEL_EXAMPLE}: {error}.") from error
    ids, labels = [id for id, _ in content], [label for _, label in content]
    if len(set(ids)) < len(ids) or len(set(labels)) < len(labels):
        raise ValueError(f"{str(path)!r} names an id or a class twice: {content}.")
    if not ids or ids != list(range(len(ids))) or len(ids) > IGNORE_INDEX:
        raise ValueError(
            f"The ids in {str(path)!r} must be 0, 1, 2, ... without a gap, up to {IGNORE_INDEX - 1} "
            f"({IGNORE_INDEX} means ignore and has no name), not {ids}."
        )
    return dict(content)


def dataset_from_scan(scan: FolderScan) -> datasets.DatasetDict:
    """The pairs that [`scan_folder`] found, as a dataset of their paths: nothing is read or copied yet."""
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [str(image) for image, _ in pairs],
                    "annotation": [str(mask) for _, mask in pairs],
                },
                features=features,
                split=datasets.NamedSplit(split),
            )
            for split, pairs in scan.splits.items()
        }
    )


def _check_name(name: str) -> None:
    if name not in DATASET_NAMES:
        raise ValueError(f"There is no dataset {name!r}; there are {', '.join(DATASET_NAMES)}.")


def _given(data_dir: str | os.PathLike | None) -> Path:
    if data_dir is None:
        raise ValueError('The dataset "folder" needs data_dir, the folder that holds images and masks.')
    return Path(data_dir)


def _scan_without_problems(data_dir: Path) -> FolderScan:
    scan = scan_folder(data_dir)
    if scan.problems:
        count = len(scan.problems)
        more = f" There are {count} such problems; `unip check-dataset` lists all." if count > 3 else ""
        raise ValueError(" ".join(scan.problems[:3]) + more)
    return scan


@contextmanager
def _with_the_cause(source: object) -> Iterator[None]:
    """Says what was wrong with parquet files, where the error of `datasets` does not."""
    try:
        yield
    except multiprocess.TimeoutError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Ctrl-C while other processes worked
            raise KeyboardInterrupt from None
        raise
    except DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"The files of {str(source)!r} could not be copied into the cache: {reason}") from error


__all__ = ["load_id2label", "load_infrared_dataset", "make_builder", "select_split"]
