# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""IV-tuning (https://huggingface.co/papers/2412.16654): a frozen ViT that reads a second image."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .configuration_unip import UnipConfig
from .modeling_unip_fusion import UnipFusionModel
from .modeling_unip_layers import UnipLayer, UnipPatchEmbeddings, normalize_batch, pad_to


def simple_attention(maps: torch.Tensor, regularisation: float = 1e-4) -> torch.Tensor:
    """
    SimAM, attention without parameters: `(batch_size, channels, rows, columns)`, in which values far from the mean of
    their channel count more. Computed in float32, because half precision might not hold the squares.
    """
    values = maps.float()
    squares = (values - values.mean((2, 3), keepdim=True)).square()
    others = torch.full((), maps.shape[2] * maps.shape[3] - 1, dtype=squares.dtype, device=maps.device)
    variance = squares.sum((2, 3), keepdim=True) / others.clamp(min=1)  # of a single value: 0
    energy = squares / (4 * (variance + regularisation)) + 0.5
    return maps * torch.sigmoid(energy).to(maps.dtype)


def to_maps(tokens: torch.Tensor, rows: int) -> torch.Tensor:
    """Tokens `(batch_size, rows * columns, channels)` to maps `(batch_size, channels, rows, columns)`."""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


def to_tokens(maps: torch.Tensor) -> torch.Tensor:
    """Maps `(batch_size, channels, rows, columns)` to tokens `(batch_size, rows * columns, channels)`."""
    return maps.flatten(2).transpose(1, 2)


class UnipHybridOperation(nn.Module):
    """
    A depthwise 3x3 convolution of the first quarter of the channels, then two 1x1 convolutions of all:
    `(batch_size, channels, rows, columns)` in and out.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.convolved = channels // 4
        self.depthwise = nn.Conv2d(self.convolved, self.convolved, kernel_size=3, padding=1, groups=self.convolved)
        self.projection1 = nn.Conv2d(channels, channels, kernel_size=1)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.projection2 = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        first, others = maps[:, : self.convolved], maps[:, self.convolved :]
        mixed = torch.cat([self.depthwise(first), others], dim=1) + maps
        hidden = nn.functional.relu(normalize_batch(self.projection1(mixed), self.batch_norm))
        return self.projection2(hidden) + mixed


class UnipFeatureTransform(nn.Module):
    """A factor and an offset for each channel of `(batch_size, num_tokens, channels)`, after a layer norm or not."""

    def __init__(self, channels: int, add_norm: bool):
        super().__init__()
        self.norm = nn.LayerNorm(channels) if add_norm else nn.Identity()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens) * self.scale + self.shift


class UnipAdapterLinear(nn.Linear):
    """A linear layer, `(..., in_features)` to `(..., out_features)`, started from a truncated normal distribution."""


class UnipHybridAdapter(nn.Module):
    """Adapts the patches: `(batch_size, rows * columns, hidden_size)` in and out, its own residual included."""

    def __init__(self, hidden_size: int, channels: int = 64, dropout: float = 0.1):
        super().__init__()
        self.transform = UnipFeatureTransform(hidden_size, add_norm=True)
        self.down = UnipAdapterLinear(hidden_size, channels)
        self.operation = UnipHybridOperation(channels)
        self.dropout = nn.Dropout(dropout)
        self.up = UnipAdapterLinear(channels, hidden_size)

    def forward(self, patches: torch.Tensor, rows: int) -> torch.Tensor:
        maps = self.operation(to_maps(self.down(self.transform(patches)), rows))  # (B, channels, rows, columns)
        return patches + self.up(self.dropout(nn.functional.gelu(to_tokens(maps))))


class UnipInternalPromptAdapter(nn.Module):
    """Adapts the prompt, `(batch_size, rows * columns, hidden_size)` in and out, without a residual."""

    def __init__(self, hidden_size: int, channels: int = 8):
        super().__init__()
        self.transform_before = UnipFeatureTransform(hidden_size, add_norm=True)
        self.down = UnipAdapterLinear(hidden_size, channels)
        self.up = UnipAdapterLinear(channels, hidden_size)
        self.transform_after = UnipFeatureTransform(hidden_size, add_norm=False)

    def forward(self, prompt: torch.Tensor, rows: int) -> torch.Tensor:
        maps = to_maps(self.down(self.transform_before(prompt)), rows)  # (B, channels, rows, columns)
        tokens = to_tokens(nn.functional.gelu(simple_attention(maps)))
        return nn.functional.gelu(self.transform_after(self.up(tokens)))


class UnipExternalPromptGenerator(nn.Module):
    """The first prompt, from the patches of both images: `(batch_size, hidden_size, rows, columns)` in and out."""

    def __init__(self, hidden_size: int, channels: int = 8):
        super().__init__()
        self.main_down = nn.Conv2d(hidden_size, channels, kernel_size=1)
        self.auxiliary_down = nn.Conv2d(hidden_size, channels, kernel_size=1)
        self.operation = UnipHybridOperation(channels)
        self.up = nn.Conv2d(channels, hidden_size, kernel_size=1)

    def forward(self, main: torch.Tensor, auxiliary: torch.Tensor) -> torch.Tensor:
        return self.up(self.operation(self.main_down(main)) + simple_attention(self.auxiliary_down(auxiliary)))


class UnipAdapterPair(nn.Module):
    """What is put behind attention and behind the MLP of a block: an adapter of the patches and one of the prompt."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hybrid_adapter = UnipHybridAdapter(hidden_size)
        self.prompt_adapter = UnipInternalPromptAdapter(hidden_size)

    def forward(self, hidden_states: torch.Tensor, prompt: torch.Tensor, rows: int) -> torch.Tensor:
        """`(batch_size, num_tokens, hidden_size)` in and out; tokens before the patches stay as they are."""
        first = hidden_states.shape[1] - prompt.shape[1]
        patches = self.hybrid_adapter(hidden_states[:, first:], rows) + self.prompt_adapter(prompt, rows)
        return torch.cat([hidden_states[:, :first], patches], dim=1)


