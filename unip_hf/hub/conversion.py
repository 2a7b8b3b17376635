# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Conversion between published checkpoints (UNIP, MAE, CrossMAE, DINO, iBOT, DeiT) and the models of this library."""

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError

from ..modeling.configuration_unip import UNIP_SIZES, UnipConfig
from ..modeling.modeling_unip import UnipModel, UnipPreTrainedModel
from ..modeling.modeling_unip_heads import SEGMENTATION_MODELS
from ..modeling.modeling_unip_layers import resize_position_embeddings, sine_cosine_position_embeddings
from ..modeling.modeling_unip_segmentation import UnipSegmentationModel
from . import iv_tuning_names, unirgb_ir_names
from .checkpoint_files import find_state_dict, read_checkpoint


logger = logging.getLogger(__name__)

ModelType = TypeVar("ModelType", bound=UnipPreTrainedModel)

# Published name and name here; "{i}" stands for a number. The names of a head are in its class.
ENCODER_NAMES = [
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
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

# Tensors that a published file may hold beside those that a model reads, and what they are.
KNOWN_UNUSED = {
    r"cls_token": "CLS, which the network was told to do without",
    r"mask_token|masked_embed": "mask token",
    r"decoder_\w+(\..*)?|(dec_norms|wfm)\..*": "decoder of the masked autoencoder",
    r"(head|head_dist|fc_norm)\..*": "classification or projection head",
    r"norm\..*": "final norm",
    r"blocks\..*": "blocks behind the last one that is read",
    r"(fpn\d|neck|decode_head|auxiliary_head)\..*": "segmentation head",
}
FUSION_METHODS = {"iv_tuning": iv_tuning_names, "unirgb_ir": unirgb_ir_names}
PATCHES = "patch_embed.proj.weight"
# The heads of a published segmentation network; everything else is in its backbone.
HEAD_PREFIXES = ("neck.", "decode_head.", "auxiliary_head.")
# What UnipConfig accepts beside its fields.
OTHER_FIELDS = {"num_labels", "out_features", "out_indices", "attn_implementation"}
# Parts that a file may lack as a whole, beside those of a head. They are newly initialised.
OPTIONAL_PARTS = ("classifier.", "layernorm.", "layer_scale", "attention.relative_")


def rename(name: str, pairs: list[tuple[str, str]]) -> str | None:
    """The other name of a tensor, by pairs such as those of `ENCODER_NAMES`; `None` if they have none."""
    for old, new in pairs:
        match = re.fullmatch(re.escape(old).replace(r"\{i\}", r"(\d+)") + r"(\.\w+)?", name)
        if match:
            *numbers, ending = match.groups()
            return (new.replace("{i}", numbers[0]) if numbers else new) + (ending or "")
    return None


def _names_for(model_class: type[UnipPreTrainedModel], fusion: str | None) -> list[tuple[str, str]]:
    """The pairs of names for all tensors of a model class."""
    prefix = "" if issubclass(model_class, UnipModel) else "unip."
    of_fusion = FUSION_METHODS[fusion].NAMES if fusion is not None else []
    of_encoder = [(old, prefix + new) for old, new in (*ENCODER_NAMES, *of_fusion)]
    return of_encoder + getattr(model_class, "published_names", [])


def find_segmentation_model(names: Iterable[str]) -> type[UnipSegmentationModel] | None:
    """
    The class of segmentation model whose head a published file holds.

    Args:
        names: Names of the tensors in the file, as [`read_checkpoint`] returns them.

    Returns:
        The class that has a name for every tensor of the head, the simplest if there are several; `None` if the file
        has no head.

    Raises:
        ValueError: if no class has the head.
    """
    of_head = [name for name in names if name.startswith(HEAD_PREFIXES)]
    if not of_head:
        return None
    fitting = [kind for kind in SEGMENTATION_MODELS if all(rename(name, kind.published_names) for name in of_head)]
    if not fitting:
        raise ValueError(
            f"The file holds a segmentation head that this library does not have ({', '.join(of_head[:3])}, ...): "
            "convert its encoder alone."
        )
    return min(fitting, key=lambda kind: len(kind.published_names))


def find_fusion(tensors: dict[str, torch.Tensor]) -> str | None:
    """The method for pairs of images whose tensors a published file holds, as in `UnipConfig.fusion`, or `None`."""
    return next((name for name, method in FUSION_METHODS.items() if method.read(tensors) is not None), None)


def adapt_input_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """
    The patch embedding `(hidden_size, channels, patch, patch)` for another number of input channels. From three
    channels to one, the filters are summed; from one to three, the filter is divided among them. For grey images the
    network computes the same either way.

    Raises:
        ValueError: if it is neither 3 to 1 nor 1 to 3.
    """
    if weight.shape[1] == num_channels:
        return weight
    if (weight.shape[1], num_channels) == (3, 1):
        return weight.sum(1, keepdim=True)
    if (weight.shape[1], num_channels) == (1, 3):
        return weight.repeat(1, 3, 1, 1) / 3
    raise ValueError(f"Cannot turn {weight.shape[1]} input channels into {num_channels}, only 3 into 1 or 1 into 3.")


def _infer_config(
    tensors: dict[str, torch.Tensor],
    beside: dict[str, Any],
    model_class: type[UnipPreTrainedModel],
    overrides: dict[str, Any],
) -> UnipConfig:
    has_cls = overrides.get("use_cls_token", True)
    needed = (*["cls_token"] * has_cls, "pos_embed", PATCHES, "blocks.0.mlp.fc1.weight")
    absent = [name for name in needed if name not in tensors]
    if absent:
        raise ValueError(
            f"This is not a plain ViT as UNIP, MAE, DINO, iBOT or DeiT publish it: {absent} not found among "
            f"{len(tensors)} tensors ({', '.join(sorted(tensors)[:5])}, ...)."
        )
    for name, num_dimensions in (("pos_embed", 3), (PATCHES, 4), ("blocks.0.mlp.fc1.weight", 2)):
        if tensors[name].ndim != num_dimensions:
            raise ValueError(
                f"{name} must have {num_dimensions} dimensions, got the shape {tuple(tensors[name].shape)}."
            )
    hidden_size, (_, num_channels, patch_size, _) = tensors["pos_embed"].shape[-1], tensors[PATCHES].shape
    blocks = {int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    if max(blocks) >= len(blocks):
        lacking = next(number for number in range(len(blocks)) if number not in blocks)
        raise ValueError(f"The file has a block {max(blocks)}, counted from 0, but no block {lacking}.")
    heads = {width: number for width, _, number in UNIP_SIZES.values()}
    if "num_attention_heads" not in overrides and hidden_size not in heads:
        raise ValueError(
            f"The file does not say how many attention heads a network of width {hidden_size} has: "
            "give num_attention_heads."
        )
    arguments = beside.get("args", {})
    arguments = arguments if isinstance(arguments, Mapping) else vars(arguments)
    table = tensors["pos_embed"].float()
    side = math.isqrt(table.shape[1])  # with or without rows for CLS and a distillation token
    mlp_ratio = tensors["blocks.0.mlp.fc1.weight"].shape[0] / hidden_size
    config: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads.get(hidden_size),
        "last_layer_num_attention_heads": arguments.get("last_heads"),
        "mlp_ratio": int(mlp_ratio) if mlp_ratio.is_integer() else mlp_ratio,
        "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "patch_size": patch_size,
        "num_channels": num_channels,
        "layer_scale_init_value": 1.0 if "blocks.0.gamma_1" in tensors else None,
        "image_size": side * patch_size,
        "use_distillation_token": "dist_token" in tensors,
        "position_embedding_type": "learned",
    }
    if hidden_size % 4 == 0 and table.shape[1] in (side**2, 1 + side**2):
        fixed = sine_cosine_position_embeddings(hidden_size, (side, side))[:, -table.shape[1] :]
        if torch.allclose(table, fixed, atol=1e-4):
            config["position_embedding_type"] = "sincos"

    published_classifier = getattr(model_class, "published_classifier", "decode_head.conv_seg")
    classifier = tensors.get(f"{published_classifier}.weight")
    if classifier is not None:
        classes = beside.get("meta", {}).get("CLASSES")
        config["num_labels"] = classifier.shape[0]
        if isinstance(classes, (list, tuple)) and len(classes) == classifier.shape[0]:
            config["id2label"] = dict(enumerate(classes))
        config["feature_layers"] = _find_feature_layers(beside, model_class, config, classifier.shape[1])
        if config["feature_layers"] is None and "feature_layers" not in overrides:
            logger.warning(
                "The file does not say which blocks its head reads: assuming the last one. If it was trained on "
                "others, give feature_layers, e.g. [4, 6, 8, 12] for the classic pyramid."
            )
        if issubclass(model_class, UnipSegmentationModel):
            config |= model_class.read_published(tensors)
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
    """The blocks that a published head reads, from 1: as its configuration says, or by the width of its classifier."""
    kind = model_class if issubclass(model_class, UnipSegmentationModel) else SEGMENTATION_MODELS[0]
    count = kind.num_published_features or channels // config["hidden_size"]
    said = re.search(r"out_indices\s*=\s*[\[(]([\d,\s]+)[\])]", str(beside.get("meta", {}).get("config", "")))
    if said:
        layers = [int(index) + 1 for index in said[1].split(",") if index.strip()]
        if len(layers) == count:
            return layers[:1] if len(set(layers)) == 1 else layers
    default = kind.default_feature_layers(config["num_hidden_layers"])
    return default if default is not None and len(default) == count else None


def convert_checkpoint(
    path_or_state_dict: str | os.PathLike | Mapping[str, Any],
    model_class: type[ModelType],
    **config_overrides: Any,
) -> ModelType:
    """
    Makes a model of this library from a published checkpoint of UNIP (pre-training or fine-tuning), MAE, CrossMAE,
    DINO, iBOT or DeiT, or of a method for pairs of images (IV-tuning, UniRGB-IR).

    Width, depth, classes, grid and the like are inferred from the tensors, the heads of a distilled last block from
    the file's `args.last_heads`. A warning says what was not used and what is newly initialised.

    Args:
        path_or_state_dict: File (see [`read_checkpoint`]) or state dict with the published names, which may be
            prefixed `module.`, `model.`, `backbone.` or `encoder.`.
        model_class: One of the models of this library.
        config_overrides: Fields of [`UnipConfig`] that win over what was read, e.g. `num_attention_heads` for unusual
            widths, `num_channels=1` (sums the filters, exact for grey input), `image_size=512` (resizes the position
            table), `last_layer_num_attention_heads=None` (the published fine-tuning's behaviour), `fusion="iv_tuning"`
            (the file's network as the frozen backbone of a new model of pairs).

    Returns:
        The model in evaluation mode, in float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, its tensors do not make up this model (the message lists them), a
            field does not exist, or its value is not possible.
    """
    if isinstance(path_or_state_dict, Mapping):
        tensors, beside = find_state_dict(path_or_state_dict, "the state dict")
    else:
        tensors, beside = read_checkpoint(path_or_state_dict)
    try:
        for method in FUSION_METHODS.values():
            found = method.read(tensors)
            if found is not None:
                tensors, fields_of_method = found
                config_overrides = {**fields_of_method, **config_overrides}
        config = _infer_config(tensors, beside, model_class, config_overrides)
        with torch.device("meta"):  # takes no memory, whatever the file says
            planned = model_class(config)
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"The tensors do not have the shapes of a network of this library: {error}.") from error
    table, side = tensors["pos_embed"], math.isqrt(tensors["pos_embed"].shape[1])
    special, patches = config.num_special_tokens, math.prod(config.grid_size)
    if special == 0 and table.shape[1] != patches and table.shape[1] in (1 + side**2, 1 + patches):
        table = table[:, 1:]  # the row of CLS
    rows = table.shape[1]
    if rows == patches != special + side**2 or rows == side**2 != special + patches:
        # DeiT III adds positions before CLS is put in front: a row of zeros for CLS amounts to the same.
        table = torch.cat([table.new_zeros(1, special, table.shape[2]), table], dim=1)
    if table.shape[1] not in (special + patches, special + side**2):
        raise ValueError(
            f"The position table has {table.shape[1] - special} rows beside CLS, which do not make a square grid. For "
            "another grid give image_size=(height, width). Files of distilled DeiT must hold their second token, "
            "dist_token."
        )
    if table.shape[1] != special + patches:
        table = resize_position_embeddings(table, (side, side), config.grid_size)
    tensors["pos_embed"] = table
    tensors[PATCHES] = adapt_input_channels(tensors[PATCHES], config.num_channels)

    expected = planned.state_dict()
    problems: list[str] = []
    unused: dict[str, list[str]] = {}
    used: dict[str, torch.Tensor] = {}
    pairs = _names_for(model_class, config.fusion)
    layers: Any = planned.base_model.layers
    is_segmentation = isinstance(planned, UnipSegmentationModel)
    of_other_heads = ("neck.", "decode_head.", "fpn") if is_segmentation else ()
    for name, tensor in tensors.items():
        target = rename(name, pairs)
        if target is not None and target in expected:
            used[target] = tensor
            own = expected[target]
            if own.shape != tensor.shape:
                problems.append(f"{name}: {tuple(tensor.shape)} in the file, {tuple(own.shape)} here")
            elif own.is_floating_point() and not tensor.is_floating_point():
                problems.append(f"{name}: {tensor.dtype} in the file, {own.dtype} here")
            elif not tensor.isfinite().all():
                problems.append(f"{name}: NaN or infinite values")
            continue
        reason = next((text for pattern, text in KNOWN_UNUSED.items() if re.fullmatch(pattern, name)), None)
        block = re.match(r"blocks\.(\d+)\.", name)
        # Without a block that the model reads, or with another head, results would not be those of the file.
        is_read = name.startswith(of_other_heads) or (block is not None and int(block[1]) < len(layers))
        if reason is None or is_read:
            problems.append(f"{name}: unexpected")
        else:
            unused.setdefault(reason, []).append(name)
    of_head = [new.split(".")[0] + "." for _, new in getattr(model_class, "published_names", [])]
    of_fusion = f"{'unip.' * is_segmentation}fusion."
    parts = dict.fromkeys((*of_head, of_fusion, *OPTIONAL_PARTS))
    new_parts = [part for part in parts if not any(part in name for name in used)]
    # How many batches made the running statistics: files may lack it, and nothing here reads it.
    missing = sorted(name for name in set(expected) - set(used) if not name.endswith("num_batches_tracked"))
    problems += [f"{name}: not in the file" for name in missing if not any(part in name for part in new_parts)]
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"The checkpoint does not fit {model_class.__name__}: {'; '.join(problems[:20])}{more}.")

    model = model_class(config).eval()
    model.load_state_dict(used, strict=False)
    logger.info("Used %d of %d tensors.", len(used), len(tensors))
    for reason, names in unused.items():
        logger.warning("Not used: %s (%d tensors, e.g. %s).", reason, len(names), names[0])
    for part in new_parts:
        names = [name for name in missing if part in name]
        if names:
            logger.warning("Not in the file, newly initialised: %s (%d tensors).", part.rstrip("."), len(names))
    return model


