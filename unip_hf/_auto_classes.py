# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Makes the Auto classes and `pipeline` of `transformers` know UNIP, without importing torch before they do.

`import transformers` takes half a second because it imports nothing it does not need yet. Whatever UNIP is registered
with needs torch: two seconds and 500 MB. So each registration waits until its module of `transformers` is imported.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt


@dataclass(eq=False)
class LazyClasses(list):
    """
    Model classes that are imported when an Auto class looks at them.

    While the Auto classes are being imported, the modules that a model needs may be half imported: the one of the
    gradient checkpointing layers imports the Auto classes itself.

    Args:
        module: Module that defines them, relative to this package.
        name: A class in it, or a tuple of classes. Of several, the one that a checkpoint names is loaded; the first
            where it names none.
    """

    module: str
    name: str

    def load(self) -> tuple[type, ...]:
        found = getattr(importlib.import_module(self.module, __package__), self.name)
        return found if isinstance(found, tuple) else (found,)

    def __len__(self) -> int:
        return len(self.load())

    def __iter__(self) -> Iterator[type]:
        return iter(self.load())

    def __getitem__(self, index: Any) -> Any:
        return self.load()[index]


def register_config(auto: Any) -> None:
    from .modeling.configuration_unip import UnipConfig

    auto.AutoConfig.register("unip", UnipConfig)


def register_models(auto: Any) -> None:
    from .modeling.configuration_unip import UnipConfig

    encoder = LazyClasses(".modeling.modeling_unip", "UnipModel")
    backbone = LazyClasses(".modeling.modeling_unip", "UnipBackbone")
    student = LazyClasses(".modeling.modeling_unip_pretraining", "UnipForPreTraining")
    segmentation = LazyClasses(".modeling.modeling_unip_heads", "SEGMENTATION_MODELS")
    auto.AutoModel.register(UnipConfig, encoder)
    auto.AutoBackbone.register(UnipConfig, backbone)
    auto.AutoModelForPreTraining.register(UnipConfig, student)
    auto.AutoModelForSemanticSegmentation.register(UnipConfig, segmentation)


def register_image_processor(auto: Any) -> None:
    from .modeling.configuration_unip import UnipConfig
    from .modeling.image_processing_unip import UnipImageProcessor

    # One class that needs no torchvision, and uses none, serves for both backends.
    classes = {"torchvision": UnipImageProcessor, "pil": UnipImageProcessor}
    auto.AutoImageProcessor.register(UnipConfig, image_processor_classes=classes)


def register_pipeline(_: ModuleType) -> None:
    from . import pipeline  # noqa: F401  # registers itself at its end, since it may be half imported here


def register_when_imported() -> None:
    """Registers UNIP with what of `transformers` is imported already, and with the rest as soon as it is."""
    wrapt.register_post_import_hook(register_config, "transformers.models.auto.configuration_auto")
    wrapt.register_post_import_hook(register_models, "transformers.models.auto.modeling_auto")
    wrapt.register_post_import_hook(register_image_processor, "transformers.models.auto.image_processing_auto")
    wrapt.register_post_import_hook(register_pipeline, "transformers.pipelines")
