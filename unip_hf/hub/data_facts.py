# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What cards say of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.benchmarks import BENCHMARKS
from .public_names import path_name


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


__all__ = ["DataFacts", "data_facts"]
