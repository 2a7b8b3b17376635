# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention in plain PyTorch: each query looks at a few points of several maps."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class UnipSamplingOffsets(nn.Linear):
    """
    Where the heads of a query look, in cells of each map: `(batch_size, num_queries, hidden_size)` to `(batch_size,
    num_queries, heads * levels * points * 2)`, x before y. At the start the heads look in directions evenly around the
    query, and each further point of a head a cell further away.
    """

    def __init__(self, hidden_size: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__(hidden_size, num_heads * num_levels * num_points * 2)
        self.shape = (num_heads, num_levels, num_points, 2)

    def initial_bias(self) -> torch.Tensor:
        """The bias at the start, of shape `(heads * levels * points * 2,)`."""
        num_heads, num_levels, num_points, _ = self.shape
        angles = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)  # (heads, 2)
        directions = directions / directions.abs().amax(dim=1, keepdim=True)  # onto the edge of a square
        steps = torch.arange(1, num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * steps[:, None]  # (heads, 1, points, 2)
        return offsets.expand(-1, num_levels, -1, -1).flatten()


class UnipPointWeights(nn.Linear):
    """How much each point counts, before softmax. Zero at the start: all points count the same."""


class UnipDeformableAttention(nn.Module):
    """
    Each query reads, for each head, `num_points` points of each of `num_levels` maps, bilinearly and with zeros
    outside, and adds them up with weights that sum to one. The values have half the width of the queries.
    """

    def __init__(self, hidden_size: int, num_heads: int, num_levels: int = 3, num_points: int = 4):
        super().__init__()
        self.num_heads, self.num_levels = num_heads, num_levels
        self.offsets = UnipSamplingOffsets(hidden_size, num_heads, num_levels, num_points)
        self.weights = UnipPointWeights(hidden_size, num_heads * num_levels * num_points)
        self.value = nn.Linear(hidden_size, hidden_size // 2)
        self.output = nn.Linear(hidden_size // 2, hidden_size)

    def forward(
        self, queries: torch.Tensor, pool: torch.Tensor, centres: torch.Tensor, sizes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """
        Args:
            queries (`torch.Tensor` of shape `(batch_size, num_queries, hidden_size)`): Who looks.
            pool (`torch.Tensor` of shape `(batch_size, num_cells, hidden_size)`): Cells of all maps, row by row, one
                map after another.
            centres (`torch.Tensor` of shape `(batch_size or 1, num_queries, num_levels or 1, 2)`): Where each query
                is, float32, x before y, from 0 to 1 over the maps.
            sizes: Rows and columns of each map.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_queries, hidden_size)`.
        """
        batch_size = queries.shape[0]
        values = self.value(pool).unflatten(2, (self.num_heads, -1))  # (B, S, heads, C)
        # Half precision cannot tell neighbouring pixels apart: places and what is read there stay in float32.
        offsets = self.offsets(queries).float().unflatten(2, self.offsets.shape)  # (B, N, heads, levels, points, 2)
        weights = self.weights(queries).float().unflatten(2, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(3, (self.num_levels, -1))  # (B, N, heads, levels, points)
        centres = centres.expand(-1, -1, self.num_levels, -1)

        contexts = []
        cells = values.split([rows * columns for rows, columns in sizes], dim=1)
        for level, (rows, columns) in enumerate(sizes):
            maps = cells[level].float().permute(0, 2, 3, 1)  # (B, heads, C, cells)
            maps = maps.flatten(0, 1).unflatten(2, (rows, columns))  # (B*heads, C, rows, columns)
            x = centres[:, :, None, level, None, 0] + offsets[:, :, :, level, :, 0] / columns  # (B, N, heads, points)
            y = centres[:, :, None, level, None, 1] + offsets[:, :, :, level, :, 1] / rows
            places = torch.stack([x, y], dim=-1).transpose(1, 2).flatten(0, 1)  # (B*heads, N, points, 2)
            read = nn.functional.grid_sample(maps, 2 * places - 1, padding_mode="zeros", align_corners=False)
            level_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B*heads, N, points)
            contexts.append((read * level_weights[:, None]).sum(-1))  # (B*heads, C, N)
        context = (
            torch.stack(contexts).sum(0).unflatten(0, (batch_size, -1)).permute(0, 3, 1, 2).flatten(2)
        )  # (B, N, heads*C)
        return self.output(context.to(values.dtype))


__all__ = ["UnipDeformableAttention", "UnipPointWeights", "UnipSamplingOffsets"]
