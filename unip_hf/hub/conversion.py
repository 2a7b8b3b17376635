# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversion between published checkpoints (UNIP, MAE, DINO, iBOT, DeiT) and the models of this library."""

import argparse
import logging
import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from ..modeling.configuration_unip import UNIP_SIZES, UnipConfig
from ..modeling.modeling_unip import UnipPreTrainedModel
from ..modeling.modeling_unip_layers import resize_position_embeddings, sine_cosine_position_embeddings
from ..modeling.modeling_unip_pretraining import UnipForPreTraining
from ..modeling.modeling_unip_segmentation import UnipForLinearSegmentation, UnipForSemanticSegmentation


logger = logging.getLogger(__name__)

ModelType = TypeVar("ModelType", bound=UnipPreTrainedModel)

# Published name, name here; "{i}" stands for a number. Encoder names follow the prefix of the model class.
ENCODER_NAMES = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings"),
    ("blocks.{i}.norm1", "layers.{i}.layernorm_before"),
    ("blocks.{i}.attn.qkv", "layers.{i}.attention.qkv"),
    ("blocks.{i}.attn.proj", "layers.{i}.attention.projection"),
    ("blocks.{i}.gamma_1", "layers.{i}.layer_scale1.scale"),
    ("blocks.{i}.norm2", "layers.{i}.layernorm_after"),
    ("blocks.{i}.mlp.fc1", "layers.{i}.mlp.fc1"),
    ("blocks.{i}.mlp.fc2", "layers.{i}.mlp.fc2"),
    ("blocks.{i}.gamma_2", "layers.{i}.layer_scale2.scale"),
    ("norm", "layernorm"),
]
SEGMENTATION_NAMES = [
    ("fpn1.{i}", "pyramid.to_quarter.{i}"),
    ("fpn2.0", "pyramid.to_eighth"),
    ("decode_head.psp_modules.{i}.1.conv", "decode_head.pooled_convolutions.{i}.convolution"),
    ("decode_head.psp_modules.{i}.1.bn", "decode_head.pooled_convolutions.{i}.batch_norm"),
    ("decode_head.bottleneck.conv", "decode_head.bottleneck.convolution"),
    ("decode_head.bottleneck.bn", "decode_head.bottleneck.batch_norm"),
    ("decode_head.lateral_convs.{i}.conv", "decode_head.lateral_convolutions.{i}.convolution"),
    ("decode_head.lateral_convs.{i}.bn", "decode_head.lateral_convolutions.{i}.batch_norm"),
    ("decode_head.fpn_convs.{i}.conv", "decode_head.output_convolutions.{i}.convolution"),
    ("decode_head.fpn_convs.{i}.bn", "decode_head.output_convolutions.{i}.batch_norm"),
    ("decode_head.fpn_bottleneck.conv", "decode_head.fusion.convolution"),
    ("decode_head.fpn_bottleneck.bn", "decode_head.fusion.batch_norm"),
    ("decode_head.conv_seg", "decode_head.classifier"),
    ("auxiliary_head.convs.0.conv", "auxiliary_head.convolution.convolution"),
    ("auxiliary_head.convs.0.bn", "auxiliary_head.convolution.batch_norm"),
    ("auxiliary_head.conv_seg", "auxiliary_head.classifier"),
]
LINEAR_NAMES = [("decode_head.conv_seg", "classifier")]

