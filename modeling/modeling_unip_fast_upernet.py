# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
What [`UnipLastLayerFeaturePyramid`] and [`UnipUPerHead`] compute, with the same weights and fewer operations.

Three identities make it exact but for rounding:

- Mixing channels commutes with bilinear resizing. So the convolution of a map that was enlarged becomes, for each of
  its nine taps, a product at the map's own size, and then one resizing for all taps together.
- Two linear layers, one behind the other, are one: a transposed convolution and a 1x1 convolution, and, in
  evaluation, a convolution and batch norm.
- Resizing is separable: one matrix for rows, one for columns.

Maps are in the memory format channels last. Exported files have a form of their own, in
`modeling_unip_channels_first.py`.
"""

from typing import Any

import torch
from torch import nn

from .modeling_unip_channels_first import add_resized_and_convolved_channels_first, add_resized_channels_first
from .modeling_unip_convolution import convolve_3x3
from .modeling_unip_layers import UnipConvModule, normalize_batch
from .modeling_unip_resampling import adaptive_average_pool, max_pool, resize_matrix


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """What batch norm does in evaluation: a factor and a summand for each channel, `(C, 1, 1, 1)` and `(C,)`."""
    if norm.training:
        return None, None
    mean: Any = norm.running_mean
    variance: Any = norm.running_var
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale[:, None, None, None], torch.addcmul(norm.bias, mean, scale, value=-1)


def fold(module: UnipConvModule) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a convolution. In evaluation, batch norm is part of them."""
    scale, shift = scale_and_shift(module.batch_norm)
    weight = module.convolution.weight
    return weight if scale is None else weight * scale, shift


def finish(maps: torch.Tensor, module: UnipConvModule) -> torch.Tensor:
    """What is left to do behind the convolution: batch norm in training, ReLU."""
    if module.batch_norm.training:
        maps = normalize_batch(maps, module.batch_norm)
    return nn.functional.relu(maps, inplace=not torch.is_grad_enabled())


def convolve(maps: torch.Tensor, module: UnipConvModule) -> torch.Tensor:
    """The module's convolution, 1x1 or 3x3, batch norm and ReLU."""
    weight, bias = fold(module)
    is_point = weight.shape[2] == 1
    maps = nn.functional.conv2d(maps, weight, bias) if is_point else convolve_3x3(maps, weight, bias)
    return finish(maps, module)


def enlarge_and_convolve(maps: torch.Tensor, enlarge: nn.ConvTranspose2d, module: UnipConvModule) -> torch.Tensor:
    """A transposed convolution and the 1x1 convolution of a module as one, then batch norm and ReLU."""
    weight, bias = fold(module)
    weight = weight.flatten(1)  # (out, middle)
    both = torch.einsum("imyx,om->ioyx", enlarge.weight, weight)
    shift = torch.mv(weight, enlarge.bias.to(weight.dtype))  # type: ignore[union-attr]
    shift = shift if bias is None else shift + bias
    return finish(nn.functional.conv_transpose2d(maps, both, shift, enlarge.stride), module)


