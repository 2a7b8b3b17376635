# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What the UNIP encoder is made of (positions, embeddings, attention, blocks), and the convolution of the heads."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_unip import UnipConfig


def sine_cosine_position_embeddings(hidden_size: int, grid_size: tuple[int, int]) -> torch.Tensor:
    """
    The fixed 2-D sine-cosine table of MAE, which UNIP's students keep.

    Args:
        hidden_size (`int`): Width, a multiple of 4.
        grid_size (`tuple[int, int]`): Rows and columns.

    Returns:
        `torch.Tensor` of shape `(1, 1 + rows * columns, hidden_size)`, float32 in -1..1. The first row, for CLS, is
        zero. The first half of the width codes the column, the second the row; in each, sines come before cosines.
    """
    frequencies = torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size / 4)
    frequencies = 10000.0**-frequencies  # (D/4,)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid_size), indexing="ij")
    angles = [positions.reshape(-1, 1) * frequencies for positions in (columns, rows)]  # 2 x (N, D/4)
    table = torch.cat([function(angle) for angle in angles for function in (torch.sin, torch.cos)], dim=1)  # (N, D)
    return torch.cat([table.new_zeros(1, hidden_size), table]).unsqueeze(0).float()  # (1, 1+N, D)


def resize_position_embeddings(
    position_embeddings: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> torch.Tensor:
    """
    Resizes a position table to another grid: bicubic, corners not aligned. The rows of CLS and of a distillation token
    stay.

    Args:
        position_embeddings (`torch.Tensor` of shape `(1, num_special_tokens + rows * columns, hidden_size)`): The
            table, CLS first.
        old_grid, new_grid (`tuple[int, int]`): Rows and columns before and after.

    Returns:
        `torch.Tensor` of shape `(1, num_special_tokens + new_rows * new_columns, hidden_size)`, in the dtype of the
        table.
    """
    num_patches = old_grid[0] * old_grid[1]
    special, table = position_embeddings[:, :-num_patches], position_embeddings[:, -num_patches:]
    table = table.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    table = nn.functional.interpolate(table, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([special, table.flatten(2).transpose(1, 2).to(special.dtype)], dim=1)


def check_pixel_values(pixel_values: torch.Tensor, num_channels: int, patch_size: int) -> None:
    """Raises a `ValueError` for what is not `(batch_size, num_channels, height, width)` of at least one patch."""
    if pixel_values is None:
        raise ValueError("pixel_values is missing: pass the output of UnipImageProcessor.")
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}, but this model takes "
            f"(batch_size, {num_channels}, height, width): process images with num_channels={num_channels}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values is {pixel_values.dtype}: scale raw intensities first, see UnipImageProcessor.")
    if min(pixel_values.shape[-2:]) < patch_size:
        raise ValueError(
            f"pixel_values of {pixel_values.shape[-2]}x{pixel_values.shape[-1]} pixels are smaller than one patch "
            f"({patch_size}x{patch_size}): enlarge the image."
        )


