# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UNIP (ICLR 2025) for infrared semantic segmentation, on the Hugging Face stack."""

import importlib
from typing import TYPE_CHECKING, Any

from ._auto_classes import register_when_imported
from ._version import __version__


if TYPE_CHECKING:
    from .modeling.configuration_unip import UnipConfig
    from .modeling.image_processing_unip import UnipImageProcessor
    from .modeling.modeling_unip import UnipBackbone, UnipModel
    from .modeling.modeling_unip_linear import UnipForLinearSegmentation
    from .modeling.modeling_unip_mla import UnipForMlaSegmentation
    from .modeling.modeling_unip_pretraining import UnipForPreTraining
    from .modeling.modeling_unip_segformer import UnipForSegformerSegmentation
    from .modeling.modeling_unip_upernet import UnipForSemanticSegmentation
    from .pipeline import UnipImageSegmentationPipeline

# Public name: the module that defines it, imported when the name is first used, since torch takes seconds.
_MODULES = {
    "UnipBackbone": ".modeling.modeling_unip",
    "UnipConfig": ".modeling.configuration_unip",
    "UnipForLinearSegmentation": ".modeling.modeling_unip_linear",
    "UnipForMlaSegmentation": ".modeling.modeling_unip_mla",
    "UnipForPreTraining": ".modeling.modeling_unip_pretraining",
    "UnipForSegformerSegmentation": ".modeling.modeling_unip_segformer",
    "UnipForSemanticSegmentation": ".modeling.modeling_unip_upernet",
    "UnipImageProcessor": ".modeling.image_processing_unip",
    "UnipImageSegmentationPipeline": ".pipeline",
    "UnipModel": ".modeling.modeling_unip",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


register_when_imported()

__all__ = [
    "UnipBackbone",
    "UnipConfig",
    "UnipForLinearSegmentation",
    "UnipForMlaSegmentation",
    "UnipForPreTraining",
    "UnipForSegformerSegmentation",
    "UnipForSemanticSegmentation",
    "UnipImageProcessor",
    "UnipImageSegmentationPipeline",
    "UnipModel",
    "__version__",
]
