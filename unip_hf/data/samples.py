# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Training samples and their order. Both depend only on a seed and on the number of updates made, so that processes,
workers and interruptions do not change a training.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..processes import begin_worker
from .reading import IGNORE_INDEX, check_ids, check_pairs, read_sample, visible_name, without_decoding
from .resizing import without_copies
from .transforms import Transform


IMAGES = ("pixel_values", "auxiliary_pixel_values")


class TrainingSamples(Dataset):
    """
    The training samples of a dataset. A key is `(epoch, row)`, or `(place, row, id of a class)` for a crop that holds
    this class. The random numbers of its augmentation depend only on `seed` and the first two, not on the worker, the
    process, or where a run was resumed.

    Args:
        dataset: Rows with the columns `image` and `annotation`.
        transform: As [`training_transforms`] returns it.
        num_labels (`int`): Number of classes. Larger ids than theirs, except 255, raise an error that names the file.
        seed (`int`, *optional*, defaults to 0): Any number.
        with_pairs (`bool`, *optional*, defaults to `False`): Whether samples are pairs of an infrared and a visible
            image, for a model that reads both. The rows then need the column `rgb`.

    Raises:
        ValueError: if pairs are wanted and the rows are none.
    """

    def __init__(self, dataset: Any, transform: Transform, num_labels: int, seed: int = 0, with_pairs: bool = False):
        if with_pairs:
            check_pairs(dataset)
        self.dataset = without_decoding(dataset)
        self.transform = transform
        self.num_labels = num_labels
        self.seed = seed
        self.with_pairs = with_pairs

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, torch.Tensor]:
        epoch, number, *class_ids = key
        row = self.dataset[number]
        sample = read_sample(row, number, self.with_pairs)
        if sample.ids is None:
            raise ValueError(f"{sample.name} has no mask.")
        check_ids(sample.ids, range(self.num_labels), sample.name)
        with torch.random.fork_rng(devices=[]):
            # Seeds only the CPU: torch.manual_seed() would also seed the GPU, whose random numbers are the model's.
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)[0])
            )
            visible = () if sample.visible is None else (sample.visible,)
            try:
                pixel_values, labels, *auxiliary = self.transform(sample.image, sample.ids, *visible, *class_ids)
            except ValueError as error:  # of the processor, which does not know the file
                files = f"{sample.name} with {visible_name(row, number)}" if visible else sample.name
                raise ValueError(f"{files}: {error}") from error
        labels = labels.to(torch.uint8 if self.num_labels <= IGNORE_INDEX + 1 else torch.int32)
        return {**dict(zip(IMAGES, (pixel_values, *auxiliary))), "labels": labels}

    def __getitems__(self, keys: list[tuple[int, ...]]) -> list[dict[str, torch.Tensor]] | Exception:
        try:
            return [self[key] for key in keys]
        except (OSError, ValueError) as error:
            return error  # handed on, because a worker that raises would bury the message in a traceback


def read_batches(
    samples: Dataset, order: Iterable[list[tuple[int, ...]]] | None = None, **settings: Any
) -> Iterator[Any]:
    """
    Batches of samples, read by the worker processes of a `DataLoader`.

    Args:
        samples: [`TrainingSamples`], or a dataset that makes whole batches: [`CropSamples`] in its `__getitems__`, and
            [`StreamPass`] when it is iterated over. An error among the samples is raised here.
        order (*optional*): Lists of keys: [`ShuffledBatches`] or [`RareClassBatches`]. None for a dataset that is
            iterated over.
        settings: Arguments of the `DataLoader`: `num_workers`, `pin_memory`.

    Yields:
        For [`TrainingSamples`] `pixel_values`, float32 `(batch_size, num_channels, height, width)`, where channels
        that are the same in all images share their memory; `labels`, uint8, or int32 with more than 256 classes,
        `(batch_size, height, width)`; of pairs `auxiliary_pixel_values`, like `pixel_values`; and `num_labelled`, an
        `int`, how many pixels have a class. Whole batches are yielded as they are.

    Raises:
        OSError, ValueError: if a file cannot be used. The message names it.
    """
    generator = torch.Generator()  # its own, because torch's random state belongs to the model
    loader = DataLoader(
        samples,
        batch_size=None if order is None else 1,
        batch_sampler=order,
        collate_fn=_collate_or_hand_on,
        generator=generator,
        worker_init_fn=begin_worker,
        **settings,
    )
    return _raise_errors(loader)


