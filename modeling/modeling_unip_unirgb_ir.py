# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UniRGB-IR (https://huggingface.co/papers/2404.17360): a frozen ViT that reads a second image."""

from .modeling_unip_fusion import UnipFusionModel


class UnipRGBIRModel(UnipFusionModel):
    """UniRGB-IR."""


__all__ = ["UnipRGBIRModel"]
