# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments the rows of a dataset, on one process or several, also with faulty sensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ..data.reading import Sample, check_ids, check_pairs, read_sample, without_decoding
from ..inference.ahead import Task, ahead, worker_threads
from ..inference.canvas import Output
from ..inference.settings import DEFAULT_SETTINGS, InferenceSettings, reads_pairs
from ..inference.windows import PreparedImage, SegmentedImage, prepare_image, segment_images
from ..modeling.image_processing_unip import UnipImageProcessor
from ..processes import begin_worker


if TYPE_CHECKING:
    from accelerate import Accelerator


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


def _read_row(
    dataset: datasets.Dataset, with_visible: bool, classes: Mapping[int, str] | None, number: int
) -> tuple[int, Sample | Exception]:
    """An error is returned rather than raised, since a worker process would wrap its message."""
    try:
        sample = read_sample(dataset[number], number, with_visible)
        if classes is not None:
            checked_ids(sample, classes)
        return number, sample
    except (OSError, ValueError) as error:
        return number, error


@dataclass(frozen=True)
class Rows:
    """
    The rows of a dataset that this process segments.

    Args:
        model, processor, dataset, settings, accelerator, corrupt: As for [`segment_dataset`].
    """

    model: nn.Module
    processor: UnipImageProcessor
    dataset: datasets.Dataset
    settings: InferenceSettings
    accelerator: "Accelerator | None"
    corrupt: Callable[[Sample, int], Sample] | None

    def segment(
        self,
        output: Output,
        num_workers: int = 0,
        numbers: Sequence[int] | None = None,
        fault: SensorFault = NO_FAULT,
        classes: Mapping[int, str] | None = None,
    ) -> Iterator[tuple[int, Sample, torch.Tensor | None, SegmentedImage]]:
        """
        Number, sample, true ids on the model's device, and result of each row. Worker processes read what is to come,
        threads prepare it, and the windows of several images go through the model together.

        Args:
            output: See [`segment_images`].
            num_workers, numbers, fault: As for [`segment_dataset`].
            classes: Masks must hold no other ids; without it, masks are not needed.
        """
        rank, world, model, device = 0, 1, self.model, next(self.model.parameters()).device
        if self.accelerator is not None:
            rank, world = self.accelerator.process_index, self.accelerator.num_processes
            # The wrapper for several processes would wait for the others at each forward pass, and shares are unequal.
            model = self.accelerator.unwrap_model(model).to(self.accelerator.device)
            device = self.accelerator.device
        is_of_pairs = reads_pairs(model)
        if is_of_pairs:
            check_pairs(self.dataset)
        loader: DataLoader = DataLoader(
            range(rank, len(self.dataset), world) if numbers is None else numbers,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=num_workers,
            collate_fn=partial(_read_row, without_decoding(self.dataset), is_of_pairs, classes),
            worker_init_fn=begin_worker,
            generator=torch.Generator(),  # its own, so that an evaluation does not change the training around it
        )

        def prepare(number: int, sample: Sample) -> PreparedImage[tuple[int, Sample, torch.Tensor | None]]:
            try:
                if self.corrupt is not None:
                    sample = self.corrupt(sample, number)
                image, auxiliary = sample.image, None
                if is_of_pairs:
                    image, auxiliary = self.processor.by_role(sample.image, sample.visible)
                    auxiliary = fault.apply(auxiliary)
                key = (number, sample, _pinned_ids(sample, device) if classes is not None else None)
                return prepare_image(
                    *(key, model, self.processor, image, self.settings, auxiliary),
                    is_auxiliary_missing=fault.is_missing,
                )
            except ValueError as error:
                raise ValueError(f"{sample.name}: {error}") from error

        def tasks() -> Iterator[Task[PreparedImage[tuple[int, Sample, torch.Tensor | None]]]]:
            for number, sample in loader:
                if isinstance(sample, Exception):
                    raise sample
                yield partial(prepare, number, sample), sample.image.size

        autocast = nullcontext if self.accelerator is None else self.accelerator.autocast
        with worker_threads() as threads:
            for result in segment_images(model, ahead(threads, tasks()), self.settings, output, autocast):
                number, sample, ids = result.key
                if result.error is not None:
                    raise ValueError(f"{sample.name}: {result.error}") from result.error
                yield number, sample, None if ids is None else ids.to(device, non_blocking=True), result


def _pinned_ids(sample: Sample, device: torch.device) -> torch.Tensor | None:
    """The true ids in memory that a GPU reads by itself; `None` for a model on the CPU, where arrays are counted."""
    if device.type != "cuda" or sample.ids is None:
        return None
    ids = sample.ids if sample.ids.dtype == np.uint8 else sample.ids.astype(np.int64)
    return torch.from_numpy(ids).pin_memory()


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
    rows = Rows(model, processor, dataset, settings, accelerator, corrupt)
    for number, sample, _, result in rows.segment("scores", num_workers, numbers, fault):
        assert result.scores is not None
        yield number, sample, result.scores


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


__all__ = ["NO_FAULT", "SENSOR_FAULTS", "Rows", "SensorFault", "checked_ids", "segment_dataset"]
