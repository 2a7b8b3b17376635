# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What attention looks at: normalised mutual information of queries and keys, and how far queries look."""

import math
from collections.abc import Sequence

import torch


HYBRID_NMI = 0.09  # of attention worth distilling (paper, section 4.1)
STABLE_NMI = (0.06, 0.12)  # targets between which results hardly change (paper, figure 7)


def attention_map(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """
    Attention from the queries and keys of a block, computed in float32.

    Args:
        query, key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_dim)`): Not scaled.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, num_heads, num_tokens, num_tokens)`: rows sum to 1.
    """
    with torch.autocast(query.device.type, enabled=False):  # which would multiply in half precision
        scaled_query = query.float() * query.shape[-1] ** -0.5
        return torch.matmul(scaled_query, key.float().transpose(-2, -1)).softmax(dim=-1)  # (B, heads, N, N)


def attention_between_patches(
    attention: torch.Tensor, has_cls_token: bool = True, epsilon: float = 1e-8
) -> torch.Tensor:
    """
    Attention without CLS: its row and column are dropped, and the rows are divided by their sums again.

    Args:
        attention (`torch.Tensor` of shape `(batch_size, num_heads, queries, keys)`): After softmax, in any precision.
        has_cls_token (`bool`, *optional*, defaults to `True`): Whether the first token is CLS.
        epsilon (`float`, *optional*, defaults to 1e-8): Added to every entry, so that each has a logarithm.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, num_heads, num_patches, num_patches)`, without gradient.

    Raises:
        ValueError: if the attention has another shape, fewer than two patches, or rows that do not sum to 1.
    """
    if attention.ndim != 4 or attention.shape[2] != attention.shape[3]:
        raise ValueError(
            "Attention must have the shape (batch, heads, tokens, tokens), with the same tokens as queries and keys, "
            f"got {tuple(attention.shape)}: pass one block's attention, of all its heads, with a batch dimension."
        )
    attention = attention.detach()
    sums = attention.sum(dim=-1, dtype=torch.float32)  # (B, heads, 1+N)
    if not (sums - 1).abs().le(0.05).all():  # bfloat16 rounds by 0.004; dropout and missing keys change far more
        lowest, highest = sums.aminmax()
        raise ValueError(
            f"The rows of the attention must sum to 1, got {lowest:.3g} ... {highest:.3g}: pass all keys, after "
            "softmax, from a model in evaluation mode, because dropout changes the sums."
        )
    first = int(has_cls_token)
    if attention.shape[-1] - first < 2:
        raise ValueError(
            f"There must be at least 2 patches to measure attention between, got {attention.shape[-1] - first}."
        )
    rows = attention[:, :, first:, first:].float() + epsilon  # (B, heads, N, N), a copy
    return rows.div_(rows.sum(dim=-1, keepdim=True))


def normalized_mutual_information(attention: torch.Tensor, has_cls_token: bool = True) -> torch.Tensor:
    """
    How much a query says about the keys it looks at (Park et al. 2023, https://arxiv.org/abs/2305.00729): near 1 if
    each query looks at a token of its own, 0 if all have the same map. High values mean local attention, medium values
    hybrid, low values global attention (paper section 3.2). A Gaussian blur of 4 patches on a 14 x 14 grid gives 0.09.

    It is the mutual information of query and key divided by the geometric mean of their entropies, where p(query) is
    uniform and p(key | query) is the attention.

    Args:
        attention (`torch.Tensor` of shape `(batch_size, num_heads, queries, keys)`): Of one block, after softmax.
        has_cls_token (`bool`, *optional*, defaults to `True`): Whether the first token is CLS, which is left out.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, num_heads)`, 0 to 1, on the device of the attention and without
        gradient. For a whole block, average over images and heads, not over the attention.

    Raises:
        ValueError: if the attention has another shape, or rows that do not sum to 1.
    """
    rows = attention_between_patches(attention, has_cls_token)  # (B, heads, N, N)
    key_entropy = torch.special.entr(rows.mean(dim=-2)).sum(dim=-1)  # (B, heads)
    entropy_given_query = torch.special.entr(rows).sum(dim=-1).mean(dim=-1)
    information = (key_entropy - entropy_given_query).clamp_(min=0)  # rounding may take it below 0
    return information / (key_entropy * math.log(rows.shape[-1])).sqrt()


def attention_distance(
    attention: torch.Tensor, patch_size: int = 16, has_cls_token: bool = True, grid_size: tuple[int, int] | None = None
) -> torch.Tensor:
    """
    How far queries look, in pixels: the distance between the patches of query and key, weighted by the attention.

    Args:
        attention (`torch.Tensor` of shape `(batch_size, num_heads, queries, keys)`): Of one block, after softmax.
        patch_size (`int`, *optional*, defaults to 16): Distance from patch to patch in pixels.
        has_cls_token (`bool`, *optional*, defaults to `True`): Whether the first token is CLS, which is left out.
        grid_size (`(rows, columns)`, *optional*): Grid of the patches; a square by default.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, num_heads)`, the mean over queries, without gradient.

    Raises:
        ValueError: if the attention has another shape, rows that do not sum to 1, or not the grid's patches.
    """
    rows = attention_between_patches(attention, has_cls_token, epsilon=1e-32)  # (B, heads, N, N)
    height, width = patch_grid(rows.shape[-1], grid_size)
    steps = [torch.arange(side, dtype=torch.float32, device=rows.device) for side in (height, width)]
    positions = torch.cartesian_prod(*steps)  # (N, 2)
    # Without matrix products, which lose digits if two positions are close.
    distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")  # (N, N)
    return rows.mul_(distances).sum(dim=-1).mean(dim=-1) * patch_size


def attention_entropy(attention: torch.Tensor, has_cls_token: bool = True) -> torch.Tensor:
    """
    How evenly queries spread their attention: its entropy divided by the logarithm of the number of patches, 0 if each
    query looks at one patch, 1 if it looks at all alike. The mean over queries.

    Args:
        attention, has_cls_token: As in [`normalized_mutual_information`].

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, num_heads)`, 0 to 1, without gradient.

    Raises:
        ValueError: if the attention has another shape, or rows that do not sum to 1.
    """
    rows = attention_between_patches(attention, has_cls_token)  # (B, heads, N, N)
    return torch.special.entr(rows).sum(dim=-1).mean(dim=-1) / math.log(rows.shape[-1])


def attention_pattern(nmi: float, hybrid: tuple[float, float] = STABLE_NMI) -> str:
    """
    `"local"`, `"hybrid"` or `"global"`: whether the normalised mutual information of a block is above, within or below
    the values of hybrid attention (paper section 4.1; the names in section 3.2).
    """
    lowest, highest = hybrid
    return "global" if nmi < lowest else "hybrid" if nmi <= highest else "local"


def nearest_block(nmi: Sequence[float], target: float = HYBRID_NMI) -> int:
    """
    Number of the block, from 1, whose normalised mutual information is nearest to a target (paper section 4.1, 0.09);
    the first of several.
    """
    return 1 + min(range(len(nmi)), key=lambda index: abs(nmi[index] - target))


def patch_grid(num_patches: int, grid_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """
    Rows and columns of a grid of patches.

    Args:
        num_patches (`int`): Without CLS.
        grid_size (`(rows, columns)`, *optional*): The expected grid; a square by default.

    Raises:
        ValueError: if that many patches do not fill it.
    """
    side = math.isqrt(num_patches)
    height, width = (side, side) if grid_size is None else grid_size
    if height * width != num_patches:
        raise ValueError(
            f"{num_patches} patches do not fill a grid of {height} x {width}: pass grid_size=(rows, columns), and "
            "has_cls_token=False for attention without CLS. Drop registers before."
        )
    return height, width


__all__ = [
    "HYBRID_NMI",
    "STABLE_NMI",
    "attention_between_patches",
    "attention_distance",
    "attention_entropy",
    "attention_map",
    "attention_pattern",
    "nearest_block",
    "normalized_mutual_information",
    "patch_grid",
]
