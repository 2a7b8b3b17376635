# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a backbone looks at: measures and pictures of its attention."""

from .attention import attention_distance, attention_map, normalized_mutual_information
from .cost import count_cost, total_cost
from .plots import attention_pictures, nmi_curve
from .texture import Corruption, feature_change, high_pass, low_pass, patch_shuffle, phase_scramble


__all__ = [
    "Corruption",
    "attention_distance",
    "attention_map",
    "attention_pictures",
    "count_cost",
    "feature_change",
    "high_pass",
    "low_pass",
    "nmi_curve",
    "normalized_mutual_information",
    "patch_shuffle",
    "phase_scramble",
    "total_cost",
]