class UnipBlockAdapters(nn.Module):
    """The two pairs of a block."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.after_attention = UnipAdapterPair(hidden_size)
        self.after_mlp = UnipAdapterPair(hidden_size)

    @contextlib.contextmanager
    def keeping_statistics(self) -> Iterator[None]:
        """Puts running statistics back to what they were."""
        norms = [pair.hybrid_adapter.operation.batch_norm for pair in (self.after_attention, self.after_mlp)]
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        copies = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, copy in zip(buffers, copies):
                    buffer.copy_(copy)


class UnipIVTuningLayer(UnipLayer):
    """A block of the backbone, `(batch_size, num_tokens, hidden_size)` in and out, with adapters of another module."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        prompt: torch.Tensor,
        adapters: UnipBlockAdapters,
        rows: int,
        calls: list[int] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: All tokens.
            prompt (`torch.Tensor` of shape `(batch_size, rows * columns, hidden_size)`): The prompt.
            adapters: The adapters of this block.
            rows: Rows of patches.
            calls: With gradient checkpointing an empty list, by which the block knows when it is computed again.
        """
        is_repeated = bool(calls)
        if calls is not None:
            calls.append(1)
        with adapters.keeping_statistics() if is_repeated else contextlib.nullcontext():
            hidden_states = self.apply_attention(hidden_states, **kwargs)
            hidden_states = adapters.after_attention(hidden_states, prompt, rows)
            return adapters.after_mlp(self.apply_mlp(hidden_states), prompt, rows)


class UnipIVTuningFusion(nn.Module):
    """What IV-tuning adds to a backbone of `num_layers` blocks, and trains."""

    def __init__(self, config: UnipConfig, num_layers: int):
        super().__init__()
        self.patch_embeddings = UnipPatchEmbeddings(config, num_channels=config.auxiliary_num_channels)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.prompt_generator = UnipExternalPromptGenerator(config.hidden_size, config.prompt_channels)
        self.layers = nn.ModuleList([UnipBlockAdapters(config.hidden_size) for _ in range(num_layers)])

    def first_prompt(self, patches: torch.Tensor, auxiliary_pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            patches (`torch.Tensor` of shape `(batch_size, hidden_size, rows, columns)`): Those of the main images.
            auxiliary_pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): The other images,
                padded to whole patches.

        Returns:
            `torch.Tensor` of shape `(batch_size, hidden_size, rows, columns)`.
        """
        others = self.patch_embeddings(auxiliary_pixel_values.to(self.patch_embeddings.weight.dtype))
        main, auxiliary = (self.norm(maps.movedim(1, -1)).movedim(-1, 1) for maps in (patches, others))
        return self.prompt_generator(main, auxiliary)


class UnipIVTuningModel(UnipFusionModel):
    """
    IV-tuning, first generation. The main image goes through the backbone. A first prompt, made of the patches of both
    images, is added to its patches; in each block, adapters change the patches behind attention and behind the MLP and
    add the adapted prompt, and the patches that leave the block are the prompt of the next one. The other image never
    enters the backbone.

    The published network starts from random adapters: before training, it does not compute what the backbone does.
    """

    layer_class = UnipIVTuningLayer
    _no_split_modules = ["UnipEmbeddings", "UnipIVTuningLayer", "UnipBlockAdapters", "UnipIVTuningFusion"]
    fusion: UnipIVTuningFusion

    def __init__(self, config: UnipConfig, num_layers: int | None = None, add_final_norm: bool = True):
        super().__init__(config, num_layers, add_final_norm)
        self.fusion = UnipIVTuningFusion(config, len(self.layers))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, UnipAdapterLinear):
            init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, UnipFeatureTransform):
            init.ones_(module.scale)
            init.zeros_(module.shift)
        elif isinstance(module, nn.Conv2d) and not isinstance(module, UnipPatchEmbeddings):
            if any(module is one for one in self.fusion.prompt_generator.modules()):
                init.xavier_uniform_(module.weight)
            else:  # as PyTorch does
                init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)  # type: ignore[arg-type]

    def block_outputs(  # type: ignore[override]
        self, pixel_values: torch.Tensor, num_layers: int, *, auxiliary_pixel_values: torch.Tensor, **kwargs: Any
    ) -> list[torch.Tensor]:
        padded_size = self.padded_size(pixel_values)
        patches = self.embeddings.embed_patches(pixel_values)  # (B, D, rows, columns)
        prompt = self.fusion.first_prompt(patches, pad_to(auxiliary_pixel_values, padded_size))
        outputs = [self.embeddings.add_positions(patches + prompt)]  # (B, 1+N, D)
        prompt = to_tokens(prompt)  # (B, N, D)
        rows, first = padded_size[0] // self.config.patch_size, self.config.num_special_tokens
        for layer, adapters in zip(self.layers[:num_layers], self.fusion.layers):
            repeats = self.training and layer.gradient_checkpointing and not torch.compiler.is_compiling()
            calls: list[int] | None = [] if repeats else None
            outputs.append(layer(outputs[-1], prompt, adapters, rows, calls, **kwargs))
            prompt = outputs[-1][:, first:]
        return outputs


__all__ = ["UnipIVTuningModel"]
