# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
What the fast head consists of, for exported files: other runtimes keep channels first, and would bring whole maps into
another order, and back, for each matrix product over channels that stand last.
"""

import torch
from torch import nn

from .modeling_unip_resampling import resize_matrix


def add_resized_channels_first(total: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """See [`~modeling_unip_fast_upernet.add_resized`]."""
    (height, width), (rows, columns) = total.shape[2:], maps.shape[2:]
    wide = torch.matmul(maps, resize_matrix(width, columns, maps).T)  # (B, C, rows, width)
    return total + torch.matmul(resize_matrix(height, rows, maps), wide)


def add_resized_and_convolved_channels_first(
    total: torch.Tensor, maps: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """See [`~modeling_unip_fast_upernet.add_resized_and_convolved`]."""
    batch_size, out_channels, height, width = total.shape
    _, in_channels, rows, columns = maps.shape
    # The taps of a row of the kernel come first, those of its columns with the rows of the maps.
    weight = weight.permute(3, 0, 2, 1).reshape(9 * out_channels, in_channels, 1, 1)
    mixed = nn.functional.conv2d(maps, weight).reshape(batch_size, 3, 3 * out_channels * rows, columns)
    of_columns = resize_matrix(width, columns, maps, taps="outer").view(width, 3, columns).permute(1, 2, 0)
    wide = torch.matmul(mixed, of_columns).sum(dim=1)  # (B, out * taps * rows, width)
    wide = wide.view(batch_size, out_channels, 3 * rows, width)
    return total + torch.matmul(resize_matrix(height, rows, maps, taps="outer"), wide)


def winograd_3x3_channels_first(
    maps: torch.Tensor,
    weights: torch.Tensor,
    of_input: torch.Tensor,
    of_output: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    See [`~modeling_unip_convolution.winograd_3x3`]. Height and width must be multiples of 4.

    Args:
        maps (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`): Input.
        weights (`torch.Tensor` of shape `(36, in_channels, out_channels)`): Transformed weights.
        of_input, of_output (`torch.Tensor` of shape `(36, 36)` and `(16, 36)`): Transformations of squares of cells.
        bias (`torch.Tensor` of shape `(out_channels,)`, *optional*): Bias.
    """
    batch_size, in_channels, height, width = maps.shape
    rows, columns, out_channels = height // 4, width // 4, weights.shape[2]
    tiles = maps.reshape(batch_size * in_channels, 1, height, width)
    tiles = nn.functional.conv2d(tiles, of_input.view(36, 1, 6, 6), stride=4, padding=1)  # (B * C, 36, rows, columns)
    tiles = tiles.view(batch_size, in_channels, 36, rows * columns).transpose(1, 2)
    tiles = torch.matmul(weights.transpose(1, 2), tiles)  # (B, 36, out, rows * columns)
    tiles = torch.matmul(of_output, tiles.view(batch_size, 36, out_channels * rows * columns))
    tiles = tiles.view(batch_size, 16, out_channels, rows * columns).transpose(1, 2)
    maps = nn.functional.pixel_shuffle(tiles.reshape(batch_size, 16 * out_channels, rows, columns), 4)
    return maps if bias is None else maps + bias[:, None, None]


__all__ = ["add_resized_and_convolved_channels_first", "add_resized_channels_first", "winograd_3x3_channels_first"]
