# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
IV-tuning under published names, of which there are two kinds: beside the tensors of a plain ViT of `timm` (with CLS),
and in the authors' detection network (without CLS, and with its maps transposed where the first prompt is made).
"""

import re
from typing import Any

import torch

from ..modeling.configuration_unip import UnipConfig


_OPERATION = [
    ("partial_conv", "depthwise"),
    ("project1", "projection1"),
    ("BN", "batch_norm"),
    ("project2", "projection2"),
]
_HYBRID_ADAPTER = [
    ("sft.norm", "transform.norm"),
    ("sft.gamma", "transform.scale"),
    ("sft.beta", "transform.shift"),
    ("project1", "down"),
    *[(f"adapter_conv.{old}", f"operation.{new}") for old, new in _OPERATION],
    ("project2", "up"),
]
_PROMPT_ADAPTER = [
    ("sft1.norm", "transform_before.norm"),
    ("sft1.gamma", "transform_before.scale"),
    ("sft1.beta", "transform_before.shift"),
    ("down", "down"),
    ("up", "up"),
    ("sft2.gamma", "transform_after.scale"),
    ("sft2.beta", "transform_after.shift"),
]
_PROMPT_GENERATOR = [
    ("conv0_0", "main_down"),
    ("conv0_1", "auxiliary_down"),
    *[(f"HO.{old}", f"operation.{new}") for old, new in _OPERATION],
    ("conv1x1", "up"),
]
# As in `conversion.ENCODER_NAMES`.
NAMES = [
    ("patch_embed_ivt.proj", "fusion.patch_embeddings"),
    ("empg_norm_ivt", "fusion.norm"),
    *[(f"empg_ivt.{old}", f"fusion.prompt_generator.{new}") for old, new in _PROMPT_GENERATOR],
    *[
        (f"blocks.{{i}}.{part}{number}_ivt.{old}", f"fusion.layers.{{i}}.{place}.{ours}.{new}")
        for number, place in ((1, "after_attention"), (2, "after_mlp"))
        for part, ours, pairs in (
            ("HA", "hybrid_adapter", _HYBRID_ADAPTER),
            ("IPA", "prompt_adapter", _PROMPT_ADAPTER),
        )
        for old, new in pairs
    ],
]
_AUXILIARY_PATCHES = "patch_embed_ivt.proj.weight"

# Beginnings of names in the detection network, and beside a plain ViT.
_DETECTION_NAMES = [
    ("patch_embed_prompt.", "patch_embed_ivt."),
    ("prompt_norms.0.", "empg_norm_ivt."),
    ("prompt_blocks.0.adapter_conv.", "empg_ivt.HO."),
    ("prompt_blocks.0.", "empg_ivt."),
    *[
        (f"blocks.{{i}}.{old.format(number)}", f"blocks.{{i}}.{new.format(number)}")
        for number in (1, 2)
        for old, new in [
            *[(f"mona_prompt{{}}.{name}", f"HA{{}}_ivt.sft.{name}") for name in ("norm.", "gamma", "beta")],
            ("mona_prompt{}.", "HA{}_ivt."),
            *[(f"extra_prompt{{}}.{name}", f"IPA{{}}_ivt.sft1.{name}") for name in ("norm.", "gamma", "beta")],
            ("extra_prompt{}.scale", "IPA{}_ivt.sft2.gamma"),
            ("extra_prompt{}.bias", "IPA{}_ivt.sft2.beta"),
            ("extra_prompt{}.", "IPA{}_ivt."),
        ]
    ],
]
_TRANSPOSED = "empg_ivt.HO.partial_conv.weight"


def _rename_beginning(name: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        match = re.match(re.escape(old).replace(r"\{i\}", r"(\d+)"), name)
        if match:
            return new.replace("{i}", match[1] if match.groups() else "") + name[match.end() :]
    return name


def read(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """
    Tensors of a published network as beside a plain ViT, and what they say of the configuration; `None` if this is
    not IV-tuning. The image that goes through the published backbone is the visible one.
    """
    is_detection = "patch_embed_prompt.proj.weight" in tensors
    tensors = {_rename_beginning(name, _DETECTION_NAMES): tensor for name, tensor in tensors.items()}
    if _AUXILIARY_PATCHES not in tensors:
        return None
    fields: dict[str, Any] = {
        "fusion": "iv_tuning",
        "main_modality": "visible",
        "auxiliary_num_channels": tensors[_AUXILIARY_PATCHES].shape[1],
    }
    if "empg_ivt.conv1x1.weight" in tensors:
        fields["prompt_channels"] = tensors["empg_ivt.conv1x1.weight"].shape[1]
    if is_detection and "cls_token" not in tensors:
        fields["use_cls_token"] = False
        if _TRANSPOSED in tensors:
            tensors[_TRANSPOSED] = tensors[_TRANSPOSED].transpose(2, 3)
    return tensors, fields


def write(tensors: dict[str, torch.Tensor], config: UnipConfig) -> dict[str, torch.Tensor]:
    """Back: the other image with three channels, and the names of the detection network for a model without CLS."""
    weight = tensors[_AUXILIARY_PATCHES]
    if weight.shape[1] == 1:  # on three equal channels the same
        tensors = {**tensors, _AUXILIARY_PATCHES: weight.repeat(1, 3, 1, 1) / 3}
    if config.use_cls_token:
        return tensors
    tensors = {**tensors, _TRANSPOSED: tensors[_TRANSPOSED].transpose(2, 3).contiguous()}
    back = [(new, old) for old, new in _DETECTION_NAMES]
    return {_rename_beginning(name, back): tensor for name, tensor in tensors.items()}


__all__ = ["NAMES", "read", "write"]
