# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Batches from a stream of images, which has no length and no row numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from .samples import read_batches


BUFFER_SIZE = 1000  # rows that each worker shuffles with one another
ReadImages = Callable[[Sequence[dict[str, Any]], Sequence[str], Sequence[str]], torch.Tensor]


@dataclass(eq=False)
class StreamPass(IterableDataset):
    """
    One pass over the share of one process, in pieces of at most `batch_size` images. Each worker of a `DataLoader`
    has its own part of the share, the same one in every epoch.

    Args:
        share (`datasets.IterableDataset`): Rows with the encoded column `image`, with at least as many shards as
            workers.
        read_images (`Callable`): Makes a tensor from encoded images, their names and the keys of their random numbers.
        batch_size (`int`): Images in a piece.
        every, offset (`int`): Only the rows `offset`, `offset + every`, ... are used.
        seed, epoch (`int`): Determine the order and the random numbers.
        key (`str`): Start of the keys of the random numbers.
        num_skipped (`int`): Pieces of each worker that are not decoded.

    Yields:
        What `read_images` returns. For a skipped piece, the number of its images as an `int`. An error is yielded as
        well, because a worker that raised it would bury it in a traceback.
    """

    share: datasets.IterableDataset
    read_images: ReadImages
    batch_size: int
    every: int
    offset: int
    seed: int
    epoch: int
    key: str
    num_skipped: int

    def __iter__(self) -> Iterator[torch.Tensor | int | Exception]:
        worker = get_worker_info()
        index, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rows = self.share.shard(num_workers, index, contiguous=False)  # before shuffling, so that it stays the same
        generator = np.random.default_rng((self.seed, self.epoch, index))  # the same in all processes
        # With several shards at a time, datasets 5.2 sleeps for five seconds at the end.
        rows = rows.shuffle(generator=generator, buffer_size=BUFFER_SIZE, max_buffer_input_shards=1)
        try:
            for number, batch in enumerate(rows.iter(self.batch_size * self.every)):
                images = batch["image"][self.offset :: self.every]
                if number < self.num_skipped:
                    yield len(images)
                elif images:
                    names = [image["path"] or "an image of the stream" for image in images]
                    keys = [f"{self.key} {index} {number} {place}" for place in range(len(images))]
                    yield self.read_images(images, names, keys)
        except (OSError, ValueError) as error:
            yield error


def read_stream(
    rows: datasets.IterableDataset,
    read_images: ReadImages,
    batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
    seed: int = 0,
    first_batch: int = 0,
    num_workers: int = 2,
) -> Iterator[torch.Tensor]:
    """
    Endless shuffled batches for one of several processes, epoch after epoch. One batch may hold images of two epochs.
    In an epoch, all processes together see every image once. If the number of shards is a multiple of that of the
    processes, each process has its own shards. Otherwise it takes every `num_processes`-th row of all. Because shards
    may differ in size, the processes may reach the end of an epoch at different steps.

    Args:
        rows (`datasets.IterableDataset`): Has the encoded column `image`.
        read_images (`Callable`): Makes a tensor from encoded images, their names and the keys of their random numbers.
        batch_size (`int`): Images in a batch.
        process_index, num_processes (`int`): Index of this process, and number of processes.
        seed (`int`, *optional*, defaults to 0): Seed of the order and the random numbers.
        first_batch (`int`, *optional*, defaults to 0): Number of batches to skip. At most one epoch before them is
            read, to count its images, and hardly any of it is decoded.
        num_workers (`int`, *optional*, defaults to 2): Processes that read, at most one for each shard, or 0 to read
            in this process.

    Yields:
        Tensors from `read_images`, joined and cut to `batch_size`.

    Raises:
        OSError, ValueError: if there are no images, or one cannot be used.
    """
    every, offset, share = num_processes, process_index, rows
    if rows.num_shards % num_processes == 0:
        every, offset, share = 1, 0, rows.shard(num_processes, process_index, contiguous=False)
    num_workers = min(num_workers, share.num_shards)
    parts: list[torch.Tensor] = []
    num_missing = batch_size
    num_before, epoch = first_batch * batch_size, 0  # images before the first batch, from this epoch on
    while True:
        # A DataLoader takes pieces from its workers in turn, so these come before the first batch.
        num_skipped = num_before // (batch_size * max(1, num_workers))
        key, num_images = f"{seed} {epoch} {process_index}", 0
        pieces = StreamPass(share, read_images, batch_size, every, offset, seed, epoch, key, num_skipped)
        for piece in read_batches(pieces, num_workers=num_workers):
            length = piece if isinstance(piece, int) else len(piece)
            num_images += length
            start = min(num_before, length)
            num_before -= start
            while start < length:
                part = piece[start : start + num_missing]
                parts.append(part)
                start, num_missing = start + len(part), num_missing - len(part)
                if num_missing == 0:
                    yield parts[0] if len(parts) == 1 else torch.cat(parts)  # (B, ...)
                    parts, num_missing = [], batch_size
        if num_images == 0:
            raise ValueError(
                "There is nothing to train on, because the stream holds no images for each of the processes."
            )
        epochs, num_before = divmod(num_before, num_images)  # every epoch of a process has the same number
        epoch += 1 + epochs


__all__ = ["StreamPass", "read_stream"]
