# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Infrared data."""

import importlib
from typing import TYPE_CHECKING, Any

from .scenes import SCENE_CLASSES, draw_scene, draw_scene_pair


if TYPE_CHECKING:
    from .check import DatasetReport, check_dataset
    from .folder import FolderScan, scan_folder
    from .labelled import load_id2label
    from .loading import load_infrared_dataset
    from .scenes_builder import InfraredScenes

# The module that defines each public name. It is imported on first use, because torch and datasets take seconds.
_MODULES = {
    "DatasetReport": ".check",
    "FolderScan": ".folder",
    "InfraredScenes": ".scenes_builder",
    "check_dataset": ".check",
    "load_id2label": ".labelled",
    "load_infrared_dataset": ".loading",
    "scan_folder": ".folder",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


__all__ = [
    "SCENE_CLASSES",
    "DatasetReport",
    "FolderScan",
    "InfraredScenes",
    "check_dataset",
    "draw_scene",
    "draw_scene_pair",
    "load_id2label",
    "load_infrared_dataset",
    "scan_folder",
]
