# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Pre-trained plain ViTs as teachers: how to load one by its name, and what a teacher has to know about it.

They come from `timm`, from files as their authors publish them, and from `transformers`.
"""

import inspect
import logging
from typing import Any

import torch
from torch import nn

from ..hub import convert_checkpoint, read_checkpoint
from ..hub.pretrained import Pretrained, Triple, is_published_file, load_pretrained, three_channels
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.modeling_unip import UnipModel
from ..training.optimization import find_blocks


logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Last part of the names of parameters that are tokens, in transformers, timm and here: CLS, and others.
CLS_TOKENS = ("cls_token", "class_embedding")
OTHER_TOKENS = ("register_tokens", "reg_token", "distillation_token", "dist_token")


def load(name: str, num_attention_heads: int | None, dtype: torch.dtype) -> tuple[nn.Module, Triple, Triple]:
    """A model by the names that `load_teacher` takes, and its mean and deviation, for images scaled to 0..1."""
    is_file = is_published_file(name)
    found = _load_published(name, num_attention_heads) if is_file else load_pretrained(name, dtype)
    if found.image_mean is None or found.image_std is None:
        logger.warning("%r does not say how it normalises images: ImageNet's normalisation is assumed.", name)
        return found.model, IMAGENET_MEAN, IMAGENET_STD
    return found.model, found.image_mean, found.image_std


def _load_published(path: str, num_attention_heads: int | None) -> Pretrained:
    tensors, beside = read_checkpoint(path)
    heads = {} if num_attention_heads is None else {"num_attention_heads": num_attention_heads}
    model = convert_checkpoint({"model": tensors, **beside}, UnipModel, num_channels=3, **heads)
    if model.config.last_layer_num_attention_heads is None:  # only UNIP's own files set it
        return Pretrained(path, model, None, IMAGENET_MEAN, IMAGENET_STD)
    grey = UnipImageProcessor()
    return Pretrained(path, model, None, three_channels(grey.image_mean), three_channels(grey.image_std))


def find_encoder(model: nn.Module) -> nn.Module:
    """The part of a `transformers` model that sees images: no head, and no text tower of CLIP."""
    for name in ("base_model", "vision_model"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module) and "pixel_values" in inspect.signature(part.forward).parameters:
            model = part
    return model


def find_block_list(model: nn.Module) -> str:
    """Name of the list of blocks."""
    name = find_blocks(model)
    if name is None and isinstance(getattr(model, "blocks", None), nn.Sequential):
        name = "blocks"  # as timm keeps them
    if name is None:
        raise ValueError(
            f"{type(model).__name__} is not one list of equal blocks. Choose a plain ViT, e.g. from MAE, DINO or iBOT."
        )
    return name


def count_special_tokens(model: nn.Module) -> int:
    """How many tokens are not patches: CLS, registers and the like."""
    counts = {}
    for path, parameter in model.named_parameters():
        name = path.rpartition(".")[2]
        if name in CLS_TOKENS + OTHER_TOKENS:
            counts[name] = parameter.numel() // parameter.shape[-1]
    if not counts.keys() & CLS_TOKENS:
        raise ValueError(
            f"{type(model).__name__} has no CLS token, but the student learns how CLS attends. SigLIP and networks "
            "that average over patches have none. Choose a ViT with one, e.g. from MAE, DINO or iBOT."
        )
    return sum(counts.values())


def find_patch_embedding(model: nn.Module) -> tuple[str, int]:
    """Name of the convolution that embeds the patches, and their size in pixels."""
    convolutions = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    name, first = next(convolutions, ("", None))
    if first is None or first.in_channels != 3 or first.kernel_size != first.stride or len({*first.stride}) > 1:
        raise ValueError(
            f"{type(model).__name__} does not cut images with 3 channels into adjacent square patches. Choose a plain "
            "ViT, e.g. from MAE, DINO or iBOT."
        )
    return name, first.stride[0]


def set_plain_attention(model: nn.Module) -> None:
    """Makes each attention one call of `scaled_dot_product_attention` over all patches."""
    network: Any = model
    if hasattr(network, "set_attn_implementation"):  # transformers
        network.set_attn_implementation("sdpa")
    if hasattr(getattr(network, "config", None), "mask_ratio"):  # MAE
        network.config.mask_ratio = 0.0
    for module in network.modules():  # timm
        if hasattr(module, "fused_attn"):
            module.fused_attn = True


def forward_options(model: nn.Module, batch_size: int, num_patches: int) -> dict[str, Any]:
    """Arguments beside the images that make a model take any size and keep all patches in order."""
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in accepted:
        options["interpolate_pos_encoding"] = True
    if "noise" in accepted:  # MAE shuffles its patches by it
        device = next(model.parameters()).device
        options["noise"] = torch.arange(num_patches, dtype=torch.float32, device=device).expand(batch_size, -1)
    return options
