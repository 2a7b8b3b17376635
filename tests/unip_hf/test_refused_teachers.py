# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What cannot be a teacher is refused, with the reason and what to do."""

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from unip_hf import UnipModel
from unip_hf.distillation.teachers import Teacher, load_teacher
from unip_hf.hub import to_published_state_dict

from .plain_networks import PATCH_16, TIMM_SIZE, save_timm


@pytest.mark.parametrize("source", ["transformers", "timm", "published"])
def test_weights_that_do_not_match_are_listed(source: str, vit: str, make_config: Callable, tmp_path: Path) -> None:
    name, path = vit, Path(vit) / "model.safetensors"
    lacking, other = "layers.1.mlp.fc1.weight", "layers.0.layernorm_before.weight"
    in_file = ("encoder.layer.1.intermediate.dense.weight", "encoder.layer.0.layernorm_before.weight")
    if source == "timm":
        save_timm(tmp_path, "vit_tiny_patch16_224", TIMM_SIZE)
        name, path = f"timm:local-dir:{tmp_path}", tmp_path / "model.safetensors"
        lacking, other = in_file = ("blocks.1.mlp.fc1.weight", "blocks.0.norm1.weight")
    elif source == "published":
        config = make_config(last_layer_num_attention_heads=None, layer_scale_init_value=None)
        path = tmp_path / "published.safetensors"
        name, other, in_file = str(path), "blocks.0.norm1.weight", ("blocks.1.mlp.fc1.weight", "blocks.0.norm1.weight")
        save_file(to_published_state_dict(UnipModel(config)), path)
    tensors = load_file(path)
    del tensors[in_file[0]]
    tensors[in_file[1]] = torch.ones(5)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError) as error:
        load_teacher(name, 3, num_attention_heads=4 if source == "published" else None)
    assert all(text in str(error.value) for text in (name.removeprefix("timm:"), lacking, other, "5"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**PATCH_16)), "has no CLS token"),
        (lambda: timm.create_model("vit_wee_patch16_reg1_gap_256", **TIMM_SIZE), "has no CLS token"),
        (lambda: transformers.SwinModel(transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1])),
         "not one list of equal blocks"),
        (lambda: transformers.BeitModel(transformers.BeitConfig(**PATCH_16, use_relative_position_bias=True)),
         "adds a mask or relative positions"),
        (lambda: transformers.YolosModel(transformers.YolosConfig(**{**PATCH_16, "image_size": [32, 32]})),
         "1 special tokens and 6 patches"),
        (lambda: transformers.ViTModel(transformers.ViTConfig(**PATCH_16, num_channels=1)), "images with 3 channels"),
        (lambda: timm.create_model("vit_tiny_patch16_224", **TIMM_SIZE), "doesn't match model"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_teacher_is_refused(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"this one cannot be a teacher: .*{reason}"):
        Teacher(make(), name="this one")


def test_a_block_without_one_attention_is_refused(vit: str) -> None:
    model = transformers.ViTModel.from_pretrained(vit)
    block = model.layers[1]
    plain = block.forward
    block.forward = lambda *args, **kwargs: plain(plain(*args, **kwargs))
    with pytest.raises(ValueError, match="block 2 calls scaled_dot_product_attention 2 times instead of once"):
        Teacher(model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:vit_large_patch16_224.mea", r"Invalid pretrained tag.*Similar names: vit_large_patch16_224.mae"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", r"timm cannot load .*give the folder .*timm:local-dir:FOLDER"),
        ("timm:local-dir:nowhere", "Config file not found"),
        ("timm:xcit_nano_12_p16_224", "not a plain ViT for any image size"),
        ("nobody/nothing", r"not a file or folder; timm's names begin with timm:"),
    ],
)
def test_names_that_cannot_be_loaded(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        load_teacher(name)


def test_wrong_use_is_explained(vit: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        load_teacher(str(tmp_path / "mae.pth"))
    with pytest.raises(ValueError, match="has its own number of heads"):
        load_teacher(vit, num_attention_heads=4)
    for layer in (0, 4):
        with pytest.raises(ValueError, match=f"no block {layer}: choose one from 1 to 3"):
            load_teacher(vit, layer)
    teacher, images = load_teacher(vit), torch.randn(2, 3, 32, 48)
    with pytest.raises(ValueError, match=r"No block .* is chosen: give a layer from 1 to 3"):
        teacher.query_key(images)
    with pytest.raises(ValueError, match="call keep_layer first"):
        teacher.compile()
    teacher.keep_layer(2)
    with pytest.raises(ValueError, match=r"Block 3 .* was deleted, like all behind 2"):
        teacher.query_key(images, layer=3)
    with pytest.raises(ValueError, match="30x48 pixels cannot be cut evenly"):
        teacher.query_key(images[:, :, :30])
    with pytest.raises(ValueError, match=r"got torch\.uint8: normalise"):
        teacher.query_key(images.to(torch.uint8))
