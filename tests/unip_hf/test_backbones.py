"""Pre-trained backbones as starting points: weights, layers, training, layer decay, cards, attention, export."""

import json
import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_MAPPING,
    AutoModelForSemanticSegmentation,
    Dinov2WithRegistersForImageClassification,
    PreTrainedModel,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data.scenes import draw_scene
from unip_hf.export import export_model
from unip_hf.export.positions import bicubic_weights
from unip_hf.finetuning import load_model
from unip_hf.hub.model_card import make_model_card
from unip_hf.inference import InferenceSettings, load_segmentation_model, segment_image
from unip_hf.scripts import cli
from unip_hf.spaces_demo.attention import measure_attention
from unip_hf.training import layer_decay_parameter_groups

from ..conftest import save_checkpoint, tiny_backbone_config, tiny_backbones


ID2LABEL = {0: "cold", 1: "mild", 2: "warm"}
PLAIN = ["dinov2-registers", "dinov3"]


def save_encoder(backbone: str, folder: Path) -> PreTrainedModel:
    """A pre-trained encoder as its authors publish it."""
    config = tiny_backbones()[backbone]
    config.out_indices = [-1]
    is_registers = backbone == "dinov2-registers"  # with a classification head on top
    encoder = (
        Dinov2WithRegistersForImageClassification(config) if is_registers else MODEL_MAPPING[type(config)](config)
    )
    save_checkpoint(encoder, folder)
    return encoder


@pytest.mark.parametrize("backbone", ["dinov2-registers", "dinov3", "swin", "convnextv2"])
def test_weights_of_transformers_are_taken_whole(backbone: str, tmp_path: Path) -> None:
    encoder = save_encoder(backbone, tmp_path / "encoder").eval()
    model = load_model(str(tmp_path / "encoder"), ID2LABEL, image_size=64, drop_path_rate=0.2).eval()
    assert model.config.backbone_config.drop_path_rate == 0.2 and model.config.image_size == 64
    assert model.config.feature_layers == ([3] if backbone in PLAIN else [1, 2, 3, 4])
    reference = MODEL_FOR_BACKBONE_MAPPING[type(encoder.config)].from_pretrained(
        tmp_path / "encoder", config=model.config.backbone_config
    )
    pixel_values = torch.randn(1, 3, 56, 84) if backbone == "dinov2-registers" else torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(model.unip(pixel_values).feature_maps, reference(pixel_values).feature_maps):
        torch.testing.assert_close(ours, theirs)

    model.save_pretrained(tmp_path / "tuned")
    again = load_model(str(tmp_path / "tuned"), ID2LABEL, image_size=96, drop_path_rate=0.0).eval()
    assert again.config.backbone_config.drop_path_rate == 0 and again.config.image_size == 96
    torch.testing.assert_close(again(pixel_values).logits, model(pixel_values).logits)
    for task in ("linear_probe", "layerwise_probe"):
        probe = load_model(str(tmp_path / "tuned"), ID2LABEL, task)
        assert probe.feature_layers == ([1, 2, 3] if backbone in PLAIN else [1, 2, 3, 4])


