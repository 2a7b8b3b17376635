# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Pre-training on infrared images: teachers, the choice of their layer, students, and what they learn (NMI-HAD)."""

from ..modeling.modeling_unip_pretraining import attention_distillation_loss, chunked_attention_distillation_loss
from .heads import FeatureStudent, MaskedStudent
from .inputs import DistillationInput, StudentInput
from .layers import LayerChoice, select_layer
from .monitoring import AttentionMonitor
from .objectives import ATTENTION, FEATURES, Objective, feature_distillation_loss, masked_reconstruction
from .students import Students, load_student
from .teachers import Teacher, load_teacher


__all__ = [
    "ATTENTION",
    "FEATURES",
    "AttentionMonitor",
    "DistillationInput",
    "FeatureStudent",
    "LayerChoice",
    "MaskedStudent",
    "Objective",
    "StudentInput",
    "Students",
    "Teacher",
    "attention_distillation_loss",
    "chunked_attention_distillation_loss",
    "feature_distillation_loss",
    "load_student",
    "load_teacher",
    "masked_reconstruction",
    "select_layer",
]
