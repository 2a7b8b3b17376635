# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluation: the mean-IoU metric, whole data sets, and reports."""

from .evaluator import SENSOR_FAULTS, EvaluationResult, Example, evaluate_dataset, segment_dataset
from .mean_iou import MeanIoU, count_confusions
from .metrics import CLASS_METRICS, MAIN_METRIC, METRICS, segmentation_scores
from .results import confusion_matrix_figure, format_result, update_model_card, write_results
from .texture import mean_iou_under_corruptions


__all__ = [
    "CLASS_METRICS",
    "MAIN_METRIC",
    "METRICS",
    "SENSOR_FAULTS",
    "EvaluationResult",
    "Example",
    "MeanIoU",
    "confusion_matrix_figure",
    "count_confusions",
    "evaluate_dataset",
    "format_result",
    "mean_iou_under_corruptions",
    "segment_dataset",
    "segmentation_scores",
    "update_model_card",
    "write_results",
]
