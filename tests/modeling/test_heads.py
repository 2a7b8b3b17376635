"""SETR-MLA and SegFormer's head: published numbers, published names, what they read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from unip_hf import UnipForMlaSegmentation, UnipForSegformerSegmentation
from unip_hf.finetuning import SegmentationLoss
from unip_hf.hub import convert_checkpoint, find_segmentation_model, to_published_state_dict

from ..conftest import tiny_backbone_config


BOTH = pytest.mark.parametrize("model_class", [UnipForMlaSegmentation, UnipForSegformerSegmentation])
WEIGHTS = [1.51059098, 15.81630837, 30.08046375, 41.70549916, 38.33253736, 39.78383054, 46.98874852, 46.46856094,
           44.23738209]  # fmt: skip


@pytest.fixture
def decoder(
    golden: Path, make_config: Callable, monkeypatch: pytest.MonkeyPatch
) -> tuple[UnipForMlaSegmentation, dict[str, torch.Tensor]]:
    """The published neck and heads on an encoder that gives the published maps."""
    tensors = load_file(golden / "unirgb_ir" / "decoder.safetensors")
    encoder = make_config(hidden_size=48, num_attention_heads=4, last_layer_num_attention_heads=None)
    published = to_published_state_dict(UnipForMlaSegmentation(encoder))
    of_backbone = {name: tensor for name, tensor in published.items() if name.startswith("backbone.")}
    of_heads = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    assert find_segmentation_model(of_heads) is UnipForMlaSegmentation
    content = {"state_dict": of_backbone | of_heads, "meta": {"config": "out_indices=[0, 1, 1, 2]"}}
    model = convert_checkpoint(content, UnipForMlaSegmentation, num_attention_heads=4, loss_average="all_pixels")
    assert model.config.feature_layers == [1, 2, 2, 3] and model.config.decoder_channels == 32
    back = to_published_state_dict(model)
    assert all(torch.equal(back[name], tensor.float()) for name, tensor in of_heads.items())
    assert back.keys() - of_backbone.keys() == of_heads.keys()
    maps = [tensors[f"feature.{number}"] for number in range(4)]
    monkeypatch.setattr(model.unip, "feature_maps", lambda *_, **__: maps)
    return model, tensors


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_mla_gives_the_published_maps_logits_and_losses(decoder: tuple) -> None:
    model, tensors = decoder
    pixel_values, labels = torch.zeros(2, 3, 64, 96), tensors["labels"]
    with torch.no_grad():
        for number, maps in enumerate(model.neck([tensors[f"feature.{number}"] for number in range(4)])):
            assert_close(maps, tensors[f"neck.{number}"])
        outputs = model(pixel_values, labels=labels)
    assert_close(outputs.logits, tensors["logits"])
    assert len(outputs.auxiliary_logits) == 4 and model(pixel_values).auxiliary_logits is None
    for number, logits in enumerate(outputs.auxiliary_logits):
        assert_close(logits, tensors[f"aux.{number}"])
    assert model.config.auxiliary_loss_weight == 0.4
    expected = tensors["loss.decode"] + sum(tensors[f"loss.aux.{number}"] for number in range(4))
    batch = {"pixel_values": pixel_values, "labels": labels, "num_labelled": int((labels != 255).sum())}
    model.training = True  # so that auxiliary logits are given, while batch norm keeps its statistics
    assert_close(SegmentationLoss(class_weights=WEIGHTS)(model, batch), expected)
    assert_close(SegmentationLoss(class_weights=[1.0] * 9)(model, batch), outputs.loss)


def test_the_all_mlp_head_is_that_of_segformer(make_config: Callable) -> None:
    model = UnipForSegformerSegmentation(make_config(feature_layers=[1, 2, 2, 3], decoder_channels=24)).eval()
    stock = SegformerDecodeHead(
        SegformerConfig(hidden_sizes=[32] * 4, decoder_hidden_size=24, num_labels=5, reshape_last_stage=True)
    ).eval()
    names = {"linear_projections": "projections", "linear_fuse": "fusion.convolution"}
    weights = {}
    for name, tensor in stock.state_dict().items():
        first, _, rest = name.partition(".")
        first = {**names, "batch_norm": "fusion.batch_norm"}.get(first, first)
        weights[f"{first}.{rest}".replace(".proj.", ".")] = torch.randn_like(tensor.float()).abs()
    stock.load_state_dict(dict(zip(stock.state_dict(), weights.values())))
    model.decode_head.load_state_dict(weights)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = model.unip.feature_maps(image, [1, 2, 2, 3])
        scaled = [
            nn.functional.interpolate(one, scale_factor=factor, mode="bilinear", align_corners=False)
            for one, factor in zip(maps, (4, 2, 1, 0.5))
        ]
        expected = stock(scaled)
        torch.testing.assert_close(model(image).logits, expected, rtol=1e-4, atol=1e-4)


@BOTH
def test_a_file_of_the_head_gives_the_whole_network(model_class: type, make_config: Callable) -> None:
    config = make_config(
        last_layer_num_attention_heads=None, num_hidden_layers=4, decoder_channels=16, use_auxiliary_head=False,
        feature_layers=model_class.default_feature_layers(4),
    )  # fmt: skip
    model = model_class(config).eval()
    content = {"state_dict": to_published_state_dict(model), "meta": {"CLASSES": tuple("abcde")}}
    converted = convert_checkpoint(content, model_class, num_attention_heads=2)
    assert converted.config.feature_layers == config.feature_layers and converted.config.id2label[4] == "e"
    image = torch.randn(1, 3, 61, 83)
    assert torch.equal(converted(image).logits, model(image).logits)


@BOTH
def test_one_block_feeds_all_levels_and_two_are_refused(model_class: type, make_config: Callable) -> None:
    last = model_class(make_config()).eval()
    spelled_out = model_class(make_config(feature_layers=[3, 3, 3, 3])).eval()
    spelled_out.load_state_dict(last.state_dict())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(spelled_out(image).logits, last(image).logits)
    with pytest.raises(ValueError, match=r"feature_layers=\[1, 2\] has 2 blocks: the head takes one block"):
        model_class(make_config(feature_layers=[1, 2]))


def test_the_heads_describe_themselves(make_config: Callable) -> None:
    for model_class, layers, text in (
        (UnipForMlaSegmentation, [3, 6, 9, 12], "SETR-MLA on blocks 3, 6, 9, 12"),
        (UnipForSegformerSegmentation, [4, 6, 8, 12], "SegFormer's all-MLP head on blocks 4, 6, 8, 12"),
    ):
        assert model_class.default_feature_layers(12) == layers
        assert model_class.default_feature_layers(24) == [2 * layer for layer in layers]
        assert model_class(make_config(num_hidden_layers=12, feature_layers=layers)).describe_head() == text


def test_heads_on_other_backbones() -> None:
    image = torch.randn(2, 3, 96, 64)
    swin = UnipForSegformerSegmentation(tiny_backbone_config("swin"))
    assert swin.decode_head.is_pyramid and swin(image).logits.shape == (2, 5, 24, 16)
    with pytest.raises(ValueError, match="the head takes maps of one size"):
        UnipForMlaSegmentation(tiny_backbone_config("swin"))
    plain = UnipForMlaSegmentation(tiny_backbone_config("dinov3", feature_layers=[1, 2, 2, 3]))
    assert plain(image).logits.shape == (2, 5, 24, 16)


@BOTH
@pytest.mark.parametrize("fusion", ["iv_tuning", "unirgb_ir"])
def test_heads_on_pairs(model_class: type, fusion: str, make_config: Callable, tmp_path: Path) -> None:
    config = make_config(num_hidden_layers=4, fusion=fusion, feature_layers=model_class.default_feature_layers(4))
    model = model_class(config)
    images = {"pixel_values": torch.randn(2, 3, 61, 83), "auxiliary_pixel_values": torch.randn(2, 3, 61, 83)}
    model.train()(**images, labels=torch.randint(0, 5, (2, 61, 83))).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert all(name.startswith("unip.fusion.") or not name.startswith("unip.") for name in trained)
    model.eval().save_pretrained(tmp_path)
    torch.testing.assert_close(model_class.from_pretrained(tmp_path)(**images).logits, model(**images).logits)
