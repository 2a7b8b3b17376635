# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Hybrid-attention distillation (NMI-HAD)."""

from ..modeling.modeling_unip_pretraining import attention_distillation_loss


__all__ = ["attention_distillation_loss"]
