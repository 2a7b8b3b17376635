# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Plain ViTs of `timm` and `transformers` as models of this library, exactly.

A network is told by its configuration and its tensors, which must all have a place here. What both may leave open,
such as where the norms are, is settled by a forward pass: both networks must compute the same.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ..inference.loading import is_random_start, load_config
from ..modeling.modeling_unip import UnipModel, UnipPreTrainedModel
from .conversion import ENCODER_NAMES, convert_checkpoint, rename
from .pretrained import TIMM_PREFIX, NotPlainViTError, Pretrained, load_pretrained


logger = logging.getLogger(__name__)

ModelType = TypeVar("ModelType", bound=UnipPreTrainedModel)
Published = tuple[dict[str, torch.Tensor], dict[str, Any]]  # tensors under published names, fields of UnipConfig

# Model types of transformers whose encoders may be plain ViTs. Their tensors have the same names.
PLAIN_TYPES = ("deit", "vit", "vit_mae", "vit_msn")
# Names of tensors in transformers and as published. Queries, keys and values are joined.
TRANSFORMERS_NAMES = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("layers.", "blocks."),
    (".attention.o_proj.", ".attn.proj."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    ("layernorm.", "norm."),
]
# Beginnings of names that are no part of the encoder: what stands behind it, and the mask of pre-training.
BEHIND_THE_ENCODER = ("attn_pool.", "fc_norm.", "head.", "head_dist.", "pooler.", "embeddings.mask_token")
# Activations of timm, by the names of their classes, and here.
TIMM_ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu"}


def find_plain_vit(name: str) -> Pretrained | None:
    """
    The plain ViT of another library that a user names to start from, as a [`UnipModel`].

    Args:
        name: `"timm:NAME"`, `"timm:local-dir:FOLDER"`, or a folder or name on the Hub.

    Returns:
        The encoder, with what its weights say of themselves. `None` if this is not the name of a plain ViT: a size, a
        model of this library, one with a segmentation head, or a network that computes something else.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it cannot be loaded.
    """
    is_timm, of_transformers = name.startswith(TIMM_PREFIX), (*PLAIN_TYPES, "timm_wrapper")
    if is_random_start(name) or (not is_timm and load_config(name).model_type not in of_transformers):
        return None
    try:
        return load_plain_vit(name)
    except NotPlainViTError as error:
        logger.warning("%s: %s", name, error)
        return None


def load_plain_vit(name: str) -> Pretrained:
    """
    As [`find_plain_vit`], for a name that must be that of a plain ViT.

    Raises:
        NotPlainViTError: if it computes something else; the message says what.
        ValueError: if it cannot be loaded.
    """
    found = load_pretrained(name)
    return replace(found, model=convert_plain_vit(found.model))


@torch.no_grad()
def convert_plain_vit(
    model: nn.Module,
    model_class: type[ModelType] = UnipModel,  # type: ignore[assignment]
    **config_overrides: Any,
) -> ModelType:
    """
    Makes a model of this library from a plain ViT of `timm` or `transformers`, with or without a classifier: the
    outputs of its encoder are the same.

    Args:
        model: ViT, DINO, MAE, MSN, DeiT, DeiT III, ...; on the CPU, in float32.
        model_class: One of the models of this library. What the ViT does not have is newly initialised.
        config_overrides: Fields of [`UnipConfig`] that win, e.g. `num_channels=1` (sums the filters, exact for grey
            input) or `image_size=512` (resizes the position table).

    Returns:
        The model in evaluation mode.

    Raises:
        NotPlainViTError: if the network computes something else, for instance with registers, rotary or relative
            positions, norms of queries and keys, or without CLS.
        ValueError: if a field does not exist or its value is not possible.
    """
    is_transformers = isinstance(model, PreTrainedModel)
    tensors, fields = _read_transformers(model.eval()) if is_transformers else _read_timm(model.eval())
    try:
        encoder = convert_checkpoint(tensors, UnipModel, **fields)
    except ValueError as error:
        raise NotPlainViTError(f"{type(model).__name__} is not a plain ViT: {error}") from error
    _check_outputs(_transformers_outputs if is_transformers else _timm_outputs, model, encoder)
    if model_class is UnipModel and not config_overrides:
        return encoder  # type: ignore[return-value]
    image_size = config_overrides.pop("image_size", None)
    converted = convert_checkpoint(tensors, model_class, **{**fields, **config_overrides})
    if image_size is not None:
        converted.resize_position_embeddings(image_size)
    return converted