def test_weights_of_timm_are_taken_whole(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet").eval()
    timm.models.save_for_hf(network, str(tmp_path), safe_serialization=True)
    for name in (f"timm:local-dir:{tmp_path}", str(tmp_path)):
        model = load_model(name, ID2LABEL).eval()
        assert model.feature_layers == [2, 3, 4, 5] and model.config.backbone_config.backbone == "test_resnet"
        pixel_values = torch.randn(1, 3, 64, 96)
        last = model.unip(pixel_values).feature_maps[-1]
        torch.testing.assert_close(last, network.forward_features(pixel_values))
        assert load_model(name, ID2LABEL, "linear_probe").feature_layers == [1, 2, 3, 4, 5]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_encoder("dinov3", tmp_path)
    for fields, message in [
        ({"feature_layers": [4]}, "from 1 to 3"),
        ({"feature_layers": [1, 2]}, "one block for all four scales"),
        ({"last_layer_num_attention_heads": 2}, "not for dinov3_vit"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_model(str(tmp_path), ID2LABEL, **fields)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if name.endswith("up_proj.weight"))
    for damaged in (
        {other: tensor for other, tensor in whole.items() if other != name},
        {**whole, name: whole[name][:3].clone()},
    ):
        save_file(damaged, file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks the encoder's .*up_proj.weight.* \(1 in all\)"):
            load_model(str(tmp_path), ID2LABEL)
    del whole["embeddings.mask_token"]  # which no map depends on
    save_file(whole, file, {"format": "pt"})
    load_model(str(tmp_path), ID2LABEL)
    for name, message in [("resnet_18", "Similar names: resnet"), ("local-dir:/nowhere", "/nowhere")]:
        with pytest.raises(ValueError, match=message):
            load_model(f"timm:{name}", ID2LABEL)


def positions(model: torch.nn.Module) -> dict[str, float]:
    """Place of each trainable parameter, 0 before the blocks."""
    groups = layer_decay_parameter_groups(model, 1.0, 0.5)
    lowest = min(group["lr"] for group in groups)
    place = {id(p): math.log2(group["lr"] / lowest) for group in groups for p in group["params"]}
    return {name: place[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def test_layer_decay_counts_blocks_through_all_stages() -> None:
    expected = {
        "dinov3": {"embeddings.cls_token": 0, "model.layer.0.norm1.weight": 1, "model.layer.2.norm1.weight": 3,
                   "norm.weight": 4},
        "swin": {"swin.embeddings.norm.weight": 0, "swin.encoder.layers.0.blocks.0.layernorm_before.weight": 1,
                 "swin.encoder.layers.0.downsample.norm.weight": 2,
                 "swin.encoder.layers.2.blocks.1.layernorm_before.weight": 4,
                 "swin.encoder.layers.2.downsample.norm.weight": 5,
                 "swin.encoder.layers.3.blocks.0.layernorm_before.weight": 5, "hidden_states_norms.stage1.weight": 6},
        "convnextv2": {"embeddings.layernorm.weight": 0, "encoder.stages.0.layers.0.dwconv.weight": 1,
                       "encoder.stages.2.downsampling_layer.0.weight": 3, "encoder.stages.2.layers.1.dwconv.weight": 4,
                       "encoder.stages.3.downsampling_layer.0.weight": 5, "hidden_states_norms.stage1.weight": 6},
        "timm": {"_backbone.stem_0.weight": 0, "_backbone.stages_0.blocks.0.conv_dw.weight": 1,
                 "_backbone.stages_1.downsample.0.weight": 2, "_backbone.stages_3.blocks.1.conv_dw.weight": 9},
    }  # fmt: skip
    for backbone, places in expected.items():
        found = positions(UnipForSemanticSegmentation(tiny_backbone_config(backbone)))
        assert {name: found[f"unip.backbone.{name}"] for name in places} == places
        head = {place for name, place in found.items() if not name.startswith("unip.")}
        assert head == {max(found.values())}
    backbone_config = tiny_backbones()["swin"]
    stock = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone_config, hidden_size=16))
    assert set(positions(stock).values()) == {0, 1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(("backbone", "option"), [
    ("dinov2-registers", ["--gradient_checkpointing"]),
    ("convnextv2", ["--freeze_batch_norm", "--image_mean", "checkpoint"]),
    ("swin", ["--layerwise_probe"]),
])  # fmt: skip
def test_finetune_starts_from_a_backbone(
    backbone: str, option: list[str], street: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_encoder(backbone, tmp_path / "encoder")
    their_mean, their_std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    UnipImageProcessor(image_mean=their_mean, image_std=their_std).save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "README.md").write_text("---\nlicense: mit\n---\n")
    out = tmp_path / "out"
    command = ["finetune", "--model", tmp_path / "encoder", "--data_dir", street, "--output_dir", out]
    command += ["--num_steps", 2, "--batch_size", 2, "--crop_size", 48, "--shortest_edge", 48, "--evaluate_every", 2]
    assert cli.main([*map(str, command), *option]) == 0
    said = "licence of the weights mit, mean 0.4 0.5 0.6, standard deviation 0.2 0.3 0.4"
    assert f"{tmp_path / 'encoder'}: 0." in (printed := capsys.readouterr().out) and said in printed
    assert json.loads((out / "run.json").read_text())["found"]["weights_license"] == "mit"
    model, processor = load_segmentation_model(out / "last")
    infrared = UnipImageProcessor()
    expected = (their_mean, their_std) if "checkpoint" in option else (infrared.image_mean, infrared.image_std)
    assert (processor.image_mean, processor.image_std) == expected
    assert model.config.image_size == 48 and InferenceSettings.for_model(model).window_size == 48
    scores = segment_image(model, processor, draw_scene(1)[0])
    assert scores.shape[0] == 3 and scores.isfinite().all()


def test_finetune_starts_from_a_cnn_of_timm(street: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), str(tmp_path / "encoder"), safe_serialization=True)
    name, out = f"timm:local-dir:{tmp_path / 'encoder'}", tmp_path / "out"
    command = ["finetune", "--model", name, "--data_dir", street, "--output_dir", out, "--num_steps", 1]
    assert cli.main([*map(str, command), "--batch_size", "2", "--crop_size", "48", "--shortest_edge", "48"]) == 0
    assert "licence of the weights apache-2.0, mean 0.5 0.5 0.5" in capsys.readouterr().out
    model, processor = load_segmentation_model(out / "last")
    assert model.describe_head() == "UPerNet on stages 2, 3, 4, 5 of timm's test_resnet"
    assert processor.num_channels == 3


def test_commands_end_in_a_sentence(street: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_encoder("convnextv2", tmp_path / "encoder")
    command = ["finetune", "--model", tmp_path / "encoder", "--data_dir", street, "--output_dir", tmp_path / "out"]
    assert cli.main([*map(str, command), "--gradient_checkpointing"]) == 2
    assert "does not support" in capsys.readouterr().err
    assert cli.main([*map(str, command), "--feature_layers", "7"]) == 2
    assert "from 1 to 4" in capsys.readouterr().err


def test_cards_name_the_backbone_and_the_demo_shows_its_attention(tmp_path: Path) -> None:
    processor = UnipImageProcessor(num_channels=3, size={"height": 56, "width": 84})
    scene = draw_scene(1)[0]
    for backbone in ("dinov2-registers", "swin"):
        model = UnipForSemanticSegmentation(tiny_backbone_config(backbone)).eval()
        card = str(make_model_card("someone/model", model, processor))
        kind, divisor = ("Dinov2WithRegisters", 14) if backbone in PLAIN else ("Swin", 32)
        assert f"head on the backbone {kind}" in card and f"any size from {divisor} pixels" in card
        assert model.describe_head() in card
        if backbone in PLAIN:
            measured = measure_attention(model, processor, scene)
            assert measured.grid_size == (4, 6) and len(measured.nmi) == 3
            assert measured.shares(3, (1, 2)).shape == (1 + 4 * 6,)  # without the registers
        else:
            with pytest.raises(ValueError, match="cannot be shown"):
                measure_attention(model, processor, scene)


def test_positions_are_resized_in_the_graph_as_outside() -> None:
    for size, new_size in [(4, 12), (37, 20), (16, 5), (37, 64), (5, 5)]:
        units = torch.eye(size)[None, None]
        expected = torch.nn.functional.interpolate(units, (new_size, size), mode="bicubic", antialias=True)[0, 0]
        torch.testing.assert_close(bicubic_weights(size, new_size), expected, atol=2e-6, rtol=0)


def saved_model(backbone: str, folder: Path) -> Path:
    model = UnipForSemanticSegmentation(tiny_backbone_config(backbone)).eval()
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    save_checkpoint(model, folder)
    return folder


def test_windows_cannot_be_exported_for_any_size(tmp_path: Path) -> None:
    checkpoint = saved_model("swin", tmp_path / "swin")
    with pytest.raises(ValueError, match=r"attention in windows.*--image_size HEIGHT WIDTH"):
        export_model(checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match="give frame_size"):
        export_model(checkpoint, tmp_path / "out", end_to_end=True, image_size=(64, 64))
    with pytest.raises(ValueError, match="at least 1x1 pixel"):
        export_model(checkpoint, tmp_path / "out", image_size=(0, 64))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("backbone", list(tiny_backbones()))
def test_exported_files_agree_with_pytorch(backbone: str, format: str, tmp_path: Path) -> None:
    checkpoint = saved_model(backbone, tmp_path / "model")
    image_size = (60, 90) if backbone == "swin" else None
    description = export_model(checkpoint, tmp_path / "out", format, image_size=image_size)
    assert all(found["largest_difference"] < 1e-3 for found in description["checks"])
    exported, processor = load_segmentation_model(tmp_path / "out")
    model = AutoModelForSemanticSegmentation.from_pretrained(checkpoint).eval()
    pixel_values = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(exported(pixel_values).logits, model(pixel_values).logits, atol=1e-3, rtol=0)
    if image_size is not None:
        assert description["image_size"] == [64, 96] and InferenceSettings.for_model(exported).window_size == 64
        assert exported(pixel_values[..., :50, :70]).logits.shape == (2, 5, 13, 18)
        with pytest.raises(ValueError, match="up to 64x96 pixels"):
            exported(torch.zeros(1, 3, 65, 96))
    assert segment_image(exported, processor, draw_scene(1, 96, 128)[0], InferenceSettings(64, 32)).shape[0] == 5
