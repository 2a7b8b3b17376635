# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Linear probing: one 1x1 classifier on a frozen encoder."""

import torch

from .configuration_unip import UnipConfig
from .modeling_unip_segmentation import UnipSegmentationModel, make_classifier


class UnipForLinearSegmentation(UnipSegmentationModel):
    """
    Linear probing (paper section 3.1): one 1x1 classifier on the raw outputs of one or several blocks of a frozen
    encoder. The encoder keeps its evaluation mode and gets no gradient.
    """

    task = "linear_probe"
    freezes_encoder = True
    published_names = [("decode_head.conv_seg", "classifier")]

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        self.classifier = make_classifier(len(self.feature_layers) * config.hidden_size, config)
        self.post_init()

    @classmethod
    def default_feature_layers(cls, num_hidden_layers: int) -> list[int] | None:
        """Blocks 4, 6, 8, 12 of 12, blocks 8, 12, 16, 24 of 24."""
        return sorted({max(1, num_hidden_layers * sixths // 6) for sixths in (2, 3, 4, 6)})

    def describe_head(self) -> str:
        return f"one linear classifier on {self._describe_blocks()}"

    def _classify(
        self, feature_maps: list[torch.Tensor], with_auxiliary: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.classifier(torch.cat(feature_maps, dim=1)), None


__all__ = ["UnipForLinearSegmentation"]
