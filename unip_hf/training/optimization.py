# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Parameter groups with layer decay, and learning-rate schedules, as in the published training."""

import logging
import math
from typing import Any

from torch import nn


logger = logging.getLogger(__name__)


def find_blocks(model: nn.Module) -> str | None:
    """
    Name of the one list of equal blocks in a plain transformer. `None` for models with several stages (Swin,
    SegFormer) or without blocks.
    """
    encoder_name = _encoder_name(model)
    sizes: dict[str, int] = {}  # of lists of modules that are not inside another list
    for name, module in model.get_submodule(encoder_name).named_modules(prefix=encoder_name):
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in sizes):
            sizes[name] = sum(parameter.numel() for parameter in module.parameters())
    if not sizes:
        return None
    largest = max(sizes, key=sizes.__getitem__)
    blocks: Any = model.get_submodule(largest)
    shapes = {tuple((n, p.shape) for n, p in block.named_parameters()) for block in blocks}
    return largest if len(shapes) == 1 and len(blocks) > 1 else None


def _encoder_name(model: nn.Module) -> str:
    """Name of the encoder inside a model with a head; empty if the model is itself an encoder."""
    for name in (getattr(model, "base_model_prefix", ""), "backbone"):
        if name and isinstance(getattr(model, name, None), nn.Module):
            return name
    return ""


def layer_decay_parameter_groups(
    model: nn.Module, learning_rate: float, layer_decay: float = 0.85, weight_decay: float = 0.05
) -> list[dict[str, Any]]:
    """
    Parameter groups for an optimizer. The learning rate shrinks from block to block towards the input. Vectors
    (biases, norms, LayerScale) get no weight decay.

    With n blocks the rate is `learning_rate * layer_decay**(n + 1 - i)` in block i, counted from 1, with `i = 0` for
    everything before the blocks. Everything behind them gets `learning_rate`. Models without one list of equal blocks
    get the same rate everywhere, and a warning is logged.

    Args:
        model: Any model with an encoder under `base_model_prefix` or `backbone`; frozen parameters are left out.
        learning_rate (`float`): Learning rate of the head.
        layer_decay (`float`, *optional*, defaults to 0.85): Above 0 and at most 1.
        weight_decay (`float`, *optional*, defaults to 0.05): For matrices, tables and tokens.

    Returns:
        A list of dictionaries with `params`, `lr`, `weight_decay`, and `lr_scale`, the part of `learning_rate`.

    Raises:
        ValueError: if `layer_decay` is out of range or nothing can be trained.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}.")
    encoder, blocks = _encoder_name(model), find_blocks(model)
    if blocks is None and layer_decay != 1:
        logger.warning(f"{type(model).__name__} has no single list of equal blocks: layer decay is not applied.")
        layer_decay = 1.0
    num_blocks = len(model.get_submodule(blocks)) if blocks is not None else 0  # type: ignore[arg-type]
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    is_before_blocks = True
    for name, parameter in model.named_parameters():
        position = num_blocks + 1
        if blocks is not None and name.startswith(f"{blocks}."):
            position = 1 + int(name[len(blocks) + 1 :].split(".")[0])
            is_before_blocks = False
        elif name.startswith(encoder and f"{encoder}.") and is_before_blocks:
            position = 0
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (num_blocks + 1 - position)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        group = {"params": [], "lr": learning_rate * scale, "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((scale, decay), group)["params"].append(parameter)
    if not groups:
        raise ValueError("There is nothing to train: every parameter is frozen.")
    return list(groups.values())


def polynomial_schedule(
    step: int, num_steps: int, num_warmup_steps: int = 0, warmup_ratio: float = 1e-6, power: float = 1.0
) -> float:
    """
    Fine-tuning: polynomial decay to 0, multiplied by a linear warm-up from `warmup_ratio`.

    Args:
        step (`int`): Updates made so far.
        num_steps (`int`): Updates in all.
        num_warmup_steps (`int`, *optional*, defaults to 0): Updates until the warm-up ends.
        warmup_ratio (`float`, *optional*, defaults to 1e-6): Where the warm-up starts.
        power (`float`, *optional*, defaults to 1.0): 1 is a straight line.

    Returns:
        The factor for the learning rate at this step, 0 to 1.
    """
    factor = max(0.0, 1 - step / num_steps) ** power
    if step < num_warmup_steps:
        factor *= 1 - (1 - step / num_warmup_steps) * (1 - warmup_ratio)
    return factor


def cosine_schedule(step: float, num_steps: float, num_warmup_steps: float = 0) -> float:
    """
    Pre-training: linear warm-up from 0, then half a cosine to 0. Steps may be updates or parts of epochs.

    Returns:
        The factor for the learning rate at this step, 0 to 1.
    """
    if step < num_warmup_steps:
        return step / num_warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup_steps) / (num_steps - num_warmup_steps)))


__all__ = ["cosine_schedule", "find_blocks", "layer_decay_parameter_groups", "polynomial_schedule"]
