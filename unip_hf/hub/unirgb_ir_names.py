# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UniRGB-IR as its authors publish it: names of the tensors, and what they tell of the configuration."""

from typing import Any

import torch

from ..modeling.configuration_unip import UnipConfig


# Published index of a layer in a sequence, and name here.
_STEM = {0: "0.convolution", 1: "0.batch_norm", 3: "1.convolution", 4: "1.batch_norm"}
_STEM |= {6: "2.convolution", 7: "2.batch_norm"}
_STEMS = {"stem_vis": "main_stem", "stem_ir": "auxiliary_stem"}  # the published main image is the visible one

# Published name and name here, as in `conversion.ENCODER_NAMES`.
NAMES = [
    *(
        (f"adapter_spm.{theirs}.{index}", f"fusion.pool.{ours}.{layer}")
        for theirs, ours in _STEMS.items()
        for index, layer in _STEM.items()
    ),
    ("adapter_spm.mix_fusion.convs_rgb.{i}", "fusion.pool.mixed_fusion.main_convolutions.{i}"),
    ("adapter_spm.mix_fusion.convs_ir.{i}", "fusion.pool.mixed_fusion.auxiliary_convolutions.{i}"),
    ("adapter_spm.mix_fusion.fc", "fusion.pool.mixed_fusion.gate"),
    *((f"adapter_spm.conv{i + 2}.0", f"fusion.pool.downsampling.{i}.convolution") for i in range(3)),
    *((f"adapter_spm.conv{i + 2}.1", f"fusion.pool.downsampling.{i}.batch_norm") for i in range(3)),
    *((f"adapter_spm.out_{cell}", f"fusion.pool.projections.{i}") for i, cell in enumerate((8, 16, 32))),
    ("adapter_level_embed", "fusion.level_embeddings"),
    ("adapter_stages.{i}.query_norm", "fusion.injectors.{i}.query_norm"),
    ("adapter_stages.{i}.feat_norm", "fusion.injectors.{i}.pool_norm"),
    ("adapter_stages.{i}.attn.sampling_offsets", "fusion.injectors.{i}.attention.offsets"),
    ("adapter_stages.{i}.attn.attention_weights", "fusion.injectors.{i}.attention.weights"),
    ("adapter_stages.{i}.attn.value_proj", "fusion.injectors.{i}.attention.value"),
    ("adapter_stages.{i}.attn.output_proj", "fusion.injectors.{i}.attention.output"),
    ("adapter_stages.{i}.gamma", "fusion.injectors.{i}.gamma"),
    ("adapter_grus.{i}.update_gate", "fusion.gates.{i}"),
    ("blocks.{i}.attn.rel_pos_h", "layers.{i}.attention.relative_rows"),
    ("blocks.{i}.attn.rel_pos_w", "layers.{i}.attention.relative_columns"),
]


def read(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """
    Tensors of a published network, and what they say of the configuration; `None` if this is not UniRGB-IR. The image
    that goes through the published backbone is the visible one.

    Windows stand in no tensor. With relative positions, blocks whose tables are of another length than that of the
    last block, which attends to the whole image, have windows.
    """
    if "adapter_level_embed" not in tensors:
        return None
    fields: dict[str, Any] = {
        "fusion": "unirgb_ir",
        "main_modality": "visible",
        "use_cls_token": "cls_token" in tensors,
        "use_final_norm": False,
    }
    if "adapter_spm.stem_vis.0.weight" in tensors:
        fields["fusion_channels"] = tensors["adapter_spm.stem_vis.0.weight"].shape[0]
    tables = {
        int(name.split(".")[1]) + 1: (len(table) + 1) // 2
        for name, table in tensors.items()
        if name.endswith(".attn.rel_pos_h")
    }
    if tables:
        whole_image = tables[max(tables)]
        fields["relative_position_size"] = whole_image * tensors["patch_embed.proj.weight"].shape[-1]
        windows = {length for length in tables.values() if length != whole_image}
        if windows:
            fields["window_size"] = windows.pop()
            fields["global_layers"] = sorted(block for block, length in tables.items() if length == whole_image)
    return tensors, fields


def write(tensors: dict[str, torch.Tensor], config: UnipConfig) -> dict[str, torch.Tensor]:
    """Back: without a final norm, which the published network has not."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("norm.")}


__all__ = ["NAMES", "read", "write"]
