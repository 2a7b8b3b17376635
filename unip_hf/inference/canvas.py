# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What becomes of the logits of an image: resized to it, averaged over passes, and turned into class ids, by rows."""

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from ..modeling.modeling_unip_resampling import resize


Output = Literal["ids", "ids_and_probabilities", "scores"]
MAX_NUMBERS = 2**24  # of scores that exist at once beside what is wanted of them


class RowResizer:
    """
    Resizes maps (bilinear, as `interpolate` does) that come by rows of pixels, from the first to the last.

    Args:
        source, target: Height and width before and after.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int]):
        self.source, self.target = source, target
        self._kept: torch.Tensor | None = None  # the last rows, which the next rows of the target need, too
        self._done = 0  # rows of the target

    def add(self, first: int, rows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Takes rows `(classes, rows, width)`. Gives those of the target that follow, each part with its first row."""
        height, (target_height, target_width) = self.source[0], self.target
        classes, end = len(rows), first + rows.shape[1]
        step = max(1, MAX_NUMBERS // (classes * target_width))
        if self.source == self.target:
            yield from ((first + at, part) for at, part in _parts(rows, step))
            return
        if rows.shape[1] == height and target_height <= step:
            yield 0, resize(rows[None], self.target)[0]
            return
        if self._kept is not None:
            first, rows = first - self._kept.shape[1], torch.cat([self._kept, rows], dim=1)
        places = ((np.arange(target_height) + 0.5) * (height / target_height) - 0.5).clip(0)
        above = places.astype(np.int64)
        below = (above + 1).clip(max=height - 1)
        ready = int(np.searchsorted(below, end))  # rows of the target with all that they need
        for start in range(self._done, ready, step):
            stop = min(start + step, ready)
            index = torch.from_numpy(np.stack([above[start:stop], below[start:stop]]) - first).to(rows.device)
            weight = torch.from_numpy((places - above)[start:stop, None].astype(np.float32)).to(rows.device)
            mixed = torch.lerp(rows[:, index[0]], rows[:, index[1]], weight)  # (classes, rows of the target, width)
            yield start, resize(mixed[None], (stop - start, target_width))[0]
        self._done = ready
        self._kept = rows[:, above[ready] - first :].clone() if ready < target_height else None


def _parts(rows: torch.Tensor, step: int) -> Iterator[tuple[int, torch.Tensor]]:
    return ((start, rows[:, start : start + step]) for start in range(0, rows.shape[1], step))


class Canvas:
    """
    Collects the logits of all passes over an image and keeps what is wanted of them, on the device they are on.

    Args:
        size: Height and width of the image.
        sources: Height and width of the logits of each pass.
        output: `"ids"`, also with float16 probabilities, or the float32 `"scores"` of [`segment_image`].

    Attributes:
        ids (`torch.Tensor` of shape `(height, width)`): uint8, or int32 above 256 classes.
        probabilities (`torch.Tensor` of shape `(classes, height, width)`): float16.
        scores (`torch.Tensor` of shape `(classes, height, width)`): float32.
    """

    def __init__(self, size: tuple[int, int], sources: list[tuple[int, int]], output: Output):
        self.size = size
        self.output = output
        self.ids: torch.Tensor | None = None
        self.probabilities: torch.Tensor | None = None
        self.scores: torch.Tensor | None = None
        self._resizers = [RowResizer(source, size) for source in sources]
        self._parts: list[Iterator[tuple[int, torch.Tensor]]] = [iter(())] * len(sources)  # not yet asked for
        self._progress = [0] * len(sources)  # finished rows of each pass
        self._sum: torch.Tensor | None = None  # of probabilities, of rows that not all passes have finished
        self._first = 0  # the first of these rows

    @property
    def is_finished(self) -> bool:
        return min(self._progress) == self.size[0]

    @torch.inference_mode()
    def add(self, number: int, first: int, logits: torch.Tensor) -> None:
        """Takes rows of the logits of a pass, `(classes, rows, width)`."""
        self._parts[number] = itertools.chain(self._parts[number], self._resizers[number].add(first, logits))
        # The pass that is behind goes on until it needs more logits, so that no other is far ahead.
        while not self.is_finished:
            behind = min(range(len(self._parts)), key=self._progress.__getitem__)
            if (part := next(self._parts[behind], None)) is None:
                break
            start, rows = part
            self._progress[behind] = start + rows.shape[1]
            if len(self._parts) == 1:
                self._put(start, rows)
            else:
                self._average(start, rows.softmax(dim=0) / len(self._parts))

    def _average(self, first: int, probabilities: torch.Tensor) -> None:
        """Adds rows of probabilities. Those that all passes have finished go on."""
        end, known = first + probabilities.shape[1], 0 if self._sum is None else self._sum.shape[1]
        if self._sum is None:
            self._sum = probabilities.new_zeros(len(probabilities), 0, self.size[1])
        if end > self._first + known:
            more = self._sum.new_zeros(len(self._sum), end - self._first - known, self.size[1])
            self._sum = torch.cat([self._sum, more], dim=1)
        self._sum[:, first - self._first : end - self._first] += probabilities
        if (count := min(self._progress) - self._first) > 0:
            self._put(self._first, self._sum[:, :count])
            self._sum, self._first = self._sum[:, count:].clone(), self._first + count

    def _put(self, first: int, scores: torch.Tensor) -> None:
        rows = slice(first, first + scores.shape[1])
        if self.output == "scores":
            if scores.shape[1] == self.size[0]:
                self.scores = scores
                return
            if self.scores is None:
                self.scores = scores.new_empty(len(scores), *self.size)
            self.scores[:, rows] = scores
            return
        if self.ids is None:
            self.ids = scores.new_empty(self.size, dtype=torch.uint8 if len(scores) <= 256 else torch.int32)
        self.ids[rows] = highest(scores)
        if self.output == "ids_and_probabilities":
            if self.probabilities is None:
                self.probabilities = scores.new_empty(len(scores), *self.size, dtype=torch.float16)
            is_average = len(self._resizers) > 1
            self.probabilities[:, rows] = scores if is_average else scores.softmax(dim=0)


def highest(scores: torch.Tensor) -> torch.Tensor:
    """Of scores `(classes, ...)` the class of the highest, the first of several."""
    return scores.max(dim=0).indices  # on a CPU a quarter of the time of argmax


__all__ = ["Canvas", "Output", "RowResizer", "highest"]
