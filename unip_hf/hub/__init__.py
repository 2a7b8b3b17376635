# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Published checkpoints: conversion to and from the models of this library."""

from .checkpoint_files import read_checkpoint
from .conversion import convert_checkpoint, find_segmentation_model, to_published_state_dict


__all__ = ["convert_checkpoint", "find_segmentation_model", "read_checkpoint", "to_published_state_dict"]
