# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What may be published of paths and of data: names, licences and addresses, and no folder of this machine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from ..data.benchmarks import BENCHMARKS


def is_hub_name(name: str) -> bool:
    """Whether this names a model on the Hub that was loaded on this machine before, and not a path."""
    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def path_name(path: str) -> str:
    """The last part of a path, which may be published. For `.` and `..` it is the name of that folder here."""
    if Path(path).resolve() == Path.home():
        return "~"  # its name is that of the user
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return Path(path).resolve().name if name in ("", ".", "..") else name


def checkpoint_name(path: str) -> str:
    """The name of a run for its checkpoints `best` and `last`, and the name of the folder for others."""
    return path_name(re.sub(r"(?<=[^\\/])[\\/]+(best|last)[\\/]*$", "", path))


def without_folders(value: Any, is_checkpoint: bool = False) -> Any:
    """An option without the folders of this machine: of each path, also in lists, only the name remains."""
    if isinstance(value, list):
        return [without_folders(part, is_checkpoint) for part in value]
    if not isinstance(value, str) or not re.search(r"[\\/]|^\.\.?$", value) or is_hub_name(value):
        return value
    return checkpoint_name(value) if is_checkpoint else path_name(value)


def plain(text: object) -> str:
    """Text that Markdown and its tables show as it is."""
    escaped = re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escaped)  # within a word it means nothing


@dataclass(frozen=True)
class DataFacts:
    """
    Args:
        name: Such as `"soda"`; for a folder of images its name.
        title: Name for readers.
        modality: `"thermal"`, `"rgb"`, `"depth"`, or `"both"` for thermal and colour.
        license: In words; `None` if it is not known.
        homepage: Address.
    """

    name: str
    title: str
    modality: str = "thermal"
    license: str | None = None
    homepage: str | None = None


def data_facts(record: Mapping[str, Any]) -> DataFacts:
    """
    Args:
        record: Options of a run, or the content of `results.json`: with `dataset` and, optionally, `dataset_config`
            and `data_dir`, as [`unip_hf.data.load_infrared_dataset`] takes them. Of each folder only the last part is
            said.
    """
    name = record["dataset"]
    if name in BENCHMARKS:
        builder = BENCHMARKS[name]
        config = builder.builder_configs.get(record.get("dataset_config") or builder.DEFAULT_CONFIG_NAME)
        modality = getattr(config, "modality", "thermal")
        return DataFacts(name, builder.TITLE, modality, builder.LICENSE, builder.HOMEPAGE)
    if name == "scenes":
        return DataFacts(name, "drawn infrared scenes", license="Apache-2.0")
    if name == "infmix":
        return DataFacts(name, "InfMix", license="each of its sources keeps its own")
    folders = record.get("data_dir") or name
    name = ", ".join(map(path_name, [folders] if isinstance(folders, str) else folders))
    return DataFacts(name, name)


__all__ = ["DataFacts", "checkpoint_name", "data_facts", "is_hub_name", "path_name", "plain", "without_folders"]
