"""Published checkpoint files of every kind load completely or say what does not fit."""

import argparse
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unip_hf import UnipForLinearSegmentation, UnipForPreTraining, UnipForSemanticSegmentation, UnipModel
from unip_hf.hub import convert_checkpoint, find_segmentation_model, read_checkpoint, to_published_state_dict
from unip_hf.hub.checkpoint_files import find_state_dict
from unip_hf.modeling.modeling_unip_heads import SEGMENTATION_MODELS


HEADS = {"num_attention_heads": 4}


@pytest.fixture
def encoder(make_config: Callable) -> dict[str, torch.Tensor]:
    """An encoder under the published names."""
    config = make_config(last_layer_num_attention_heads=None, layer_scale_init_value=None)
    return to_published_state_dict(UnipModel(config))


def prefixed(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state_dict.items()}


def test_every_authors_format_gives_the_same_encoder(encoder: dict, tmp_path: Path) -> None:
    masked_autoencoder = {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 17, 16)}
    masked_autoencoder |= {"decoder_blocks.0.norm1.weight": torch.ones(16), "decoder_pred.bias": torch.zeros(768)}
    formats = {
        "mae": {"model": encoder | masked_autoencoder, "epoch": 1, "args": argparse.Namespace(model="mae_vit_large")},
        "crossmae": {
            "model": encoder
            | masked_autoencoder
            | {"dec_norms.0.weight": torch.ones(32), "wfm.linear.weight": torch.zeros(1, 4)}
        },
        "with_loss": {"model": encoder, "loss": torch.tensor(0.5), "args": {"model": "vit"}},
        "dino": encoder,
        "dino_full": {
            "student": {f"module.backbone.{name}": torch.zeros_like(tensor) for name, tensor in encoder.items()},
            "teacher": prefixed(encoder, "backbone.") | {"head.last_layer.weight_g": torch.ones(8, 1)},
            "optimizer": {"state": {}},
        },
        "ibot": {"state_dict": encoder | {"masked_embed": torch.zeros(1, 32)}},
        "deit": {"model": encoder | {"head.weight": torch.zeros(9, 32), "head.bias": torch.zeros(9)}},
        "distributed": OrderedDict(prefixed(encoder, "module.")),
        "half": {"model": {name: tensor.half() for name, tensor in encoder.items()}},
    }
    image = torch.randn(1, 3, 64, 64)
    expected = convert_checkpoint(encoder, UnipModel, **HEADS)(image).last_hidden_state
    for name, content in formats.items():
        torch.save(content, tmp_path / f"{name}.pth")
        model = convert_checkpoint(tmp_path / f"{name}.pth", UnipModel, **HEADS)
        assert not model.training and model.dtype == torch.float32
        tolerance = 2e-2 if name == "half" else 0
        torch.testing.assert_close(model(image).last_hidden_state, expected, atol=tolerance, rtol=0)
    save_file(encoder, tmp_path / "encoder.safetensors")
    model = convert_checkpoint(tmp_path / "encoder.safetensors", UnipModel, **HEADS)
    torch.testing.assert_close(model(image).last_hidden_state, expected, atol=0, rtol=0)


def test_what_the_file_says_makes_the_configuration(make_config: Callable, tmp_path: Path) -> None:
    student = UnipForPreTraining(
        make_config(hidden_size=192, num_attention_heads=3, last_layer_num_attention_heads=16,
                    layer_scale_init_value=None, position_embedding_type="sincos", image_size=48)
    ).eval()  # fmt: skip
    state = {
        "model": to_published_state_dict(student),
        "args": argparse.Namespace(last_heads=16),
        "scaler": {"scale": 1.0},
    }
    torch.save(state, tmp_path / "unip_vit_tiny_by_mae_large.pth")
    converted = convert_checkpoint(tmp_path / "unip_vit_tiny_by_mae_large.pth", UnipForPreTraining)
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "last_layer_num_attention_heads", "grid_size")
    for field in (*fields, "position_embedding_type", "layer_scale_init_value", "patch_size", "num_channels"):
        assert getattr(converted.config, field) == getattr(student.config, field), field
    image = torch.randn(1, 3, 48, 48)
    assert torch.equal(converted(image).query, student(image).query)


def test_unusual_networks_keep_their_shape(make_config: Callable) -> None:
    unusual = {"patch_size": 8, "mlp_ratio": 2, "qkv_bias": False, "layer_scale_init_value": None, "image_size": 32}
    network = UnipModel(make_config(num_attention_heads=4, last_layer_num_attention_heads=None, **unusual)).eval()
    converted = convert_checkpoint(to_published_state_dict(network), UnipModel, **HEADS)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(converted(image).last_hidden_state, network(image).last_hidden_state)
    half = to_published_state_dict(network)
    next(iter(half.values())).zero_()
    assert network.embeddings.cls_token.any()  # what is exported shares no memory with the model


