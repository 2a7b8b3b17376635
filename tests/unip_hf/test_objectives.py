"""What students can learn beside attention: features of a teacher, and hidden patches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTMAEConfig, ViTMAEForPreTraining

from unip_hf import UnipForPreTraining, UnipImageProcessor, UnipModel
from unip_hf.distillation import (
    ATTENTION,
    FEATURES,
    AttentionMonitor,
    DistillationInput,
    FeatureStudent,
    MaskedStudent,
    Objective,
    StudentInput,
    Students,
    Teacher,
    feature_distillation_loss,
    masked_reconstruction,
)
from unip_hf.hub.plain_vits import convert_plain_vit


PLAIN = {"layer_scale_init_value": None, "position_embedding_type": "sincos"}
SMALL = {"decoder_num_hidden_layers": 2, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2}


def test_the_feature_loss_is_the_one_written_down() -> None:
    student, teacher = 3 * torch.randn(2, 5, 8), 7 + 4 * torch.randn(2, 5, 8)
    mean, variance = teacher.mean(-1, keepdim=True), teacher.var(-1, keepdim=True, unbiased=False)
    distance = (student - (teacher - mean) / (variance + 1e-5).sqrt()).abs()
    expected = torch.where(distance < 2, distance.square() / 4, distance - 1).mean()
    torch.testing.assert_close(feature_distillation_loss(student, teacher), expected)
    half = feature_distillation_loss(student.bfloat16(), teacher.bfloat16())
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected.item(), rel=0.02)
    with pytest.raises(ValueError, match=r"same shape, got \(2, 5, 8\) and \(2, 4, 8\)"):
        feature_distillation_loss(student, teacher[:, :4])


def test_a_teacher_gives_the_output_of_a_block_without_registers() -> None:
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=16, image_size=32, num_register_tokens=3
    )
    model = Dinov2WithRegistersModel(config).eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        outputs = model(images, output_hidden_states=True).hidden_states
    teacher = Teacher(model)
    assert teacher.hidden_size == 32
    for layer in (1, 3):
        found = teacher.output_tokens(images, layer)
        expected = torch.cat([outputs[layer][:, :1], outputs[layer][:, 4:]], dim=1)
        torch.testing.assert_close(found, expected)
    computed = []
    teacher.blocks[2].register_forward_hook(lambda *_: computed.append(3))
    teacher.output_tokens(images, 2)
    assert not computed
    with pytest.raises(ValueError, match="give a layer from 1 to 3"):
        teacher.output_tokens(images)
    with pytest.raises(ValueError, match="no block 4"):
        teacher.output_tokens(images, 4)


def test_all_of_a_student_that_features_reach_is_trained(make_config: Callable) -> None:
    teacher = Teacher(UnipModel(make_config(hidden_size=48, num_attention_heads=4)), 2)
    assert ATTENTION.ask is not None and FEATURES.ask is not None
    inputs = DistillationInput(teacher, UnipImageProcessor(), ask=FEATURES.ask)
    student = UnipForPreTraining(make_config(**PLAIN))
    network = FEATURES.prepare(student, teacher)
    assert isinstance(network, FeatureStudent)
    students = Students({"a": network}, FEATURES.loss, FEATURES.answers)
    pixel_values, tokens = inputs(torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8))
    assert tokens.shape == (2, 17, 48)
    loss = students(pixel_values, tokens)
    mapped = network.map(student.unip(pixel_values, output_hidden_states=True).hidden_states[-1])
    torch.testing.assert_close(loss[0], feature_distillation_loss(mapped, tokens))
    loss.sum().backward()
    for name, parameter in students.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert frozen == {"unip.embeddings.position_embeddings", "unip.layernorm.weight", "unip.layernorm.bias"}
    assert students.checkpoints() == {"a": student}


@pytest.mark.parametrize("size", [32, 64])
def test_masked_pre_training_is_mae(size: int) -> None:
    fields = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    decoder = {**SMALL, "decoder_intermediate_size": 64}
    config = ViTMAEConfig(image_size=size, patch_size=8, layer_norm_eps=1e-6, norm_pix_loss=True, **fields, **decoder)
    mae = ViTMAEForPreTraining(config)
    with torch.no_grad():
        for parameter in mae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    student = convert_plain_vit(mae, UnipForPreTraining)
    network = MaskedStudent(student, size, **SMALL).eval()
    network.decoder.load_state_dict(mae.decoder.state_dict())
    images, noise = torch.randn(3, 3, size, size), torch.rand(3, (size // 8) ** 2)
    expected, found = mae.eval()(images, noise=noise), network(images, noise=noise)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mask, expected.mask)


def test_all_of_a_student_that_fills_in_patches_is_trained(make_config: Callable) -> None:
    student = UnipForPreTraining(make_config(**PLAIN))
    objective = masked_reconstruction(64, **SMALL)
    students = Students({"a": objective.prepare(student, None)}, objective.loss, objective.answers)
    inputs = StudentInput(UnipImageProcessor(image_mean=0.5, image_std=0.25))
    images = torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8)
    (pixel_values,) = inputs(images)
    assert pixel_values.shape == (2, 3, 64, 64)
    output = students["a"](pixel_values)
    assert output.mask.sum(dim=1).tolist() == [12, 12] and output.mask.shape == (2, 16)
    students(pixel_values).sum().backward()
    for name, parameter in students.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert frozen == {"unip.embeddings.position_embeddings"}


@pytest.mark.parametrize(("settings", "message"), [
    ({"mask_ratio": 1.0}, "mask_ratio must be above 0 and below 1"),
    ({"mask_ratio": 0.97}, "leave some of 16 patches on each side, got 0.97"),
    ({"decoder_num_attention_heads": 3}, "a multiple of 4 and of its heads"),
    ({"decoder_num_hidden_layers": 0}, "must be at least 1"),
])  # fmt: skip
def test_impossible_masks_and_decoders_are_refused(settings: dict, message: str, make_config: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedStudent(UnipForPreTraining(make_config(**PLAIN)), 64, **{**SMALL, **settings})


@pytest.mark.parametrize("objective", [FEATURES, masked_reconstruction(64, **SMALL)])
def test_the_monitor_shows_the_attention_whatever_is_learned(
    objective: Objective, make_config: Callable, tmp_path: Path
) -> None:
    teacher = None if objective.ask is None else Teacher(UnipModel(make_config(num_attention_heads=4)), 2)
    processor, inputs = UnipImageProcessor(), StudentInput(UnipImageProcessor())
    if teacher is not None and objective.ask is not None:
        inputs = DistillationInput(teacher, processor, ask=objective.ask)
    networks = {name: objective.prepare(UnipForPreTraining(make_config(**PLAIN)), teacher) for name in ("a", "b")}
    students = Students(networks, objective.loss, objective.answers).eval()
    monitor = AttentionMonitor(
        Accelerator(cpu=True), inputs, torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8), tmp_path
    )
    first = monitor(students, step=1)
    state = torch.manual_seed(7).get_state()
    assert monitor(students, step=2) == first and torch.equal(torch.get_rng_state(), state)
    of_teacher = {"nmi/teacher"} if teacher is not None else set()
    assert first.keys() == {"sample_loss/a", "sample_loss/b", "nmi/a", "nmi/b", *of_teacher}
    assert all(0 < value < 10 for value in first.values())
    assert (tmp_path / "attention" / "step-00000002.png").is_file()
