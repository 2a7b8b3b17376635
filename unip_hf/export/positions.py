# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Position tables that resize to any size inside an exported graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings


def bicubic_weights(size: int, new_size: int) -> torch.Tensor:
    """
    The matrix `(new_size, size)` by which antialiased bicubic interpolation (corners not aligned) resizes one side,
    with operations that exporters know. Both sizes may be symbols.
    """
    scale = size / new_size
    width: Any = torch.sym_max(scale, 1.0)
    centres = (torch.arange(new_size)[:, None] + 0.5) * scale
    distance = ((torch.arange(size) + 0.5 - centres) / width).abs()  # (new_size, size)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)


def _resized_table(module: Any, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What `interpolate_pos_encoding` of the module returns: `(1, 1 + rows * columns, hidden_size)`."""
    table = module.position_embeddings
    side = round((table.shape[1] - 1) ** 0.5)
    maps = table[0, 1:].float().unflatten(0, (side, side))  # (side, side, D)
    patch_height, patch_width = module.patch_embeddings.patch_size
    for count in (height // patch_height, width // patch_width):
        # As a product of two matrices, without broadcasting, which OpenVINO gets wrong.
        maps = torch.matmul(bicubic_weights(side, count).to(maps), maps.flatten(1))  # (rows, side * D)
        maps = maps.unflatten(1, (-1, table.shape[2])).transpose(0, 1)  # (side, rows, D), then (rows, columns, D)
    return torch.cat([table[:, :1], maps.flatten(0, 1)[None].to(table.dtype)], dim=1)


@contextmanager
def exportable_positions(model: nn.Module) -> Iterator[None]:
    """
    While this is active, DINOv2 with registers resizes its positions in a way that can be exported. `transformers`
    turns the sizes into integers, which ties a graph to one size, and OpenVINO has no antialiased interpolation.
    """
    changed: list[Any] = [part for part in model.modules() if isinstance(part, Dinov2WithRegistersEmbeddings)]
    for part in changed:
        part.interpolate_pos_encoding = partial(_resized_table, part)
    try:
        yield
    finally:
        for part in changed:
            del part.interpolate_pos_encoding


__all__ = ["bicubic_weights", "exportable_positions"]
