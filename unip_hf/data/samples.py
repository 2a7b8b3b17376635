# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Training samples and their order. Both depend only on a seed and on the number of updates made, so that processes,
workers and interruptions do not change a training.
"""

import atexit
import weakref
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .reading import IGNORE_INDEX, check_ids, ignore_sigterm, read_sample, without_decoding
from .transforms import Transform


class TrainingSamples(Dataset):
    """
    The training samples of a dataset. A key is `(epoch, row)`, and the random numbers of its augmentation depend on
    only on `seed` and that key, not on the worker, the process, or where a run was resumed.

    Args:
        dataset: Rows with the columns `image` and `annotation`.
        transform: As [`training_transforms`] returns it.
        num_labels (`int`): Number of classes. Larger ids than theirs, except 255, raise an error that names the file.
        seed (`int`, *optional*, defaults to 0): Any number.
    """

    def __init__(self, dataset: Any, transform: Transform, num_labels: int, seed: int = 0):
        self.dataset = without_decoding(dataset)
        self.transform = transform
        self.num_labels = num_labels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, number = key
        sample = read_sample(self.dataset[number], number)
        if sample.ids is None:
            raise ValueError(f"{sample.name} has no mask.")
        check_ids(sample.ids, range(self.num_labels), sample.name)
        with torch.random.fork_rng(devices=[]):
            # Seeds only the CPU: torch.manual_seed() would also seed the GPU, whose random numbers are the model's.
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)[0])
            )
            pixel_values, labels = self.transform(sample.image, sample.ids)
        return {"pixel_values": pixel_values, "labels": labels}

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]] | Exception:
        try:
            return [self[key] for key in keys]
        except (OSError, ValueError) as error:
            return error  # handed on, because a worker that raises would bury the message in a traceback


def read_batches(
    samples: Dataset, order: Iterable[list[tuple[int, int]]] | None = None, **settings: Any
) -> Iterator[Any]:
    """
    Batches of samples, read by the worker processes of a `DataLoader`.

    Args:
        samples: [`TrainingSamples`], or a dataset that makes whole batches: [`CropSamples`] in its `__getitems__`, and
            [`StreamPass`] when it is iterated over. An error among the samples is raised here.
        order (*optional*): Lists of keys, such as [`ShuffledBatches`]. None for a dataset that is iterated over.
        settings: Arguments of the `DataLoader`: `num_workers`, `pin_memory`.

    Yields:
        For [`TrainingSamples`] `pixel_values`, float32 `(batch_size, num_channels, height, width)`, `labels`, int64
        `(batch_size, height, width)`, and `num_labelled`, an `int`, how many pixels have a class. Whole batches are
        yielded as they are.

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
        worker_init_fn=ignore_sigterm,
        **settings,
    )
    batches = _raise_errors(loader)
    _open_batches.add(batches)
    return batches


def _raise_errors(batches: Iterable[Any]) -> Generator[Any, None, None]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


_open_batches: "weakref.WeakSet[Generator[Any, None, None]]" = weakref.WeakSet()


@atexit.register
def _close_batches() -> None:
    """Otherwise Python would send SIGTERM to workers that still read, which ignore it, and wait for them forever."""
    for batches in list(_open_batches):
        batches.close()


def _collate_or_hand_on(samples: Any) -> Any:
    if not isinstance(samples, list):
        return samples  # a whole batch, or an error
    batch = default_collate(samples)
    return {**batch, "num_labelled": int((batch["labels"] != IGNORE_INDEX).sum())}


@dataclass(eq=False)
class ShuffledBatches(Sampler[list[tuple[int, int]]]):
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

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        position = (self.first_batch * self.num_processes + self.process_index) * self.batch_size
        while True:
            keys = []
            for place in range(position, position + self.batch_size):
                if place // self.num_rows != epoch:
                    epoch = place // self.num_rows
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
                keys.append((epoch, int(order[place % self.num_rows])))
            yield keys
            position += self.num_processes * self.batch_size


__all__ = ["ShuffledBatches", "TrainingSamples", "read_batches"]
