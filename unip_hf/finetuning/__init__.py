# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning and probing for semantic segmentation."""

from .lora import add_lora, merged_lora
from .losses import SegmentationLoss, make_class_weights
from .modality_dropout import ModalityDropout
from .models import load_model, set_training_mode
from .probing import UnipForLayerwiseProbing
from .validation import Validation


__all__ = [
    "ModalityDropout",
    "SegmentationLoss",
    "UnipForLayerwiseProbing",
    "Validation",
    "add_lora",
    "load_model",
    "make_class_weights",
    "merged_lora",
    "set_training_mode",
]
