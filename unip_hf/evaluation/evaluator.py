# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments and evaluates whole datasets, one image at a time, on one process or several."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ..data.reading import Sample, check_ids, check_pairs, ignore_sigterm, read_sample, without_decoding
from ..inference.exported import EndToEndModel
from ..inference.windows import DEFAULT_SETTINGS, InferenceSettings, reads_pairs, segment_image
from ..modeling.image_processing_unip import UnipImageProcessor
from ..progress import Progress
from .mean_iou import count_confusions
from .metrics import segmentation_scores


if TYPE_CHECKING:
    from accelerate import Accelerator


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


@dataclass(frozen=True)
class SensorFault:
    """
    What is wrong with the auxiliary image of a pair.

    Args:
        is_missing (`bool`): Whether there is none. Zeros after normalisation stand in for it.
        shift (`int`): Pixels of the original image by which it is shifted to the right. Its left column fills the gap.
    """

    is_missing: bool = False
    shift: int = 0

    def __str__(self) -> str:
        return "auxiliary image missing" if self.is_missing else f"auxiliary image shifted by {self.shift} pixels"

    def apply(self, image: np.ndarray) -> np.ndarray | None:
        """An auxiliary image, `(height, width, channels)`, with this fault; `None` if it is missing."""
        if self.is_missing:
            return None
        columns = np.arange(image.shape[1]) - self.shift
        return image[:, columns.clip(0, image.shape[1] - 1)]


NO_FAULT = SensorFault()
SENSOR_FAULTS = {
    "auxiliary_missing": SensorFault(is_missing=True),
    "auxiliary_shifted_8": SensorFault(shift=8),
    "auxiliary_shifted_16": SensorFault(shift=16),
}


def _read_row(dataset: datasets.Dataset, with_visible: bool, number: int) -> tuple[int, Sample | Exception]:
    """An error is returned rather than raised, since a worker process would wrap its message."""
    try:
        return number, read_sample(dataset[number], number, with_visible)
    except (OSError, ValueError) as error:
        return number, error


def segment_dataset(
    model: nn.Module,
    processor: UnipImageProcessor,
    dataset: datasets.Dataset,
    settings: InferenceSettings = DEFAULT_SETTINGS,
    accelerator: "Accelerator | None" = None,
    num_workers: int = 0,
    numbers: Sequence[int] | None = None,
    fault: SensorFault = NO_FAULT,
    corrupt: Callable[[Sample, int], Sample] | None = None,
) -> Iterator[tuple[int, Sample, torch.Tensor]]:
    """
    Segments this process's share of a dataset: of `n` processes, number `k` takes the rows k, k + n, k + 2n, ...
    Nothing is padded or repeated.

    Args:
        model: Semantic segmentation model; runs in evaluation mode, unwrapped.
        processor: Image processor.
        dataset: With the column `image` and, optionally, `annotation`; images may differ in size. For a model of pairs
            also with the column `rgb`.
        settings: Windows, flipping, scales.
        accelerator: Knows the processes, the device and the precision. Without it there is one process.
        num_workers: Processes that read images ahead.
        numbers: The rows to segment instead of this process's share.
        fault: For a model of pairs: what is wrong with the auxiliary images.
        corrupt: Changes a sample, given with the number of its row, before it is segmented.

    Yields:
        Number of the row, [`Sample`], and float32 scores `(classes, height, width)` as [`segment_image`] gives them.

    Raises:
        OSError, ValueError: if a file cannot be used; the message names it.
    """
    rank, world = 0, 1
    if accelerator is not None:
        rank, world = accelerator.process_index, accelerator.num_processes
        # The wrapper for several processes would wait for the others at each forward pass, and shares are unequal.
        model = accelerator.unwrap_model(model).to(accelerator.device)
    is_of_pairs = reads_pairs(model)
    if is_of_pairs:
        check_pairs(dataset)
    loader: DataLoader = DataLoader(
        range(rank, len(dataset), world) if numbers is None else numbers,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
        collate_fn=partial(_read_row, without_decoding(dataset), is_of_pairs),
        worker_init_fn=ignore_sigterm,
        generator=torch.Generator(),  # its own, so that an evaluation does not change the training around it
    )
    for number, sample in loader:
        if isinstance(sample, Exception):
            raise sample
        with accelerator.autocast() if accelerator is not None else nullcontext():
            try:
                if corrupt is not None:
                    sample = corrupt(sample, number)
                image, auxiliary = sample.image, None
                if is_of_pairs:
                    image, auxiliary = processor.by_role(sample.image, sample.visible)
                    auxiliary = fault.apply(auxiliary)
                scores = segment_image(
                    model, processor, image, settings, auxiliary, is_auxiliary_missing=fault.is_missing
                )
            except ValueError as error:
                raise ValueError(f"{sample.name}: {error}") from error
        yield number, sample, scores


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
    Evaluates a model on a dataset with masks. Images are segmented one at a time, and processes exchange only
    confusion matrices and the mean IoU of each image: the result does not depend on the number of processes.

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
    segment = partial(segment_dataset, model, processor, dataset, settings, accelerator, corrupt=corrupt)
    confusion_matrix, image_scores = _count(segment, len(dataset), id2label, accelerator, num_workers)
    faults = {}
    unwrapped = model if accelerator is None else accelerator.unwrap_model(model)
    if with_sensor_faults and reads_pairs(unwrapped):
        for name, fault in SENSOR_FAULTS.items():
            if fault.is_missing and isinstance(unwrapped, EndToEndModel):
                continue  # which takes raw frames, of which none stands for a missing one
            faulty = partial(segment, fault=fault)
            counts, _ = _count(faulty, len(dataset), id2label, accelerator, num_workers, str(fault))
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
            *(sample.name, sample.image, checked_ids(sample, id2label), _predicted_ids(outputs), chosen[number]),
            visible=sample.visible,
        )
        for number, sample, outputs in segment(numbers=list(chosen))
    ]
    result.worst.extend(examples[:num_worst])
    result.best.extend(examples[num_worst:])
    return result


