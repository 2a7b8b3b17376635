# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Copies results from a GPU while it goes on with the next ones."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np
import torch

from .ahead import until_error
from .windows import SegmentedImage


Key = TypeVar("Key")


class _Copy(Generic[Key]):
    """The copy of a result, which may still be under way."""

    def __init__(self, result: SegmentedImage[Key]):
        self.result = result
        wanted = (result.ids, result.probabilities)
        self.tensors = [None if tensor is None else _begin_copy(tensor) for tensor in wanted]
        self.event: torch.cuda.Event | None = None
        if result.ids is not None and result.ids.is_cuda:
            self.event = torch.cuda.current_stream(result.ids.device).record_event()
        result.ids = result.probabilities = None

    @property
    def is_done(self) -> bool:
        return self.event is None or self.event.query()

    def arrays(self) -> tuple[SegmentedImage[Key], np.ndarray | None, np.ndarray | None]:
        if self.event is not None:
            self.event.synchronize()
        ids, probabilities = (None if tensor is None else tensor.numpy() for tensor in self.tensors)
        return self.result, ids, probabilities


def _begin_copy(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor.cpu()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def copied_late(
    results: Iterable[SegmentedImage[Key]], num_windows: int
) -> Iterator[tuple[SegmentedImage[Key], np.ndarray | None, np.ndarray | None]]:
    """
    Results with their ids and probabilities as arrays, in the same order. A copy is waited for only when the model has
    its next work already.

    Args:
        results: See [`segment_images`]. If asking for the next one raises an error, those before are given first.
        num_windows: Work that the model is given in advance.
    """
    waiting: deque[_Copy[Key]] = deque()
    errors: list[BaseException] = []
    for result in until_error(results, errors):
        waiting.append(_Copy(result))
        while waiting and (
            waiting[0].is_done or sum(one.result.num_windows for one in waiting) - waiting[0].result.num_windows
            >= num_windows
        ):  # fmt: skip
            yield waiting.popleft().arrays()
    while waiting:
        yield waiting.popleft().arrays()
    if errors:
        raise errors[0]


__all__ = ["copied_late"]
