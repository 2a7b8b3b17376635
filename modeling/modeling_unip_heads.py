# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The segmentation models: one line for each head."""

from .modeling_unip_linear import UnipForLinearSegmentation
from .modeling_unip_mla import UnipForMlaSegmentation
from .modeling_unip_segformer import UnipForSegformerSegmentation
from .modeling_unip_segmentation import UnipSegmentationModel
from .modeling_unip_upernet import UnipForSemanticSegmentation


# Saving, the Auto classes, training, conversion and model cards go through these. Where nothing else decides, it is
# the first.
SEGMENTATION_MODELS: tuple[type[UnipSegmentationModel], ...] = (
    UnipForSemanticSegmentation,
    UnipForLinearSegmentation,
    UnipForMlaSegmentation,
    UnipForSegformerSegmentation,
)

__all__ = ["SEGMENTATION_MODELS"]
