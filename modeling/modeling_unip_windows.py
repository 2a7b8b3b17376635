# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Windows and relative positions, which the ViT of UniRGB-IR has and UNIP's has not."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_unip import UnipConfig
from .modeling_unip_layers import UnipAttention, eager_attention_forward, whole_patches


def to_windows(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Maps `(B, rows, columns, D)`, zeros added at the bottom and right, to `(B * windows, size, size, D)`."""
    _, rows, columns, _ = maps.shape
    padded_rows, padded_columns = whole_patches((rows, columns), size)
    maps = nn.functional.pad(maps, (0, 0, 0, padded_columns - columns, 0, padded_rows - rows))
    maps = maps.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, windows, size, windows, size, D)
    return maps.transpose(2, 3).flatten(0, 2)


def from_windows(windows: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The way back: `(B * windows, size, size, D)` to `(B, rows, columns, D)`, without what was added."""
    size = windows.shape[1]
    padded_rows, padded_columns = whole_patches((rows, columns), size)
    maps = windows.unflatten(0, (-1, padded_rows // size, padded_columns // size)).transpose(2, 3)
    return maps.flatten(3, 4).flatten(1, 2)[:, :rows, :columns]


def relative_table(table: torch.Tensor, length: int) -> torch.Tensor:
    """
    One vector for each pair of positions on an axis.

    Args:
        table (`torch.Tensor` of shape `(2 * n - 1, head_dim)`): One vector for each distance, from the most negative.
            It is interpolated (linear) where `n` is not `length`.
        length (`int`): Positions on the axis.

    Returns:
        `torch.Tensor` of shape `(length, length, head_dim)`: queries, keys.
    """
    if torch.compiler.is_exporting() or table.shape[0] != 2 * length - 1:
        resized = nn.functional.interpolate(table.float().T[None], size=2 * length - 1, mode="linear")
        table = resized[0].T.to(table.dtype)
    positions = torch.arange(length, device=table.device)
    return table[positions[:, None] - positions[None, :] + length - 1]


class UnipWindowAttention(UnipAttention):
    """
    Self-attention over patches without CLS, `(batch_size, rows * columns, hidden_size)`: within windows of
    `window_size` patches, or, with `None`, over the whole image. Patches that fill up the last windows are zero, and
    take part as keys and values.

    With `config.relative_position_size`, what a query says of the distance in rows and columns is added to the
    attention before softmax: one vector for each distance, zero at the start, and always trained.
    """

    def __init__(self, config: UnipConfig, num_attention_heads: int, window_size: int | None):
        super().__init__(config, num_attention_heads)
        self.window_size = window_size
        has_table = config.relative_position_size is not None
        length = window_size or (config.relative_position_size or 0) // config.patch_size
        shape = (2 * length - 1, self.head_dim)
        self.relative_rows = nn.Parameter(torch.zeros(shape)) if has_table else None
        self.relative_columns = nn.Parameter(torch.zeros(shape)) if has_table else None

    def relative_bias(self, query: torch.Tensor, rows: int, columns: int) -> torch.Tensor | None:
        """`(batch_size, heads, patches, patches)` for queries that are not scaled."""
        if self.relative_rows is None or self.relative_columns is None:
            return None
        if "flash" in str(self.config._attn_implementation):
            raise ValueError(
                "Flash attention cannot add relative positions: call model.set_attn_implementation("
                '"sdpa") or leave relative_position_size out of the configuration.'
            )
        query = query.unflatten(2, (rows, columns))  # (B, heads, rows, columns, C)
        by_row = torch.einsum("bhrcd,rkd->bhrck", query, relative_table(self.relative_rows, rows))
        by_column = torch.einsum("bhrcd,ckd->bhrck", query, relative_table(self.relative_columns, columns))
        bias = by_row[..., :, None] + by_column[..., None, :]  # (B, heads, rows, columns, rows, columns)
        return bias.flatten(4, 5).flatten(2, 3)

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        maps = hidden_states.unflatten(1, grid)  # (B, rows, columns, D)
        if self.window_size is not None:
            maps = to_windows(maps, self.window_size)
        rows, columns = maps.shape[1:3]
        query, key, value = self.query_key_value(maps.flatten(1, 2))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        bias = self.relative_bias(query, rows, columns)
        context, attention = attend(self, query, key, value, bias, scaling=self.scaling, **kwargs)
        maps = self.projection(context.flatten(2)).unflatten(1, (rows, columns))
        if self.window_size is not None:
            maps = from_windows(maps, *grid)
        return maps.flatten(1, 2), attention


__all__ = ["UnipWindowAttention"]
