# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a backbone looks at: measures and pictures of its attention."""

from .attention import attention_distance, attention_map, normalized_mutual_information
from .blocks import Block, BlockReader
from .plots import attention_pictures, nmi_curve


__all__ = [
    "Block",
    "BlockReader",
    "attention_distance",
    "attention_map",
    "attention_pictures",
    "nmi_curve",
    "normalized_mutual_information",
]
