# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a network looks at, and what it costs: measures and pictures of attention and features."""

from .attention import (
    attention_distance,
    attention_entropy,
    attention_map,
    attention_pattern,
    normalized_mutual_information,
)
from .blocks import Block, BlockReader
from .cost import count_cost, total_cost
from .measures import Images, NetworkMeasures
from .objects import attention_to_objects, objects_of_patches
from .page import Picture, write_report
from .plots import attention_pictures, nmi_curve
from .similarity import centred_kernel_alignment, gram_matrix
from .texture import Corruption, feature_change, high_pass, low_pass, patch_shuffle, phase_scramble


__all__ = [
    "Block",
    "BlockReader",
    "Corruption",
    "Images",
    "NetworkMeasures",
    "Picture",
    "attention_distance",
    "attention_entropy",
    "attention_map",
    "attention_pattern",
    "attention_pictures",
    "attention_to_objects",
    "centred_kernel_alignment",
    "count_cost",
    "feature_change",
    "gram_matrix",
    "high_pass",
    "low_pass",
    "nmi_curve",
    "normalized_mutual_information",
    "objects_of_patches",
    "patch_shuffle",
    "phase_scramble",
    "total_cost",
    "write_report",
]