def add_resized(total: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """
    Adds maps, resized (bilinear), to a total.

    Args:
        total (`torch.Tensor` of shape `(batch_size, channels, height, width)`): What is added to.
        maps (`torch.Tensor` of shape `(batch_size, channels, rows, columns)`): Maps of another size.
    """
    if torch.compiler.is_exporting():
        return add_resized_channels_first(total, maps)
    batch_size, channels, height, width = total.shape
    _, _, rows, columns = maps.shape
    of_columns, of_rows = resize_matrix(width, columns, maps), resize_matrix(height, rows, maps)
    wide = torch.matmul(of_columns, maps.permute(0, 2, 3, 1))  # (B, rows, width, C)
    return _add_rows(total, of_rows, wide.reshape(batch_size, rows, width * channels))


def add_resized_and_convolved(total: torch.Tensor, maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """
    Adds the 3x3 convolution, same padding, of maps that are resized (bilinear) first.

    Args:
        total (`torch.Tensor` of shape `(batch_size, out_channels, height, width)`): What is added to.
        maps (`torch.Tensor` of shape `(batch_size, in_channels, rows, columns)`): Maps of another size.
        weight (`torch.Tensor` of shape `(out_channels, in_channels, 3, 3)`): Weights.
    """
    if torch.compiler.is_exporting():
        return add_resized_and_convolved_channels_first(total, maps, weight)
    batch_size, out_channels, height, width = total.shape
    _, in_channels, rows, columns = maps.shape
    by_row = weight.permute(2, 1, 3, 0).reshape(1, 3, in_channels, 3 * out_channels)  # (1, taps, C, taps * out)
    cells = maps.permute(0, 2, 3, 1).reshape(batch_size, 1, rows * columns, in_channels)
    mixed = torch.matmul(cells, by_row)  # (B, taps, rows * columns, taps * out)
    of_columns = resize_matrix(width, columns, mixed, taps="inner")
    of_rows = resize_matrix(height, rows, mixed, taps="outer")
    mixed = torch.matmul(of_columns, mixed.view(batch_size, 3 * rows, 3 * columns, out_channels))
    return _add_rows(total, of_rows, mixed.view(batch_size, 3 * rows, width * out_channels))


def _add_rows(total: torch.Tensor, of_rows: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """Adds `of_rows @ wide`, `(height, n)` and `(B, n, width * C)`, to maps `(B, C, height, width)`."""
    batch_size, channels, height, width = total.shape
    flat = total.permute(0, 2, 3, 1).reshape(batch_size, height, width * channels)
    flat = torch.baddbmm(flat.to(wide.dtype), of_rows.expand(batch_size, -1, -1), wide)
    return flat.view(batch_size, height, width, channels).permute(0, 3, 1, 2)


def convolve_levels(levels: list[torch.Tensor], module: UnipConvModule) -> torch.Tensor:
    """The module on all levels, which are resized to the first one and concatenated."""
    scale, shift = scale_and_shift(module.batch_norm)
    weights = module.convolution.weight.split([maps.shape[1] for maps in levels], dim=1)
    first, *others = weights if scale is None else (weight * scale for weight in weights)
    total = convolve_3x3(levels[0], first, shift)
    for maps, weight in zip(levels[1:], others):
        total = add_resized_and_convolved(total, maps, weight)
    return finish(total, module)


def fast_upernet(feature_maps: list[torch.Tensor], pyramid: Any, head: Any) -> torch.Tensor:
    """
    Args:
        feature_maps (`list[torch.Tensor]`): What `pyramid` takes, or without one four maps, finest first.
        pyramid ([`UnipLastLayerFeaturePyramid`], *optional*): The pyramid, whose weights are used.
        head ([`UnipUPerHead`]): The head, whose weights are used.

    Returns:
        Logits `(batch_size, num_labels, rows, columns)` as large as the finest level.
    """
    maps = [one.contiguous(memory_format=torch.channels_last) for one in feature_maps]
    maps = maps * (4 // len(maps))
    if pyramid is None:
        laterals = [convolve(one, module) for one, module in zip(maps, head.lateral_convolutions)]
        coarsest = maps[3]
    else:
        *first_layers, last_layer = pyramid.to_quarter
        for layer in first_layers:
            maps[0] = layer(maps[0])
        laterals = [
            enlarge_and_convolve(maps[0], last_layer, head.lateral_convolutions[0]),  # 1/4
            enlarge_and_convolve(maps[1], pyramid.to_eighth, head.lateral_convolutions[1]),  # 1/8
            convolve(maps[2], head.lateral_convolutions[2]),  # 1/16
        ]
        coarsest = max_pool(maps[3])  # 1/32
    pooled = [
        convolve(adaptive_average_pool(coarsest, bins), module)
        for bins, module in zip(head.pool_scales, head.pooled_convolutions)
    ]
    levels = [convolve_levels([coarsest, *pooled], head.bottleneck)]
    while laterals:
        levels.insert(0, add_resized(laterals.pop(), levels[0]))
    for index, module in enumerate(head.output_convolutions):
        levels[index] = convolve(levels[index], module)
    return head.classifier(head.dropout(convolve_levels(levels, head.fusion)))


__all__ = ["fast_upernet"]
