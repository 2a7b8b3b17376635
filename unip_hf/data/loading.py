# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads the datasets by name, with the columns `image` and `annotation`."""

import json
import os
import sys
from pathlib import Path

import datasets

from .folder import FolderScan, scan_folder
from .reading import IGNORE_INDEX
from .scenes_builder import InfraredScenes


BUILDERS: dict[str, type[datasets.GeneratorBasedBuilder]] = {"scenes": InfraredScenes}
DATASET_NAMES = ("folder", *BUILDERS)
ID2LABEL_EXAMPLE = '{"0": "background", "1": "person", "2": "car"}'


def load_infrared_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """
    Loads a dataset. Its rows hold `image` and `annotation`, decoded when they are read to PIL images of the depth of
    the files: 16-bit images have the mode I;16.

    Args:
        name (`str`):
            "folder", images and masks of your own in one of the layouts of [`scan_folder`], read in place, or
            "scenes", drawn street scenes (400 train, 50 validation, 50 test), which are drawn once into the cache of
            `datasets`.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder, for "folder".
        split (`str`, *optional*):
            "train", "validation" or "test"; by default a dictionary of all there are.
        streaming (`bool`, *optional*, defaults to `False`):
            Give an iterable dataset, which caches nothing.
        num_proc (`int`, *optional*):
            Processes that prepare a dataset which is not in the cache yet.

    Returns:
        `DatasetDict`, or `Dataset` with `split`; `IterableDatasetDict` and `IterableDataset` with `streaming`.

    Raises:
        ValueError: if name or split are unknown, or a folder has problems.
    """
    _check_name(name)
    if name == "folder":
        loaded = dataset_from_scan(_scan_without_problems(_given(data_dir)))
        if streaming:
            loaded = datasets.IterableDatasetDict(
                {key: rows.to_iterable_dataset(num_shards=min(64, len(rows))) for key, rows in loaded.items()}
            )
    else:
        builder = BUILDERS[name](dataset_name=name, data_dir=None if data_dir is None else os.fspath(data_dir))
        loaded = builder.as_streaming_dataset() if streaming else _prepare(builder, num_proc)
    if split is None:
        return loaded
    if split not in loaded:
        raise ValueError(f"The dataset {name!r} has no split {split!r}, only {', '.join(loaded)}.")
    return loaded[split]


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


def _prepare(builder: datasets.DatasetBuilder, num_proc: int | None) -> datasets.DatasetDict:
    """Fills the cache, with a progress bar on a terminal only."""
    is_quiet = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if is_quiet:
        datasets.disable_progress_bars()
    try:
        builder.download_and_prepare(num_proc=num_proc)
    finally:
        if is_quiet:
            datasets.enable_progress_bars()
    return builder.as_dataset()


__all__ = ["load_id2label", "load_infrared_dataset"]
