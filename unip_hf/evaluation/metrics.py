# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The table of metrics. Everything that computes, writes, shows, logs or reads scores goes through it: a new metric is
one row here.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Metric(NamedTuple):
    """
    A row of the table.

    Args:
        key (`str`): Its name in `results.json`, in the log of a training run and in the metadata of model cards.
        label (`str`): Its name in tables.
        formula: From a confusion matrix (pixel counts, `(num_labels, num_labels)`, rows truth, columns prediction) to
            a number, or, in `CLASS_METRICS`, to an array of shape `(num_labels,)`. 0/0 is NaN.
        is_headline (`bool`): Whether it is also logged during training and written into the metadata of model cards.
    """

    key: str
    label: str
    formula: Callable[[np.ndarray], Any]
    is_headline: bool = False


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, from a confusion matrix; NaN for one in neither truth nor prediction."""
    hits = counts.diagonal()
    return hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits)


def class_accuracy(counts: np.ndarray) -> np.ndarray:
    """Recall of each class, from a confusion matrix; NaN for a class that is not in the truth."""
    return counts.diagonal() / counts.sum(axis=1)


def class_dice(counts: np.ndarray) -> np.ndarray:
    """Dice (F1) of each class, from a confusion matrix; NaN for a class in neither truth nor prediction."""
    return 2 * counts.diagonal() / (counts.sum(axis=0) + counts.sum(axis=1))


METRICS = (
    Metric("mean_iou", "mean IoU", lambda counts: np.nanmean(class_iou(counts)), is_headline=True),
    Metric("mean_accuracy", "mean accuracy", lambda counts: np.nanmean(class_accuracy(counts)), is_headline=True),
    Metric("overall_accuracy", "overall accuracy", lambda counts: counts.trace() / counts.sum(), is_headline=True),
    Metric("mean_dice", "mean Dice", lambda counts: np.nanmean(class_dice(counts))),
)
CLASS_METRICS = (
    Metric("iou", "IoU", class_iou, is_headline=True),
    Metric("accuracy", "accuracy", class_accuracy),
    Metric("dice", "Dice", class_dice),
    Metric("share_of_pixels", "share of pixels", lambda counts: counts.sum(axis=1) / max(counts.sum(), 1)),
    Metric("share_of_predictions", "share of predictions", lambda counts: counts.sum(axis=0) / max(counts.sum(), 1)),
)
MAIN_METRIC = METRICS[0]  # its highest value makes a checkpoint the best one


def segmentation_scores(confusion_matrix: np.ndarray) -> dict[str, Any]:
    """
    Computes the whole table of metrics.

    Args:
        confusion_matrix: Pixel counts, `(num_labels, num_labels)`, rows truth, columns prediction.

    Returns:
        A float for each row of `METRICS`, under its key (`mean_iou`, `mean_accuracy`, `overall_accuracy`,
        `mean_dice`), and a float64 array of shape `(num_labels,)` for each row of `CLASS_METRICS`, under
        `per_category_` and its key (`per_category_iou`, `per_category_accuracy`, `per_category_dice`,
        `per_category_share_of_pixels`, `per_category_share_of_predictions`). All are 0 to 1. What would be 0/0 is NaN
        and left out of the means: IoU and Dice of classes in neither truth nor prediction, accuracy of classes that
        are not in the truth.
    """
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        scores: dict[str, Any] = {metric.key: float(metric.formula(confusion_matrix)) for metric in METRICS}
        return scores | {f"per_category_{metric.key}": metric.formula(confusion_matrix) for metric in CLASS_METRICS}


__all__ = ["CLASS_METRICS", "MAIN_METRIC", "METRICS", "Metric", "segmentation_scores"]
