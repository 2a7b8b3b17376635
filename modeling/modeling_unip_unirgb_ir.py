# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
UniRGB-IR (https://huggingface.co/papers/2404.17360): a frozen ViT that looks up a second image between its stages.

A small network, the feature pool, reads both images once. Before each of four stages of blocks, the patches of the
ViT attend to the pool, and what they find is added to them. The second image never enters the ViT.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .configuration_unip import UnipConfig
from .modeling_unip_deformable import UnipDeformableAttention, UnipPointWeights, UnipSamplingOffsets
from .modeling_unip_fusion import UnipFusionModel
from .modeling_unip_layers import UnipConvModule, UnipPatchEmbeddings, pad_to, whole_patches
from .modeling_unip_windows import UnipWindowAttention


# The pool's coarsest map has a cell for each 32 pixels.
COARSEST_CELL = 32
NUM_LEVELS = 3
FUSION_KERNELS = (3, 3, 5, 7)


class UnipPoolStem(nn.Sequential):
    """Images `(batch_size, num_channels, height, width)` to maps `(batch_size, channels, height / 4, width / 4)`."""

    def __init__(self, num_channels: int, channels: int):
        super().__init__(
            UnipConvModule(num_channels, channels, 3, stride=2),
            UnipConvModule(channels, channels, 3),
            UnipConvModule(channels, channels, 3),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )


class UnipMixedKernelFusion(nn.Module):
    """
    Two maps `(batch_size, channels, rows, columns)` to one of the same shape. The channels are split into four groups,
    each with convolutions of another size, and a gate says for each value how much comes from which map.
    """

    def __init__(self, channels: int):
        super().__init__()
        width = channels // len(FUSION_KERNELS)
        self.main_convolutions, self.auxiliary_convolutions = (
            nn.ModuleList([nn.Conv2d(width, width, kernel, padding=kernel // 2) for kernel in FUSION_KERNELS])
            for _ in range(2)
        )
        self.gate = nn.Conv2d(width, width, 1)  # shared by all groups

    def forward(self, main: torch.Tensor, auxiliary: torch.Tensor) -> torch.Tensor:
        fused = []
        groups = zip(main.chunk(len(FUSION_KERNELS), 1), auxiliary.chunk(len(FUSION_KERNELS), 1))
        for (main_group, auxiliary_group), main_convolution, auxiliary_convolution in zip(
            groups, self.main_convolutions, self.auxiliary_convolutions
        ):
            first, second = main_convolution(main_group), auxiliary_convolution(auxiliary_group)
            share = self.gate(first + second).sigmoid()
            fused.append(share * first + (1 - share) * second)
        return torch.cat(fused, dim=1)


class UnipFeaturePool(nn.Module):
    """
    Both images to three maps of width `hidden_size`, with cells of 8, 16 and 32 pixels. Height and width are multiples
    of 32.
    """

    def __init__(self, config: UnipConfig):
        super().__init__()
        channels, width = config.fusion_channels, config.hidden_size
        self.main_stem, self.auxiliary_stem = (
            UnipPoolStem(3 if count == 1 else count, channels)  # a one-channel image is repeated
            for count in (config.num_channels, config.auxiliary_num_channels)
        )
        self.mixed_fusion = UnipMixedKernelFusion(channels)
        widths = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.downsampling = nn.ModuleList(
            [UnipConvModule(wide, wider, 3, stride=2) for wide, wider in itertools.pairwise(widths)]
        )
        self.projections = nn.ModuleList([nn.Conv2d(wide, width, 1) for wide in widths[1:]])

    def forward(self, main: torch.Tensor, auxiliary: torch.Tensor) -> list[torch.Tensor]:
        main, auxiliary = (
            images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images for images in (main, auxiliary)
        )
        maps = self.mixed_fusion(self.main_stem(main), self.auxiliary_stem(auxiliary))  # (B, C, H/4, W/4)
        levels = []
        for downsample, project in zip(self.downsampling, self.projections):
            maps = downsample(maps)  # 1/8, 1/16, 1/32
            levels.append(project(maps))
        return levels


class UnipInjector(nn.Module):
    """What patches `(batch_size, num_patches, hidden_size)` find in the pool, same shape; nothing at the start."""

    def __init__(self, config: UnipConfig):
        super().__init__()
        width = config.hidden_size
        self.query_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pool_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = UnipDeformableAttention(width, config.num_attention_heads, NUM_LEVELS)
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(
        self, patches: torch.Tensor, pool: torch.Tensor, centres: torch.Tensor, sizes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        return self.gamma * self.attention(self.query_norm(patches), self.pool_norm(pool), centres, sizes)


class UnipPromptGate(nn.Linear):
    """Mixes what a stage finds with what the stage before has added: one share for each channel of an image."""

    def __init__(self, config: UnipConfig):
        super().__init__(2 * config.hidden_size, config.hidden_size)

    def forward(self, new: torch.Tensor, last: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Two prompts `(batch_size, num_patches, hidden_size)` to one."""
        share = super().forward(torch.cat([new.mean(1), last.mean(1)], dim=1)).sigmoid()[:, None]  # (B, 1, D)
        return share * new + (1 - share) * last


class UnipRGBIRFusion(nn.Module):
    """All that UniRGB-IR adds to a ViT: pool, injectors, gates."""

    def __init__(self, config: UnipConfig, num_stages: int):
        super().__init__()
        self.pool = UnipFeaturePool(config)
        self.level_embeddings = nn.Parameter(torch.randn(NUM_LEVELS, config.hidden_size))
        self.injectors = nn.ModuleList([UnipInjector(config) for _ in range(num_stages)])
        self.gates = nn.ModuleList([UnipPromptGate(config) for _ in range(num_stages - 1)])

    def read(self, main: torch.Tensor, auxiliary: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Both images to the pool's cells `(batch_size, num_cells, hidden_size)`, and rows and columns of its maps."""
        levels = self.pool(main, auxiliary)
        sizes = [(maps.shape[2], maps.shape[3]) for maps in levels]
        cells = [maps.flatten(2).transpose(1, 2) + self.level_embeddings[i] for i, maps in enumerate(levels)]
        return torch.cat(cells, dim=1), sizes

    def prompt(self, stage: int, last: torch.Tensor | None, *args: Any) -> torch.Tensor:
        """What is added to the patches before a stage. `last` is the prompt of the stage before."""
        new = self.injectors[stage](*args)
        return new if last is None else self.gates[stage - 1](new, last)


class UnipRGBIRModel(UnipFusionModel):
    """
    UNIP's encoder with UniRGB-IR beside it.

    CLS takes part in the blocks as it does in the encoder alone, which was trained with it, but nothing is added to
    it. With every `gamma` at zero, as at the start, the maps are therefore exactly those of the encoder alone. The
    published ViT has no CLS when it runs: `config.use_cls_token=False` computes the same, `config.window_size` and
    `config.relative_position_size` are its windows and relative positions.

    The pool reads images that are padded to multiples of 32 pixels, the ViT those that are padded to whole patches.
    Patches look at the pool from where they are in the image, so that both stay aligned at any size.
    """

    _no_split_modules = ["UnipEmbeddings", "UnipLayer", "UnipFeaturePool", "UnipInjector", "UnipPromptGate"]
    fusion: UnipRGBIRFusion

    def __init__(self, config: UnipConfig, num_layers: int | None = None, add_final_norm: bool = True):
        super().__init__(config, num_layers=num_layers, add_final_norm=add_final_norm)
        self.has_own_attention = config.window_size is not None or config.relative_position_size is not None
        if self.has_own_attention:
            layers: Any = self.layers
            for number, layer in enumerate(layers, start=1):
                heads = layer.attention.num_attention_heads
                layer.attention = UnipWindowAttention(config, heads, config.window_of(number))
        self.fusion = UnipRGBIRFusion(config, num_stages=-(-len(self.layers) // config.stage_depth))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, UnipSamplingOffsets):
            init.zeros_(module.weight)
            init.copy_(module.bias, module.initial_bias())
        elif isinstance(module, UnipPointWeights):
            init.zeros_(module.weight)
        elif isinstance(module, UnipPromptGate):  # as PyTorch initialises a linear layer
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = module.in_features**-0.5
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Conv2d) and not isinstance(module, UnipPatchEmbeddings):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, UnipInjector):
            init.zeros_(module.gamma)
        elif isinstance(module, UnipRGBIRFusion):
            init.normal_(module.level_embeddings)
        elif isinstance(module, UnipWindowAttention) and module.relative_rows is not None:
            init.zeros_(module.relative_rows)
            init.zeros_(module.relative_columns)  # type: ignore[arg-type]

    def freeze_backbone(self) -> None:
        """Leaves only `fusion` to be trained, and relative positions, which no checkpoint of a plain ViT has."""
        super().freeze_backbone()
        for name, parameter in self.named_parameters():
            if name.endswith((".relative_rows", ".relative_columns")):
                parameter.requires_grad_(True)

    def _patch_centres(self, grid: tuple[int, int], size: Sequence[int], device: torch.device) -> torch.Tensor:
        """Where patches are in the images that the pool reads: `(1, rows * columns, 1, 2)`, x before y, 0 to 1."""
        y, x = (
            (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * self.embeddings.patch_size / length
            for count, length in zip(grid, size)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([x, y], dim=-1).flatten(0, 1)[None, :, None]

    def block_outputs(  # type: ignore[override]
        self, pixel_values: torch.Tensor, num_layers: int, *, auxiliary_pixel_values: torch.Tensor, **kwargs: Any
    ) -> list[torch.Tensor]:
        hidden_states = self.embeddings(pixel_values)  # (B, 1+N, D), without CLS (B, N, D)
        padded_size = self.padded_size(pixel_values)
        rows, columns = (length // self.embeddings.patch_size for length in padded_size)
        pool_size = whole_patches(padded_size, COARSEST_CELL)
        dtype = self.fusion.level_embeddings.dtype
        images = [pad_to(image.to(dtype), pool_size) for image in (pixel_values, auxiliary_pixel_values)]
        pool, sizes = self.fusion.read(*images)
        centres = self._patch_centres((rows, columns), pool_size, pool.device)
        if self.has_own_attention:
            kwargs["grid"] = (rows, columns)

        first = self.config.num_special_tokens
        outputs = [hidden_states]
        prompt = None
        for index, layer in enumerate(self.layers[:num_layers]):
            stage, block = divmod(index, self.config.stage_depth)
            if block == 0:
                special, patches = hidden_states[:, :first], hidden_states[:, first:]
                prompt = self.fusion.prompt(stage, prompt, patches, pool, centres, sizes)
                hidden_states = torch.cat([special, patches + prompt], dim=1)
            hidden_states = layer(hidden_states, **kwargs)
            outputs.append(hidden_states)
        return outputs


__all__ = ["UnipRGBIRModel"]
