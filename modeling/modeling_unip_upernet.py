# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The paper's segmentation network: last-layer feature pyramid (LL-FPN) and UPerNet head."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .configuration_unip import UnipConfig
from .modeling_unip_fast_upernet import fast_upernet
from .modeling_unip_resampling import adaptive_average_pool, max_pool, resize
from .modeling_unip_segmentation import UnipConvModule, UnipSegmentationModel, make_classifier


class UnipLastLayerFeaturePyramid(nn.Module):
    """
    LL-FPN (paper section 4.3): four scales from maps at 1/16 of the image. All four come from the last block. In the
    classic pyramid each comes from a block of its own, through the same operations.

    The names are those for patches of 16 pixels. From maps at another stride come maps at a quarter of that stride, at
    half of it, at the stride itself and at twice the stride.

    Args:
        channels (`Sequence[int]`): Channels of the one map or of the four.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        first, second = (channels[0], channels[0]) if len(channels) == 1 else channels[:2]
        self.to_quarter = nn.Sequential(
            nn.ConvTranspose2d(first, first, kernel_size=2, stride=2),
            nn.BatchNorm2d(first),
            nn.GELU(),
            nn.ConvTranspose2d(first, first, kernel_size=2, stride=2),
        )
        self.to_eighth = nn.ConvTranspose2d(second, second, kernel_size=2, stride=2)

    def forward(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """One or four maps `(batch_size, channels, rows, columns)` at 1/16 to four at 1/4, 1/8, 1/16, 1/32."""
        quarter, eighth, sixteenth, thirty_second = feature_maps * 4 if len(feature_maps) == 1 else feature_maps
        return [
            self.to_quarter(quarter),  # 1/4
            self.to_eighth(eighth),  # 1/8
            sixteenth,  # 1/16
            max_pool(thirty_second),  # 1/32
        ]


class UnipUPerHead(nn.Module):
    """
    [UPerNet](https://huggingface.co/papers/1807.10221) head: pyramid pooling at 1/32, feature pyramid up to 1/4.

    Args:
        config ([`UnipConfig`]): The configuration.
        widths (`Sequence[int]`): Channels of the four maps, finest first.
    """

    def __init__(self, config: UnipConfig, widths: Sequence[int]):
        super().__init__()
        *finer, width = widths
        channels = config.decoder_channels
        if channels is None:
            channels = config.hidden_size if config.backbone_config is None else min(width, 512)
        self.pool_scales = tuple(config.pool_scales)
        self.pooled_convolutions = nn.ModuleList([UnipConvModule(width, channels, 1) for _ in self.pool_scales])
        self.bottleneck = UnipConvModule(width + len(self.pool_scales) * channels, channels, 3)
        self.lateral_convolutions = nn.ModuleList([UnipConvModule(one, channels, 1) for one in finer])
        self.output_convolutions = nn.ModuleList([UnipConvModule(channels, channels, 3) for _ in range(3)])
        self.fusion = UnipConvModule(4 * channels, channels, 3)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = make_classifier(channels, config)

    def forward(self, pyramid: list[torch.Tensor]) -> torch.Tensor:
        """Four maps `(batch_size, width, ...)`, 1/4 to 1/32, to logits `(batch_size, num_labels, ...)`, 1/4."""
        *finer, coarsest = pyramid
        pooled = [coarsest]
        for bins, convolution in zip(self.pool_scales, self.pooled_convolutions):
            pooled.append(resize(convolution(adaptive_average_pool(coarsest, bins)), coarsest.shape[-2:]))
        top = self.bottleneck(torch.cat(pooled, dim=1))  # 1/32

        levels = [top]
        for maps, convolution in zip(reversed(finer), reversed(self.lateral_convolutions)):
            levels.insert(0, convolution(maps) + resize(levels[0], maps.shape[-2:]))  # 1/16, 1/8, 1/4
        levels[:3] = [convolution(maps) for maps, convolution in zip(levels, self.output_convolutions)]
        fused = self.fusion(
            torch.cat([levels[0]] + [resize(maps, levels[0].shape[-2:]) for maps in levels[1:]], dim=1)
        )
        return self.classifier(self.dropout(fused))  # 1/4


class UnipAuxiliaryHead(nn.Module):
    """One convolution and a classifier on the 1/16 level. It adds to the loss and is not used for predictions."""

    def __init__(self, config: UnipConfig, width: int):
        super().__init__()
        self.convolution = UnipConvModule(width, config.auxiliary_channels, 3)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = make_classifier(config.auxiliary_channels, config)

    def forward(self, sixteenth: torch.Tensor) -> torch.Tensor:
        """`(batch_size, width, rows, columns)` to logits `(batch_size, num_labels, rows, columns)`."""
        return self.classifier(self.dropout(self.convolution(sixteenth)))


class UnipForSemanticSegmentation(UnipSegmentationModel):
    """
    The paper's segmentation network: encoder, last-layer feature pyramid, UPerNet head, and an auxiliary head that
    adds to the loss. `config.feature_layers` with four blocks gives the classic pyramid instead.

    With `config.backbone_config`, four maps that get coarser one by one, as of Swin or ConvNeXt, are a pyramid already
    and go straight to the UPerNet head.
    """

    task = "fine_tuning"
    num_published_features = 4
    published_names = [
        ("fpn1.{i}", "pyramid.to_quarter.{i}"),
        ("fpn2.0", "pyramid.to_eighth"),
        ("decode_head.psp_modules.{i}.1.conv", "decode_head.pooled_convolutions.{i}.convolution"),
        ("decode_head.psp_modules.{i}.1.bn", "decode_head.pooled_convolutions.{i}.batch_norm"),
        ("decode_head.bottleneck.conv", "decode_head.bottleneck.convolution"),
        ("decode_head.bottleneck.bn", "decode_head.bottleneck.batch_norm"),
        ("decode_head.lateral_convs.{i}.conv", "decode_head.lateral_convolutions.{i}.convolution"),
        ("decode_head.lateral_convs.{i}.bn", "decode_head.lateral_convolutions.{i}.batch_norm"),
        ("decode_head.fpn_convs.{i}.conv", "decode_head.output_convolutions.{i}.convolution"),
        ("decode_head.fpn_convs.{i}.bn", "decode_head.output_convolutions.{i}.batch_norm"),
        ("decode_head.fpn_bottleneck.conv", "decode_head.fusion.convolution"),
        ("decode_head.fpn_bottleneck.bn", "decode_head.fusion.batch_norm"),
        ("decode_head.conv_seg", "decode_head.classifier"),
        ("auxiliary_head.convs.0.conv", "auxiliary_head.convolution.convolution"),
        ("auxiliary_head.convs.0.bn", "auxiliary_head.convolution.batch_norm"),
        ("auxiliary_head.conv_seg", "auxiliary_head.classifier"),
    ]

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        channels, strides = self.feature_channels, self.feature_strides
        widths = self._four(channels)
        is_pyramid = len(strides) == 4 and all(fine < coarse for fine, coarse in itertools.pairwise(strides))
        if len(set(strides)) > 1 and not is_pyramid:
            raise ValueError(
                f"The maps of feature_layers={self.feature_layers} have cells of {strides} pixels: the head takes "
                "four maps of one size, or four of which each is coarser than the one before."
            )
        self.pyramid = None if is_pyramid else UnipLastLayerFeaturePyramid(channels)
        self.decode_head = UnipUPerHead(config, widths)
        self.auxiliary_head = UnipAuxiliaryHead(config, widths[2]) if config.use_auxiliary_head else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)  # type: ignore[arg-type]

    @classmethod
    def read_published(cls, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        fields: dict[str, Any] = {"use_auxiliary_head": "auxiliary_head.conv_seg.weight" in tensors}
        if fields["use_auxiliary_head"]:
            fields["auxiliary_channels"] = tensors["auxiliary_head.conv_seg.weight"].shape[1]
        return {"decoder_channels": tensors["decode_head.conv_seg.weight"].shape[1], **fields}

    def describe_head(self) -> str:
        if self.pyramid is None:
            return f"UPerNet on {self._describe_blocks()}"
        pyramid = "last-layer feature pyramid (LL-FPN)" if len(set(self.feature_layers)) == 1 else "feature pyramid"
        return f"{pyramid} on {self._describe_blocks()}, UPerNet"

    def _classify(self, feature_maps: list[torch.Tensor], with_auxiliary: bool) -> tuple[torch.Tensor, ...]:
        if self.config.head_implementation == "fast":
            logits = fast_upernet(feature_maps, self.pyramid, self.decode_head)
        else:
            logits = self.decode_head(feature_maps if self.pyramid is None else self.pyramid(feature_maps))
        if self.auxiliary_head is None or not with_auxiliary:
            return (logits,)
        return logits, self.auxiliary_head(self._four(feature_maps)[2])


__all__ = ["UnipAuxiliaryHead", "UnipForSemanticSegmentation", "UnipLastLayerFeaturePyramid", "UnipUPerHead"]
