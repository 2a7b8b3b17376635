# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Published checkpoints and plain ViTs of other libraries: conversion to and from the models of this library."""

from .checkpoint_files import read_checkpoint
from .conversion import convert_checkpoint, find_segmentation_model, to_published_state_dict
from .plain_vits import convert_plain_vit, load_plain_vit


__all__ = [
    "convert_checkpoint",
    "convert_plain_vit",
    "find_segmentation_model",
    "load_plain_vit",
    "read_checkpoint",
    "to_published_state_dict",
]
