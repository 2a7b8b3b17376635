# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning and probing for semantic segmentation."""

from .models import load_model, segmentation_loss, set_training_mode
from .probing import UnipForLayerwiseProbing, plot_over_depth
from .validation import Validation


__all__ = [
    "UnipForLayerwiseProbing",
    "Validation",
    "load_model",
    "plot_over_depth",
    "segmentation_loss",
    "set_training_mode",
]
