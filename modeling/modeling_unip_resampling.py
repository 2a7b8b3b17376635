# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Maps of other sizes: resized, pooled, cut to the image."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import nn


_matrices: dict[tuple, torch.Tensor] = {}
MOST_MATRICES = 256


def resize(maps: torch.Tensor, size: torch.Size | Sequence[int]) -> torch.Tensor:
    """Bilinear resize of `(batch_size, channels, height, width)`, corners not aligned."""
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def bilinear_weights(count: int, available: int, scale: float, device: torch.device) -> torch.Tensor:
    """
    Share of each of `available` cells in each of `count` cells that are `scale` cells apart, from the first edge on:
    float32 `(count, available)`. Beyond the outer centres, the outer cells count alone.
    """
    source = (torch.arange(count, device=device) + 0.5) * scale - 0.5
    distance = source.clamp(0, available - 1)[:, None] - torch.arange(available, device=device)
    return (1 - distance.abs()).clamp(min=0)


def keep_matrix(key: tuple[Hashable, ...], like: torch.Tensor, build: Callable[[], torch.Tensor]) -> torch.Tensor:
    """
    What `build` gives, on the device and in the dtype of `like`: a small matrix that follows from `key`. It is kept
    for the next call, since building it takes a GPU's host longer than using it, and must not be changed.
    """
    # A compiler's tensors, and fake ones, must not be kept.
    if torch.compiler.is_compiling() or type(like) not in (torch.Tensor, nn.Parameter):
        return build().to(like.dtype)
    key = (*key, like.dtype, like.device)
    if key not in _matrices:
        if len(_matrices) >= MOST_MATRICES:
            _matrices.clear()
        with torch.inference_mode(False), torch.no_grad():
            _matrices[key] = build().to(like.dtype)
    return _matrices[key]


def resize_matrix(count: int, available: int, like: torch.Tensor, taps: str | None = None) -> torch.Tensor:
    """
    A matrix that resizes one axis from `available` to `count` cells as [`resize`] does. With taps it takes three
    values for each cell: what the previous, the same and the next resized cell add to one, zero beyond the edges.

    Args:
        count, available (`int`): Cells of the axis, after and before.
        like (`torch.Tensor`): Whose device and dtype the matrix has.
        taps (`"inner"` or `"outer"`, *optional*): Whether the three values of a cell stand together, or those of all
            cells for a tap.

    Returns:
        `torch.Tensor` of shape `(count, available)`, or `(count, 3 * available)` with taps; see [`keep_matrix`].
    """

    def build() -> torch.Tensor:
        weights = bilinear_weights(count, available, available / count, like.device)
        if taps is None:
            return weights
        padded = nn.functional.pad(weights, (0, 0, 1, 1))
        shifted = [padded[:-2], weights, padded[2:]]
        return torch.cat(shifted, dim=1) if taps == "outer" else torch.stack(shifted, dim=2).flatten(1)

    return keep_matrix(("resize", count, available, taps), like, build)


def crop_to_image(logits: torch.Tensor, padded_size: Sequence[int], image_size: Sequence[int]) -> torch.Tensor:
    """
    Cuts the logits of a padded image, so that they cover the image and nothing else.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, num_labels, rows, columns)`): Scores that cover `padded_size`.
        padded_size, image_size (`Sequence[int]`): Height and width in pixels with and without padding.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, ceil(height / stride), ceil(width / stride))`, where a stride
        of `padded_size / rows` pixels need not be whole: the finest maps over patches of 14 pixels have 3.5. Where the
        stride does not divide the image, cells are resampled (bilinear) a little closer together, so that their edges
        and the image's coincide.
    """
    for axis, (padded, size) in enumerate(zip(padded_size, image_size), start=2):
        if padded == size:
            continue
        count = logits.shape[axis]
        cells = -(-size * count // padded)
        if size * count % padded:
            # The weights are written out because interpolate() copies where the number of cells stays the same.
            weights = bilinear_weights(cells, count, (size * count) / (cells * padded), logits.device)
            logits = torch.tensordot(logits, weights.to(logits.dtype), dims=([axis], [1])).movedim(-1, axis)
        else:
            logits = logits.narrow(axis, 0, cells)
    return logits


def adaptive_average_pool(maps: torch.Tensor, bins: int) -> torch.Tensor:
    """
    Adaptive average pooling of `(batch_size, channels, height, width)` to `bins x bins`, as two small matrix products,
    because exporters cannot express `adaptive_avg_pool2d` with dynamic sizes.

    Bin i averages the positions from `floor(i n / bins)` up to, but not including, `ceil((i + 1) n / bins)`.
    """

    def shares(size: int) -> torch.Tensor:
        def build() -> torch.Tensor:
            position = torch.arange(size, device=maps.device)
            index = torch.arange(bins, device=maps.device).unsqueeze(1)
            inside = (position >= index * size // bins) & (position < ((index + 1) * size + bins - 1) // bins)
            # Divided before anything is summed: half precision might not hold the sum.
            return inside / inside.sum(1, keepdim=True)  # (bins, size)

        return keep_matrix(("pool", bins, size), maps, build)

    pooled = torch.matmul(shares(maps.shape[2]), maps)  # (B, C, bins, width)
    return torch.matmul(pooled, shares(maps.shape[3]).T)  # (B, C, bins, bins)


def max_pool(maps: torch.Tensor) -> torch.Tensor:
    """
    2x2 max pooling of `(batch_size, channels, height, width)`. An odd side is rounded up, so that no cell is lost and
    a single cell stays. Written out because `max_pool2d` ties exported graphs to even or to odd sides.
    """
    # Both parts come from the padded maps: parts with other strides tie exported graphs to even sides in torch 2.11.
    padded = nn.functional.pad(maps, (0, 0, 0, 1), value=float("-inf"))
    maps = torch.maximum(padded[:, :, :-1:2], padded[:, :, 1::2])  # (B, C, height / 2, width)
    padded = nn.functional.pad(maps, (0, 1), value=float("-inf"))
    return torch.maximum(padded[..., :-1:2], padded[..., 1::2])  # (B, C, height / 2, width / 2)


__all__ = [
    "adaptive_average_pool",
    "bilinear_weights",
    "crop_to_image",
    "keep_matrix",
    "max_pool",
    "resize",
    "resize_matrix",
]
