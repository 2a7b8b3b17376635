# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How much a segmentation model loses without texture, without shape, and from infrared to visible images."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from torch import nn

from ..analysis.texture import DEFAULT_CORRUPTIONS, Corruption
from ..data.reading import VISIBLE_COLUMN, Sample, has_pairs
from ..inference.windows import DEFAULT_SETTINGS, InferenceSettings, reads_pairs
from ..modeling.image_processing_unip import UnipImageProcessor
from .evaluator import evaluate_dataset
from .metrics import MAIN_METRIC


CLEAN, VISIBLE = "clean", "visible"


def mean_iou_under_corruptions(
    model: nn.Module,
    processor: UnipImageProcessor,
    dataset: datasets.Dataset,
    id2label: Mapping[int, str],
    corruptions: Sequence[Corruption] = DEFAULT_CORRUPTIONS,
    settings: InferenceSettings = DEFAULT_SETTINGS,
    **options: Any,
) -> dict[str, dict[str, float]]:
    """
    Mean IoU of a segmentation model on clean images and under each corruption, and, where the rows are pairs and the
    model reads one image, on the visible images instead of the infrared ones (paper, table 2).

    Args:
        model, processor, dataset, id2label, settings: As for [`evaluate_dataset`].
        corruptions: Each takes as long as an evaluation. Of a model of pairs, both images are corrupted alike.
        options: Further arguments of [`evaluate_dataset`], such as `accelerator` and `num_workers`.

    Returns:
        `{name: {"mean_iou": ..., "drop": ...}}`: under `"clean"`, under the name of each corruption, such as
        `"low_pass_2"`, and, of pairs, under `"visible"`. The drop is the clean mean IoU minus this one.

    Raises:
        OSError, ValueError: see [`evaluate_dataset`]; or if an image has fewer pixels along a side than tiles.
    """

    def score(rows: datasets.Dataset, corruption: Corruption | None = None) -> float:
        def corrupt(sample: Sample, number: int) -> Sample:
            if corruption is None:
                return sample
            return sample._replace(
                image=corruption.apply(sample.image, number),
                ids=None if sample.ids is None else corruption.apply_to_mask(sample.ids, number),
                visible=None if sample.visible is None else corruption.apply(sample.visible, number),
            )

        result = evaluate_dataset(model, processor, rows, id2label, settings, corrupt=corrupt, **options)
        return result.metrics[MAIN_METRIC.key]

    scores = {CLEAN: score(dataset)}
    scores |= {corruption.name: score(dataset, corruption) for corruption in corruptions}
    if has_pairs(dataset) and not reads_pairs(model):
        scores[VISIBLE] = score(dataset.remove_columns("image").rename_column(VISIBLE_COLUMN, "image"))
    return {name: {MAIN_METRIC.key: value, "drop": scores[CLEAN] - value} for name, value in scores.items()}


__all__ = ["mean_iou_under_corruptions"]
