# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments and evaluates whole datasets, on one process or several."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import nn

from ..data.reading import Sample
from ..inference.exported import EndToEndModel
from ..inference.settings import DEFAULT_SETTINGS, InferenceSettings, reads_pairs
from ..inference.windows import SegmentedImage
from ..modeling.image_processing_unip import UnipImageProcessor
from ..progress import Progress
from .mean_iou import count_confusions, count_confusions_on_device
from .metrics import segmentation_scores
from .rows import NO_FAULT, SENSOR_FAULTS, Rows, SensorFault, checked_ids, segment_dataset


if TYPE_CHECKING:
    from accelerate import Accelerator


IMAGES_AT_ONCE = 32  # whose counts are fetched from a GPU together


@dataclass(frozen=True)
class Example:
    """
    One evaluated image.

    Args:
        name (`str`): Path of its file, or the number of its row.
        image (`np.ndarray` of shape `(height, width, channels)`): Raw intensities.
        ids (`np.ndarray` of shape `(height, width)`): True class ids.
        predicted_ids (`np.ndarray` of shape `(height, width)`): Predicted class ids.
        mean_iou (`float`): 0 to 1, of this image alone, over the classes in its truth or prediction.
        visible (`np.ndarray` of shape `(height, width, channels)`, *optional*): The visible image of a pair.
    """

    name: str
    image: np.ndarray
    ids: np.ndarray
    predicted_ids: np.ndarray
    mean_iou: float
    visible: np.ndarray | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """
    Args:
        metrics (`dict`): What [`segmentation_scores`] returns.
        confusion_matrix (`np.ndarray` of shape `(num_labels, num_labels)`): int64 pixel counts, rows truth, columns
            prediction.
        num_images (`int`): Images evaluated, by all processes together.
        best, worst (`list[Example]`): Images with the highest mean IoU, best first, and with the lowest, worst first.
            No image is in both. Empty on all processes but the main one.
        sensor_faults (`dict[str, dict]`): What [`segmentation_scores`] returns for each of `SENSOR_FAULTS`, if asked
            for.
    """

    metrics: dict[str, Any]
    confusion_matrix: np.ndarray
    num_images: int
    best: list[Example] = field(default_factory=list)
    worst: list[Example] = field(default_factory=list)
    sensor_faults: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate_dataset(
    model: nn.Module,
    processor: UnipImageProcessor,
    dataset: datasets.Dataset,
    id2label: Mapping[int, str],
    settings: InferenceSettings = DEFAULT_SETTINGS,
    accelerator: "Accelerator | None" = None,
    num_workers: int = 0,
    num_examples: int = 0,
    with_sensor_faults: bool = False,
    corrupt: Callable[[Sample, int], Sample] | None = None,
) -> EvaluationResult:
    """
    Evaluates a model on a dataset with masks. Processes exchange only confusion matrices and the mean IoU of each
    image: the result does not depend on the number of processes.

    Args:
        model, processor, dataset, settings, accelerator, num_workers, corrupt: As for [`segment_dataset`]. If the
            accelerator has several processes, all of them must call this.
        id2label: Names of the classes, 0 and up; 255 in a mask is ignored.
        num_examples: How many of the best and of the worst images to return.
        with_sensor_faults: Whether a model of pairs is evaluated with each of `SENSOR_FAULTS` as well, which takes as
            long again for each.

    Returns:
        [`EvaluationResult`]. All processes get the same, but only the main process gets examples.

    Raises:
        OSError, ValueError: if a file cannot be used, has no mask, or holds unknown ids; the message names it.
    """
    if len(dataset) == 0:
        raise ValueError("There is nothing to evaluate: the dataset has no rows.")
    is_main = accelerator is None or accelerator.is_main_process
    rows = Rows(model, processor, dataset, settings, accelerator, corrupt)
    confusion_matrix, image_scores = _count(rows, id2label, num_workers)
    faults = {}
    unwrapped = model if accelerator is None else accelerator.unwrap_model(model)
    if with_sensor_faults and reads_pairs(unwrapped):
        for name, fault in SENSOR_FAULTS.items():
            if fault.is_missing and isinstance(unwrapped, EndToEndModel):
                continue  # which takes raw frames, of which none stands for a missing one
            counts, _ = _count(rows, id2label, num_workers, fault)
            faults[name] = segmentation_scores(counts)
    scores = segmentation_scores(confusion_matrix)
    result = EvaluationResult(scores, confusion_matrix, len(image_scores), sensor_faults=faults)
    if not is_main:
        return result

    ranked = sorted((score, number) for score, number in image_scores if not math.isnan(score))
    num_worst, num_best = min(num_examples, len(ranked) // 2), min(num_examples, (len(ranked) + 1) // 2)
    chosen = {number: score for score, number in ranked[:num_worst] + ranked[len(ranked) - num_best :][::-1]}
    # Predictions were not kept, so these few images are segmented once more.
    examples = [
        Example(
            *(sample.name, sample.image, checked_ids(sample, id2label), _as_array(segmented), chosen[number]),
            visible=sample.visible,
        )
        for number, sample, _, segmented in rows.segment("ids", numbers=list(chosen))
    ]
    result.worst.extend(examples[:num_worst])
    result.best.extend(examples[num_worst:])
    return result


class _Counter:
    """The confusion matrix of all images and the mean IoU of each. On a GPU, images are counted there."""

    def __init__(self, num_labels: int):
        self.num_labels = num_labels
        self.confusion_matrix = np.zeros((num_labels, num_labels), np.int64)
        self.image_scores: list[tuple[float, int]] = []
        self._on_device: list[tuple[int, torch.Tensor]] = []

    def add(self, number: int, sample: Sample, ids: torch.Tensor | None, result: SegmentedImage) -> None:
        """Counts an image by the number of its row; `ids` are the true ones, on the model's device."""
        if ids is None or result.ids is None or result.ids.device != ids.device:
            self._add(number, count_confusions(_as_array(result), np.asarray(sample.ids), self.num_labels))
            return
        self._on_device.append((number, count_confusions_on_device(result.ids, ids, self.num_labels)))
        if len(self._on_device) == IMAGES_AT_ONCE:
            self.fetch()

    def fetch(self) -> None:
        """Fetches from the GPU what was counted there."""
        if self._on_device:
            numbers, counts = zip(*self._on_device)
            for number, one in zip(numbers, torch.stack(counts).cpu().numpy()):
                if one[:, -1].any():
                    raise ValueError(f"The model predicts ids above the classes, 0 to {self.num_labels - 1}.")
                self._add(number, one[:, :-1])
        self._on_device = []

    def _add(self, number: int, counts: np.ndarray) -> None:
        self.confusion_matrix += counts
        self.image_scores.append((segmentation_scores(counts)["mean_iou"], number))


def _count(
    rows: Rows, id2label: Mapping[int, str], num_workers: int, fault: SensorFault = NO_FAULT
) -> tuple[np.ndarray, list[tuple[float, int]]]:
    """The confusion matrix, and the mean IoU and number of each image, of all processes together."""
    accelerator, num_rows = rows.accelerator, len(rows.dataset)
    is_main = accelerator is None or accelerator.is_main_process
    world = 1 if accelerator is None else accelerator.num_processes
    counter = _Counter(len(id2label))
    errors: list[str] = []
    # The main process has at least as many images as any other, so its share shows how far all of them are.
    what = f"Evaluating{'' if fault == NO_FAULT else f' ({fault})'}: image"
    progress = Progress(what, math.ceil(num_rows / world), is_shown=is_main)
    try:
        for segmented in rows.segment("ids", num_workers, fault=fault, classes=id2label):
            counter.add(*segmented)
            progress.update()
        counter.fetch()
    except (OSError, ValueError) as error:
        if world == 1:
            raise
        errors.append(str(error))  # the other processes wait for this one below, and raise the same error
    finally:
        progress.close()
    confusion_matrix, image_scores = counter.confusion_matrix, counter.image_scores
    if accelerator is not None:
        from accelerate.utils import gather_object

        errors = gather_object(errors)
        if errors:
            raise ValueError(errors[0])
        confusion_matrix = sum(gather_object([confusion_matrix]))
        image_scores = gather_object(image_scores)
    return confusion_matrix, image_scores


def _as_array(result: SegmentedImage) -> np.ndarray:
    assert result.ids is not None
    return result.ids.cpu().numpy()


__all__ = [
    "SENSOR_FAULTS",
    "EvaluationResult",
    "Example",
    "SensorFault",
    "checked_ids",
    "evaluate_dataset",
    "segment_dataset",
]
