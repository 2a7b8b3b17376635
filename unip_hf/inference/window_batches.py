# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs a model on batches of windows, also of several images, and puts the logits of each image together."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data.resizing import without_copies
from ..modeling.modeling_unip_resampling import resize


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients. Afterwards every part of the model is back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last one is moved back to end at the border."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(index * stride, side - window), 0) for index in range(count)]


class WindowGrid:
    """
    The windows of an image. While a row of windows is computed, it holds the sum of the logits of this row, and of
    what earlier rows share with it.

    Args:
        inputs: What the model reads, by name: processed images `(channels, height, width)` on any device.
        window_size, stride: See [`sliding_window_logits`].
        is_flipped: Whether the mirrored image is meant, of which the logits are mirrored, too.
    """

    def __init__(
        self, inputs: dict[str, torch.Tensor], window_size: int, stride: int, is_flipped: bool = False
    ) -> None:
        self.inputs = inputs
        self.height, self.width = next(iter(inputs.values())).shape[-2:]
        self.window = (min(window_size, self.height), min(window_size, self.width))
        self.tops = _window_starts(self.height, window_size, stride)
        self.lefts = _window_starts(self.width, window_size, stride)
        self.is_flipped = is_flipped
        self._total: torch.Tensor | None = None  # (classes, window height, width)

    def row_inputs(self, number: int, device: torch.device) -> dict[str, torch.Tensor]:
        """What the windows of a row are cut from, `(channels, window height, width)` on a device."""
        top = self.tops[number]
        rows = {name: image[:, top : top + self.window[0]] for name, image in self.inputs.items()}
        for name, image in rows.items():
            rows[name] = without_copies(image).to(device, non_blocking=True).expand_as(image)
        return {name: image.flip(-1) for name, image in rows.items()} if self.is_flipped else rows

    def add(self, number: int, left: int, logits: torch.Tensor) -> tuple[int, torch.Tensor] | None:
        """
        Adds the logits of a window, `(classes, window height, window width)`.

        Returns:
            After the last window of a row: the first row of pixels that no later window covers, and the averaged
            logits of these rows, `(classes, rows, width)`.
        """
        if len(self.lefts) > 1 or len(self.tops) > 1:
            if self._total is None:
                self._total = logits.new_zeros(len(logits), self.window[0], self.width)
            self._total[:, :, left : left + self.window[1]] += logits
            logits = self._total
        return self._finished(number, logits) if left == self.lefts[-1] else None

    def _finished(self, number: int, total: torch.Tensor) -> tuple[int, torch.Tensor]:
        top = self.tops[number]
        end = self.tops[number + 1] if number + 1 < len(self.tops) else self.height
        finished = total[:, : end - top]
        if self._total is not None:
            self._total = None
            if end < self.height:
                self._total = torch.zeros_like(total)
                self._total[:, : len(total[0]) - (end - top)] = total[:, end - top :]
            finished = finished.div_(self._counts(top, end, total))
        return top, finished.flip(-1) if self.is_flipped else finished

    def _counts(self, top: int, end: int, like: torch.Tensor) -> torch.Tensor:
        """How many windows cover each pixel of some rows, `(rows, width)`."""
        counts = []
        for starts, window, first, last in (
            (self.tops, self.window[0], top, end),
            (self.lefts, self.window[1], 0, self.width),
        ):
            count = like.new_zeros(last - first)
            for start in starts:
                count[max(start - first, 0) : max(start + window - first, 0)] += 1
            counts.append(count)
        return counts[0][:, None] * counts[1]


class FinishedRows(NamedTuple):
    """
    Args:
        grid ([`WindowGrid`]): The image.
        first (`int`): Its row of pixels that is the first of these.
        logits (`torch.Tensor` of shape `(classes, rows, width)`, *optional*): Averaged logits, float32.
        error (`ValueError`, *optional*): Why there are none.
    """

    grid: WindowGrid
    first: int
    logits: torch.Tensor | None
    error: ValueError | None = None


class WindowBatcher:
    """
    Runs a model on batches of windows of the same size. Nothing here waits for a GPU.

    Args:
        model: Semantic segmentation model whose output has `logits`; it runs in evaluation mode.
        batch_size: How many windows the model gets at once.
        output_device: Where logits of full size are added up; by default the model's device.
        autocast: Makes the context that the model runs in.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_size: int,
        output_device: str | torch.device | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.model = model
        self.batch_size = batch_size
        self.autocast = autocast
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.output_device = output_device or parameter.device
        self._waiting: list[tuple[WindowGrid, int, int]] = []  # grid, row of windows, left side
        self._windows: list[dict[str, torch.Tensor]] = []

    def add_row(self, grid: WindowGrid, number: int) -> Iterator[FinishedRows]:
        """Adds a row of windows, and gives what is finished by then. The rows of a grid come in their order."""
        width = grid.window[1]
        row = grid.row_inputs(number, self.device)
        for left in grid.lefts:
            window = {name: image[:, :, left : left + width] for name, image in row.items()}
            if self._windows and _shapes(self._windows[0]) != _shapes(window):
                yield from self.flush()
            self._waiting.append((grid, number, left))
            self._windows.append(window)
            if len(self._waiting) == self.batch_size:
                yield from self.flush()

    def flush(self) -> list[FinishedRows]:
        """Runs the model on the windows that wait for more, and gives what is finished."""
        waiting, windows = self._waiting, self._windows
        self._waiting, self._windows = [], []
        if not waiting:
            return []
        with inference_mode(self.model):
            inputs = {name: torch.stack([one[name] for one in windows]).to(self.dtype) for name in windows[0]}
            try:
                with self.autocast():
                    output: Any = self.model(inputs.pop("pixel_values"), **inputs)
            except ValueError as error:
                return [FinishedRows(grid, 0, None, error) for grid in dict.fromkeys(grid for grid, _, _ in waiting)]
            finished = []
            for (grid, number, left), logits in zip(waiting, output.logits):
                logits = resize(logits[None].float(), grid.window)[0].to(self.output_device)  # (classes, *window)
                if (rows := grid.add(number, left, logits)) is not None:
                    finished.append(FinishedRows(grid, *rows))
        return finished


def _shapes(window: dict[str, torch.Tensor]) -> list[torch.Size]:
    return [image.shape for image in window.values()]


__all__ = ["FinishedRows", "WindowBatcher", "WindowGrid", "inference_mode"]
