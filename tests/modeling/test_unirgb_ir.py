"""UniRGB-IR: the numbers of the published modules, what trains, and what the encoder alone computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unip_hf import UnipConfig, UnipForMlaSegmentation, UnipForSemanticSegmentation, UnipImageProcessor, UnipModel
from unip_hf.hub import convert_checkpoint, to_published_state_dict
from unip_hf.hub.conversion import rename
from unip_hf.hub.unirgb_ir_names import NAMES
from unip_hf.modeling.modeling_unip_deformable import UnipDeformableAttention, UnipSamplingOffsets
from unip_hf.modeling.modeling_unip_unirgb_ir import (
    UnipFeaturePool,
    UnipMixedKernelFusion,
    UnipPromptGate,
    UnipRGBIRModel,
)
from unip_hf.scripts import cli

from ..conftest import leave_start


BACKBONES = ["plain", "window14", "window_small"]


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 3e-6, name: str = "") -> None:
    """Within a share of the largest value."""
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual, expected, atol=tolerance * largest, rtol=0, msg=lambda m: f"{name}: {m}")


def load_module(module: nn.Module, tensors: dict[str, torch.Tensor], old: str, new: str) -> nn.Module:
    """Loads tensors whose published names begin with `old` in a whole network, and the names here with `new`."""
    renamed = {str(rename(f"{old}.{name}", NAMES)).removeprefix(f"{new}."): t for name, t in tensors.items()}
    module.load_state_dict(renamed)
    return module.eval()


@pytest.fixture
def modules(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "unirgb_ir" / "modules.safetensors")


def test_pool_and_its_fusion_are_the_published_ones(modules: dict[str, torch.Tensor]) -> None:
    config = UnipConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=4, fusion_channels=16)
    pool = load_module(UnipFeaturePool(config), part(modules, "spm.model."), "adapter_spm", "fusion.pool")
    for cell, maps in zip((8, 16, 32), pool(modules["spm.rgb"], modules["spm.ir"])):
        assert_close(maps.flatten(2).transpose(1, 2), modules[f"spm.out.{cell}"])
    fusion = load_module(
        UnipMixedKernelFusion(16), part(modules, "fusion.model."), "adapter_spm.mix_fusion", "fusion.pool.mixed_fusion"
    )
    assert_close(fusion(modules["fusion.rgb"], modules["fusion.ir"]), modules["fusion.out"])


@pytest.mark.parametrize("autocast", [False, True])
def test_deformable_attention_is_the_published_one(modules: dict[str, torch.Tensor], autocast: bool) -> None:
    attention = load_module(
        UnipDeformableAttention(32, num_heads=4),
        part(modules, "deform.model."),
        "adapter_stages.0.attn",
        "fusion.injectors.0.attention",
    )
    inputs = [modules[f"deform.{name}"] for name in ("query", "feat")]
    for tensor in inputs:
        tensor.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        outputs = attention(*inputs, modules["deform.reference_points"], [(8, 12), (4, 6), (2, 3)])
    assert_close(outputs.float(), modules["deform.out"], 5e-2 if autocast else 3e-6)
    if not autocast:
        for name, gradient in zip(("query", "feat"), torch.autograd.grad(outputs.square().sum(), inputs)):
            assert_close(gradient, modules[f"deform.grad.{name}"], 1e-4, name)


def test_offsets_start_as_published(modules: dict[str, torch.Tensor]) -> None:
    assert_close(UnipSamplingOffsets(32, 4, 3, 4).initial_bias(), modules["deform.init.sampling_offsets.bias"])
    assert_close(
        UnipSamplingOffsets(32, 12, 3, 4).initial_bias(), modules["deform.init_12_heads.sampling_offsets.bias"]
    )


def test_gate_between_stages_is_the_published_one(modules: dict[str, torch.Tensor]) -> None:
    config = UnipConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=4)
    gate = load_module(UnipPromptGate(config), part(modules, "gate.model."), "adapter_grus.0", "fusion.gates.0")
    assert_close(gate(modules["gate.new"], modules["gate.last"]), modules["gate.out"])


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest, golden: Path) -> tuple[UnipRGBIRModel, dict[str, torch.Tensor]]:
    tensors = load_file(golden / "unirgb_ir" / f"backbone_{request.param}.safetensors")
    model = convert_checkpoint(part(tensors, "model."), UnipRGBIRModel, num_attention_heads=4)
    if request.param != "plain":
        assert model.config.window_size == (14 if request.param == "window14" else 4)
        assert (model.config.global_layers, model.config.relative_position_size) == ([2, 4], 96)
    return model, tensors


def stages(model: UnipRGBIRModel, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    main, auxiliary = tensors["pixel_values"].split([3, 1], dim=1)
    return model.feature_maps(main, [1, 2, 3, 4], auxiliary_pixel_values=auxiliary.expand(-1, 3, -1, -1))


def test_whole_network_gives_the_published_pool_prompts_and_stages(backbone: tuple) -> None:
    model, tensors = backbone
    levels, prompts = [], []
    model.fusion.pool.register_forward_hook(lambda module, args, outputs: levels.extend(outputs))
    model.fusion.injectors[0].register_forward_hook(lambda module, args, outputs: prompts.append(outputs))
    for gate in model.fusion.gates:
        gate.register_forward_hook(lambda module, args, outputs: prompts.append(outputs))
    with torch.no_grad():
        outputs = stages(model, tensors)
    for cell, maps in zip((8, 16, 32), levels):
        assert_close(maps.flatten(2).transpose(1, 2), tensors[f"inter.pool.{cell}"])
    for stage in range(4):
        assert_close(prompts[stage], tensors[f"inter.prompt.{stage}"], name=f"prompt {stage}")
        assert_close(outputs[stage], tensors[f"stage.{stage}"], name=f"stage {stage}")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_training_gives_the_published_gradients_and_running_statistics(backbone: tuple, attention: str) -> None:
    model, tensors = backbone
    model.set_attn_implementation(attention)
    outputs = stages(model.train().requires_grad_(), tensors)
    loss = sum(maps.square().sum() for maps in outputs)
    loss.backward()
    assert_close(loss, tensors["train.loss"], 1e-5)
    for stage, maps in enumerate(outputs):
        assert_close(maps, tensors[f"train.stage.{stage}"], 1e-5, f"stage {stage}")
    norm = model.fusion.pool.auxiliary_stem[0].batch_norm
    for name, statistics in part(tensors, "train.after.adapter_spm.stem_ir.1.").items():
        assert_close(getattr(norm, name), statistics, 1e-5, name)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, gradient in part(tensors, "grad.").items():
        assert_close(gradients[rename(name, NAMES)], gradient, 1e-4, name)


def test_weights_go_back_to_the_published_names_unchanged(backbone: tuple) -> None:
    model, tensors = backbone
    published, expected = to_published_state_dict(model), part(tensors, "model.")
    assert published.keys() == expected.keys()
    for tensors_of in (published, expected):
        tensors_of["pos_embed"] = tensors_of["pos_embed"][:, 1:]  # the row of CLS is not read
    for name, tensor in expected.items():
        assert torch.equal(published[name], tensor.float()), name


def test_a_published_network_converts_by_command_and_back(golden: Path, tmp_path: Path) -> None:
    """Backbone and head of the published files together, and the backbone alone, which gets a new head."""
    backbone = load_file(golden / "unirgb_ir" / "backbone_window_small.safetensors")
    decoder = load_file(golden / "unirgb_ir" / "decoder.safetensors")
    encoder = part(backbone, "model.")
    tensors = {f"backbone.{name}": tensor for name, tensor in encoder.items()} | part(decoder, "model.")
    torch.save({"state_dict": tensors, "meta": {"CLASSES": tuple("abcdefghi")}}, tmp_path / "published.pth")
    torch.save(encoder, tmp_path / "encoder.pth")
    heads = ["--num_attention_heads", "4"]
    assert cli.main(["convert", str(tmp_path / "published.pth"), str(tmp_path / "model"), *heads]) == 0
    model = UnipForMlaSegmentation.from_pretrained(tmp_path / "model").eval()
    maps = stages(model.unip, backbone)
    for stage in range(4):
        assert_close(maps[stage], backbone[f"stage.{stage}"])
    assert_close(model.decode_head(model.neck([decoder[f"feature.{i}"] for i in range(4)])), decoder["logits"], 1e-5)
    processor = UnipImageProcessor.from_pretrained(tmp_path / "model")
    assert processor.main_modality == "visible" and processor.size == {"height": 768, "width": 768}
    assert 255 * processor.auxiliary_image_mean[0] == pytest.approx(100.82957526)

    assert cli.main(["convert", "--to-published", str(tmp_path / "model"), str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=False)["state_dict"]
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor.float()) for name, tensor in tensors.items() if "pos_embed" not in name)

    assert cli.main(["convert", str(tmp_path / "encoder.pth"), str(tmp_path / "new"), *heads]) == 0
    new = UnipForSemanticSegmentation.from_pretrained(tmp_path / "new")
    assert_close(stages(new.unip.eval(), backbone)[3], backbone["stage.3"])


@pytest.mark.parametrize("options", [{}, {"use_cls_token": False, "window_size": 2, "relative_position_size": 64}])
def test_a_published_plain_vit_becomes_the_frozen_backbone(options: dict, make_config: Callable) -> None:
    """With `options` of the published ViT, whose windows and relative positions a file of MAE does not have."""
    plain = UnipModel(make_config(num_hidden_layers=4, last_layer_num_attention_heads=None)).eval()
    fields = {"fusion": "unirgb_ir", "fusion_channels": 8, "main_modality": "visible", "num_labels": 9, **options}
    model = convert_checkpoint(
        to_published_state_dict(plain), UnipForMlaSegmentation, num_attention_heads=2, **fields
    ).eval()
    assert model.config.num_labels == 9
    assert torch.equal(model.unip.layers[3].attention.qkv.weight, plain.layers[3].attention.qkv.weight)
    table, first = plain.embeddings.position_embeddings, int(bool(options))
    assert torch.equal(model.unip.embeddings.position_embeddings, table[:, first:])
    inputs = images(64, 64)
    if not options:
        maps = model.unip.feature_maps(
            inputs["pixel_values"], [4], auxiliary_pixel_values=inputs["auxiliary_pixel_values"]
        )
        assert torch.equal(maps[0], plain.feature_maps(inputs["pixel_values"], [4])[0])
    assert model(**inputs).logits.shape == (2, 9, 16, 16)


def published_config(**fields: Any) -> UnipConfig:
    """The published ViT-B."""
    options = {"use_cls_token": False, "window_size": 14, "relative_position_size": 768}
    return UnipConfig.from_size(
        "base", fusion="unirgb_ir", main_modality="visible", position_embedding_type="learned", **options, **fields
    )


def count(parameters: Any, trained: bool = True) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad == trained)


def test_as_many_parameters_are_trained_as_published() -> None:
    with torch.device("meta"):
        unip = UnipForSemanticSegmentation(published_config()).unip
    assert [unip.config.window_of(block) for block in range(1, 13)] == [14, 14, None] * 4
    fusion = unip.fusion
    assert count(unip.parameters()) == 8_980_688
    assert count(unip.parameters(), trained=False) == 85_796_352 - 768  # without the position of CLS
    assert count(fusion.parameters()) == 8_904_400
    assert count(fusion.pool.parameters()) == 1_652_752
    assert count(fusion.pool.main_stem.parameters()) == count(fusion.pool.auxiliary_stem.parameters()) == 75_840
    assert count(fusion.pool.mixed_fusion.parameters()) == 47_504
    assert fusion.level_embeddings.numel() == 2_304
    assert [count(injector.parameters()) for injector in fusion.injectors] == [927_024] * 4
    assert [count(gate.parameters()) for gate in fusion.gates] == [1_180_416] * 3


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_every_size_of_unip_can_be_built(size: str) -> None:
    with torch.device("meta"):
        unip = UnipForSemanticSegmentation(UnipConfig.from_size(size, fusion="unirgb_ir")).unip
    assert len(unip.fusion.injectors) == 4
    assert 0 < count(unip.parameters()) < count(unip.parameters(), trained=False)


@pytest.fixture
def make_pair_config(make_config: Callable) -> Callable:
    return lambda **fields: make_config(
        **{"fusion": "unirgb_ir", "num_hidden_layers": 4, "fusion_channels": 8, **fields}
    )


def images(height: int, width: int, batch_size: int = 2) -> dict[str, torch.Tensor]:
    main, auxiliary = torch.randn(2, batch_size, 3, height, width)
    return {"pixel_values": main, "auxiliary_pixel_values": auxiliary}


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (16, 48), (16, 16)])
def test_with_gamma_at_zero_it_is_the_encoder_alone(
    size: tuple[int, int], make_config: Callable, make_pair_config: Callable
) -> None:
    alone = UnipForSemanticSegmentation(make_config(num_hidden_layers=4)).eval()
    model = UnipForSemanticSegmentation(make_pair_config()).eval()
    missing, unexpected = model.load_state_dict(alone.state_dict(), strict=False)
    assert all(name.startswith("unip.fusion.") for name in missing) and not unexpected
    inputs = images(*size)
    with torch.no_grad():
        outputs, expected = model(**inputs), alone(inputs["pixel_values"])
    assert torch.equal(outputs.logits, expected.logits)


@pytest.mark.parametrize("options", [
    {}, {"use_cls_token": False, "window_size": 3, "relative_position_size": 64}, {"feature_layers": [2]},
    {"num_hidden_layers": 8, "feature_layers": [2, 4, 6, 8]},
])  # fmt: skip
def test_only_what_is_added_trains_and_frozen_weights_do_not_move(options: dict, make_pair_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_pair_config(**options, drop_path_rate=0.0)).train()
    leave_start(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    model(**images(61, 83), labels=torch.randint(0, 5, (2, 61, 83))).loss.backward()
    for name, parameter in model.named_parameters():
        is_trained = not name.startswith("unip.") or ".fusion." in name or ".relative_" in name
        assert parameter.requires_grad == is_trained, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_trained, name
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_what_is_added_to_a_plain_checkpoint_starts_as_published(
    make_config: Callable, make_pair_config: Callable, tmp_path: Path
) -> None:
    alone = UnipForSemanticSegmentation(make_config(num_hidden_layers=4))
    alone.save_pretrained(tmp_path)
    loaded, report = UnipForSemanticSegmentation.from_pretrained(
        tmp_path, config=make_pair_config(use_cls_token=True), output_loading_info=True
    )
    assert all(name.startswith("unip.fusion.") for name in report["missing_keys"])
    assert not report["unexpected_keys"]
    for model in (loaded, UnipForSemanticSegmentation(make_pair_config())):
        fusion = model.unip.fusion
        for injector in fusion.injectors:
            offsets = injector.attention.offsets
            assert not injector.gamma.any() and not offsets.weight.any()
            assert torch.equal(offsets.bias, offsets.initial_bias())
            assert not injector.attention.weights.weight.any() and not injector.attention.weights.bias.any()
            assert not injector.attention.value.bias.any() and not injector.attention.output.bias.any()
            assert injector.attention.value.weight.abs().max() <= (6 / (32 + 16)) ** 0.5
        for gate in fusion.gates:
            assert 0 < gate.weight.abs().max() <= 64**-0.5 and 0 < gate.bias.abs().max() <= 64**-0.5
        assert 0.7 < fusion.level_embeddings.std() < 1.3
        for module in fusion.pool.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is None or not module.bias.any()
                expected = (2 / (module.out_channels * module.weight[0, 0].numel())) ** 0.5
                assert 0.4 < module.weight.std() / expected < 1.6
    assert torch.equal(loaded.unip.layers[3].mlp.fc1.weight, alone.unip.layers[3].mlp.fc1.weight)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]


@pytest.mark.parametrize("options", [{}, {"use_cls_token": False, "window_size": 2, "relative_position_size": 32}])
def test_loads_what_it_saved(options: dict, make_pair_config: Callable, tmp_path: Path) -> None:
    model = UnipForSemanticSegmentation(make_pair_config(**options)).eval()
    for parameter in model.unip.fusion.parameters():
        nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path)
    loaded = UnipForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    inputs = images(50, 70)
    with torch.no_grad():
        assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_images_of_one_channel_are_repeated_for_the_pool(make_pair_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_pair_config(num_channels=1, auxiliary_num_channels=1)).eval()
    assert model.unip.fusion.pool.main_stem[0].convolution.in_channels == 3
    inputs = {name: tensor[:, :1] for name, tensor in images(64, 32).items()}
    assert model(**inputs).logits.shape == (2, 5, 16, 8)


@pytest.mark.parametrize(("fields", "message"), [
    ({"num_hidden_layers": 6}, "num_hidden_layers must be a multiple of 4, got 6"),
    ({"num_attention_heads": 32, "last_layer_num_attention_heads": None}, "multiple of twice num_attention_heads"),
    ({"fusion_channels": 6}, "fusion_channels must be a multiple of 4, got 6"),
    ({"window_size": 14}, "set use_cls_token=False"),
    ({"window_size": 0, "use_cls_token": False}, "window_size must be at least 1, got 0"),
    ({"relative_position_size": 8, "use_cls_token": False}, "at least one patch of 16 pixels, got 8"),
    ({"global_layers": [4], "use_cls_token": False}, "global_layers needs window_size"),
    ({"global_layers": [5], "window_size": 2, "use_cls_token": False}, r"global_layers=\[5\] names blocks that do"),
    ({"fusion": None, "window_size": 14}, "window_size is an option of UniRGB-IR"),
])  # fmt: skip
def test_a_configuration_that_makes_no_network_is_refused(
    fields: dict, message: str, make_pair_config: Callable
) -> None:
    with pytest.raises(Exception, match=message):
        make_pair_config(**fields)


def test_what_does_not_fit_together_says_what_to_do(make_pair_config: Callable) -> None:
    model = UnipForSemanticSegmentation(
        make_pair_config(use_cls_token=False, window_size=2, relative_position_size=32)
    )
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r'set_attn_implementation\("sdpa"\)'):
        model(**images(64, 64))
