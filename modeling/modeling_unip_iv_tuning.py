# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""IV-tuning (https://huggingface.co/papers/2412.16654): a frozen ViT that reads a second image."""

from .modeling_unip_fusion import UnipFusionModel


class UnipIVTuningModel(UnipFusionModel):
    """IV-tuning."""


__all__ = ["UnipIVTuningModel"]
