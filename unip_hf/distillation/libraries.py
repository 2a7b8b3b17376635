# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Pre-trained plain ViTs from other libraries: how to load them, and what a teacher has to know about them.

They come from `timm`, from files as their authors publish them, and from `transformers`.
"""

import difflib
import inspect
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from ..hub import convert_checkpoint, read_checkpoint
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.modeling_unip import UnipModel
from ..training.optimization import find_blocks


logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHECKPOINT_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
# Last part of the names of parameters that are tokens, in transformers, timm and here: CLS, and others.
CLS_TOKENS = ("cls_token", "class_embedding")
OTHER_TOKENS = ("register_tokens", "reg_token", "distillation_token", "dist_token")
Triple = tuple[float, float, float]


def load_published(path: str, num_attention_heads: int | None) -> tuple[nn.Module, Triple, Triple]:
    """A model from a file, and mean and deviation that it was trained with, for images scaled to 0..1."""
    tensors, beside = read_checkpoint(path)
    heads = {} if num_attention_heads is None else {"num_attention_heads": num_attention_heads}
    try:
        model = convert_checkpoint({"model": tensors, **beside}, UnipModel, num_channels=3, **heads)
    except ValueError as error:
        raise ValueError(f"{path!r} cannot be a teacher: {error}") from error
    if model.config.last_layer_num_attention_heads is not None:  # only UNIP's own files set it
        processor = UnipImageProcessor()
        return model, _three(processor.image_mean), _three(processor.image_std)
    return model, IMAGENET_MEAN, IMAGENET_STD


def load_timm(name: str) -> tuple[nn.Module, Triple, Triple]:
    import timm

    try:
        # With another number of classes timm would load what matches and say nothing about the rest.
        model = timm.create_model(name, pretrained=True, dynamic_img_size=True)
    except TypeError as error:
        raise ValueError(f"timm's {name!r} cannot be a teacher: it is not a plain ViT for any image size.") from error
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        names = timm.list_pretrained()
        hint = ""
        if ":" not in name and name not in names:
            hint = f" Similar names: {', '.join(difflib.get_close_matches(name, names, n=5)) or 'none'}."
        elif isinstance(error, OSError):
            hint = " Without network, give the folder of a model downloaded from the Hub: timm:local-dir:FOLDER."
        raise ValueError(f"timm cannot load {name!r}: {_one_line(error)}.{hint}") from error
    settings: Any = model.pretrained_cfg
    return model, _three(settings["mean"]), _three(settings["std"])


def load_transformers(name: str, dtype: torch.dtype) -> tuple[nn.Module, Triple, Triple]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    is_folder = Path(name).is_dir()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != "timm_wrapper":
            model, report = AutoModel.from_pretrained(
                name,
                dtype=dtype,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # all of them are listed below
                trust_remote_code=False,
            )
    except (ImportError, OSError, RuntimeError, ValueError, SafetensorError, StrictDataclassError) as error:
        where = "in this folder" if is_folder else "of this name (not a file or folder; timm's names begin with timm:)"
        message = f"{name!r} cannot be a teacher: no model {where} can be loaded. {_one_line(error)}."
        raise ValueError(message) from error
    if config.model_type == "timm_wrapper":
        return load_timm(f"{'local-dir' if is_folder else 'hf-hub'}:{name}")
    problems = [f"{key}: not in the checkpoint" for key in sorted(report["missing_keys"]) if "pooler" not in key]
    for key, found, own in sorted(report["mismatched_keys"]):
        problems.append(f"{key}: {tuple(found)} in the checkpoint, {tuple(own)} in the model")
    if problems:
        raise ValueError(f"The weights of {name!r} do not match its {type(model).__name__}: {'; '.join(problems)}.")
    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        return model, _three(processor.image_mean), _three(processor.image_std)
    except (AttributeError, ImportError, OSError, TypeError, ValueError):
        logger.warning("%r does not say how it normalises images: ImageNet's normalisation is assumed.", name)
        return model, IMAGENET_MEAN, IMAGENET_STD


def _three(values: Iterable[float]) -> Triple:
    """Values of three channels. A single value stands for all three."""
    values = [float(value) for value in values]
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


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
