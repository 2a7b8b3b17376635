# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""SegFormer's all-MLP head on four blocks of a plain ViT, or on a pyramid."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .configuration_unip import UnipConfig
from .modeling_unip_resampling import resize
from .modeling_unip_segmentation import UnipConvModule, UnipSegmentationModel, make_classifier


class UnipSegformerHead(nn.Module):
    """
    A linear layer for each level, all levels resized to the finest, one 1x1 convolution, dropout, a classifier.

    Args:
        config ([`UnipConfig`]): The configuration.
        widths (`Sequence[int]`): Channels of the four maps, finest first.
        is_pyramid (`bool`): Whether the maps are a pyramid already. Otherwise they are resized to four times, twice,
            once and half their size.
    """

    def __init__(self, config: UnipConfig, widths: Sequence[int], is_pyramid: bool):
        super().__init__()
        channels = config.decoder_channels or 256
        self.is_pyramid = is_pyramid
        self.projections = nn.ModuleList([nn.Linear(width, channels) for width in widths])
        self.fusion = UnipConvModule(len(widths) * channels, channels, 1)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = make_classifier(channels, config)

    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:
        """Four maps `(batch_size, width, ...)` to logits `(batch_size, num_labels, ...)` as large as the finest."""
        # Resizing is linear, too: after the narrow linear layers it gives the same and costs less.
        levels = [
            linear(maps.movedim(1, -1)).movedim(-1, 1) for maps, linear in zip(feature_maps, self.projections)
        ]  # (B, decoder_channels, rows, columns) each
        if not self.is_pyramid:
            rows, columns = levels[0].shape[-2:]
            sizes = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), None, ((rows + 1) // 2, (columns + 1) // 2)]
            levels = [maps if size is None else resize(maps, size) for maps, size in zip(levels, sizes)]
        finest = levels[0].shape[-2:]
        # Deepest first, as published.
        levels = [*(resize(maps, finest) for maps in reversed(levels[1:])), levels[0]]
        return self.classifier(self.dropout(self.fusion(torch.cat(levels, dim=1))))


class UnipForSegformerSegmentation(UnipSegmentationModel):
    """
    The all-MLP head of SegFormer ([paper](https://huggingface.co/papers/2105.15203)) as IV-tuning puts it on a plain
    ViT: four blocks become a pyramid by bilinear resizing. `config.feature_layers` has four blocks, or one that feeds
    all four levels. `config.decoder_channels` is the width of the head, 256 by default. There is no auxiliary head.

    With `config.backbone_config`, four maps that get coarser one by one, as of Swin or ConvNeXt, are one already.
    """

    task = "segformer"
    num_published_features = 4
    published_classifier = "decode_head.linear_pred"
    published_names = [
        *((f"decode_head.linear_c{i + 1}.proj", f"decode_head.projections.{i}") for i in range(4)),
        ("decode_head.linear_fuse.conv", "decode_head.fusion.convolution"),
        ("decode_head.linear_fuse.bn", "decode_head.fusion.batch_norm"),
        ("decode_head.linear_pred", "decode_head.classifier"),
    ]

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        strides = self.feature_strides
        is_pyramid = len(strides) == 4 and all(fine < coarse for fine, coarse in itertools.pairwise(strides))
        if len(set(strides)) > 1 and not is_pyramid:
            raise ValueError(
                f"The maps of feature_layers={self.feature_layers} have cells of {strides} pixels: the head takes "
                "four maps of one size, or four of which each is coarser than the one before."
            )
        self.decode_head = UnipSegformerHead(config, self._four(self.feature_channels), is_pyramid)
        self.post_init()

    @classmethod
    def default_feature_layers(cls, num_hidden_layers: int) -> list[int] | None:
        """Blocks 4, 6, 8, 12 of 12, blocks 8, 12, 16, 24 of 24."""
        return [max(1, num_hidden_layers * sixths // 6) for sixths in (2, 3, 4, 6)]

    @classmethod
    def read_published(cls, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        return {"decoder_channels": tensors["decode_head.linear_pred.weight"].shape[1]}

    def describe_head(self) -> str:
        return f"SegFormer's all-MLP head on {self._describe_blocks()}"

    def _classify(self, feature_maps: list[torch.Tensor], with_auxiliary: bool) -> tuple[torch.Tensor, ...]:
        return (self.decode_head(self._four(feature_maps)),)


__all__ = ["UnipForSegformerSegmentation", "UnipSegformerHead"]
