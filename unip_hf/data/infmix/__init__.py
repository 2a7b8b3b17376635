# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""InfMix, on which UNIP is pre-trained: infrared images, a part of ImageNet, and COCO, all of them grey."""

from .loading import load_infmix
from .settings import InfMixSettings
from .shards import prepare_infmix
from .sources import InfMixSource, find_evaluation_sets, find_infmix_sources, read_sources_file


__all__ = [
    "InfMixSettings",
    "InfMixSource",
    "find_evaluation_sets",
    "find_infmix_sources",
    "load_infmix",
    "prepare_infmix",
    "read_sources_file",
]
