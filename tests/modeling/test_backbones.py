"""What holds with any backbone in place of UNIP's encoder, on tiny networks of transformers and timm."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    ConvNextV2Config,
    SwinConfig,
    TimmBackboneConfig,
    ViTConfig,
)

from unip_hf import UnipConfig, UnipForLinearSegmentation, UnipForPreTraining, UnipForSemanticSegmentation, UnipModel
from unip_hf.finetuning import UnipForLayerwiseProbing

from ..conftest import PATIENCE, STAGES, tiny_backbone_config, tiny_backbones


BACKBONES = list(tiny_backbones())
PLAIN = ["dinov2-registers", "dinov3"]
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
# Pixels for each cell of the logits at 261x333, and what the card says.
EXPECTED = {
    "dinov2-registers": (3.5, "last-layer feature pyramid (LL-FPN) on block 3 of Dinov2WithRegisters, UPerNet"),
    "dinov3": (4, "last-layer feature pyramid (LL-FPN) on block 3 of DINOv3ViT, UPerNet"),
    "swin": (4, "UPerNet on stages 1, 2, 3, 4 of Swin"),
    "convnextv2": (4, "UPerNet on stages 1, 2, 3, 4 of ConvNextV2"),
    "timm": (4, "UPerNet on stages 1, 2, 3, 4 of timm's test_convnext"),
}


def train_a_step(model: torch.nn.Module) -> None:
    """Every trainable parameter gets a gradient, frozen ones get none."""
    labels = torch.randint(0, 5, (2, 61, 83))
    loss = model.train()(torch.randn(2, 3, 61, 83), labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen but has a gradient"
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), f"no gradient for {name}"
            # A bias on the keys alone moves no softmax; the bias under a batch norm moves nothing.
            assert parameter.grad.any() or name.endswith("bias"), f"the gradient for {name} is zero"
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01).step()


def test_each_backbone_trains_and_its_folder_predicts_without_this_library(tmp_path: Path) -> None:
    pixel_values = torch.randn(1, 3, 261, 333)
    np.save(tmp_path / "image.npy", pixel_values.numpy())
    expected = {}
    for backbone in BACKBONES:
        model = UnipForSemanticSegmentation(tiny_backbone_config(backbone))
        train_a_step(model)
        model.eval().save_pretrained(tmp_path / backbone)
        loaded, report = UnipForSemanticSegmentation.from_pretrained(tmp_path / backbone, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
        assert loaded.config.to_dict().keys() == model.config.to_dict().keys()
        with torch.no_grad():
            expected[backbone] = model(pixel_values).logits
        stride, description = EXPECTED[backbone]
        assert expected[backbone].shape == (1, 5, -(-261 // stride), -(-333 // stride))
        assert model.describe_head() == description

    code = """
import sys
sys.modules["unip_hf"] = None
import numpy as np, torch
from transformers import AutoModelForSemanticSegmentation
folder, *names = sys.argv[1:]
pixel_values = torch.from_numpy(np.load(f"{folder}/image.npy"))
for name in names:
    model = AutoModelForSemanticSegmentation.from_pretrained(f"{folder}/{name}", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    np.save(f"{folder}/{name}.npy", model(pixel_values).logits.detach().numpy())
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code, str(tmp_path), *BACKBONES]
    subprocess.run(command, check=True, timeout=PATIENCE, env=environment)
    for backbone, logits in expected.items():
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / f"{backbone}.npy")), logits, atol=1e-5, rtol=0)


@every_backbone
def test_probes_leave_the_backbone_as_it_is(backbone: str) -> None:
    for model_class in (UnipForLinearSegmentation, UnipForLayerwiseProbing):
        layers = [1, 2, 3] if backbone in PLAIN else [1, 2, 3, 4]
        model = model_class(tiny_backbone_config(backbone, feature_layers=layers))
        before = {name: tensor.clone() for name, tensor in model.unip.state_dict().items()}
        train_a_step(model)
        assert not model.unip.training and not any(p.requires_grad for p in model.unip.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.unip.state_dict().items())
    last = model.eval().linear_model(layers[-1])
    pixel_values = torch.randn(1, 3, 64, 96)
    of_last = model(pixel_values).logits[:, -5:]  # at the size of the finest map
    alone = torch.nn.functional.interpolate(last(pixel_values).logits, of_last.shape[-2:], mode="bilinear")
    torch.testing.assert_close(of_last, alone, atol=1e-5, rtol=1e-5)
    assert last.classifier.in_channels == model.feature_channels[-1]


def test_maps_go_through_the_pyramid_that_they_need() -> None:
    def model(backbone: str, layers: list[int] | None) -> UnipForSemanticSegmentation:
        return UnipForSemanticSegmentation(tiny_backbone_config(backbone, feature_layers=layers)).eval()

    assert model("swin", None).pyramid is None and model("swin", None).feature_strides == [4, 8, 16, 32]
    assert model("swin", [4]).feature_strides == [32] and model("timm", [3]).feature_layers == [3]
    classic, last = model("dinov3", [1, 2, 2, 3]), model("dinov3", [3, 3, 3, 3])
    assert classic.pyramid is not None and classic.describe_head().startswith("feature pyramid on blocks 1, 2, 3 of")
    ll_fpn = model("dinov3", None)
    ll_fpn.load_state_dict(last.state_dict())
    pixel_values = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(ll_fpn(pixel_values).logits, last(pixel_values).logits)
    classic.load_state_dict(last.state_dict())
    assert not torch.allclose(classic(pixel_values).logits, last(pixel_values).logits)
    one_channel = ConvNextV2Config(hidden_sizes=[8] * 4, depths=[1] * 4, num_channels=1, out_features=STAGES)
    config = UnipConfig(backbone_config=one_channel, decoder_channels=8, auxiliary_channels=8)
    assert config.num_channels == 1
    assert UnipForSemanticSegmentation(config).eval()(pixel_values[:, :1]).logits.shape == (1, 2, 16, 24)