def to_published_state_dict(model: UnipPreTrainedModel) -> dict[str, torch.Tensor]:
    """
    A model's weights under the published names, for users of the published code.

    The names of the encoder get the prefix `backbone.` in segmentation models. Where the published network has a final
    norm that it does not use, an identity is written. One-channel patch embeddings become three-channel ones.

    Args:
        model: A model of this library.

    Returns:
        State dict of float32 tensors on the CPU.

    Raises:
        ValueError: if a tensor has no published name, as those of other backbones.
    """
    is_segmentation = isinstance(model, UnipSegmentationModel)
    if is_segmentation and model.config.last_layer_num_attention_heads not in (None, model.config.num_attention_heads):
        logger.warning(
            "The published fine-tuning code splits every block into %d heads, but the last block of this model has "
            "%d: there the network computes something else.",
            model.config.num_attention_heads,
            model.config.last_layer_num_attention_heads,
        )
    back = [(new, old) for old, new in _names_for(type(model), model.config.fusion)]
    encoder: dict[str, torch.Tensor] = {}
    head: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        renamed = rename(name, back)
        if renamed is None:
            raise ValueError(f"The tensor {name} has no published name.")
        of_head = is_segmentation and renamed.startswith(HEAD_PREFIXES)
        (head if of_head else encoder)[renamed] = tensor.detach().cpu().float().clone()
    encoder[PATCHES] = adapt_input_channels(encoder[PATCHES], 3)
    if is_segmentation or model.config.use_final_norm:
        encoder.setdefault("norm.weight", torch.ones(model.config.hidden_size))
        encoder.setdefault("norm.bias", torch.zeros(model.config.hidden_size))
    if not model.config.use_cls_token:  # published tables have a row of CLS, which is not read
        table = encoder["pos_embed"]
        encoder["pos_embed"] = torch.cat([table.new_zeros(1, 1, table.shape[2]), table], dim=1)
    if model.config.fusion is not None:
        encoder = FUSION_METHODS[model.config.fusion].write(encoder, model.config)
        if model.config.main_modality == "infrared":
            logger.warning(
                "The published code puts the visible image through the backbone, this model the infrared one: swap "
                'the two images there, and convert the file back with main_modality="infrared".'
            )
    return {"backbone." * is_segmentation + name: tensor for name, tensor in encoder.items()} | head


__all__ = ["convert_checkpoint", "find_fusion", "find_segmentation_model", "to_published_state_dict"]
