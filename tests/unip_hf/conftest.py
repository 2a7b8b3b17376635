# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What tests of benchmarks, and of networks of other libraries, share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import transformers

from unip_hf.data.benchmarks import SODA, InfraredBenchmark, MFNet, SCUTSeg

from .plain_networks import PATCH_16, with_large_weights


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published counts become those of the small archives."""
    monkeypatch.setattr(SODA, "NUM_EXAMPLES", {"train": 3, "test": 2})
    monkeypatch.setattr(MFNet, "NUM_EXAMPLES", {"train": 3, "validation": 1, "test": 2})
    monkeypatch.setattr(SCUTSeg, "NUM_EXAMPLES", {"train": 2, "validation": 1})


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., datasets.DatasetDict]:
    def prepare_dataset(
        benchmark: type[InfraredBenchmark], data_dir: Path, num_proc: int | None = None, **options: Any
    ) -> datasets.DatasetDict:
        builder = benchmark(data_dir=str(data_dir), cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset()

    return prepare_dataset


@pytest.fixture
def vit(tmp_path: Path) -> str:
    folder = tmp_path / "vit"
    with_large_weights(transformers.ViTModel(transformers.ViTConfig(**PATCH_16))).save_pretrained(folder)
    return str(folder)
