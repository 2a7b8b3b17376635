# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Training: parameter groups, schedules, and the loop that distillation and fine-tuning share."""

from .loop import train
from .optimization import cosine_schedule, layer_decay_parameter_groups, polynomial_schedule


__all__ = ["cosine_schedule", "layer_decay_parameter_groups", "polynomial_schedule", "train"]
