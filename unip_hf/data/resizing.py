# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Windows of resized images and masks. Only what lies in the window is computed."""

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
    places = np.arange(resized_length) + (0.5 if mode == "nearest-exact" else 0.0)
    return np.minimum((places * (length / resized_length)).astype(np.int64), length - 1)


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
    rows, row_weights = _sources(image.shape[1], size[0], window.top, window.height, antialias)
    columns, column_weights = _sources(image.shape[2], size[1], window.left, window.width, antialias)
    first_row, first_column = int(rows[0, 0]), int(columns[0, 0])
    part = image[:, first_row : int(rows[-1, -1]) + 1, first_column : int(columns[-1, -1]) + 1].permute(1, 2, 0)
    part = _weighted_sums(part, rows - first_row, row_weights)  # (h, W, C)
    part = _weighted_sums(part.transpose(0, 1), columns - first_column, column_weights)  # (w, h, C)
    return part.permute(2, 1, 0).contiguous()  # (C, h, w)


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


def _weighted_sums(lines: torch.Tensor, numbers: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums of some of the lines `(L, ...)`, `(count, ...)`. Their numbers and weights are `(count, taps)`."""
    sums = nn.functional.embedding_bag(numbers, lines.flatten(1), per_sample_weights=weights, mode="sum")
    return sums.view(-1, *lines.shape[1:])


__all__ = ["Window", "nearest_pixels", "resized_window"]
