# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Infrared data."""

from .scenes import SCENE_CLASSES, SCENE_PALETTE, draw_scene


__all__ = ["SCENE_CLASSES", "SCENE_PALETTE", "draw_scene"]