def test_a_file_of_the_published_fine_tuning_gives_the_whole_network(make_config: Callable, tmp_path: Path) -> None:
    names = ("background", "person", "car", "tree", "pole")
    network = UnipForSemanticSegmentation(
        make_config(last_layer_num_attention_heads=None, num_attention_heads=4)
    ).eval()
    content = {
        "state_dict": to_published_state_dict(network),
        "meta": {"CLASSES": names, "iter": 14400},
        "optimizer": {},
    }
    torch.save(content, tmp_path / "iter_14400.pth")
    converted = convert_checkpoint(tmp_path / "iter_14400.pth", UnipForSemanticSegmentation, **HEADS)
    assert converted.config.id2label == dict(enumerate(names)) and converted.config.label2id["tree"] == 3
    image = torch.randn(2, 3, 64, 80)
    assert torch.equal(converted(image).logits, network(image).logits)

    layers = {"num_hidden_layers": 12, "feature_layers": [4, 6, 8, 12], "last_layer_num_attention_heads": None}
    probe = UnipForLinearSegmentation(make_config(num_attention_heads=4, **layers)).eval()
    converted = convert_checkpoint(to_published_state_dict(probe), UnipForLinearSegmentation, **HEADS)
    assert converted.config.feature_layers == [4, 6, 8, 12]
    assert torch.equal(converted(image).logits, probe(image).logits)
    layers |= {"num_hidden_layers": 24, "feature_layers": [8, 12, 16, 24]}
    large = to_published_state_dict(UnipForLinearSegmentation(make_config(num_attention_heads=4, **layers)))
    assert convert_checkpoint(large, UnipForLinearSegmentation, **HEADS).config.feature_layers == [8, 12, 16, 24]


@pytest.mark.parametrize("model_class", SEGMENTATION_MODELS)
def test_a_file_tells_whose_head_it_holds(model_class: type, make_config: Callable, encoder: dict) -> None:
    published, _ = find_state_dict(to_published_state_dict(model_class(make_config())), "a model")
    assert find_segmentation_model(published) is model_class
    assert find_segmentation_model(encoder) is None
    with pytest.raises(ValueError, match=r"head that this library does not have \(decode_head\.mla\.0\.weight"):
        find_segmentation_model(["decode_head.mla.0.weight", "decode_head.conv_seg.weight"])


def test_a_head_of_other_settings_is_recognised(make_config: Callable) -> None:
    settings = {"decoder_channels": 16, "use_auxiliary_head": False, "last_layer_num_attention_heads": None}
    network = UnipForSemanticSegmentation(make_config(num_attention_heads=4, **settings)).eval()
    content = {"state_dict": to_published_state_dict(network), "meta": {"CLASSES": ("too", "few")}}
    converted = convert_checkpoint(content, UnipForSemanticSegmentation, **HEADS)
    assert converted.config.decoder_channels == 16 and converted.auxiliary_head is None
    assert converted.config.id2label[4] == "LABEL_4"
    published = content["state_dict"]
    assert published["backbone.norm.weight"].eq(1).all() and not published["backbone.norm.bias"].any()


def test_the_blocks_that_a_head_reads_are_those_of_its_configuration(
    make_config: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"last_layer_num_attention_heads": None, "num_attention_heads": 4}
    classic = UnipForSemanticSegmentation(make_config(feature_layers=[1, 2, 2, 3], **settings)).eval()
    content: dict = {"state_dict": to_published_state_dict(classic)}
    image = torch.randn(1, 3, 64, 64)
    content["meta"] = {"config": "model = dict(backbone=dict(type='MAE', out_indices=[0, 1, 1, 2]))"}
    converted = convert_checkpoint(content, UnipForSemanticSegmentation, **HEADS)
    assert converted.config.feature_layers == [1, 2, 2, 3] and "does not say which blocks" not in caplog.text
    assert torch.equal(converted(image).logits, classic(image).logits)
    content["meta"] = {"config": "out_indices=[2, 2, 2, 2]"}
    assert convert_checkpoint(content, UnipForSemanticSegmentation, **HEADS).config.feature_layers == [3]

    del content["meta"]
    assert convert_checkpoint(content, UnipForSemanticSegmentation, **HEADS).config.feature_layers is None
    assert "does not say which blocks its head reads" in caplog.text
    with pytest.raises(ValueError, match=r"decode_head\.\S+: unexpected"):
        convert_checkpoint(content, UnipForLinearSegmentation, **HEADS)


