# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Parameter groups with layer decay, learning-rate schedules as in the published training, and less memory."""

import logging
import math
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin


logger = logging.getLogger(__name__)


def find_blocks(model: nn.Module) -> str | None:
    """
    Name of the one list of equal blocks in a plain transformer. `None` for models with several stages (Swin,
    SegFormer) or without blocks; see also [`find_staged_blocks`].
    """
    encoder_name = _encoder_name(model)
    sizes: dict[str, int] = {}  # of lists of modules that are not inside another list
    for name, module in model.get_submodule(encoder_name).named_modules(prefix=encoder_name):
        if name.removeprefix(f"{encoder_name}.").startswith("fusion."):  # adapters beside the blocks
            continue
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in sizes):
            sizes[name] = sum(parameter.numel() for parameter in module.parameters())
    if not sizes:
        return None
    largest = max(sizes, key=sizes.__getitem__)
    blocks: Any = model.get_submodule(largest)
    shapes = {tuple((n, p.shape) for n, p in block.named_parameters()) for block in blocks}
    return largest if len(shapes) == 1 and len(blocks) > 1 else None


def find_staged_blocks(model: nn.Module) -> list[str]:
    """
    Names of the blocks of a backbone with stages (Swin, ConvNeXt, ResNet and others, of transformers or timm), through
    all stages in order. Empty where it is not, or not for the most part, made of lists of blocks one behind the other,
    and for models whose encoder is no backbone: SegFormer is trained with one rate everywhere, as published.
    """
    encoder_name = _encoder_name(model)
    encoder = model.get_submodule(encoder_name)
    if not any(isinstance(module, BackboneMixin) for module in encoder.modules()):
        return []
    outer = _outermost_lists(encoder, encoder_name)
    inner = [[_outermost_lists(part, part_name) for part_name, part in _parts(*pair)] for pair in outer]
    stages = outer
    if len(outer) == 1 and all(inner[0]):  # a list of stages, each with a list of blocks
        stages = [max(lists, key=lambda pair: _size(pair[1])) for lists in inner[0]]
    elif any(lists for of_list in inner for lists in of_list):
        return []
    blocks = dict(part for pair in stages for part in _parts(*pair))
    # Where a part of the network is built in another way, the rest would pass for what stands behind all blocks.
    is_most = 2 * sum(map(_size, blocks.values())) > _size(encoder)
    return list(blocks) if is_most else []


def _outermost_lists(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Lists of composite modules of one class that are not inside another such list, by name."""
    found: dict[str, nn.Module] = {}
    for name, part in module.named_modules(prefix=prefix):
        if not isinstance(part, (nn.ModuleList, nn.Sequential)):
            continue
        kinds = {type(child) for child in part}
        is_composite = len(part) > 0 and all(len(list(child.children())) > 0 for child in part)
        if len(kinds) == 1 and is_composite and _size(part) and not any(name.startswith(f"{o}.") for o in found):
            found[name] = part
    return list(found.items())


def _parts(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{part_name}", part) for part_name, part in module.named_children()]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _encoder_name(model: nn.Module) -> str:
    """Name of the encoder inside a model with a head; empty if the model is itself an encoder."""
    for name in (getattr(model, "base_model_prefix", ""), "backbone"):
        if name and isinstance(getattr(model, name, None), nn.Module):
            return name
    return ""


def layer_decay_parameter_groups(
    model: nn.Module,
    learning_rate: float,
    layer_decay: float = 0.85,
    weight_decay: float = 0.05,
    decay_vectors: bool = False,
) -> list[dict[str, Any]]:
    """
    Parameter groups for an optimizer. The learning rate shrinks from block to block towards the input. Vectors
    (biases, norms, LayerScale) get no weight decay.

    With n blocks the rate is `learning_rate * layer_decay**(n + 1 - i)` in block i, counted from 1, with `i = 0` for
    everything before the blocks. Everything behind them gets `learning_rate`. Blocks of several stages are counted
    through, and what stands between two stages, such as downsampling, belongs to the block that follows. Models
    without one list of equal blocks and without such stages get the same rate everywhere, and a warning is logged.

    Args:
        model: Any model with an encoder under `base_model_prefix` or `backbone`; frozen parameters are left out.
        learning_rate (`float`): Learning rate of the head.
        layer_decay (`float`, *optional*, defaults to 0.85): Above 0 and at most 1.
        weight_decay (`float`, *optional*, defaults to 0.05): For matrices, tables and tokens.
        decay_vectors (`bool`, *optional*, defaults to `False`): Decay the weights of vectors, too.

    Returns:
        A list of dictionaries with `params`, `lr`, `weight_decay`, and `lr_scale`, the part of `learning_rate`.

    Raises:
        ValueError: if `layer_decay` is out of range or nothing can be trained.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}.")
    encoder, plain = _encoder_name(model), find_blocks(model)
    if plain is not None:
        blocks = [name for name, _ in _parts(plain, model.get_submodule(plain))]
    else:
        blocks = find_staged_blocks(model)
    if not blocks and layer_decay != 1:
        logger.warning(f"{type(model).__name__} has no single list of equal blocks: layer decay is not applied.")
        layer_decay = 1.0
    num_blocks = len(blocks)
    numbers = {f"{name}.": number for number, name in enumerate(blocks, start=1)}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen = 0  # blocks so far
    for name, parameter in model.named_parameters():
        position = next((number for block, number in numbers.items() if name.startswith(block)), None)
        if position is not None:
            seen = max(seen, position)
        elif not name.startswith(encoder and f"{encoder}.") or seen == num_blocks:
            position = num_blocks + 1
        else:
            position = seen + 1 if seen else 0
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (num_blocks + 1 - position)
        decay = weight_decay if parameter.ndim > 1 or decay_vectors else 0.0
        group = {"params": [], "lr": learning_rate * scale, "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((scale, decay), group)["params"].append(parameter)
    if not groups:
        raise ValueError("There is nothing to train: every parameter is frozen.")
    return list(groups.values())


def polynomial_schedule(
    step: int,
    num_steps: int,
    num_warmup_steps: int = 0,
    warmup_ratio: float = 1e-6,
    power: float = 1.0,
    final: float = 0.0,
) -> float:
    """
    Fine-tuning: polynomial decay to `final`, multiplied by a linear warm-up from `warmup_ratio`.

    Args:
        step (`int`): Updates made so far.
        num_steps (`int`): Updates in all.
        num_warmup_steps (`int`, *optional*, defaults to 0): Updates until the warm-up ends.
        warmup_ratio (`float`, *optional*, defaults to 1e-6): Where the warm-up starts.
        power (`float`, *optional*, defaults to 1.0): 1 is a straight line.
        final (`float`, *optional*, defaults to 0.0): Where the decay ends, as a part of the learning rate.

    Returns:
        The factor for the learning rate at this step, 0 to 1.
    """
    factor = final + (1 - final) * max(0.0, 1 - step / num_steps) ** power
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


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """
    Makes the network in a model compute its blocks once more in the backward pass instead of keeping what they need.

    Raises:
        ValueError: if the network cannot.
    """
    network: Any = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    if hasattr(network, "activation_checkpointing_enable"):  # the name in newer versions of transformers
        network.activation_checkpointing_enable()
    else:
        network.gradient_checkpointing_enable()


__all__ = [
    "cosine_schedule",
    "enable_gradient_checkpointing",
    "find_blocks",
    "find_staged_blocks",
    "layer_decay_parameter_groups",
    "polynomial_schedule",
]
