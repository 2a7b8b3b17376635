"""IV-tuning: the numbers of the published modules, what trains, and how it starts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unip_hf import UnipConfig, UnipForSemanticSegmentation, UnipModel
from unip_hf.hub import convert_checkpoint, to_published_state_dict
from unip_hf.hub.conversion import rename
from unip_hf.hub.iv_tuning_names import NAMES
from unip_hf.modeling.modeling_unip_iv_tuning import (
    UnipExternalPromptGenerator,
    UnipFeatureTransform,
    UnipHybridAdapter,
    UnipHybridOperation,
    UnipInternalPromptAdapter,
    UnipIVTuningModel,
    simple_attention,
)


MODES = ["eval", "train"]
PAIR = "fusion.layers.0.after_attention"
# File: the module, and the names of its place in a whole network, published and here.
MODULES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "ho_c8": (lambda: UnipHybridOperation(8), "empg_ivt.HO", "fusion.prompt_generator.operation"),
    "sft_norm": (
        lambda: UnipFeatureTransform(32, add_norm=True), "blocks.0.HA1_ivt.sft", f"{PAIR}.hybrid_adapter.transform",
    ),
    "sft_plain": (
        lambda: UnipFeatureTransform(32, add_norm=False), "blocks.0.IPA1_ivt.sft2",
        f"{PAIR}.prompt_adapter.transform_after",
    ),
    "ha": (lambda: UnipHybridAdapter(32, dropout=0.0), "blocks.0.HA1_ivt", f"{PAIR}.hybrid_adapter"),
    "ipa": (lambda: UnipInternalPromptAdapter(32), "blocks.0.IPA1_ivt", f"{PAIR}.prompt_adapter"),
    "empg": (lambda: UnipExternalPromptGenerator(32), "empg_ivt", "fusion.prompt_generator"),
}  # fmt: skip


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5, name: str = "") -> None:
    """Within a share of the largest value."""
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, atol=tolerance * largest, rtol=0, msg=lambda m: f"{name}: {m}")


def without_dropout(model: UnipForSemanticSegmentation) -> UnipIVTuningModel:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.unip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODULES)
def test_modules_are_the_published_ones(name: str, mode: str, golden: Path) -> None:
    tensors = load_file(golden / "iv_tuning" / f"{name}.safetensors")
    build, published, ours = MODULES[name]
    module = build().train(mode == "train")
    state = part(tensors, "state.")
    own_names = {old: str(rename(f"{published}.{old}", NAMES)).removeprefix(f"{ours}.") for old in state}
    incomplete = module.load_state_dict({own_names[old]: tensor for old, tensor in state.items()}, strict=False)
    assert not incomplete.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in incomplete.missing_keys)

    inputs = {
        key: part(tensors, "input.")[key].requires_grad_()
        for key in (["visible", "infrared"] if name == "empg" else ["x"])
    }
    outputs = module(*inputs.values(), *[5] * (name in ("ha", "ipa")))
    assert_close(outputs, tensors[f"{mode}.output"])
    outputs.square().sum().backward()
    for key, tensor in inputs.items():
        assert_close(tensor.grad, tensors[f"{mode}.grad_input.{key}"], name=key)
    parameters = dict(module.named_parameters())
    gradients = part(tensors, f"{mode}.grad.")
    assert gradients
    for key, gradient in gradients.items():
        assert_close(parameters[own_names[key]].grad, gradient, name=key)
    for key, statistics in part(tensors, f"{mode}.state_after.").items():
        assert_close(module.state_dict()[own_names[key]], statistics, name=key)


@pytest.mark.parametrize("mode", MODES)
def test_simple_attention_is_the_published_one(mode: str, golden: Path) -> None:
    tensors = load_file(golden / "iv_tuning" / "simam.safetensors")
    maps = tensors["input.x"].requires_grad_()
    outputs = simple_attention(maps)
    assert_close(outputs, tensors[f"{mode}.output"])
    assert_close(torch.autograd.grad(outputs.square().sum(), maps)[0], tensors[f"{mode}.grad_input.x"])
    assert simple_attention(torch.full((1, 2, 1, 1), 3.0)).isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_whole_network_gives_the_published_numbers(mode: str, golden: Path) -> None:
    tensors = load_file(golden / "iv_tuning" / "network.safetensors")
    model = convert_checkpoint(
        part(tensors, "state."), UnipForSemanticSegmentation, num_attention_heads=4, image_size=(80, 112)
    )
    assert (model.config.fusion, model.config.main_modality, model.config.prompt_channels) == (
        "iv_tuning",
        "visible",
        8,
    )
    encoder = without_dropout(model).train(mode == "train")
    auxiliary = tensors["input.infrared"].requires_grad_()
    behind_attention = []
    for layer in encoder.fusion.layers:
        layer.after_attention.register_forward_hook(lambda module, args, output: behind_attention.append(output))
    maps = encoder.feature_maps(
        tensors["input.visible"], [0, 1, 2, 3], auxiliary_pixel_values=auxiliary.expand(-1, 3, -1, -1)
    )
    for number, states in enumerate(maps):
        states = states.flatten(2).transpose(1, 2)
        if number == 0:
            assert_close(states, tensors[f"{mode}.output.block_input"][:, 1:], 5e-5)
        else:
            assert_close(states, tensors[f"{mode}.output.block{number - 1}.patch"], 5e-5)
            mid = tensors[f"{mode}.output.block{number - 1}.mid"]
            assert_close(behind_attention[number - 1][:, 1:], mid, 5e-5)
    if mode == "eval":
        return
    maps[-1].square().sum().backward()
    assert_close(auxiliary.grad, tensors["train.grad_input.infrared"], 5e-5)
    parameters = dict(model.named_parameters())
    names = [(old, f"unip.{new}") for old, new in NAMES]
    gradients = part(tensors, "train.grad.")
    for name, gradient in gradients.items():
        assert_close(parameters[rename(name, names)].grad, gradient, 5e-5, name)
    for name, statistics in part(tensors, "train.state_after.").items():
        assert_close(model.state_dict()[rename(name, names)], statistics, 5e-5, name)
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(gradients) + 7  # those of a bias in front of batch norm are left out


def test_detection_network_gives_the_published_numbers(golden: Path) -> None:
    tensors = load_file(golden / "iv_tuning" / "vitdet.safetensors")
    state = part(tensors, "state.")
    model = convert_checkpoint(state, UnipForSemanticSegmentation, num_attention_heads=4)
    assert (model.config.use_cls_token, model.config.prompt_channels, model.config.image_size) == (False, 64, 80)
    infrared = tensors["input.infrared"].expand(-1, 3, -1, -1)
    with torch.no_grad():
        maps = model.unip.feature_maps(tensors["input.visible"], [1, 2, 3], auxiliary_pixel_values=infrared)
    for number, states in enumerate(maps):
        assert_close(states.movedim(1, -1), tensors[f"eval.output.block{number}"], 5e-5)


@pytest.mark.parametrize("name", ["network", "vitdet"])
def test_published_names_convert_both_ways(name: str, golden: Path) -> None:
    tensors = part(load_file(golden / "iv_tuning" / f"{name}.safetensors"), "state.")
    image_size = {"image_size": (80, 112)} if name == "network" else {}
    model = convert_checkpoint(tensors, UnipForSemanticSegmentation, num_attention_heads=4, **image_size)
    published = to_published_state_dict(model)
    for key, tensor in tensors.items():
        if key == "pos_embed" and name == "vitdet":  # the row for CLS is not used
            assert torch.equal(published["backbone.pos_embed"][:, 1:], tensor[:, 1:])
        elif not key.startswith("norm."):  # not used, written as identity
            assert torch.equal(published[f"backbone.{key}"], tensor), key
    of_encoder = {key.removeprefix("backbone.") for key in published if key.startswith("backbone.")}
    others = {key for key in of_encoder - set(tensors) if not key.startswith("fpn")}
    assert all(key.endswith("num_batches_tracked") or key.startswith("norm.") for key in others), others
    again = convert_checkpoint(published, UnipForSemanticSegmentation, num_attention_heads=4, **image_size)
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    changed = {key: tensor for key, tensor in tensors.items() if "0.down" not in key and "sft2" not in key}
    changed["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"extra\.weight: unexpected"):
        convert_checkpoint(changed, UnipForSemanticSegmentation, num_attention_heads=4, **image_size)


@pytest.mark.parametrize(("size", "trained"), [
    ("large", 8_899_652), ("base", 3_695_236), ("small", 1_951_876), ("tiny", 1_080_196),
])  # fmt: skip
def test_as_many_parameters_train_as_in_the_paper(size: str, trained: int) -> None:
    with torch.device("meta"):
        model = UnipForSemanticSegmentation(UnipConfig.from_size(size, fusion="iv_tuning", num_labels=9))
    parameters = dict(model.unip.named_parameters())
    assert sum(one.numel() for one in parameters.values() if one.requires_grad) == trained
    assert all(one.requires_grad == name.startswith("fusion.") for name, one in parameters.items())


def test_a_step_moves_what_trains_and_leaves_the_backbone_bit_identical(make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config(fusion="iv_tuning")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2, weight_decay=0.1)
    images, others = torch.randn(2, 2, 3, 64, 64)
    model(images, torch.randint(0, 5, (2, 64, 64)), auxiliary_pixel_values=others).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith("unip.") and not name.startswith("unip.fusion.")
        assert parameter.requires_grad != is_frozen
        assert (parameter.grad is None) == is_frozen, name
        assert torch.equal(parameter, before[name]) == is_frozen, name


def test_it_starts_as_published_on_any_encoder(make_config: Callable, tmp_path: Path) -> None:
    """Also where the checkpoint is one of the encoder alone, with a distillation token."""
    plain = UnipModel(make_config(use_distillation_token=True))
    plain.save_pretrained(tmp_path)
    model, report = UnipForSemanticSegmentation.from_pretrained(
        tmp_path, fusion="iv_tuning", hidden_size=32, output_loading_info=True
    )
    assert {name.split(".")[1] for name in report["missing_keys"] if name.startswith("unip.")} == {"fusion"}
    assert torch.equal(model.unip.embeddings.cls_token, plain.embeddings.cls_token)
    assert not model.unip.embeddings.cls_token.requires_grad
    fusion = model.unip.fusion
    adapters = [pair for layer in fusion.layers for pair in (layer.after_attention, layer.after_mlp)]
    for linear in [one for pair in adapters for one in (pair.hybrid_adapter.down, pair.prompt_adapter.up)]:
        assert 0.015 < linear.weight.std() < 0.025 and not linear.bias.any()
    for pair in adapters:
        convolution = pair.hybrid_adapter.operation.projection1
        bound = 64**-0.5  # as PyTorch starts convolutions
        assert 0.95 * bound < convolution.weight.abs().max() <= bound and 0 < convolution.bias.abs().max() <= bound
        for transform in (pair.hybrid_adapter.transform, pair.prompt_adapter.transform_after):
            assert transform.scale.eq(1).all() and not transform.shift.any()
    bound = (6 / (32 + 8)) ** 0.5  # Xavier
    assert 0.9 * bound < fusion.prompt_generator.up.weight.abs().max() <= bound
    images, others = torch.randn(2, 1, 3, 48, 80)
    assert model(images, auxiliary_pixel_values=others).logits.isfinite().all()


def test_gradient_checkpointing_counts_a_batch_once(make_config: Callable) -> None:
    images, others = torch.randn(2, 2, 3, 64, 64)
    statistics = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = UnipForSemanticSegmentation(make_config(fusion="iv_tuning")).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(images, auxiliary_pixel_values=others).logits.sum().backward()
        statistics.append({name: one for name, one in model.named_buffers() if "running" in name})
    for name, tensor in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], tensor, msg=lambda m, n=name: f"{n}: {m}")


def test_the_other_image_counts_and_its_absence_is_said(make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config(fusion="iv_tuning")).eval()
    images, others = torch.randn(2, 1, 3, 61, 83)
    logits = model(images, auxiliary_pixel_values=others).logits
    assert not torch.allclose(logits, model(images, auxiliary_pixel_values=torch.zeros_like(others)).logits)
    grey = others[:, :1]
    expected = model(images, auxiliary_pixel_values=grey.expand(-1, 3, -1, -1)).logits
    assert torch.equal(model(images, auxiliary_pixel_values=grey).logits, expected)
    with pytest.raises(ValueError, match="visible image of the same scene, is missing"):
        model(images)
    with pytest.raises(ValueError, match="of the same size"):
        model(images, auxiliary_pixel_values=others[..., :-1])
    with pytest.raises(ValueError, match=r"auxiliary_pixel_values is torch\.uint8: scale raw intensities first"):
        model(images, auxiliary_pixel_values=others.to(torch.uint8))
    with pytest.raises(ValueError, match="reads pairs of images"):
        model.unip(images)
    with pytest.raises(Exception, match="use_cls_token=False needs fusion"):
        make_config(use_cls_token=False)
