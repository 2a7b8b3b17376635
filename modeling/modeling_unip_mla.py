# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""SETR's head with multi-level feature aggregation (MLA): four blocks, each level summed with those behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .configuration_unip import UnipConfig
from .modeling_unip_resampling import resize
from .modeling_unip_segmentation import UnipConvModule, UnipSegmentationModel, make_classifier


class UnipMlaNeck(nn.Module):
    """
    Brings four maps to one width and sums them up from the deepest on.

    Args:
        config ([`UnipConfig`]): The configuration.
        widths (`Sequence[int]`): Channels of the four maps.
        channels (`int`): Channels of the outputs.
    """

    def __init__(self, config: UnipConfig, widths: Sequence[int], channels: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=config.layer_norm_eps) for width in widths])
        self.projections = nn.ModuleList([UnipConvModule(width, channels, 1) for width in widths])
        self.outputs = nn.ModuleList([UnipConvModule(channels, channels, 3) for _ in widths])

    def forward(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Four maps `(batch_size, width, rows, columns)`, shallow to deep, to four of one width, deepest first."""
        levels = [
            projection(norm(maps.movedim(1, -1)).movedim(-1, 1))
            for maps, norm, projection in zip(feature_maps, self.norms, self.projections)
        ]
        sums = [levels.pop()]
        while levels:
            sums.append(sums[-1] + levels.pop())
        return [convolution(maps) for maps, convolution in zip(sums, self.outputs)]


class UnipMlaHead(nn.Module):
    """
    Two convolutions on each level, which is then resized by four, and one classifier on all levels together.

    Args:
        config ([`UnipConfig`]): The configuration.
        channels (`int`): Channels of the maps; each level gets half as many.
        num_levels (`int`): Number of maps.
    """

    def __init__(self, config: UnipConfig, channels: int, num_levels: int):
        super().__init__()
        width = max(1, channels // 2)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(UnipConvModule(channels, width, 3), UnipConvModule(width, width, 3))
                for _ in range(num_levels)
            ]
        )
        self.classifier = make_classifier(num_levels * width, config)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps `(batch_size, channels, rows, columns)` to logits `(batch_size, num_labels, 4 * rows, 4 * columns)`."""
        size = 4 * maps[0].shape[-2], 4 * maps[0].shape[-1]
        return self.classifier(torch.cat([resize(level(one), size) for level, one in zip(self.levels, maps)], dim=1))


class UnipForMlaSegmentation(UnipSegmentationModel):
    """
    SETR-MLA ([paper](https://huggingface.co/papers/2012.15840)) as UniRGB-IR uses it: a neck that sums four blocks up
    from the deepest on, two convolutions on each level, one classifier, and an auxiliary classifier on each level.
    `config.feature_layers` has four blocks, or one that feeds all four levels. `config.decoder_channels` is the width
    of the neck, 256 by default.
    """

    task = "mla"
    num_published_features = 4
    published_names = [
        ("neck.norm.{i}", "neck.norms.{i}"),
        ("neck.mla.channel_proj.{i}.conv", "neck.projections.{i}.convolution"),
        ("neck.mla.channel_proj.{i}.bn", "neck.projections.{i}.batch_norm"),
        ("neck.mla.feat_extract.{i}.conv", "neck.outputs.{i}.convolution"),
        ("neck.mla.feat_extract.{i}.bn", "neck.outputs.{i}.batch_norm"),
        ("decode_head.up_convs.{i}.0.conv", "decode_head.levels.{i}.0.convolution"),
        ("decode_head.up_convs.{i}.0.bn", "decode_head.levels.{i}.0.batch_norm"),
        ("decode_head.up_convs.{i}.1.conv", "decode_head.levels.{i}.1.convolution"),
        ("decode_head.up_convs.{i}.1.bn", "decode_head.levels.{i}.1.batch_norm"),
        ("decode_head.conv_seg", "decode_head.classifier"),
        ("auxiliary_head.{i}.conv_seg", "auxiliary_heads.{i}"),
    ]

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        if len(set(self.feature_strides)) > 1:
            raise ValueError(
                f"The maps of feature_layers={self.feature_layers} have cells of {self.feature_strides} pixels: the "
                "head takes maps of one size."
            )
        widths = self._four(self.feature_channels)
        channels = config.decoder_channels or 256
        self.neck = UnipMlaNeck(config, widths, channels)
        self.decode_head = UnipMlaHead(config, channels, len(widths))
        num_auxiliary_heads = len(widths) if config.use_auxiliary_head else 0
        self.auxiliary_heads = nn.ModuleList([make_classifier(channels, config) for _ in range(num_auxiliary_heads)])
        self.post_init()

    @classmethod
    def default_feature_layers(cls, num_hidden_layers: int) -> list[int] | None:
        """The ends of four equal parts: blocks 3, 6, 9, 12 of 12, blocks 6, 12, 18, 24 of 24."""
        return [max(1, num_hidden_layers * quarters // 4) for quarters in (1, 2, 3, 4)]

    @classmethod
    def read_published(cls, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        return {
            "decoder_channels": tensors["neck.mla.feat_extract.0.conv.weight"].shape[0],
            "use_auxiliary_head": "auxiliary_head.0.conv_seg.weight" in tensors,
        }

    def describe_head(self) -> str:
        return f"SETR-MLA on {self._describe_blocks()}"

    def _classify(self, feature_maps: list[torch.Tensor], with_auxiliary: bool) -> tuple[torch.Tensor, ...]:
        maps = self.neck(self._four(feature_maps))
        logits = self.decode_head(maps)
        if not with_auxiliary:
            return (logits,)
        return logits, *(head(one) for head, one in zip(self.auxiliary_heads, maps))


__all__ = ["UnipForMlaSegmentation", "UnipMlaHead", "UnipMlaNeck"]
