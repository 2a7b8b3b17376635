# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a network costs: parameters, and multiply-adds for one image, part by part."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


ENCODER, PYRAMID, HEAD, AUXILIARY_HEAD = "encoder", "pyramid", "head", "auxiliary head"
# Operations that multiply by weights. FlopCounterMode names them without the prefix of the library.
WEIGHTED = ("convolution", "mm", "addmm")


@dataclass(frozen=True)
class PartCost:
    """
    Args:
        parameters: Number of parameters.
        multiply_adds: Multiply-adds by weights: convolutions and linear layers.
        attention_products: Multiply-adds of products of two matrices that are both computed from the image: queries
            by keys, and attention by values.
    """

    parameters: int = 0
    multiply_adds: int = 0
    attention_products: int = 0

    def __add__(self, other: "PartCost") -> "PartCost":
        return PartCost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.attention_products + other.attention_products,
        )


def image_inputs(
    model: nn.Module, height: int, width: int, device: torch.device | str | None = None
) -> dict[str, torch.Tensor]:
    """
    One blank image in the form that a network takes it; of networks that read pairs, two.

    Args:
        model: A network of this library, of `transformers` or of `timm`.
        height, width: In pixels.
        device (*optional*, defaults to the model's): Where the image is.

    Returns:
        `pixel_values` of shape `(1, num_channels, height, width)`, and of pairs `auxiliary_pixel_values`, in the dtype
        of the weights.
    """
    weight = next(model.parameters())
    config: Any = getattr(model, "config", None)
    channels = {"pixel_values": getattr(config, "num_channels", 3)}
    if getattr(config, "fusion", None) is not None:
        channels["auxiliary_pixel_values"] = config.auxiliary_num_channels
    return {
        name: torch.zeros((1, count, height, width), device=device or weight.device, dtype=weight.dtype)
        for name, count in channels.items()
    }


