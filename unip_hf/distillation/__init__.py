# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Hybrid-attention distillation (NMI-HAD): teachers, the choice of their layer, students, and losses."""

from ..modeling.modeling_unip_pretraining import attention_distillation_loss, chunked_attention_distillation_loss
from .inputs import DistillationInput
from .layers import LayerChoice, select_layer
from .monitoring import AttentionMonitor
from .students import Students, load_student
from .teachers import Teacher, load_teacher


__all__ = [
    "AttentionMonitor",
    "DistillationInput",
    "LayerChoice",
    "Students",
    "Teacher",
    "attention_distillation_loss",
    "chunked_attention_distillation_loss",
    "load_student",
    "load_teacher",
    "select_layer",
]
