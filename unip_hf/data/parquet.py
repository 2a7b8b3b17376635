# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Labelled datasets as folders of parquet files with a dataset card, which `datasets` and the Hub can read."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCard, DatasetCardData

from .._version import __version__
from ..files import read_json, write_whole
from ..progress import Progress, bars_on_terminals_only
from .caching import plain_errors
from .folder import SPLITS
from .mask_feature import MaskImage


FILES = {"README.md", "data", "id2label.json", "origin.json"}  # what write_parquet writes
ROWS_AT_ONCE = 100  # rows of a group, the least that a reader loads
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}  # of the Hub


def size_category(num_images: int) -> str:
    """What the Hub calls a dataset of this size."""
    return next((name for limit, name in SIZE_CATEGORIES.items() if num_images < limit), "1M<n<10M")


def parquet_files(data_dir: str | os.PathLike) -> dict[str, list[str]]:
    """Paths of the files of each split in a folder that [`write_parquet`] wrote. Empty for any other folder."""
    files = {split: sorted(map(str, Path(data_dir, "data").glob(f"{split}-*-of-*.parquet"))) for split in SPLITS}
    return {split: paths for split, paths in files.items() if paths}


def load_parquet(
    files: dict[str, list[str]], source: str | os.PathLike, streaming: bool = False, num_proc: int | None = None
) -> Any:
    """
    Loads parquet files as a dictionary of datasets.

    Args:
        files (`dict[str, list[str]]`): Paths by split.
        source (`str` or `os.PathLike`): What messages call them.
        streaming (`bool`, *optional*, defaults to `False`): Whether to give iterable datasets, which cache nothing.
        num_proc (`int`, *optional*): Processes that copy them into the cache.

    Raises:
        ValueError: if a file is damaged or the cache cannot be written.
    """
    try:
        with plain_errors():
            num_proc = None if streaming else num_proc
            return datasets.load_dataset("parquet", data_files=files, streaming=streaming, num_proc=num_proc)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The files of {str(source)!r} could not be copied into the cache: {reason}") from error


def check_prepared(
    data_dir: str | os.PathLike,
    name: str,
    config_name: str | None = None,
    default_config_name: str | None = None,
    allow_partial: bool = False,
) -> None:
    """
    Checks that a folder which [`write_parquet`] wrote holds the dataset that is wanted.

    Args:
        data_dir (`str` or `os.PathLike`): The folder.
        name (`str`): Name of the dataset. "folder" accepts any.
        config_name (`str`, *optional*): Configuration of the dataset. By default the default one, or "both", whose
            column `image` is the same.
        default_config_name (`str`, *optional*): The default configuration.
        allow_partial (`bool`): Whether it may have been prepared from a part of the dataset.

    Raises:
        ValueError: if a file is missing or damaged, or the folder holds another dataset or configuration, or a part.
    """
    files = parquet_files(data_dir)
    for split, paths in files.items():
        num_shards = int(paths[0].rpartition("-of-")[2].removesuffix(".parquet"))
        expected = [f"{split}-{index:05d}-of-{num_shards:05d}.parquet" for index in range(num_shards)]
        if [Path(path).name for path in paths] != expected:
            folder = str(Path(data_dir, "data"))
            raise ValueError(f"{folder!r} should hold {expected[0]} to {expected[-1]}, and no others.")
        for path in paths:
            try:
                pyarrow.parquet.read_metadata(path)
            except (OSError, pyarrow.ArrowInvalid) as error:
                raise ValueError(f"{path!r} is damaged: {error}") from error
    file = Path(data_dir, "origin.json")
    if name == "folder" and not file.exists():
        return
    try:
        origin = dict(read_json(file))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is missing or damaged. Prepare the dataset again.") from error
    lost = [split for split in origin.get("splits", []) if split not in files]
    if lost:
        raise ValueError(f"{str(data_dir)!r} has lost the files of {' and '.join(map(repr, lost))}.")
    if name == "folder":
        return
    if origin.get("dataset") != name:
        raise ValueError(f"{str(data_dir)!r} was prepared from the dataset {origin.get('dataset')!r}, not {name!r}.")
    found = origin.get("config_name") or default_config_name  # None where there was only one
    if found not in ([config_name] if config_name else [default_config_name, "both"]):
        raise ValueError(
            f"{str(data_dir)!r} was prepared from the configuration {found!r}, not "
            f"{config_name or default_config_name!r}. Say which one you mean (--dataset_config)."
        )
    if origin.get("allow_partial") and not allow_partial:
        raise ValueError(
            f"{str(data_dir)!r} was prepared from a part of {name!r}. Allow that here as well "
            "(allow_partial=True, --allow_partial)."
        )