def _read_timm(model: nn.Module) -> Published:
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise NotPlainViTError(f"{type(model).__name__} of timm is not a plain ViT.")
    network: Any = model
    tensors = {
        name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(BEHIND_THE_ENCODER)
    }
    _check_names(model, tensors)
    block: Any = next(iter(network.blocks))
    activation = type(block.mlp.act).__name__
    if activation == "GELU" and getattr(block.mlp.act, "approximate", "none") == "tanh":
        activation = "GELUTanh"
    if activation not in TIMM_ACTIVATIONS:
        raise NotPlainViTError(f"The activation of {type(model).__name__}, {activation}, is none of a plain ViT.")
    patch_size, grid_size = network.patch_embed.patch_size, network.patch_embed.grid_size
    table, num_patches = tensors.get("pos_embed"), grid_size[0] * grid_size[1]
    if table is not None and table.shape[1] == num_patches:
        # Positions are added before CLS is put in front: rows of zeros amount to the same.
        tensors["pos_embed"] = torch.cat([table.new_zeros(1, network.num_prefix_tokens, table.shape[2]), table], dim=1)
    return tensors, {
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": TIMM_ACTIVATIONS[activation],
        "layer_norm_eps": block.norm1.eps,
        "image_size": _image_size(grid_size, patch_size),
        "use_final_norm": "norm.weight" in tensors,
    }


def _read_transformers(model: nn.Module) -> Published:
    network: Any = model
    config = network.config
    if config.model_type not in PLAIN_TYPES:
        raise NotPlainViTError(f"{type(model).__name__} of transformers is not a plain ViT.")
    tensors: dict[str, torch.Tensor] = {}
    parts: dict[str, list[torch.Tensor]] = {}  # queries, keys and values, in this order
    for name, tensor in network.base_model.state_dict().items():
        if name.startswith(BEHIND_THE_ENCODER):
            continue
        for old, new in TRANSFORMERS_NAMES:
            is_inside = old.startswith(".")
            name = name.replace(old, new) if is_inside or name.startswith(old) else name
        whole = name
        for part in ("q_proj", "k_proj", "v_proj"):
            whole = whole.replace(f".attention.{part}.", ".attn.qkv.")
        if whole == name:
            tensors[name] = tensor
        else:
            parts.setdefault(whole, []).append(tensor)
    tensors |= {name: torch.cat(three) for name, three in parts.items()}
    _check_names(model, tensors)
    height, width = _pair(config.image_size)
    patch_size = _pair(config.patch_size)
    return tensors, {
        "num_attention_heads": config.num_attention_heads,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "image_size": _image_size((height // patch_size[0], width // patch_size[1]), patch_size),
    }


def _check_names(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Whether these are the tensors of a plain ViT, by their published names."""
    others = [name for name in tensors if rename(name, ENCODER_NAMES) is None]
    absent = [name for name in ("cls_token", "pos_embed", "blocks.0.mlp.fc1.weight") if name not in tensors]
    if others or absent:
        what = f"has {', '.join(others[:3])}" if others else f"has no {', '.join(absent)}"
        raise NotPlainViTError(f"{type(model).__name__} is not a plain ViT: it {what}.")


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _image_size(grid_size: tuple[int, int], patch_size: tuple[int, int]) -> int | list[int]:
    """The pixels that a grid of patches covers."""
    if patch_size[0] != patch_size[1]:
        raise NotPlainViTError(f"Its patches of {patch_size[0]}x{patch_size[1]} pixels are not square.")
    rows, columns = grid_size
    return rows * patch_size[0] if rows == columns else [rows * patch_size[0], columns * patch_size[0]]


def _timm_outputs(model: Any, image: torch.Tensor) -> torch.Tensor:
    return model.forward_features(image)


def _transformers_outputs(model: Any, image: torch.Tensor) -> torch.Tensor:
    encoder = model.base_model
    height, width = _pair(encoder.config.image_size)  # may be more than the patches cover
    image = nn.functional.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))
    if encoder.config.model_type != "vit_mae":
        return encoder(image).last_hidden_state
    mask_ratio, encoder.config.mask_ratio = encoder.config.mask_ratio, 0.0
    try:  # the order of the noise is that of the patches
        num_patches = encoder.embeddings.position_embeddings.shape[1] - 1
        noise = torch.arange(num_patches, dtype=torch.float32).unsqueeze(0)
        return encoder(image, noise=noise).last_hidden_state
    finally:
        encoder.config.mask_ratio = mask_ratio


def _check_outputs(
    compute: Callable[[nn.Module, torch.Tensor], torch.Tensor], model: nn.Module, encoder: UnipModel
) -> None:
    """Compares the outputs for one image. Rounding leaves differences of some millionths."""
    config = encoder.config
    size = [number * config.patch_size for number in config.grid_size]
    image = torch.randn(1, config.num_channels, *size, generator=torch.Generator().manual_seed(0))
    expected, found = compute(model, image), encoder(image).last_hidden_state
    if expected.shape != found.shape or (expected - found).abs().max() > 1e-3 * (1 + expected.abs().max()):
        raise NotPlainViTError(
            f"{type(model).__name__} is not a plain ViT: it has the same tensors but computes something else."
        )


__all__ = ["convert_plain_vit", "find_plain_vit", "load_plain_vit"]
