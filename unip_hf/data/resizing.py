# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Windows of resized images and masks, of which nothing else is computed; channels that share their memory."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn


class Window(NamedTuple):
    """Part of an image: its first row and column, and its size in pixels."""

    top: int
    left: int
    height: int
    width: int


def nearest_pixels(length: int, resized_length: int, mode: str) -> np.ndarray:
    """
    Which pixels of a line are left, or repeated, when it is resized with nearest neighbour.

    Args:
        length, resized_length (`int`): Pixels before and after.
        mode (`str`): `"nearest"` or `"nearest-exact"`, as of `torch.nn.functional.interpolate`.

    Returns:
        int64 `np.ndarray` of shape `(resized_length,)`.
    """
    numbers = torch.arange(length, dtype=torch.float64).view(1, 1, length)
    return nn.functional.interpolate(numbers, size=resized_length, mode=mode).flatten().long().numpy()


def resized_window(image: torch.Tensor, size: tuple[int, int], window: Window, antialias: bool = True) -> torch.Tensor:
    """
    A window of an image that is resized bilinearly: what `torch.nn.functional.interpolate` gives there, but for
    rounding.

    Args:
        image (`torch.Tensor` of shape `(channels, height, width)`): Float32, on the CPU.
        size (`tuple[int, int]`): Height and width of the resized image, of which most need not exist.
        window ([`Window`]): A part of the resized image.
        antialias (`bool`, *optional*, defaults to `True`): As of `interpolate`.

    Returns:
        Float32 `torch.Tensor` of shape `(channels, window.height, window.width)`.
    """
    part, axes = image.permute(1, 2, 0), []  # (H, W, C)
    for axis, (start, count) in enumerate(((window.top, window.height), (window.left, window.width))):
        numbers, weights = _sources(part.shape[axis], size[axis], start, count, antialias)
        first = int(numbers[0, 0])
        part = part.narrow(axis, first, int(numbers[-1, -1]) + 1 - first)
        axes.append((axis, numbers - first, weights))
    if part.shape[0] * part.shape[1] < window.height * window.width:
        axes.reverse()  # columns first: changing rows and columns takes most of the time, so change the smaller image
    for axis, numbers, weights in axes:
        part = _weighted_sums(part, axis, numbers, weights)
    return part.permute(2, 0, 1).contiguous()  # (C, h, w)


def _sources(
    length: int, resized_length: int, start: int, count: int, antialias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    For each of `count` pixels of a resized line, the pixels of the line that it is made of, int64 `(count, taps)`, and
    their weights, float32 of the same shape. What lies beyond the ends has no weight.
    """
    scale = np.float32(length / resized_length)  # positions in float32, as torch computes them
    centre = (torch.arange(start, start + count) + 0.5) * float(scale)  # (count,)
    reach = max(float(scale), 1.0) if antialias else 1.0
    if not antialias:
        centre = centre.clamp(0.5, length - 0.5)
    first = (centre - reach + 0.5).floor()
    sources = first[:, None] + torch.arange(math.ceil(2 * reach))  # (count, taps)
    weights = (1 - ((sources + 0.5 - centre[:, None]) / reach).abs()).clamp(min=0)
    weights *= (sources >= 0) & (sources < length)
    return sources.clamp(0, length - 1).long(), weights / weights.sum(1, keepdim=True)


def _weighted_sums(image: torch.Tensor, axis: int, numbers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Replaces the rows of `(H, W, C)` (axis 0) or its columns by sums of some, given as `(count, taps)`."""
    lines = image.movedim(axis, 0)
    sums = nn.functional.embedding_bag(numbers, lines.flatten(1), per_sample_weights=weights, mode="sum")
    return sums.view(-1, *lines.shape[1:]).movedim(0, axis)


def without_copies(pixels: torch.Tensor) -> torch.Tensor:
    """One channel of an image `(channels, height, width)` whose channels share their memory, all of any other."""
    return pixels[:1] if pixels.stride(0) == 0 else pixels


__all__ = ["Window", "nearest_pixels", "resized_window", "without_copies"]
