# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads InfMix: what `unip prepare-infmix` wrote, or the published set."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from ...files import read_json
from ..parquet import load_parquet
from ..reading import without_decoding


PUBLISHED = "casiatao/InfMix"
PHOTOGRAPHS = ("imagenet", "coco")  # sources of visible images, as `unip prepare-infmix` calls them


def load_infmix(
    data_dir: str | os.PathLike | None = None, streaming: bool = False, num_proc: int | None = None
) -> datasets.DatasetDict | datasets.IterableDatasetDict:
    """
    Loads InfMix, with its images in the column `image`.

    Args:
        data_dir (`str` or `os.PathLike`, *optional*): The folder that `unip prepare-infmix` wrote. By default the
            published set, from the Hub.
        streaming (`bool`, *optional*, defaults to `False`): Whether to give iterable datasets, which cache nothing.
        num_proc (`int`, *optional*): Processes that fill the cache.

    Raises:
        OSError: if the Hub cannot be reached.
        ValueError: if the folder is unfinished, incomplete, or does not hold InfMix.
    """
    if data_dir is not None:
        folder = Path(os.path.abspath(data_dir))
        return load_parquet({"train": _finished_shards(folder)}, folder, streaming, num_proc)
    try:
        loaded = datasets.load_dataset(PUBLISHED, streaming=streaming, num_proc=None if streaming else num_proc)
    except OSError as error:
        raise OSError(
            f"The published InfMix, {PUBLISHED!r} on the Hugging Face Hub, cannot be reached. Go online, or give "
            "data_dir, a folder that `unip prepare-infmix` wrote."
        ) from error
    return type(loaded)({split: _with_column_image(rows) for split, rows in loaded.items()})


def _finished_shards(folder: Path) -> list[str]:
    if folder.suffix.lower() in (".yaml", ".yml"):
        raise ValueError(
            f"{str(folder)!r} lists sources of InfMix. Run `unip prepare-infmix --sources {folder} --output_dir "
            "FOLDER` first, and give the folder that it writes."
        )
    if not (folder / "infmix.json").is_file():
        if (folder / "unfinished").is_dir():
            raise ValueError(
                f"InfMix in {str(folder)!r} is unfinished. Start `unip prepare-infmix` again to finish it."
            )
        raise ValueError(f"{str(folder)!r} does not hold InfMix. Give the folder that `unip prepare-infmix` wrote.")
    shards = [folder / name for name in read_json(folder / "infmix.json")["shards"]]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(shards)} files of InfMix are missing, such as {missing[0]!r}.")
    return [str(shard) for shard in shards]


def without_sources(rows: Any, left_out: Sequence[str], known: Sequence[str] | None = None) -> Any:
    """
    The rows of InfMix without the images of some sources.

    Args:
        rows (`datasets.Dataset` or `datasets.IterableDataset`): As [`load_infmix`] loads a split.
        left_out (`Sequence[str]`): Names of sources. `"infrared"` stands for all but `"imagenet"` and `"coco"`.
        known (`Sequence[str]`, *optional*): Names of all sources; by default those that the rows have.

    Raises:
        ValueError: if there is no such source, or nothing is left.
    """
    if "source" not in (rows.features or {}):
        raise ValueError("These images do not say their source: leave_out is for what `unip prepare-infmix` wrote.")
    known = sorted(rows.unique("source") if known is None else known)
    names = set(left_out)
    if "infrared" in names and "infrared" not in known:
        names = (names - {"infrared"}) | set(known).difference(PHOTOGRAPHS)
    unknown = sorted(names.difference(known))
    if unknown:
        raise ValueError(f"InfMix has no source {unknown[0]!r} to leave out. It has {', '.join(known)}.")
    if names.issuperset(known):
        raise ValueError(f"Nothing is left of InfMix without {', '.join(left_out)}: it has {', '.join(known)}.")
    if isinstance(rows, datasets.IterableDataset):
        return without_decoding(rows).filter(lambda source: source not in names, input_columns=["source"])
    return rows.select([number for number, source in enumerate(rows["source"][:]) if source not in names])


def source_names(data_dir: str | os.PathLike) -> list[str]:
    """Names of the sources that have images in a folder which `unip prepare-infmix` wrote."""
    report = read_json(Path(data_dir) / "infmix.json")
    return [source["name"] for source in report["sources"] if source["kept"]]


def _with_column_image(rows: Any) -> Any:
    """The rows with their image column called `image`."""
    columns = rows.features or {}
    images = [name for name, feature in columns.items() if isinstance(feature, datasets.Image)]
    if "image" in columns:
        return rows
    if len(images) != 1:
        raise ValueError(f"{PUBLISHED!r} has {len(images)} columns of images among {', '.join(columns)}.")
    return rows.rename_column(images[0], "image")


__all__ = ["load_infmix", "source_names", "without_sources"]