def _raise_errors(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        if isinstance(batch, dict):
            for name, number in batch.pop("num_channels", {}).items():
                batch[name] = batch[name].expand(-1, number, -1, -1)  # here: such a view cannot be pinned
        yield batch


def _collate_or_hand_on(samples: Any) -> Any:
    if not isinstance(samples, list):
        return samples  # a whole batch, or an error
    num_channels = {}
    for name in IMAGES:
        images = [sample[name] for sample in samples if name in sample]
        if images and all(image.stride(0) == 0 for image in images):
            num_channels[name] = len(images[0])
            for sample, image in zip(samples, images):
                sample[name] = without_copies(image)
    batch = default_collate(samples)
    num_labelled = int((batch["labels"] != IGNORE_INDEX).sum())
    return {**batch, "num_labelled": num_labelled, "num_channels": num_channels}


@dataclass(eq=False)
class ShuffledBatches(Sampler[list[tuple[int, ...]]]):
    """
    Endless batches of keys `(epoch, row)` for one of several processes. All processes together walk through one
    shuffled sequence, epoch after epoch without a gap. So the batch of a step is the same however many processes share
    it, and a step can be found again without reading the steps before it.

    Args:
        num_rows (`int`): Rows of the dataset.
        batch_size (`int`): Rows for this process.
        process_index, num_processes (`int`): Index of this process, and number of processes.
        seed (`int`, *optional*, defaults to 0): Seed of the order.
        first_batch (`int`, *optional*, defaults to 0): Number of batches to skip in each process.

    Raises:
        ValueError: if there are no rows.
    """

    num_rows: int
    batch_size: int
    process_index: int = 0
    num_processes: int = 1
    seed: int = 0
    first_batch: int = 0

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError("There is nothing to train on, because the dataset is empty.")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        position = (self.first_batch * self.num_processes + self.process_index) * self.batch_size
        while True:
            yield [self.key(place) for place in range(position, position + self.batch_size)]
            position += self.num_processes * self.batch_size

    def key(self, place: int) -> tuple[int, ...]:
        """The key at a place, from 0, of the sequence that all processes share."""
        epoch = place // self.num_rows
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
        return epoch, int(self._order[place % self.num_rows])


@dataclass(eq=False)
class RareClassBatches(ShuffledBatches):
    """
    Rare class sampling of [DAFormer](https://huggingface.co/papers/2111.14887) (section 3.3): endless batches of keys
    `(place, row, class)`. A class is drawn with the probability `softmax((1 - share) / temperature)`, then one of the
    images that hold it. What is drawn at a place depends on `seed` and the place alone.

    Args:
        class_pixels (`np.ndarray` of shape `(num_rows, num_labels)`): Pixels of each class in each image. Classes
            without any are never drawn.
        temperature (`float`): Above 0. The lower, the more often rare classes are drawn.

    Raises:
        ValueError: if there are no rows, no labelled pixels, or the temperature is not above 0.
    """

    class_pixels: np.ndarray = field(kw_only=True)
    temperature: float = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.probabilities = rare_class_probabilities(self.class_pixels.sum(axis=0), self.temperature)
        self._rows_of_class = [of_class.nonzero()[0] for of_class in self.class_pixels.T]

    def key(self, place: int) -> tuple[int, ...]:
        generator = np.random.default_rng((self.seed, place))
        class_id = int(generator.choice(len(self.probabilities), p=self.probabilities))
        return place, int(generator.choice(self._rows_of_class[class_id])), class_id


def rare_class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """
    How often rare class sampling draws each class.

    Args:
        pixels (`np.ndarray` of shape `(num_labels,)`): Pixels of each class in all images.
        temperature (`float`): Above 0.

    Returns:
        Probabilities of shape `(num_labels,)`; 0 for classes without pixels.

    Raises:
        ValueError: if there are no labelled pixels, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature of rare class sampling must be above 0, got {temperature}.")
    if not pixels.any():
        raise ValueError("Rare classes cannot be drawn, because no pixel of the masks has a class.")
    exponents = np.where(pixels > 0, (1 - pixels / pixels.sum()) / temperature, -np.inf)
    weights = np.exp(exponents - exponents.max())
    return weights / weights.sum()


__all__ = ["RareClassBatches", "ShuffledBatches", "TrainingSamples", "rare_class_probabilities", "read_batches"]