def count_cost(model: nn.Module, height: int, width: int, **options: Any) -> dict[str, PartCost]:
    """
    Counts the parameters of a network and the multiply-adds of a forward pass with one image. Nothing is computed: the
    pass runs on torch's device "meta", which knows shapes alone, so that a large network takes a second and no memory.

    Counted are matrix products and convolutions, as [`~torch.utils.flop_counter.FlopCounterMode`] does, and two of its
    operations are one multiply-add. `convolution`, `mm` and `addmm` multiply by weights. All others (attention in one
    call, `bmm`, `baddbmm`) are products of two computed matrices: attention. Norms, activations, softmax, resizing and
    sampling are not counted, except where this library writes pooling (UPerNet) and the cropping of padded logits as
    products, less than 0.01 % of the whole. Without attention products, these are the numbers of mmcv's counter and
    of the paper's "mIoU per FLOP": UNIP's head counts as the paper writes it down, whatever
    `config.head_implementation` is.

    Args:
        model: A network of this library, of `transformers` or of `timm`, on any device. It is not changed.
        height, width: Of the image in pixels. The multiply-adds include the padding that the network adds.
        options: Further arguments of its forward pass.

    Returns:
        [`PartCost`] of each part that the network has: `"encoder"`, `"pyramid"`, `"head"` and `"auxiliary head"`. An
        auxiliary head serves training alone; UNIP's does not run otherwise and is counted all the same.

    Raises:
        ValueError: if the network cannot read an image of this size.
    """
    from torch.utils.flop_counter import FlopCounterMode

    network = f"{type(model).__name__} cannot read an image of {height}x{width} pixels"
    if min(height, width) < 1:
        raise ValueError(f"{network}: both sides must be at least 1.")
    on_meta = {name: torch.empty_like(buffer, device="meta") for name, buffer in model.named_buffers()}
    for name, weight in model.named_parameters():  # without gradient, torch would write weight @ maps as bmm
        on_meta[name] = torch.empty_like(weight, device="meta", requires_grad=True)
    inputs: dict[str, Any] = image_inputs(model, height, width, "meta")
    for name, value in options.items():
        inputs[name] = value.to("meta") if isinstance(value, torch.Tensor) else value
    parts = {name: _part_of(model, name) for name, _ in model.named_children()}
    if not set(parts.values()) & {ENCODER}:
        parts = dict.fromkeys(parts, ENCODER)
    if AUXILIARY_HEAD in parts.values() and getattr(model.config, "model_type", "") == "unip":
        inputs["labels"] = torch.zeros((1, height, width), dtype=torch.long, device="meta")
    modes = [(module, module.training) for module in model.modules()]
    config: Any = getattr(model, "config", None)
    implementation = getattr(config, "head_implementation", None)
    try:
        if implementation is not None:
            config.head_implementation = "plain"
        with torch.inference_mode(False), torch.enable_grad(), FlopCounterMode(display=False) as counter:
            functional_call(model.eval(), on_meta, inputs.pop("pixel_values"), inputs)  # timm calls it x
    except (AssertionError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{network}: {' '.join(str(error).split())}") from error
    finally:
        if implementation is not None:
            config.head_implementation = implementation
        for module, mode in modes:
            module.training = mode
    return _by_part(model, parts, counter.get_flop_counts())


def count_training_operations(network: nn.Module, run: Callable[[Any], Any]) -> int | None:
    """
    Counts the floating-point operations of a training step as [`count_cost`] does: of a forward pass, and, for what is
    trained, of the backward pass. Nothing is computed. What gradient checkpointing computes once more is not counted.

    Args:
        network: On any device, compiled or not. It is not changed.
        run: Takes a copy of the network on torch's device "meta", where it makes all its tensors. Returns one that the
            gradient is taken of, or several; if it needs no gradient, there is no backward pass.

    Returns:
        The number, or `None` if the network cannot run without content.
    """
    from torch.utils.flop_counter import FlopCounterMode

    on_meta: dict[int, Any] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in network.buffers()}
    for weight in network.parameters():
        empty = torch.empty_like(weight, device="meta", dtype=torch.float32)
        on_meta[id(weight)] = nn.Parameter(empty, weight.requires_grad)
    try:
        copied = copy.deepcopy(network, on_meta).train()
        module: Any
        for module in copied.modules():
            if isinstance(module, nn.SyncBatchNorm):  # which would talk to other processes
                module.eval()
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False
        weights = [weight for weight in copied.parameters() if weight.requires_grad]
        with torch.random.fork_rng(devices=[]), torch.device("meta"), FlopCounterMode(display=False) as counter:
            result = run(copied)
            results = [result] if isinstance(result, torch.Tensor) else result
            trained = [tensor.sum() for tensor in results if tensor.requires_grad]
            if trained:
                torch.autograd.grad(trained, weights, allow_unused=True)
    except (AssertionError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
    return counter.get_total_flops()


def total_cost(parts: Mapping[str, PartCost]) -> PartCost:
    """Of what [`count_cost`] returned: all parameters, and the multiply-adds without the auxiliary head."""
    total = sum((cost for name, cost in parts.items() if name != AUXILIARY_HEAD), PartCost())
    return total + PartCost(parts.get(AUXILIARY_HEAD, PartCost()).parameters)


def _part_of(model: nn.Module, child: str) -> str:
    """Which part a child of a segmentation network is, by the names that this library and `transformers` use."""
    if child in ("backbone", getattr(model, "base_model_prefix", "")):
        return ENCODER
    if child.startswith("auxiliary"):
        return AUXILIARY_HEAD
    return PYRAMID if child.startswith(("pyramid", "neck", "fpn")) else HEAD


def _by_part(model: nn.Module, parts: Mapping[str, str], counts: Mapping[str, Any]) -> dict[str, PartCost]:
    has = {ENCODER, *parts.values()}
    costs = dict.fromkeys((part for part in (ENCODER, PYRAMID, HEAD, AUXILIARY_HEAD) if part in has), PartCost())
    root = type(model).__name__
    rest = _counts_of(counts.get(root, {}))
    for name, child in model.named_children():
        found = _counts_under(child, f"{root}.{name}", counts)
        rest.subtract(found)
        costs[parts[name]] += PartCost(0, found[True], found[False])
    # What belongs to no child, such as a product in the forward pass of the whole, comes last.
    last = HEAD if HEAD in costs else ENCODER
    costs[last] += PartCost(0, rest[True], rest[False])
    for name, parameter in model.named_parameters():
        costs[parts.get(name.partition(".")[0], last)] += PartCost(parameter.numel())
    return costs


def _counts_of(operations: Mapping[Any, int]) -> "Counter[bool]":
    """Multiply-adds by whether they multiply by weights."""
    counter: Counter[bool] = Counter()
    for operation, flops in operations.items():
        counter[str(operation).rpartition(".")[2] in WEIGHTED] += flops // 2
    return counter


def _counts_under(module: nn.Module, name: str, counts: Mapping[str, Any]) -> "Counter[bool]":
    """Those of a module. One that was not called as a whole, as UNIP's encoder, is the sum of its children."""
    if name in counts:
        return _counts_of(counts[name])
    found: Counter[bool] = Counter()
    for child_name, child in module.named_children():
        found.update(_counts_under(child, f"{name}.{child_name}", counts))
    return found


__all__ = [
    "AUXILIARY_HEAD",
    "ENCODER",
    "HEAD",
    "PYRAMID",
    "PartCost",
    "count_cost",
    "count_training_operations",
    "image_inputs",
    "total_cost",
]