def write_parquet(
    dataset: Mapping[str, datasets.Dataset],
    output_dir: str | os.PathLike,
    id2label: dict[int, str],
    card: DatasetCard,
    origin: Mapping[str, Any],
    images_per_shard: int = 500,
) -> None:
    """
    Writes a dataset as `data/SPLIT-00000-of-00003.parquet`, ..., with the unchanged bytes of the image files, beside
    `id2label.json`, `origin.json`, and the card as `README.md`.

    Args:
        dataset (`Mapping[str, datasets.Dataset]`): Rows by split.
        output_dir (`str` or `os.PathLike`): Folder. It appears when all is written, and replaces an existing one.
        id2label (`dict[int, str]`): Names of the classes.
        card (`DatasetCard`): As [`dataset_card`] returns it.
        origin (`Mapping[str, Any]`): `{"dataset": "mfnet", "config_name": "thermal", "allow_partial": False}`, for
            [`check_prepared`].
        images_per_shard (`int`, *optional*, defaults to 500): The most rows in one file.

    Raises:
        OSError: if an image no longer exists or the disk is full.
    """
    progress = Progress("Writing", sum(map(len, dataset.values())))
    with write_whole(output_dir) as staged, bars_on_terminals_only():
        (staged / "data").mkdir(parents=True)
        for split, rows in dataset.items():
            num_shards = max(1, math.ceil(len(rows) / images_per_shard))
            for index in range(num_shards):
                shard = rows.shard(num_shards, index, contiguous=True).with_format("arrow")
                # Rows of a folder hold paths, whose files are embedded here; masks become files of ids.
                shard = shard.map(embed_table_storage, batched=True, batch_size=ROWS_AT_ONCE, keep_in_memory=True)
                shard = shard.with_format(None)
                if isinstance(shard.features.get("annotation"), MaskImage):
                    shard = shard.cast_column("annotation", datasets.Image())  # others can read it
                path = staged / "data" / f"{split}-{index:05d}-of-{num_shards:05d}.parquet"
                shard.to_parquet(path, batch_size=ROWS_AT_ONCE)
                progress.update(split, steps=len(shard))
        (staged / "id2label.json").write_text(json.dumps(id2label, indent=1, ensure_ascii=False), encoding="utf-8")
        origin = {**origin, "splits": list(dataset)}
        (staged / "origin.json").write_text(json.dumps(origin, indent=1), encoding="utf-8")
        card.save(staged / "README.md")
        if Path(output_dir).exists():
            os.replace(output_dir, staged.parent / "replaced")  # by renaming, so that nothing is lost in between
    progress.close()


def license_id(license: str) -> str:
    """The Hub's identifier of a licence that is given in words."""
    if license.startswith("not stated"):
        return "unknown"
    return license.lower() if license.lower() in ("apache-2.0", "mit", "cc-by-4.0") else "other"


def dataset_card(
    dataset: Mapping[str, datasets.Dataset],
    id2label: dict[int, str],
    title: str,
    info: datasets.DatasetInfo | None = None,
    palette: np.ndarray | None = None,
    tags: Sequence[str] = ("infrared", "thermal"),
) -> DatasetCard:
    """
    Describes a dataset: splits, columns, classes with their colours, source, licence, citation.

    Args:
        dataset (`Mapping[str, datasets.Dataset]`): Rows by split.
        id2label (`dict[int, str]`): Names of the classes.
        title (`str`): Heading.
        info (`datasets.DatasetInfo`, *optional*): Description, homepage, licence and citation, from the builder.
        palette (`np.ndarray` of shape `(num_labels, 3)`, *optional*): uint8 colours of the classes.
        tags (`Sequence[str]`, *optional*): Kinds of images, for searches on the Hub.
    """
    info = info or datasets.DatasetInfo()
    num_images = sum(map(len, dataset.values()))
    metadata: dict[str, Any] = {
        "pretty_name": title,
        "task_categories": ["image-segmentation"],
        "tags": ["semantic-segmentation", *tags],
        "size_categories": [size_category(num_images)],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in dataset],
            }
        ],
    }
    if info.license:
        metadata["license"] = license_id(info.license)
    columns = next(iter(dataset.values())).column_names
    described = {
        "image": "with the depth of its file, 8 or 16 bits",
        "annotation": "PNG of class ids; 255 means ignore",
        "rgb": "the image of the same view in visible light",
    }
    parts = [f"# {title}", info.description or "Images and masks for semantic segmentation."]
    parts += [
        "## Rows",
        "\n".join(f"- `{name}`: {described[name]}" if name in described else f"- `{name}`" for name in columns),
        "| split | images |\n|---|---|\n"
        + "\n".join(f"| {split} | {len(rows):,} |" for split, rows in dataset.items()),
        "```python\nfrom unip_hf.data import load_infrared_dataset\n\n"
        'dataset = load_infrared_dataset("folder", data_dir="this-folder")  # or datasets.load_dataset(...)\n```',
        "## Classes",
    ]
    rows = [["id", "name", "colour"], ["---"] * 3]
    for id, label in id2label.items():
        colour = "" if palette is None else "#" + bytes(palette[id]).hex()
        rows.append([str(id), label.replace("|", "\\|"), colour])
    num_columns = 2 if palette is None else 3
    parts.append("\n".join(f"| {' | '.join(row[:num_columns])} |" for row in rows))
    parts += ["## Source", *([f"Homepage: <{info.homepage}>"] if info.homepage else [])]
    parts.append(f"Licence: {info.license or 'not stated'}")
    parts.append(f"These files were made by `unip prepare-dataset` of unip_hf {__version__}.")
    if info.citation:
        parts += ["## Citation", f"```bibtex\n{info.citation.strip()}\n```"]
    return DatasetCard(f"---\n{DatasetCardData(**metadata).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


__all__ = ["check_prepared", "dataset_card", "parquet_files", "size_category", "write_parquet"]
