# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA on the encoder of a segmentation model, by `peft`. What is saved is an ordinary model."""

import copy
from typing import Any

from torch import nn

from ..inference.exported import require_package
from ..modeling.modeling_unip_segmentation import UnipSegmentationModel


def add_lora(model: nn.Module, rank: int) -> None:
    """
    Freezes the encoder of a model and puts [LoRA](https://huggingface.co/papers/2106.09685) on each of its linear
    layers: queries, keys and values, projections, MLPs. The head is trained as before, and so is what a fusion method
    adds to the encoder.

    Args:
        model: A segmentation model of this library. It is changed.
        rank (`int`): Rank of the updates, at least 1 and at most that of the layers. They are not
            scaled (`lora_alpha` is the rank).

    Raises:
        ValueError: if there is no such rank, `peft` is not installed, or the model has no encoder to adapt.
    """
    if rank < 1:
        raise ValueError(f"--lora_rank must be at least 1, got {rank}.")
    if not isinstance(model, UnipSegmentationModel):
        raise ValueError(f"--lora_rank is for UNIP's heads on an encoder, not for {type(model).__name__}.")
    if model.freezes_encoder:
        raise ValueError(f"--lora_rank adapts the encoder, which the task {model.task} keeps as it is.")
    peft: Any = require_package("peft", extra="lora")
    linear = {
        f"unip.{name}": module.weight
        for name, module in model.unip.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("fusion.")
    }
    if not linear:
        raise ValueError(f"--lora_rank needs linear layers, and {model.unip.name} has none.")
    highest = max(min(weight.shape) for weight in linear.values())
    if rank > highest:
        raise ValueError(f"--lora_rank must be at most {highest}, the highest rank in the encoder, got {rank}.")
    trained = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (name.startswith("unip.fusion.") or not name.startswith("unip."))
    ]
    settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(linear))
    peft.inject_adapter_in_model(settings, model)  # freezes all else
    for parameter in trained:
        parameter.requires_grad_(True)


def merged_lora(model: nn.Module) -> Any:
    """A copy of a model with the updates of [`add_lora`] in its weights; the model itself if there are none."""
    if not hasattr(model, "peft_config"):  # which `peft` adds
        return model
    from peft.tuners.lora import LoraLayer

    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    return model


__all__ = ["add_lora", "merged_lora"]
