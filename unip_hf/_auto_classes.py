# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Makes the Auto classes and `pipeline` of `transformers` know UNIP, without importing torch before they do.

`import transformers` takes half a second because it imports nothing it does not need yet. Registering a class needs
that class, and with it torch: two seconds and 500 MB. So each registration waits until the module it registers with is
imported. The modules import one another in many orders; a registration waits until none of those that it may need is
half imported.
"""

import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType

import wrapt

from . import modeling


def _register_config() -> None:
    from transformers import AutoConfig

    from .modeling.configuration_unip import UnipConfig

    AutoConfig.register("unip", UnipConfig)


def _register_models() -> None:
    from transformers.models.auto import modeling_auto as auto

    from .modeling.configuration_unip import UnipConfig
    from .modeling.modeling_unip import UnipBackbone, UnipModel
    from .modeling.modeling_unip_pretraining import UnipForPreTraining
    from .modeling.modeling_unip_segmentation import UnipForLinearSegmentation, UnipForSemanticSegmentation

    auto.AutoModel.register(UnipConfig, UnipModel)
    auto.AutoBackbone.register(UnipConfig, UnipBackbone)
    auto.AutoModelForPreTraining.register(UnipConfig, UnipForPreTraining)
    # The architecture that a checkpoint names decides between the two; without one it is the first.
    segmentation = (UnipForSemanticSegmentation, UnipForLinearSegmentation)
    auto.AutoModelForSemanticSegmentation.register(UnipConfig, segmentation)


def _register_image_processor() -> None:
    from transformers import AutoImageProcessor

    from .modeling.configuration_unip import UnipConfig
    from .modeling.image_processing_unip import UnipImageProcessor

    # One class that needs no torchvision, and uses none, serves for both backends.
    classes: dict[str, type] = {"torchvision": UnipImageProcessor, "pil": UnipImageProcessor}
    AutoImageProcessor.register(UnipConfig, image_processor_classes=classes)


def _register_pipeline() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipeline import UnipImageSegmentationPipeline

    # For other models it is the stock pipeline; register_pipeline() would warn everyone that it is replaced.
    PIPELINE_REGISTRY.supported_tasks["image-segmentation"]["impl"] = UnipImageSegmentationPipeline


# What to register, and the module it registers with.
_REGISTRATIONS: dict[Callable[[], None], str] = {
    _register_config: "transformers.models.auto.configuration_auto",
    _register_models: "transformers.models.auto.modeling_auto",
    _register_image_processor: "transformers.models.auto.image_processing_auto",
    _register_pipeline: "transformers.pipelines",
}
# Modules that a registration would meet half imported at the wrong time, and the last name that each defines.
_LAST_NAMES = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.modeling_auto": "__all__",
    "transformers.models.auto.image_processing_auto": "__all__",
    "transformers.pipelines": "PIPELINE_REGISTRY",
    "transformers.modeling_utils": "PreTrainedModel",
    "transformers.modeling_layers": "GradientCheckpointingLayer",
    "transformers.image_processing_utils": "BaseImageProcessor",
    **{f"{modeling.__name__}.{module.name}": "__all__" for module in pkgutil.iter_modules(modeling.__path__)},
    f"{__package__}.pipeline": "__all__",
}
_done: set[Callable[[], None]] = set()


def _register_what_is_ready(_: ModuleType | None = None) -> None:
    if any(name in sys.modules and not hasattr(sys.modules[name], last) for name, last in _LAST_NAMES.items()):
        return  # the one that is half imported will call again
    for register, module in _REGISTRATIONS.items():
        if register not in _done and module in sys.modules:
            _done.add(register)
            register()


def register_when_imported() -> None:
    """Registers UNIP with what of `transformers` is imported already, and with the rest as soon as it is."""
    for name in _LAST_NAMES:
        wrapt.register_post_import_hook(_register_what_is_ready, name)