def whole_patches(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Height and width, rounded up to multiples of the patch size."""
    height, width = size
    return ((height + patch_size - 1) // patch_size * patch_size, (width + patch_size - 1) // patch_size * patch_size)


def pad_to(pixel_values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Pads images with zeros, which is mean intensity, at the bottom and on the right."""
    height, width = pixel_values.shape[-2:]
    # An exported graph must hold for every size, so it pads even by nothing.
    if not torch.compiler.is_exporting() and tuple(size) == (height, width):
        return pixel_values
    return nn.functional.pad(pixel_values, (0, size[1] - width, 0, size[0] - height))


def normalize_batch(maps: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """
    Batch norm of maps `(batch_size, channels, height, width)`.

    In training, batch norm needs more than one value for each channel. Where there is one (a single cell at batch size
    1), the running statistics stand in, so that a model trains at any batch size.
    """
    is_one_value = maps.shape[0] * maps.shape[2] * maps.shape[3] == 1
    if norm.training and is_one_value and not isinstance(norm, nn.SyncBatchNorm):
        mean, variance = norm.running_mean, norm.running_var
        return nn.functional.batch_norm(maps, mean, variance, norm.weight, norm.bias, eps=norm.eps)
    return norm(maps)


class UnipPatchEmbeddings(nn.Conv2d):
    """Patches `(batch_size, num_channels, height, width)` to `(batch_size, hidden_size, rows, columns)`."""

    def __init__(self, config: UnipConfig, num_channels: int | None = None):
        num_channels = config.num_channels if num_channels is None else num_channels
        super().__init__(num_channels, config.hidden_size, config.patch_size, stride=config.patch_size)


class UnipEmbeddings(nn.Module):
    """
    Patches of `pixel_values` of shape `(batch_size, num_channels, height, width)` to tokens of shape
    `(batch_size, num_special_tokens + rows * columns, hidden_size)`, CLS first, positions added. Height and width need
    not be multiples of the patch size: the input is padded with zeros, which is mean intensity, at the bottom and on
    the right.
    """

    def __init__(self, config: UnipConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.grid_size = config.grid_size
        self.num_special_tokens = config.num_special_tokens
        self.is_learned = config.position_embedding_type == "learned"
        self.patch_embeddings = UnipPatchEmbeddings(config)
        has_first = config.use_cls_token
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if has_first else None
        has_second = config.use_distillation_token
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if has_second else None
        rows, columns = config.grid_size
        num_tokens = self.num_special_tokens + rows * columns
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_tokens, config.hidden_size))

    def padded_size(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Height and width of `pixel_values`, rounded up to multiples of the patch size."""
        return whole_patches(pixel_values.shape[-2:], self.patch_size)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.add_positions(self.embed_patches(pixel_values))

    def embed_patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images to patches `(batch_size, hidden_size, rows, columns)`, without positions."""
        check_pixel_values(pixel_values, self.patch_embeddings.in_channels, self.patch_size)
        pixel_values = pad_to(pixel_values, self.padded_size(pixel_values))
        return self.patch_embeddings(pixel_values.to(self.patch_embeddings.weight.dtype))

    def add_positions(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches `(batch_size, hidden_size, rows, columns)` to tokens, CLS first, positions added."""
        grid = (patches.shape[2], patches.shape[3])
        # A fixed table stays fixed even where a model around this one makes all parameters trainable.
        positions = self.position_embeddings if self.is_learned else self.position_embeddings.detach()
        # An exported graph must hold for every size, so it resizes the table even to its own size.
        if torch.compiler.is_exporting() or grid != self.grid_size:
            positions = resize_position_embeddings(positions, self.grid_size, grid)
        both = (self.cls_token, self.distillation_token)
        special = [token.expand(patches.shape[0], -1, -1) for token in both if token is not None]
        tokens = torch.cat([*special, patches.flatten(2).transpose(1, 2)], dim=1)  # (B, 1+N, D), or 2+N
        return tokens + positions


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: `(batch_size, tokens, heads, head_dim)`, and `(batch_size, heads, tokens, tokens)`."""
    attention = torch.matmul(query, key.transpose(2, 3)) * scaling  # (B, heads, N, N)
    if attention_mask is not None:
        attention = attention + attention_mask
    attention = nn.functional.softmax(attention, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


class UnipAttention(nn.Module):
    """
    Self-attention over `hidden_states` of shape `(batch_size, num_tokens, hidden_size)`.

    Queries, keys and values share one weight matrix, as in the published code. In pre-training, weight decay therefore
    also acts on the values of the last block, which get no gradient, as it did there.
    """

    def __init__(self, config: UnipConfig, num_attention_heads: int):
        super().__init__()
        self.config = config
        self.num_attention_heads = num_attention_heads
        self.head_dim = config.hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def query_key_value(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, each `(batch_size, num_heads, num_tokens, head_dim)`."""
        projected = self.qkv(hidden_states)
        projected = projected.reshape(*projected.shape[:2], -1, self.num_attention_heads, self.head_dim)
        return projected.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.query_key_value(hidden_states)
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        context, attention = attention_interface(self, query, key, value, None, scaling=self.scaling, **kwargs)
        return self.projection(context.flatten(2)), attention  # (B, N, D), None or (B, heads, N, N)


class UnipMLP(nn.Module):
    """Two linear layers, `(batch_size, num_tokens, hidden_size)` in and out."""

    def __init__(self, config: UnipConfig):
        super().__init__()
        width = round(config.mlp_ratio * config.hidden_size)
        self.fc1 = nn.Linear(config.hidden_size, width)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(width, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class UnipDropPath(nn.Module):
    """Stochastic depth: drops a residual branch of shape `(batch_size, ...)` for whole images, in training."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return hidden_states
        keep = 1.0 - self.rate
        kept = hidden_states.new_empty(hidden_states.shape[:1] + (1,) * (hidden_states.ndim - 1)).bernoulli_(keep)
        return hidden_states * (kept / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class UnipLayerScale(nn.Module):
    """One trainable factor for each channel of a residual branch of shape `(..., hidden_size)`."""

    def __init__(self, config: UnipConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale_init_value or 0.0)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.scale


class UnipLayer(GradientCheckpointingLayer):
    """
    One pre-norm transformer block, `(batch_size, num_tokens, hidden_size)` in and out. With `only_query_key` it stops
    after queries and keys and returns `(None, query, key)`: no hidden states, and two tensors of shape
    `(batch_size, num_heads, num_tokens, head_dim)`.
    """

    def __init__(self, config: UnipConfig, number: int):
        super().__init__()
        is_last = number == config.num_hidden_layers
        last_heads = config.last_layer_num_attention_heads
        heads = last_heads if is_last and last_heads is not None else config.num_attention_heads
        rate = config.drop_path_rate
        if config.drop_path_schedule == "linear":
            rate *= (number - 1) / max(1, config.num_hidden_layers - 1)
        has_layer_scale = config.layer_scale_init_value is not None

        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = UnipAttention(config, heads)
        self.layer_scale1 = UnipLayerScale(config) if has_layer_scale else nn.Identity()
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = UnipMLP(config)
        self.layer_scale2 = UnipLayerScale(config) if has_layer_scale else nn.Identity()
        self.drop_path = UnipDropPath(rate)

    def forward(self, hidden_states: torch.Tensor, only_query_key: bool = False, **kwargs: Any) -> Any:
        if only_query_key:
            return None, *self.attention.query_key_value(self.layernorm_before(hidden_states))[:2]
        return self.apply_mlp(self.apply_attention(hidden_states, **kwargs))

    def apply_attention(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The first half of the block: attention is added."""
        context, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        return hidden_states + self.drop_path(self.layer_scale1(context))

    def apply_mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The second half: the output of the MLP is added."""
        update = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(self.layer_scale2(update))


class UnipConvModule(nn.Module):
    """
    Convolution (same padding, no bias), batch norm, ReLU: `(batch_size, in_channels, height, width)` to
    `(batch_size, out_channels, ceil(height / stride), ceil(width / stride))`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        padding = kernel_size // 2
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.batch_norm = nn.BatchNorm2d(out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(normalize_batch(self.convolution(maps), self.batch_norm))


__all__ = [
    "UnipAttention",
    "UnipConvModule",
    "UnipEmbeddings",
    "UnipLayer",
    "UnipLayerScale",
    "UnipPatchEmbeddings",
    "check_pixel_values",
    "normalize_batch",
    "pad_to",
    "resize_position_embeddings",
    "sine_cosine_position_embeddings",
    "whole_patches",
]
