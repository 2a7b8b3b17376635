# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""InfMix, which UNIP is pre-trained on: infrared images, a part of ImageNet, and COCO, all of them grey."""

from .builder import InfMix, load_infmix
from .rows import InfMixSettings
from .shards import prepare_infmix
from .sources import Source, find_evaluation_sets, find_sources, read_sources_file


__all__ = [
    "InfMix",
    "InfMixSettings",
    "Source",
    "find_evaluation_sets",
    "find_sources",
    "load_infmix",
    "prepare_infmix",
    "read_sources_file",
]
