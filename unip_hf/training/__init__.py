# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Training: parameter groups, schedules, and the loop that distillation and fine-tuning share."""

from .loop import TrainingLoop, TrainingSettings
from .optimization import (
    cosine_schedule,
    enable_gradient_checkpointing,
    layer_decay_parameter_groups,
    polynomial_schedule,
)
from .speed import RunSpeed


__all__ = [
    "RunSpeed",
    "TrainingLoop",
    "TrainingSettings",
    "cosine_schedule",
    "enable_gradient_checkpointing",
    "layer_decay_parameter_groups",
    "polynomial_schedule",
]
