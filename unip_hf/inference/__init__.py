# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Inference: models of any kind, sliding windows, and where frames come from and go to."""

from .loading import load_processor, load_segmentation_model
from .windows import InferenceSettings, reads_pairs, segment_image, sliding_window_logits


__all__ = [
    "InferenceSettings",
    "load_processor",
    "load_segmentation_model",
    "reads_pairs",
    "segment_image",
    "sliding_window_logits",
]
