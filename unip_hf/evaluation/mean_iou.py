# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Counts pixels into a confusion matrix, and the metric that keeps nothing else."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from transformers.utils import logging

from .metrics import segmentation_scores


logger = logging.get_logger(__name__)

Ids = np.ndarray | torch.Tensor | Sequence

DESCRIPTION = "Mean intersection over union, accuracy and Dice of semantic segmentation, from one confusion matrix."
INPUTS_DESCRIPTION = """
    Args:
        predictions: Maps of class ids, or one batch of them: integer arrays or tensors of any shape and device, or
            nested lists. The maps of a list may differ in size.
        references: The true ids, as many maps of the same shapes. Pixels of `ignore_index` do not count.
"""


def _as_ids(ids: Ids, name: str) -> np.ndarray:
    """Integers of any kind as an array: of 8 bits where their values fit, which is faster to count."""
    array = ids.detach().cpu().numpy() if isinstance(ids, torch.Tensor) else np.asarray(ids)
    if array.dtype.kind not in "uib":
        raise ValueError(f"The {name} must hold class ids, which are integers, got {array.dtype}: take the argmax.")
    is_small = array.dtype in (np.uint8, np.bool_) or not array.size or (array.min() >= 0 and array.max() < 256)
    return array.astype(np.uint8 if is_small else np.int64, copy=False)


def _check_known(name: str, ids: np.ndarray, num_labels: int, ignore_index: int) -> None:
    ignored = f", and {ignore_index} is ignored" if name == "reference" else ""
    unknown = [index for index in ids.tolist() if not (0 <= index < num_labels or (ignored and index == ignore_index))]
    if unknown:
        raise ValueError(f"The {name} holds the ids {unknown}, but the classes are 0 to {num_labels - 1}{ignored}.")


def count_confusions(prediction: Ids, reference: Ids, num_labels: int, ignore_index: int = 255) -> np.ndarray:
    """
    Counts the pixels of each pair of true and predicted class.

    Args:
        prediction: Integer ids of any shape: an array, a tensor or nested lists.
        reference: True ids, of the same shape.
        num_labels: Number of classes.
        ignore_index: True id of the pixels that do not count.

    Returns:
        int64 `np.ndarray` of shape `(num_labels, num_labels)`: rows truth, columns prediction.

    Raises:
        ValueError: if the shapes differ, values are not integers, or ids are neither a class nor, in the reference,
            the one to ignore. The message names the ids.
    """
    predicted, true = _as_ids(prediction, "prediction"), _as_ids(reference, "reference")
    if predicted.shape != true.shape:
        raise ValueError(f"Prediction and reference differ in shape: {predicted.shape} and {true.shape}.")
    counts = np.zeros((num_labels, num_labels), np.int64)
    if predicted.dtype == true.dtype == np.uint8:
        # One histogram of all pairs that 8 bits can hold checks, ignores and counts. It uses NumPy, because PyTorch's
        # multi-threaded version takes a hundred times as long where processes share the cores.
        pairs = true.astype(np.uint16) << 8 | predicted
        histogram = np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)
        _check_known("prediction", np.flatnonzero(histogram.any(axis=0)), num_labels, ignore_index)
        _check_known("reference", np.flatnonzero(histogram.any(axis=1)), num_labels, ignore_index)
        classes = min(num_labels, 256)
        counts[:classes, :classes] = histogram[:classes, :classes]
        if ignore_index in range(classes):
            counts[ignore_index] = 0
        return counts
    _check_known("prediction", np.unique(predicted), num_labels, ignore_index)
    _check_known("reference", np.unique(true), num_labels, ignore_index)
    labelled = true != ignore_index
    pairs = num_labels * true[labelled].astype(np.int64) + predicted[labelled]
    return counts + np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def count_confusions_on_device(
    prediction: torch.Tensor, reference: torch.Tensor, num_labels: int, ignore_index: int = 255
) -> torch.Tensor:
    """
    Counts as [`count_confusions`], on a GPU and without waiting for it, so that nothing is checked.

    Args:
        prediction: Integer ids from 0, of any shape and on any device.
        reference: True ids on the same device, of the same shape: those of classes, and `ignore_index`.
        num_labels, ignore_index: See [`count_confusions`].

    Returns:
        int64 `torch.Tensor` of shape `(num_labels, num_labels + 1)`. The last column counts predicted ids that are not
        those of a class.
    """
    columns = num_labels + 1
    true = reference.ravel().long()
    pairs = columns * true + prediction.ravel().long().clamp(max=num_labels)
    pairs = torch.where(true == ignore_index, columns * num_labels, pairs)
    counts = pairs.new_zeros(columns * num_labels + 1).scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts[:-1].view(num_labels, columns)


