# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluation: the mean-IoU metric, sliding-window inference, pictures and reports."""

from .evaluator import EvaluationResult, Example, evaluate_dataset, segment_dataset
from .inference import (
    InferenceSettings,
    load_processor,
    load_segmentation_model,
    segment_image,
    sliding_window_logits,
)
from .metrics import MeanIoU, count_confusions, segmentation_scores
from .pictures import confusion_matrix_figure, grey_picture, overlay_picture, segmentation_palette, side_by_side
from .reports import Heading, Picture, Table, Text, write_report
from .results import format_result, update_model_card, write_results


__all__ = [
    "EvaluationResult",
    "Example",
    "Heading",
    "InferenceSettings",
    "MeanIoU",
    "Picture",
    "Table",
    "Text",
    "confusion_matrix_figure",
    "count_confusions",
    "evaluate_dataset",
    "format_result",
    "grey_picture",
    "load_processor",
    "load_segmentation_model",
    "overlay_picture",
    "segment_dataset",
    "segment_image",
    "segmentation_palette",
    "segmentation_scores",
    "side_by_side",
    "sliding_window_logits",
    "update_model_card",
    "write_report",
    "write_results",
]