# Tensors of the published files that no model of ours has, and what they are.
KNOWN_UNUSED = {
    r"mask_token|masked_embed": "mask token",
    r"decoder_\w+(\..*)?": "decoder of the masked autoencoder",
    r"(head|head_dist|fc_norm)\..*": "classification or projection head",
    r"norm\..*": "final norm",
    r"blocks\..*": "blocks behind the last one that is read",
    r"(fpn\d|decode_head|auxiliary_head)\..*": "segmentation head",
}
# What UnipConfig takes beside its fields.
OTHER_FIELDS = {"num_labels", "out_features", "out_indices", "attn_implementation"}
# Parts that a file may lack as a whole; they are initialised anew.
OPTIONAL_PARTS = ("pyramid.", "decode_head.", "auxiliary_head.", "classifier.", "layernorm.", "layer_scale")


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    Reads a published checkpoint.

    Args:
        path: A `.safetensors` file, or a PyTorch file: a flat state dict, or a training state that holds one.

    Returns:
        The state dict, and what was stored beside it (`args`, `meta`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none of these, or holds Python objects other than tensors, plain values and the
            `argparse.Namespace` of the published pre-training.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} is not loaded, since it is no checkpoint or holds Python objects that can run code: only "
            f"tensors, plain values and argparse.Namespace are accepted{_name_objects(path)}. If you trust the file, "
            "save its state dict alone where it can be loaded."
        ) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{str(path)!r} cannot be read as a checkpoint, it is damaged or none of PyTorch's: {reason}"
        ) from error
    return _find_state_dict(content, str(path))