@every_backbone
def test_hidden_states_attention_and_checkpointing_are_those_of_the_backbone(backbone: str) -> None:
    model = UnipForSemanticSegmentation(tiny_backbone_config(backbone, classifier_dropout_prob=0.0)).eval()
    pixel_values, labels = torch.randn(1, 3, 64, 64), torch.randint(0, 5, (1, 64, 64))
    assert isinstance(model(pixel_values, return_dict=False), tuple)
    assert model(pixel_values).attentions is None
    if backbone in (*PLAIN, "swin"):
        with pytest.raises(ValueError, match=r'set_attn_implementation\("eager"\)'):
            model(pixel_values, output_attentions=True)
        expected = model(pixel_values).logits
        model.set_attn_implementation("eager")
        outputs = model(pixel_values, output_attentions=True, output_hidden_states=True)
        torch.testing.assert_close(outputs.logits, expected, atol=1e-4, rtol=1e-4)
        assert len(outputs.attentions) >= 3 and len(outputs.hidden_states) >= 4
        loss = model(pixel_values, labels=labels).loss
        model.gradient_checkpointing_enable()
        torch.testing.assert_close(model(pixel_values, labels=labels).loss, loss)
    else:
        model.set_attn_implementation("eager")
        with pytest.raises(ValueError, match="attention"):
            model(pixel_values, output_attentions=True)
        with pytest.raises(ValueError, match="does not support"):
            model.gradient_checkpointing_enable()
    if backbone == "timm":
        with pytest.raises(ValueError, match="gives no hidden states"):
            model(pixel_values, output_hidden_states=True)


@every_backbone
def test_configurations_are_read_back_and_left_alone(backbone: str, tmp_path: Path) -> None:
    given = tiny_backbones()[backbone]
    before = given.to_dict()
    config = UnipConfig(backbone_config=given, feature_layers=[2], num_labels=3)
    assert given.to_dict() == before, "the caller's configuration was changed"
    UnipForSemanticSegmentation(config)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded.backbone_config) is type(given)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert "backbone_config" not in UnipConfig().to_dict()  # files of UNIP's own encoder stay as they are


@pytest.mark.parametrize(("fields", "message"), [
    ({"backbone_config": {"hidden_size": 8}}, "backbone_config has no model_type"),
    ({"backbone_config": {"model_type": "nothing"}}, "nothing"),
    ({"backbone_config": UnipConfig()}, "leave it out for UNIP's own encoder"),
    ({"backbone_config": ViTConfig()}, "'vit' cannot be a backbone"),
    ({"backbone_config": TimmBackboneConfig(backbone="vit_tiny_patch16_224")}, "images of any size"),
    ({"backbone_config": TimmBackboneConfig(backbone="test_mambaout")}, "rows, columns"),
    ({"backbone_config": SwinConfig(), "feature_layers": [5]}, r"stages that do not exist: \[5\].*from 1 to 4"),
    ({"backbone_config": SwinConfig(), "feature_layers": [1, 2]}, "one block for all four scales, or four"),
    ({"backbone_config": SwinConfig(), "feature_layers": [4, 3, 2, 1]}, "each is coarser than the one before"),
    ({"backbone_config": TimmBackboneConfig(backbone="resnet18"), "feature_layers": [0]}, "numbered from 1"),
    ({"backbone_config": TimmBackboneConfig(backbone="resnet18"), "feature_layers": [9]}, "resnet18"),
])  # fmt: skip
def test_what_makes_no_network_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnipForSemanticSegmentation(UnipConfig(**fields))


@every_backbone
def test_wrong_input_says_what_to_do(backbone: str) -> None:
    model = UnipForSemanticSegmentation(tiny_backbone_config(backbone)).eval()
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(None)
    with pytest.raises(ValueError, match="process images with num_channels=3"):
        model(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match=f"smaller than one patch \\({model.patch_size}x{model.patch_size}\\)"):
        model(torch.zeros(1, 3, model.patch_size - 1, 64))


def test_no_encoder_of_unip_is_made_of_another_backbone(tmp_path: Path) -> None:
    model = UnipForSemanticSegmentation(tiny_backbone_config("dinov3"))
    model.resize_position_embeddings(128)
    assert model.config.image_size == 128
    model.save_pretrained(tmp_path)
    for model_class in (UnipModel, UnipForPreTraining):
        with pytest.raises(ValueError, match="only the segmentation models can be built from it"):
            model_class.from_pretrained(tmp_path)
    assert type(AutoModelForSemanticSegmentation.from_pretrained(tmp_path)) is UnipForSemanticSegmentation
