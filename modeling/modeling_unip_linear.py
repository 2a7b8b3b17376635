# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Linear probing: one 1x1 classifier on a frozen encoder."""

import torch

from .configuration_unip import UnipConfig
from .modeling_unip_resampling import resize
from .modeling_unip_segmentation import UnipSegmentationModel, make_classifier


class UnipForLinearSegmentation(UnipSegmentationModel):
    """
    Linear probing (paper section 3.1): one 1x1 classifier on the raw outputs of one or several blocks of a frozen
    encoder. The encoder keeps its evaluation mode and gets no gradient. Maps of several sizes, as of Swin or ConvNeXt,
    are resized (bilinear) to the finest.
    """

    task = "linear_probe"
    freezes_encoder = True
    published_names = [("decode_head.conv_seg", "classifier")]

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        self.classifier = make_classifier(sum(self.feature_channels), config)
        self.post_init()

    @classmethod
    def default_feature_layers(cls, num_hidden_layers: int) -> list[int] | None:
        """Blocks 4, 6, 8, 12 of 12, blocks 8, 12, 16, 24 of 24."""
        return sorted({max(1, num_hidden_layers * sixths // 6) for sixths in (2, 3, 4, 6)})

    def describe_head(self) -> str:
        return f"one linear classifier on {self._describe_blocks()}"

    def _classify(self, feature_maps: list[torch.Tensor], with_auxiliary: bool) -> tuple[torch.Tensor, ...]:
        return (self.classifier(torch.cat(self._at_one_size(feature_maps), dim=1)),)

    def _at_one_size(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        finest = self.feature_strides.index(min(self.feature_strides))
        size = feature_maps[finest].shape[-2:]
        return [
            maps if stride == self.feature_strides[finest] else resize(maps, size)
            for maps, stride in zip(feature_maps, self.feature_strides)
        ]


__all__ = ["UnipForLinearSegmentation"]
