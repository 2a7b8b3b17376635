"""The fast head computes what the plain one does, which stays the reference."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unip_hf import UnipConfig, UnipForSemanticSegmentation
from unip_hf.modeling import modeling_unip_convolution
from unip_hf.modeling.modeling_unip_convolution import convolve_3x3, winograd_3x3
from unip_hf.modeling.modeling_unip_fast_upernet import add_resized, add_resized_and_convolved
from unip_hf.modeling.modeling_unip_resampling import resize

from ..conftest import tiny_backbone_config


SIZES = [(64, 96), (61, 83), (17, 16)]


def make_pair(config: UnipConfig) -> tuple[UnipForSemanticSegmentation, UnipForSemanticSegmentation]:
    """A fast and a plain network of the same weights in float64, with batch norms that are not identities."""
    fast = UnipForSemanticSegmentation(config).double()
    for module in fast.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_()
    plain = copy.deepcopy(fast)
    plain.config.head_implementation = "plain"
    return fast, plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", [
    {"classifier_dropout_prob": 0.5}, {"feature_layers": [1, 2, 2, 3]}, {"decoder_channels": 24, "pool_scales": [2]},
    {"patch_size": 14},
])  # fmt: skip
def test_logits_gradients_and_statistics_are_those_of_the_plain_head(
    size: tuple[int, int], fields: dict, make_config: Callable
) -> None:
    check_equality(make_config(**{"classifier_dropout_prob": 0, "drop_path_rate": 0, **fields}), size)


def test_it_serves_backbones_with_a_pyramid_of_their_own() -> None:
    for kind in ("swin", "convnextv2"):
        config = tiny_backbone_config(kind)
        config.classifier_dropout_prob = 0
        check_equality(config, (96, 70))


def check_equality(config: UnipConfig, size: tuple[int, int]) -> None:
    fast, plain = make_pair(config)
    image, labels = torch.randn(2, 3, *size).double(), torch.randint(0, 5, (2, *size))
    with torch.inference_mode():  # first: what it keeps must serve training, too
        torch.testing.assert_close(fast.eval()(image).logits, plain.eval()(image).logits)
    results = []
    for model in (fast, plain):
        torch.manual_seed(0)  # of dropout
        outputs = model.train()(image, labels=labels)
        outputs.loss.backward()
        results.append((outputs.logits, outputs.auxiliary_logits, outputs.loss))
    torch.testing.assert_close(*results)
    assert all(parameter.grad is not None for parameter in fast.parameters() if parameter.requires_grad)
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters()):
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")
    for ours, theirs in zip(fast.buffers(), plain.buffers()):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture(params=[False, True], ids=["eager", "exporting"])
def is_exporting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Exported files have a form of their own."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: request.param)
    return request.param


@pytest.mark.usefixtures("is_exporting")
@pytest.mark.parametrize(("rows", "columns", "height", "width"), [(8, 8, 16, 16), (3, 5, 12, 17), (1, 1, 7, 2)])
def test_channels_are_mixed_before_maps_are_resized(rows: int, columns: int, height: int, width: int) -> None:
    maps, total = torch.randn(2, 6, rows, columns).double(), torch.randn(2, 4, height, width).double()
    weight, resized = torch.randn(4, 6, 3, 3).double(), resize(maps, (height, width))
    rounding = {"atol": 1e-5, "rtol": 0}  # of weights in float32
    torch.testing.assert_close(add_resized(total, maps[:, :4]), total + resized[:, :4], **rounding)
    expected = total + nn.functional.conv2d(resized, weight, padding=1)
    torch.testing.assert_close(add_resized_and_convolved(total, maps, weight), expected, **rounding)


def test_winograd_is_the_convolution(is_exporting: bool) -> None:
    for size in [(8, 8), (4, 20)] if is_exporting else [(8, 8), (4, 20), (1, 1), (5, 11), (13, 4)]:
        check_winograd(size)


def check_winograd(size: tuple[int, int]) -> None:
    maps, weight, bias = torch.randn(2, 3, *size).double(), torch.randn(5, 3, 3, 3).double(), torch.randn(5).double()
    for one in (bias, None):
        expected = nn.functional.conv2d(maps, weight, one, padding=1)
        torch.testing.assert_close(winograd_3x3(maps, weight, one), expected)
    rounded = winograd_3x3(maps.float(), weight.float())
    torch.testing.assert_close(rounded.double(), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_winograd_is_taken_where_it_pays(monkeypatch: pytest.MonkeyPatch, is_exporting: bool) -> None:
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(modeling_unip_convolution, "winograd_3x3", lambda maps, *_: calls.append(maps) or maps)
    large, weight = torch.randn(1, 256, 32, 36), torch.randn(256, 256, 3, 3)
    with torch.no_grad():
        convolve_3x3(large, weight)
        assert len(calls) == 1
        convolve_3x3(large[..., :34], weight)
        assert len(calls) == (1 if is_exporting else 2)
        calls.clear()
        convolve_3x3(large[..., :8], weight)
        convolve_3x3(large[:, :64], weight[:64, :64])
        convolve_3x3(large.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            convolve_3x3(large, weight)
    if not is_exporting:
        convolve_3x3(large, weight.requires_grad_())
    assert not calls


@pytest.mark.parametrize(("times", "count"), [(4, 1), (2, 0)])
def test_winograd_is_exported_where_maps_of_any_size_are_whole_tiles(
    times: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Convolution(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return convolve_3x3(maps.repeat(1, 1, times, times), weight)

    monkeypatch.setattr(modeling_unip_convolution, "LEAST_CHANNELS", 32)
    weight, maps = torch.randn(32, 32, 3, 3), torch.randn(2, 32, 2, 3)  # of a size that would not be worth it
    sides = {axis: torch.export.Dim(f"side{axis}", min=1, max=64) for axis in (2, 3)}
    program = torch.export.export(Convolution(), (maps,), dynamic_shapes=[sides])
    assert program.graph_module.code.count("aten.pixel_shuffle") == count
    larger = torch.randn(2, 32, 5, 3)
    torch.testing.assert_close(program.module()(larger), Convolution()(larger), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("size", "most"), [("tiny", 0.72), ("small", 0.70), ("base", 0.70)])
def test_it_needs_fewer_operations(size: str, most: float) -> None:
    """Of the whole network at 512x512, counted without Winograd, which not all devices use."""
    counts = []
    for implementation in ("fast", "plain"):
        with torch.device("meta"):
            config = UnipConfig.from_size(size, image_size=512, head_implementation=implementation)
            model = UnipForSemanticSegmentation(config).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.empty(1, 3, 512, 512))
        counts.append(counter.get_total_flops())
    assert counts[0] < most * counts[1]


def test_a_folder_says_nothing_of_the_implementation_unless_it_is_chosen(
    make_config: Callable, tmp_path: Path
) -> None:
    model = UnipForSemanticSegmentation(make_config()).eval()
    model.save_pretrained(tmp_path)
    assert "head_implementation" not in (tmp_path / "config.json").read_text()
    plain = UnipForSemanticSegmentation.from_pretrained(tmp_path, head_implementation="plain").eval()
    image = torch.randn(1, 3, 61, 83)
    torch.testing.assert_close(plain(image).logits, model(image).logits)
    plain.save_pretrained(tmp_path / "plain")
    assert UnipConfig.from_pretrained(tmp_path / "plain").head_implementation == "plain"
    with pytest.raises(StrictDataclassFieldValidationError, match="head_implementation"):
        UnipConfig(head_implementation="quick")