class MeanIoU(evaluate.Metric):
    """
    Gives the results of the `mean_iou` metric of the `evaluate` project, but keeps one confusion matrix instead of the
    maps. It needs no network, writes no file, and refuses ids that are out of range instead of dropping them.

    Args:
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*, defaults to 255): True id of the pixels that do not count.

    Raises:
        ValueError: if there is no class.

    Example:

    ```python
    metric = MeanIoU(num_labels=5)
    metric.add_batch(predictions=predictions, references=references)  # as often as you like
    metric.compute()["mean_iou"]
    ```
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}.")
        self.num_labels = num_labels
        self.ignore_index = ignore_index
        self._counts: np.ndarray | None = None  # None until something is added
        super().__init__()
        self.info.module_name = "mean_iou"  # the base class makes "mean_io_u" of the name of this class
        if ignore_index in range(num_labels):
            logger.warning_once(
                f"ignore_index={ignore_index} is also one of the {num_labels} classes. Its pixels do not count, and "
                "neither does what is predicted there, so the IoU of other classes looks better than it is."
            )

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def _build_data_dir(self) -> str:
        # `evaluate` has no public switch for it: the base class would make a folder for maps, which stays empty here
        # and fails where the home folder cannot be written to. A test looks for the folder.
        return ""

    @property
    def confusion_matrix(self) -> np.ndarray:
        """Pixels counted so far, int64 `(num_labels, num_labels)`, rows truth, columns prediction."""
        return np.zeros((self.num_labels,) * 2, np.int64) if self._counts is None else self._counts.copy()

    def add(self, *, prediction: Ids, reference: Ids) -> None:
        """Adds one map."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Ids, references: Ids) -> None:
        """Adds several maps. If one of them is wrong, none is added."""
        if len(predictions) != len(references):
            raise ValueError(f"There are {len(predictions)} predictions but {len(references)} references.")
        matrices = (
            count_confusions(prediction, reference, self.num_labels, self.ignore_index)
            for prediction, reference in zip(predictions, references)
        )
        self._counts = sum(matrices, start=self.confusion_matrix)

    def synchronize(self) -> None:
        """
        Adds up the matrices of all processes if `torch.distributed` is initialised; every process then has to call
        this once, before `compute`. Otherwise it does nothing.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts: list[np.ndarray | None] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self._counts)
        counted = [part for part in parts if part is not None]
        self._counts = sum(counted[1:], start=counted[0]) if counted else None

    def compute(self, *, predictions: Ids | None = None, references: Ids | None = None) -> dict[str, Any]:
        """
        Returns the scores of everything that was added, as [`segmentation_scores`] describes them, and starts anew.

        Raises:
            ValueError: if nothing was added.
        """
        if (predictions is None) != (references is None):
            raise ValueError("compute takes predictions and references, or neither of them.")
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        if self._counts is None:
            raise ValueError("There is nothing to compute from: call add or add_batch first.")
        counts, self._counts = self._counts, None
        return segmentation_scores(counts)


__all__ = ["MeanIoU", "count_confusions", "count_confusions_on_device"]
