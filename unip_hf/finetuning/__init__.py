# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning and probing for semantic segmentation."""

from .losses import SegmentationLoss, make_class_weights
from .models import load_model, set_training_mode
from .probing import UnipForLayerwiseProbing, plot_over_depth
from .validation import Validation


__all__ = [
    "SegmentationLoss",
    "UnipForLayerwiseProbing",
    "Validation",
    "load_model",
    "make_class_weights",
    "plot_over_depth",
    "set_training_mode",
]