def test_one_channel_networks_equal_three_channel_ones_on_grey_images(encoder: dict) -> None:
    grey = torch.randn(2, 1, 64, 64)
    three = convert_checkpoint(encoder, UnipModel, **HEADS)
    one = convert_checkpoint(encoder, UnipModel, num_channels=1, **HEADS)
    expected = three(grey.expand(-1, 3, -1, -1)).last_hidden_state
    torch.testing.assert_close(one(grey).last_hidden_state, expected, atol=1e-5, rtol=0)
    back = convert_checkpoint(to_published_state_dict(one), UnipModel, **HEADS)
    torch.testing.assert_close(back(grey.expand(-1, 3, -1, -1)).last_hidden_state, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="3 input channels into 2"):
        convert_checkpoint(encoder, UnipModel, num_channels=2, **HEADS)


def test_position_tables_are_resized_and_get_the_row_they_lack(encoder: dict, make_config: Callable) -> None:
    larger = convert_checkpoint(encoder, UnipModel, image_size=128, **HEADS)
    assert larger.embeddings.position_embeddings.shape == (1, 65, 32)
    image = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(larger(image)[0], convert_checkpoint(encoder, UnipModel, **HEADS)(image)[0])
    wide = UnipModel(make_config(image_size=(48, 80), last_layer_num_attention_heads=None, **HEADS)).eval()
    assert wide.embeddings.position_embeddings.shape[1] == 16  # a square number, CLS included
    converted = convert_checkpoint(to_published_state_dict(wide), UnipModel, image_size=(48, 80), **HEADS)
    assert torch.equal(converted.embeddings.position_embeddings, wide.embeddings.position_embeddings)
    without_cls = encoder | {"pos_embed": encoder["pos_embed"][:, 1:]}  # as DeiT III
    table = convert_checkpoint(without_cls, UnipModel, **HEADS).embeddings.position_embeddings
    assert not table[0, 0].any() and torch.equal(table[:, 1:], without_cls["pos_embed"])


def test_what_is_not_used_or_new_is_said(encoder: dict, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="unip_hf"):
        model = convert_checkpoint(encoder | {"head.weight": torch.zeros(9, 32)}, UnipForSemanticSegmentation, **HEADS)
    assert len(model.unip.layers) == 3
    new = [f"newly initialised: {part}" for part in ("pyramid", "decode_head", "auxiliary_head")]
    unused = "Not used: classification or projection head (1 tensors, e.g. head.weight)"
    for said in (unused, "Not used: final norm", *new):
        assert said in caplog.text


@pytest.mark.parametrize(("change", "message"), [
    ({"blocks.0.attn.rel_pos": torch.zeros(3)}, "blocks.0.attn.rel_pos: unexpected"),
    ({"blocks.1.mlp.fc2.weight": None}, "layers.1.mlp.fc2.weight: not in the file"),
    ({"blocks.0.mlp.fc2.weight": torch.zeros(3, 3)}, r"mlp.fc2.weight: \(3, 3\) in the file, \(32, 128\) here"),
    ({"norm.bias": None}, "layernorm.bias: not in the file"),
    ({"cls_token": None}, r"not a plain ViT.*\['cls_token'\]"),
    ({"pos_embed": torch.zeros(1, 18, 32)}, "distilled DeiT"),
])  # fmt: skip
def test_a_file_that_does_not_fit_stops_with_the_list(encoder: dict, change: dict, message: str) -> None:
    changed = {name: tensor for name, tensor in (encoder | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(changed, UnipModel, **HEADS)


def test_files_that_are_no_checkpoints_are_refused_without_running_them(encoder: dict, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "malicious.pth").write_bytes(pickle.dumps({"model": Malicious()}, protocol=2))
    torch.save({"model": encoder, "extra": Malicious()}, tmp_path / "hidden.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    torch.save({"weights": encoder}, tmp_path / "elsewhere.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("malicious.pth", "hidden.pth", "text.pth", "text.safetensors", "elsewhere.pth", "list.pth"):
        with pytest.raises(ValueError, match=f"{name}"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth"):
        convert_checkpoint(tmp_path / "nowhere.pth", UnipModel)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match=r"empty.pth"):
        read_checkpoint(tmp_path / "empty.pth")
    torch.save({"model": encoder, "path": Path("here")}, tmp_path / "path.pth")
    with pytest.raises(ValueError, match=r"not pathlib\."):
        read_checkpoint(tmp_path / "path.pth")
    with pytest.raises(ValueError, match="give num_attention_heads"):
        convert_checkpoint(encoder, UnipModel)
    with pytest.raises(ValueError, match="num_attention_heads=5 does not divide"):
        convert_checkpoint(encoder, UnipModel, num_attention_heads=5)
    with pytest.raises(ValueError, match=r"no fields \['image_sise'\]"):
        convert_checkpoint(encoder, UnipModel, image_sise=128, **HEADS)


def test_published_code_is_warned_of_a_last_block_it_would_split_otherwise(
    make_config: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    to_published_state_dict(UnipForSemanticSegmentation(make_config()))
    assert "splits every block into 2 heads, but the last block of this model has 4" in caplog.text
