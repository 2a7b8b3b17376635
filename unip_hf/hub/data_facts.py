# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What is known of a dataset by its name: for cards."""

from dataclasses import dataclass

from ..data.benchmarks import BENCHMARKS
from .training_run import path_name


@dataclass(frozen=True)
class DataFacts:
    """
    Args:
        name: Such as `"soda"`; of a folder of one's own its name.
        title: For readers.
        modality: `"thermal"`, `"rgb"`, `"depth"`; `"both"` of thermal and colour.
        license: In words; `None` if it is not known.
        homepage: Address.
    """

    name: str
    title: str
    modality: str = "thermal"
    license: str | None = None
    homepage: str | None = None


def data_facts(dataset: str, data_dir: str | list[str] | None = None, config_name: str | None = None) -> DataFacts:
    """
    Args:
        dataset: As [`unip_hf.data.load_infrared_dataset`] takes it.
        data_dir: Folder, or several; said of it is the last part only.
        config_name: Of a benchmark that has several configurations.
    """
    if dataset in BENCHMARKS:
        builder = BENCHMARKS[dataset]
        config = builder.builder_configs.get(config_name or builder.DEFAULT_CONFIG_NAME)
        modality = getattr(config, "modality", "thermal")
        return DataFacts(dataset, builder.TITLE, modality, builder.LICENSE, builder.HOMEPAGE)
    if dataset == "scenes":
        return DataFacts(dataset, "drawn infrared scenes", license="Apache-2.0")
    if dataset == "infmix":
        return DataFacts(dataset, "InfMix", license="each of its sources keeps its own")
    folders = [data_dir] if isinstance(data_dir, str) else data_dir or [dataset]
    name = ", ".join(map(path_name, folders))
    return DataFacts(name, name)


__all__ = ["DataFacts", "data_facts"]