def _count(
    segment: Callable[..., Iterator[tuple[int, Sample, torch.Tensor]]],
    num_rows: int,
    id2label: Mapping[int, str],
    accelerator: "Accelerator | None",
    num_workers: int,
    title: str = "",
) -> tuple[np.ndarray, list[tuple[float, int]]]:
    """The confusion matrix, and the mean IoU and number of each image, of all processes together."""
    is_main = accelerator is None or accelerator.is_main_process
    world = 1 if accelerator is None else accelerator.num_processes
    confusion_matrix = np.zeros((len(id2label),) * 2, np.int64)
    image_scores: list[tuple[float, int]] = []
    errors: list[str] = []
    # The main process has at least as many images as any other, so its share shows how far all of them are.
    what = f"Evaluating{f' ({title})' if title else ''}: image"
    progress = Progress(what, math.ceil(num_rows / world), is_shown=is_main)
    try:
        for number, sample, scores in segment(num_workers=num_workers):
            ids, predicted = checked_ids(sample, id2label), _predicted_ids(scores)  # (H, W)
            counts = count_confusions(predicted, ids, len(id2label))
            confusion_matrix += counts
            image_scores.append((segmentation_scores(counts)["mean_iou"], number))
            progress.update()
    except (OSError, ValueError) as error:
        if world == 1:
            raise
        errors.append(str(error))  # the other processes wait for this one below, and raise the same error
    finally:
        progress.close()
    if accelerator is not None:
        from accelerate.utils import gather_object

        errors = gather_object(errors)
        if errors:
            raise ValueError(errors[0])
        confusion_matrix = sum(gather_object([confusion_matrix]))
        image_scores = gather_object(image_scores)
    return confusion_matrix, image_scores


def checked_ids(sample: Sample, id2label: Mapping[int, str]) -> np.ndarray:
    """
    The ids in the mask of a sample, `(height, width)`.

    Raises:
        ValueError: if it has no mask, or one with unknown ids; the message names the sample.
    """
    if sample.ids is None:
        raise ValueError(f"{sample.name} has no mask to compare with: the dataset needs the column `annotation`.")
    check_ids(sample.ids, id2label, sample.name)
    return sample.ids


def _predicted_ids(scores: torch.Tensor) -> np.ndarray:
    """Scores `(classes, H, W)` to the ids of the highest, `(H, W)`, computed on the device and small to copy."""
    return scores.argmax(dim=0).to(torch.uint8 if len(scores) <= 256 else torch.int64).cpu().numpy()


__all__ = [
    "SENSOR_FAULTS",
    "EvaluationResult",
    "Example",
    "SensorFault",
    "checked_ids",
    "evaluate_dataset",
    "segment_dataset",
]
