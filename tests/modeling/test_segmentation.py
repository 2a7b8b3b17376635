"""What holds for the segmentation models alone: alignment, losses, labels, feature layers, other people's heads."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

from unip_hf import UnipForLinearSegmentation, UnipForPreTraining, UnipForSemanticSegmentation, UnipModel
from unip_hf.modeling.modeling_unip_resampling import adaptive_average_pool, crop_to_image, max_pool
from unip_hf.modeling.modeling_unip_segmentation import UnipConvModule


BOTH = pytest.mark.parametrize("model_class", [UnipForSemanticSegmentation, UnipForLinearSegmentation])


@pytest.mark.parametrize(("patch", "stride"), [(16, 4), (16, 16), (14, 3.5), (14, 7), (14, 14), (8, 2), (10, 2.5)])
@pytest.mark.parametrize("size", [(128, 192), (125, 163), (98, 191), (126, 170)])
def test_logits_of_a_padded_image_stay_aligned_with_the_image(
    size: tuple[int, int], patch: int, stride: float
) -> None:
    """A score that is the position in pixels must still be the position after cutting and resizing."""
    padded = tuple(-(-side // patch) * patch for side in size)
    rows, columns = (stride * (torch.arange(round(side / stride)) + 0.5) for side in padded)
    positions = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    cut = crop_to_image(positions, padded, size)
    assert cut.shape[-2:] == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    resized = nn.functional.interpolate(cut, size=size, mode="bilinear", align_corners=False)[0]
    inner = slice(2 * math.ceil(stride), -2 * math.ceil(stride))  # bilinear resizing clamps at the border
    for axis, side in enumerate(size):
        expected = (torch.arange(side) + 0.5).view((-1, 1) if axis == 0 else (1, -1)).expand(size)
        error = (resized[axis] - expected)[inner, inner].abs().max()
        assert error < 0.02, f"the logits are off by {error:.2f} pixels"


@pytest.mark.parametrize("patch", [8, 14, 16])
@BOTH
def test_a_network_that_copies_positions_gives_them_at_their_pixels(
    model_class: type, patch: int, make_config: Callable
) -> None:
    """The first channel of each patch is its mean, and what follows leaves it alone."""
    config = make_config(patch_size=patch, image_size=4 * patch, head_implementation="plain")  # parts are replaced
    model = model_class(config).eval()
    embeddings, height, width = model.unip.embeddings, 8 * patch + 5, 11 * patch + 3
    with torch.no_grad():
        for parameter in (*embeddings.parameters(), *(layer.layer_scale1.scale for layer in model.unip.layers)):
            parameter.zero_()
        for layer in model.unip.layers:
            layer.layer_scale2.scale.zero_()
        embeddings.patch_embeddings.weight[0] = 1 / embeddings.patch_embeddings.weight[0].numel()
    pick = nn.Conv2d(32, 5, 1, bias=False)
    nn.init.zeros_(pick.weight)
    pick.weight.data[:, 0] = 1
    if isinstance(model, UnipForSemanticSegmentation):
        model.pyramid.to_quarter = nn.Upsample(scale_factor=4, mode="bilinear")
        model.decode_head = nn.Sequential()
        model.decode_head.forward = lambda pyramid: pick(pyramid[0])
    else:
        model.classifier = pick
    for positions in (torch.arange(width).expand(height, -1), torch.arange(height)[:, None].expand(-1, width)):
        image = (positions + 0.5).expand(1, 3, -1, -1)
        logits = model(image).logits
        cells = 4 if isinstance(model, UnipForSemanticSegmentation) else 1
        assert logits.shape[-2:] == (math.ceil(cells * height / patch), math.ceil(cells * width / patch))
        resized = nn.functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        inner = (..., slice(2 * patch, -3 * patch), slice(2 * patch, -3 * patch))
        error = (resized[inner] - image[:, :1][inner]).abs().max()
        assert error < 0.02, f"the logits are off by {error:.2f} pixels"


def test_logits_of_both_heads_cover_the_image_and_no_more(make_config: Callable) -> None:
    model, image = UnipForSemanticSegmentation(make_config()).eval(), torch.randn(1, 3, 48, 70)
    assert model(image).auxiliary_logits is None  # predictions do not need it
    outputs = model(image, labels=torch.zeros(1, 48, 70, dtype=torch.long))
    assert outputs.logits.shape == (1, 5, 12, 18) and outputs.auxiliary_logits.shape == (1, 5, 3, 5)
    padded = model.auxiliary_head(model.unip.feature_maps(image, [3])[0])
    torch.testing.assert_close(outputs.auxiliary_logits, crop_to_image(padded, (48, 80), (48, 70)))
    assert not torch.allclose(outputs.auxiliary_logits, padded)


def test_padding_inside_equals_padding_outside(make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config()).eval()
    image = torch.randn(1, 3, 60, 84)
    padded = nn.functional.pad(image, (0, 12, 0, 4))
    torch.testing.assert_close(model(image).logits, model(padded).logits[..., :15, :21])


def test_pooling_is_that_of_torch_wherever_torch_has_it() -> None:
    large = torch.full((1, 2, 40, 60), 2000.0, dtype=torch.float16)
    torch.testing.assert_close(adaptive_average_pool(large, 1), torch.full((1, 2, 1, 1), 2000.0).half())
    for size in [(16, 16), (7, 5), (6, 1), (13, 20)]:
        maps = torch.randn(2, 3, *size)
        for bins in (1, 2, 3, 6):
            expected = nn.functional.adaptive_avg_pool2d(maps, bins)
            torch.testing.assert_close(adaptive_average_pool(maps, bins), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            max_pool(maps), nn.functional.max_pool2d(maps, 2, 2, ceil_mode=True), atol=0, rtol=0
        )


@BOTH
@pytest.mark.parametrize("loss_average", ["valid_pixels", "all_pixels"])
def test_loss_is_zero_where_every_pixel_is_ignored(
    model_class: type, loss_average: str, make_config: Callable
) -> None:
    model = model_class(make_config(loss_average=loss_average)).train()
    loss = model(torch.randn(1, 3, 64, 64), labels=torch.full((1, 64, 64), 255)).loss
    loss.backward()
    assert loss == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@BOTH
@pytest.mark.parametrize(("labels", "message"), [
    (torch.full((1, 64, 64), 7), r"holds the ids \[7\].*classes 0 to 4 and 255"),
    (torch.full((1, 64, 64), -1), r"holds the ids \[-1\]"),
    (torch.zeros(1, 32, 32, dtype=torch.long), r"shape \(1, 64, 64\): \(batch_size, height, width\)"),
    (torch.zeros(1, 64, 64), "integer ids"),
    (torch.full((1, 64, 64), 300).to(torch.uint16), r"holds the ids \[300\]"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(
    model_class: type, labels: torch.Tensor, message: str, make_config: Callable
) -> None:
    with pytest.raises(ValueError, match=message):
        model_class(make_config())(torch.randn(1, 3, 64, 64), labels=labels)


def test_ids_on_a_device_are_not_read(make_config: Callable) -> None:
    """A tensor on "meta" has no values: reading one, which makes a host wait for a GPU, is an error."""
    model = UnipForSemanticSegmentation(make_config()).to("meta")
    labels = torch.full((2, 64, 64), 7, device="meta")
    assert model(torch.randn(2, 3, 64, 64, device="meta"), labels=labels).loss.shape == ()


def test_heads_describe_themselves(make_config: Callable) -> None:
    def described(model_class: type, layers: list[int] | None) -> str:
        return model_class(make_config(num_hidden_layers=12, feature_layers=layers)).describe_head()

    assert UnipForSemanticSegmentation.default_feature_layers(12) is None
    last = "last-layer feature pyramid (LL-FPN) on block 12, UPerNet"
    assert described(UnipForSemanticSegmentation, None) == last
    assert described(UnipForSemanticSegmentation, [12, 12, 12, 12]) == last
    assert described(UnipForSemanticSegmentation, [3, 6, 9, 12]) == "feature pyramid on blocks 3, 6, 9, 12, UPerNet"
    assert UnipForLinearSegmentation.default_feature_layers(24) == [8, 12, 16, 24]
    layers = UnipForLinearSegmentation.default_feature_layers(12)
    assert described(UnipForLinearSegmentation, layers) == "one linear classifier on blocks 4, 6, 8, 12"


def test_settings_of_the_head_do_what_they_say(
    make_config: Callable, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = UnipForSemanticSegmentation(make_config(decoder_channels=8, use_auxiliary_head=False, pool_scales=[1, 2]))
    assert small.decode_head.classifier.in_channels == 8 and small.auxiliary_head is None
    assert len(small.decode_head.pooled_convolutions) == 2
    dropout = UnipForSemanticSegmentation(make_config(classifier_dropout_prob=0.9)).train()
    image, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    assert not torch.equal(dropout(image).logits, dropout(image).logits)

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = UnipForSemanticSegmentation(make_config(semantic_loss_ignore_index=0)).eval()
    assert "semantic_loss_ignore_index=0 is also one of the 5 classes" in caplog.text
    ignoring = model(image, labels=labels).loss
    model.config.semantic_loss_ignore_index = 255
    expected = model(image, labels=torch.where(labels == 0, 255, labels)).loss
    torch.testing.assert_close(ignoring, expected)
    with pytest.raises(ValueError, match="at least two classes"):
        UnipForSemanticSegmentation(make_config(num_labels=1))(image, labels=torch.zeros_like(labels))


def test_one_value_for_each_channel_is_normalised_by_the_running_statistics() -> None:
    module = UnipConvModule(4, 6, 1).train()
    nn.init.normal_(module.batch_norm.running_mean)
    nn.init.uniform_(module.batch_norm.running_var, 0.5, 2.0)
    single = torch.randn(1, 4, 1, 1)
    trained = module(single)
    torch.testing.assert_close(trained, module.eval()(single))


def test_the_classic_pyramid_reads_four_blocks_and_ll_fpn_the_last(make_config: Callable) -> None:
    pixel_values = torch.randn(1, 3, 64, 64)
    last = UnipForSemanticSegmentation(make_config()).eval()
    spelled_out = UnipForSemanticSegmentation(make_config(feature_layers=[3, 3, 3, 3])).eval()
    classic = UnipForSemanticSegmentation(make_config(feature_layers=[1, 2, 2, 3])).eval()
    for model in (spelled_out, classic):
        model.load_state_dict(last.state_dict())
    encoder = classic.unip
    outputs = encoder.feature_maps(pixel_values, [1, 2, 2, 3])
    torch.testing.assert_close(classic.pyramid(outputs)[2], outputs[2])
    torch.testing.assert_close(spelled_out(pixel_values).logits, last(pixel_values).logits)
    assert not torch.allclose(classic(pixel_values).logits, last(pixel_values).logits)
    with pytest.raises(ValueError, match="one block for all four scales, or four"):
        UnipForSemanticSegmentation(make_config(feature_layers=[1, 2]))


def test_blocks_behind_the_last_that_is_read_are_not_built(make_config: Callable) -> None:
    model = UnipForLinearSegmentation(make_config(feature_layers=[1, 2]))
    assert len(model.unip.layers) == 2 and model.classifier.in_channels == 64
    assert model(torch.randn(1, 3, 61, 83)).logits.shape == (1, 5, 4, 6)
    pixel_values = torch.randn(1, 3, 64, 64)
    first, second = model.unip.feature_maps(pixel_values, [1, 2])
    expected = model.classifier(torch.cat([first, second], dim=1))
    torch.testing.assert_close(model(pixel_values).logits, expected)


def test_probing_leaves_the_encoder_as_it_is(make_config: Callable) -> None:
    model = UnipForLinearSegmentation(make_config(drop_path_rate=0.5))
    assert not model.unip.training
    model.train()
    assert model.training and not model.unip.training
    pixel_values = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(pixel_values).logits, model(pixel_values).logits)
    model(pixel_values, labels=torch.zeros(1, 64, 64, dtype=torch.long)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }


def test_fine_tuning_starts_from_a_distilled_student(make_config: Callable, tmp_path: Path) -> None:
    student = UnipForPreTraining(make_config(position_embedding_type="sincos", layer_scale_init_value=None))
    student.save_pretrained(tmp_path)
    model, report = UnipForSemanticSegmentation.from_pretrained(
        tmp_path,
        num_labels=7,
        layer_scale_init_value=1.0,
        position_embedding_type="learned",
        last_layer_num_attention_heads=None,
        output_loading_info=True,
    )
    new = {name.split(".")[0] for name in report["missing_keys"] if "layer_scale" not in name}
    assert new == {"pyramid", "decode_head", "auxiliary_head"} and not report["unexpected_keys"]
    assert torch.equal(model.unip.layers[-1].attention.qkv.weight, student.unip.layers[-1].attention.qkv.weight)
    assert torch.equal(model.unip.layers[0].layer_scale1.scale, torch.ones(32))
    assert [layer.attention.num_attention_heads for layer in model.unip.layers] == [2, 2, 2]
    assert model.unip.embeddings.position_embeddings.requires_grad
    assert not student.unip.embeddings.position_embeddings.requires_grad

    # The distilled split of the last block is one configuration value away, and another function.
    distilled = UnipModel.from_pretrained(tmp_path)
    assert [layer.attention.num_attention_heads for layer in distilled.layers] == [2, 2, 4]
    pixel_values = torch.randn(1, 3, 64, 64)
    resplit = UnipModel.from_pretrained(tmp_path, last_layer_num_attention_heads=None)
    assert not torch.allclose(distilled(pixel_values)[0], resplit(pixel_values)[0], atol=1e-4)

    before = model.unip.embeddings.position_embeddings
    model.resize_position_embeddings(128)
    assert model.unip.embeddings.position_embeddings.shape == (1, 65, 32) and before.shape == (1, 17, 32)
    assert model.config.grid_size == (8, 8) and model(torch.randn(1, 3, 128, 128)).logits.shape == (1, 7, 32, 32)


def test_drop_path_is_constant_or_rises_and_keeps_the_mean(make_config: Callable) -> None:
    def rates(**fields: object) -> list[float]:
        return [layer.drop_path.rate for layer in UnipModel(make_config(**fields)).layers]

    assert rates(drop_path_rate=0.1) == [0.1, 0.1, 0.1]
    assert rates(drop_path_rate=0.2, drop_path_schedule="linear") == [0.0, 0.1, 0.2]
    drop_path = UnipModel(make_config(drop_path_rate=0.25)).layers[0].drop_path.train()
    dropped = drop_path(torch.ones(4000, 3, 2))
    assert torch.isin(dropped, torch.tensor([0.0, 1 / 0.75])).all() and (dropped[:, :1, :1] == dropped).all()
    assert abs(dropped.mean() - 1) < 0.05


def test_a_student_starts_as_the_paper_s(make_config: Callable) -> None:
    model = UnipForPreTraining(make_config(hidden_size=64, position_embedding_type="sincos")).unip
    patches, qkv = model.embeddings.patch_embeddings, model.layers[0].attention.qkv
    for weight, fans in ((patches.weight, 3 * 16 * 16 + 64), (qkv.weight, 64 + 3 * 64)):  # Xavier-uniform
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound
    assert not qkv.bias.any() and not patches.bias.any()
    assert 0.01 < model.embeddings.cls_token.std() < 0.03
    assert model.embeddings.position_embeddings[0, 0].eq(0).all()


def test_serves_the_stock_upernet_as_backbone(make_config: Callable) -> None:
    backbone_config = make_config(out_features=["stage1", "stage2", "stage3"])
    backbone = AutoBackbone.from_config(backbone_config)
    maps = backbone(torch.randn(1, 3, 64, 96)).feature_maps
    assert backbone.channels == [32, 32, 32] and [tuple(m.shape) for m in maps] == [(1, 32, 4, 6)] * 3

    config = UperNetConfig(backbone_config=backbone_config, hidden_size=16, num_labels=5, use_auxiliary_head=False)
    model = UperNetForSemanticSegmentation(config)
    outputs = model(torch.randn(2, 3, 64, 96), labels=torch.randint(0, 5, (2, 64, 96)))
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 5, 64, 96)