def _name_objects(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is not even a PyTorch file
        names = []
    refused = [name for name in names if name != "argparse.Namespace"]
    return f", not {', '.join(refused)}" if refused else ""


def _find_state_dict(content: Any, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not isinstance(content, Mapping):
        raise ValueError(f"No weights found in {source}: expected a state dict, but found {type(content).__name__}.")
    # DINO and iBOT training states hold teacher and student; their teacher is the network that is published.
    for entry in ("model", "state_dict", "teacher", "student"):
        if isinstance(content.get(entry), Mapping):
            tensors, beside = _find_state_dict(content[entry], source)
            return tensors, {name: content[name] for name in ("args", "meta") if name in content} | beside
    tensors = {}
    for name, tensor in content.items():
        if isinstance(tensor, torch.Tensor):
            tensors[re.sub(r"^((module|model|backbone|encoder)\.)+", "", name)] = tensor
    if not tensors:
        raise ValueError(
            f"No weights found in {source}: expected tensors, or one of the entries model, state_dict, teacher, "
            f"student, but found {sorted(map(str, content))[:10]}."
        )
    return tensors, {}


def _rename(name: str, pairs: list[tuple[str, str]]) -> str | None:
    for old, new in pairs:
        match = re.fullmatch(re.escape(old).replace(r"\{i\}", r"(\d+)") + r"(\.\w+)?", name)
        if match:
            *numbers, ending = match.groups()
            return (new.replace("{i}", numbers[0]) if numbers else new) + (ending or "")
    return None


def _names_for(model_class: type[UnipPreTrainedModel]) -> tuple[str, list[tuple[str, str]]]:
    """Prefix of the encoder in a model class, and the pairs of names for all its tensors."""
    if issubclass(model_class, UnipForSemanticSegmentation):
        prefix, pairs = "unip.", SEGMENTATION_NAMES
    elif issubclass(model_class, UnipForLinearSegmentation):
        prefix, pairs = "unip.", LINEAR_NAMES
    else:
        prefix, pairs = ("unip." if issubclass(model_class, UnipForPreTraining) else ""), []
    return prefix, [(old, prefix + new) for old, new in ENCODER_NAMES] + pairs


def adapt_input_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """
    Patch embedding `(hidden_size, channels, patch, patch)` for another number of input channels. Three channels to one
    sums the filters, one to three shares the filter out; for grey images both give the same network.

    Raises:
        ValueError: if it is neither 3 to 1 nor 1 to 3.
    """
    if weight.shape[1] == num_channels:
        return weight
    if (weight.shape[1], num_channels) == (3, 1):
        return weight.sum(1, keepdim=True)
    if (weight.shape[1], num_channels) == (1, 3):
        return weight.repeat(1, 3, 1, 1) / 3
    raise ValueError(f"Cannot turn {weight.shape[1]} input channels into {num_channels}: only 3 into 1 and 1 into 3.")


def _infer_config(
    tensors: dict[str, torch.Tensor],
    beside: dict[str, Any],
    model_class: type[UnipPreTrainedModel],
    overrides: dict[str, Any],
) -> UnipConfig:
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    absent = [name for name in needed if name not in tensors]
    if absent:
        raise ValueError(
            f"This is not a plain ViT as UNIP, MAE, DINO, iBOT or DeiT publish it: {absent} not found among "
            f"{len(tensors)} tensors ({', '.join(sorted(tensors)[:5])}, ...)."
        )
    hidden_size = tensors["cls_token"].shape[-1]
    heads = {width: number for width, _, number in UNIP_SIZES.values()}
    if "num_attention_heads" not in overrides and hidden_size not in heads:
        raise ValueError(
            f"The file does not say how many attention heads a network of width {hidden_size} has: "
            "give num_attention_heads."
        )
    arguments = beside.get("args") or {}
    arguments = arguments if isinstance(arguments, Mapping) else vars(arguments)
    patch_size = tensors["patch_embed.proj.weight"].shape[-1]
    has_layer_scale = "blocks.0.gamma_1" in tensors
    config: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        "num_attention_heads": heads.get(hidden_size),
        "last_layer_num_attention_heads": arguments.get("last_heads"),
        "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] // hidden_size,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "patch_size": patch_size,
        "num_channels": tensors["patch_embed.proj.weight"].shape[1],
        "layer_scale_init_value": 1.0 if has_layer_scale else None,
    }
    side = math.isqrt(tensors["pos_embed"].shape[1] - 1)
    config["image_size"] = side * patch_size
    fixed = sine_cosine_position_embeddings(hidden_size, (side, side)) if hidden_size % 4 == 0 else None
    table = tensors["pos_embed"].float()
    is_fixed = fixed is not None and table.shape == fixed.shape and torch.allclose(table, fixed, atol=1e-4)
    config["position_embedding_type"] = "sincos" if is_fixed else "learned"

    classifier = tensors.get("decode_head.conv_seg.weight")
    classes = (beside.get("meta") or {}).get("CLASSES")
    if classifier is not None:
        config["num_labels"] = classifier.shape[0]
        if classes is not None and len(classes) == classifier.shape[0]:
            config["id2label"] = dict(enumerate(classes))
        config["feature_layers"] = _find_feature_layers(beside, model_class, config, classifier.shape[1])
        if config["feature_layers"] is None and "feature_layers" not in overrides:
            logger.warning(
                "The file does not say which blocks its head reads: assuming the last one. If it was trained on "
                "others, give feature_layers, e.g. [4, 6, 8, 12] for the classic pyramid."
            )
    if "decode_head.fpn_bottleneck.conv.weight" in tensors:
        config["decoder_channels"] = tensors["decode_head.fpn_bottleneck.conv.weight"].shape[0]
        config["use_auxiliary_head"] = "auxiliary_head.conv_seg.weight" in tensors
        if config["use_auxiliary_head"]:
            config["auxiliary_channels"] = tensors["auxiliary_head.conv_seg.weight"].shape[1]
    unknown = sorted(set(overrides) - {field.name for field in fields(UnipConfig)} - OTHER_FIELDS)
    if unknown:
        raise ValueError(f"UnipConfig has no fields {unknown}.")
    try:
        return UnipConfig(**{**config, **overrides})
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def _find_feature_layers(
    beside: dict[str, Any], model_class: type[UnipPreTrainedModel], config: dict[str, Any], channels: int
) -> list[int] | None:
    """The blocks that a published head reads, from 1: as its configuration says, or by the width of a linear probe."""
    is_probe = issubclass(model_class, UnipForLinearSegmentation)
    said = re.search(r"out_indices\s*=\s*[\[(]([\d,\s]+)[\])]", str((beside.get("meta") or {}).get("config", "")))
    if said:
        layers = [int(index) + 1 for index in said[1].split(",") if index.strip()]
        count = channels // config["hidden_size"] if is_probe else 4
        if len(layers) == count:
            return layers[:1] if len(set(layers)) == 1 else layers
    if is_probe and channels == 4 * config["hidden_size"]:
        return [8, 12, 16, 24] if config["num_hidden_layers"] == 24 else [4, 6, 8, 12]
    return None


def _add_cls_position(table: torch.Tensor, image_size: Any, patch_size: int) -> torch.Tensor:
    """DeiT III adds positions before CLS: its table gets the row of zeros that amounts to the same."""
    if isinstance(image_size, (list, tuple)) and table.shape[1] == 1 + math.prod(s // patch_size for s in image_size):
        return table
    if math.isqrt(table.shape[1]) ** 2 == table.shape[1]:
        return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return table


def _fit_position_embeddings(table: torch.Tensor, config: UnipConfig) -> torch.Tensor:
    rows, side = table.shape[1] - 1, math.isqrt(table.shape[1] - 1)
    if rows == math.prod(config.grid_size):
        return table
    if side * side != rows:
        raise ValueError(
            f"The position table has {rows} rows beside CLS, which is no square grid: distilled DeiT files, which "
            "have a second token, cannot be used; for a grid that is not square give image_size=(height, width)."
        )
    return resize_position_embeddings(table, (side, side), config.grid_size)


def convert_checkpoint(
    path_or_state_dict: str | os.PathLike | Mapping[str, Any],
    model_class: type[ModelType],
    **config_overrides: Any,
) -> ModelType:
    """
    Makes a model of ours from a published checkpoint of UNIP (pre-training or fine-tuning), MAE, DINO, iBOT or DeiT.

    Width, depth, classes, grid and the like are read off the tensors, the heads of a distilled last block off the
    file's `args.last_heads`. What was not used and what is new is logged as a warning.

    Args:
        path_or_state_dict: File (see [`read_checkpoint`]) or state dict with the published names, which may be
            prefixed `module.`, `model.`, `backbone.` or `encoder.`.
        model_class: One of the models of this library.
        config_overrides: Fields of [`UnipConfig`] that win over what was read, e.g. `num_attention_heads` for unusual
            widths, `num_channels=1` (sums the filters, exact for grey input), `image_size=512` (resizes the position
            table), `last_layer_num_attention_heads=None` (the published fine-tuning's behaviour).

    Returns:
        The model in evaluation mode, in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, its tensors do not make up this model (the message lists them), or a
            field does not exist or makes no network.
    """
    if isinstance(path_or_state_dict, Mapping):
        tensors, beside = _find_state_dict(path_or_state_dict, "the state dict")
    else:
        tensors, beside = read_checkpoint(path_or_state_dict)
    if "pos_embed" in tensors and "patch_embed.proj.weight" in tensors:
        patch_size, image_size = tensors["patch_embed.proj.weight"].shape[-1], config_overrides.get("image_size")
        tensors["pos_embed"] = _add_cls_position(tensors["pos_embed"], image_size, patch_size)
    config = _infer_config(tensors, beside, model_class, config_overrides)
    model = model_class(config).eval()

    tensors["pos_embed"] = _fit_position_embeddings(tensors["pos_embed"], config)
    name = "patch_embed.proj.weight"
    tensors[name] = adapt_input_channels(tensors[name], config.num_channels)

    state_dict = model.state_dict()
    problems: list[str] = []
    unused: dict[str, list[str]] = {}
    _, pairs = _names_for(model_class)
    missing = set(state_dict)
    for name, tensor in tensors.items():
        target = _rename(name, pairs)
        if target in state_dict:
            if state_dict[target].shape != tensor.shape:
                problems.append(f"{name}: {tuple(tensor.shape)} in the file, {tuple(state_dict[target].shape)} here")
                continue
            state_dict[target] = tensor.to(state_dict[target].dtype)
            missing.discard(target)
        else:
            reason = next((text for pattern, text in KNOWN_UNUSED.items() if re.fullmatch(pattern, name)), None)
            if reason is None or _is_read(name, model_class, config):
                problems.append(f"{name}: unexpected")
            else:
                unused.setdefault(reason, []).append(name)
    new_parts = [part for part in OPTIONAL_PARTS if not any(part in name for name in set(state_dict) - missing)]
    lacking = sorted(name for name in missing if not any(part in name for part in new_parts))
    problems += [f"{name}: not in the file" for name in lacking]
    if problems:
        raise ValueError(
            f"The checkpoint does not fit {model_class.__name__}: " + "; ".join(problems[:20]) + _and_more(problems)
        )

    model.load_state_dict(state_dict)
    logger.info("Used %d of %d tensors.", len(state_dict) - len(missing), len(tensors))
    for reason, names in unused.items():
        logger.warning("Not used: %s (%d tensors, e.g. %s).", reason, len(names), names[0])
    for part in OPTIONAL_PARTS:
        names = sorted(name for name in missing if part in name)
        if names:
            logger.warning("Not in the file, newly initialised: %s (%d tensors).", part.rstrip("."), len(names))
    return model


def _is_read(name: str, model_class: type[UnipPreTrainedModel], config: UnipConfig) -> bool:
    """Whether a tensor belongs to what the model does read, so that leaving it out would change results."""
    if issubclass(model_class, UnipForLinearSegmentation) and name.startswith(("decode_head.", "fpn")):
        return True  # the head of another network, whose classifier is no linear probe
    match = re.match(r"blocks\.(\d+)\.", name)
    if match is None:
        return False
    is_segmentation = issubclass(model_class, (UnipForSemanticSegmentation, UnipForLinearSegmentation))
    last = max(config.feature_layers or [config.num_hidden_layers]) if is_segmentation else config.num_hidden_layers
    return int(match.group(1)) < last


def _and_more(problems: list[str]) -> str:
    return f"; and {len(problems) - 20} more." if len(problems) > 20 else "."


def to_published_state_dict(model: UnipPreTrainedModel) -> dict[str, torch.Tensor]:
    """
    A model's weights under the published names, for users of the published code.

    Encoder names get the prefix `backbone.` in segmentation models. Where the published network has a final norm that
    it does not use, an identity is written; one-channel patch embeddings become three-channel ones.

    Args:
        model: A model of this library.

    Returns:
        State dict of float32 tensors on the CPU.
    """
    is_segmentation = isinstance(model, (UnipForSemanticSegmentation, UnipForLinearSegmentation))
    if is_segmentation and model.config.last_layer_num_attention_heads not in (None, model.config.num_attention_heads):
        logger.warning(
            "The published fine-tuning code splits every block into %d heads, but the last block of this model has "
            "%d: it will compute something else.",
            model.config.num_attention_heads,
            model.config.last_layer_num_attention_heads,
        )
    prefix, pairs = _names_for(type(model))
    back = [(new, old) for old, new in pairs]
    published = {}
    for name, tensor in model.state_dict().items():
        renamed = _rename(name, back)
        if renamed is None:
            raise ValueError(f"The tensor {name} has no published name.")
        in_backbone = is_segmentation and name.startswith((prefix, "pyramid."))
        published["backbone." * in_backbone + renamed] = tensor.detach().cpu().float().clone()
    stem = "backbone." if is_segmentation else ""
    name = f"{stem}patch_embed.proj.weight"
    published[name] = adapt_input_channels(published[name], 3)
    if f"{stem}norm.weight" not in published:
        published[f"{stem}norm.weight"] = torch.ones(model.config.hidden_size)
        published[f"{stem}norm.bias"] = torch.zeros(model.config.hidden_size)
    return published


__all__ = ["convert_checkpoint", "read_checkpoint", "to_published_state_dict"]
