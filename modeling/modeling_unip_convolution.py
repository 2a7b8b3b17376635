# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""3x3 convolution with fewer multiplications."""

from collections.abc import Sequence

import torch
from torch import nn

from .modeling_unip_channels_first import winograd_3x3_channels_first


# Winograd's minimal filtering F(4x4, 3x3) ([Lavin and Gray](https://huggingface.co/papers/1509.09308)): 36
# multiplications for 16 outputs in place of 144. For one axis, these matrices follow from the points 0, 3/4, -3/4,
# 3/2, -3/2 and infinity, which lose less precision than the usual 0, 1, -1, 2, -2 and infinity.
TILE = 4
MOST_NUMBERS = 2**22  # of transformed cells at once
LEAST_CHANNELS = 128  # below, the transforms take as long as the products that they save
OF_INPUT = (
    (81 / 64, 0, -45 / 16, 0, 1, 0),
    (0, -27 / 16, -9 / 4, 3 / 4, 1, 0),
    (0, 27 / 16, -9 / 4, -3 / 4, 1, 0),
    (0, -27 / 32, -9 / 16, 3 / 2, 1, 0),
    (0, 27 / 32, -9 / 16, -3 / 2, 1, 0),
    (0, 81 / 64, 0, -45 / 16, 0, 1),
)
OF_WEIGHTS = (
    (64 / 81, 0, 0),
    (-128 / 243, -32 / 81, -8 / 27),
    (-128 / 243, 32 / 81, -8 / 27),
    (32 / 243, 16 / 81, 8 / 27),
    (32 / 243, -16 / 81, 8 / 27),
    (0, 0, 1),
)
OF_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2, 0),
    (0, 9 / 16, 9 / 16, 9 / 4, 9 / 4, 0),
    (0, 27 / 64, -27 / 64, 27 / 8, -27 / 8, 1),
)


def convolve_3x3(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    3x3 convolution, same padding, in the memory format channels last.

    In float32 on a CPU, where multiplications are what takes the time, large maps of many channels go through
    [`winograd_3x3`], unless there are gradients, for which it would have to keep more than it saves. So do maps of
    whole tiles in exported graphs. Everywhere else it is `conv2d`.

    Args:
        maps (`torch.Tensor` of shape `(batch_size, in_channels, height, width)`): Input.
        weight (`torch.Tensor` of shape `(out_channels, in_channels, 3, 3)`): Weights.
        bias (`torch.Tensor` of shape `(out_channels,)`, *optional*): Bias.
    """
    is_exporting, (height, width) = torch.compiler.is_exporting(), maps.shape[2:]
    is_plain_cpu = maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    is_wide = min(weight.shape[:2]) >= LEAST_CHANNELS
    # What transforming weights and cells costs must be less than what is saved.
    is_large = isinstance(height * width, torch.SymInt) or height * width >= 4 * max(weight.shape[:2])
    if is_exporting:
        # Nothing public knows this, and loading a model must not depend on it.
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        # Maps of any size count as large where their sides are known to be whole tiles: those are the finest ones.
        is_suitable = all(statically_known_true(side % TILE == 0) for side in (height, width))
    else:
        is_suitable = not torch.is_grad_enabled()
    if is_plain_cpu and is_wide and is_large and is_suitable:
        return winograd_3x3(maps, weight, bias)
    return nn.functional.conv2d(maps, weight, bias, padding=1)


def on_both_axes(matrix: Sequence[Sequence[float]], cells: torch.Tensor) -> torch.Tensor:
    """An `(m, n)` matrix on rows and on columns of squares of cells: `(n * n, ...)` to `(m * m, ...)`."""
    return torch.matmul(square_matrix(matrix, cells), cells)


def square_matrix(matrix: Sequence[Sequence[float]], like: torch.Tensor) -> torch.Tensor:
    """From what an `(m, n)` matrix does with an axis, what it does with rows and columns: `(m * m, n * n)`."""
    of_axis = torch.tensor(matrix, dtype=like.dtype, device=like.device)
    return torch.kron(of_axis, of_axis)


def winograd_3x3(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    The same as [`convolve_3x3`], by 36 matrix products, one for each position in overlapping tiles of 6x6 cells. To be
    exported, maps must consist of whole tiles.
    """
    batch_size, in_channels, height, width = maps.shape
    out_channels = weight.shape[0]
    weights = on_both_axes(OF_WEIGHTS, weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, in_channels, out_channels)
    if torch.compiler.is_exporting():
        of_input, of_output = square_matrix(OF_INPUT, maps), square_matrix(OF_OUTPUT, maps)
        return winograd_3x3_channels_first(maps, weights, of_input, of_output, bias)
    rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE  # of tiles
    below, right = rows * TILE + 1 - height, columns * TILE + 1 - width
    cells = nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))  # (B, 4 rows + 2, ..., C)
    outputs = cells.new_empty(batch_size, rows, TILE, columns, TILE, out_channels)
    # In parts that a cache holds, and in at least four, which bounds the memory.
    fitting = MOST_NUMBERS // (36 * batch_size * columns * max(in_channels, out_channels))
    step = max(1, min((rows + 3) // 4, fitting))
    for first in range(0, rows, step):
        some = cells[:, TILE * first : TILE * (first + step) + 2]
        tiles = some.unfold(1, 6, TILE).unfold(2, 6, TILE).permute(4, 5, 0, 1, 2, 3)  # (6, 6, B, rows, columns, C)
        tiles = on_both_axes(OF_INPUT, tiles.reshape(36, -1)).view(36, -1, in_channels)
        tiles = torch.bmm(tiles, weights).view(36, -1)  # (36, B * rows * columns * out)
        tiles = on_both_axes(OF_OUTPUT, tiles).view(TILE, TILE, batch_size, -1, columns, out_channels)
        outputs[:, first : first + step] = tiles.permute(2, 3, 0, 4, 1, 5)  # (B, rows, 4, columns, 4, out)
    outputs = outputs.view(batch_size, rows * TILE, columns * TILE, out_channels)[:, :height, :width]
    if bias is not None:
        outputs += bias
    return outputs.permute(0, 3, 1, 2)


__all__ = ["convolve_3x3", "winograd_3x3"]
