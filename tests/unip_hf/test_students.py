"""Students from checkpoints, their names, and what is measured of them while they learn."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from accelerate import Accelerator
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, ViTConfig, ViTModel

from unip_hf import UnipForPreTraining, UnipImageProcessor, UnipModel
from unip_hf.distillation import AttentionMonitor, DistillationInput, Students, Teacher, load_student
from unip_hf.distillation.students import student_names, student_patch_size


PLAIN = {"layer_scale_init_value": None, "position_embedding_type": "sincos"}


def test_a_checkpoint_is_trained_further_with_the_teachers_heads(make_config: Callable, tmp_path: Path) -> None:
    start = UnipModel(make_config(image_size=32, last_layer_num_attention_heads=None, **PLAIN))
    start.save_pretrained(tmp_path)
    student = load_student(str(tmp_path), 8, image_size=64, drop_path_rate=0.2)
    assert student.config.last_layer_num_attention_heads == 8
    assert [layer.drop_path.rate for layer in student.unip.layers] == [0.2] * 3
    assert student.unip.embeddings.position_embeddings.shape == (1, 1 + 16, 32)
    torch.testing.assert_close(student.unip.layers[0].mlp.fc1.weight, start.layers[0].mlp.fc1.weight)
    with pytest.raises(ValueError, match="last_layer_num_attention_heads=5 does not divide"):
        load_student(str(tmp_path), 5)
    make_config(fusion="iv_tuning").save_pretrained(tmp_path / "fused")
    with pytest.raises(ValueError, match="fused' reads pairs of images"):
        load_student(str(tmp_path / "fused"), 8)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 30)
    with pytest.raises(ValueError, match="damaged"):
        load_student(str(tmp_path), 8)


def test_students_have_names_of_their_own(make_config: Callable, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "last").mkdir(parents=True)
    assert student_names(["tiny", str(tmp_path / "a" / "last")]) == ["tiny", "last"]
    assert student_names([str(tmp_path / name / "last") for name in "ab"]) == ["a-last", "b-last"]
    assert student_names(["outputs/teacher"]) == ["outputs-teacher"]  # what the monitor calls the teacher
    with pytest.raises(ValueError, match="names of their own"):
        student_names(["tiny", "tiny"])
    one, three = (UnipForPreTraining(make_config(num_channels=channels)) for channels in (1, 3))
    with pytest.raises(ValueError, match=r"same number of channels, got \[1, 3\]"):
        Students({"one": one, "three": three})


def test_the_monitor_averages_over_images_however_they_are_divided(make_config: Callable, tmp_path: Path) -> None:
    inputs = DistillationInput(Teacher(UnipModel(make_config(num_attention_heads=4)), 2), UnipImageProcessor())
    students = Students({name: UnipForPreTraining(make_config(**PLAIN)) for name in ("a", "b")})
    images = torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8)
    results = []
    for batch_size in (4, 3):
        monitor = AttentionMonitor(Accelerator(cpu=True), inputs, images, tmp_path, batch_size=batch_size)
        results.append(monitor(students.eval(), step=batch_size))
    assert results[0].keys() == {"sample_loss/a", "sample_loss/b", "nmi/teacher", "nmi/a", "nmi/b"}
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert (tmp_path / "attention" / "step-00000003.png").is_file()


def test_another_loss_is_a_function_given_to_the_students(make_config: Callable, tmp_path: Path) -> None:
    class MeanSquaredError(torch.nn.Module):
        """Of the logits of attention; a module, which must not count as a student."""

        def forward(self, query: torch.Tensor, key: torch.Tensor, *teacher: torch.Tensor) -> torch.Tensor:
            student_logits, teacher_logits = query @ key.mT, teacher[0] @ teacher[1].mT
            return (student_logits - teacher_logits).square().mean()

    inputs = DistillationInput(Teacher(UnipModel(make_config(num_attention_heads=4)), 2), UnipImageProcessor())
    students = Students({"a": UnipForPreTraining(make_config(**PLAIN))}, loss=MeanSquaredError()).eval()
    images = torch.randint(256, (4, 1, 64, 64), dtype=torch.uint8)
    pixel_values, *teacher = inputs(images)
    losses = students(pixel_values, *teacher)
    output = students["a"](pixel_values)
    torch.testing.assert_close(losses[0], MeanSquaredError()(output.query, output.key, *teacher))
    losses.sum().backward()
    assert all(weight.grad is not None for weight in students.parameters() if weight.requires_grad)
    assert list(students) == ["a"] and not any(name.startswith("loss") for name in students.state_dict())
    monitored = AttentionMonitor(Accelerator(cpu=True), inputs, images, tmp_path)(students, step=1)
    assert monitored["sample_loss/a"] == pytest.approx(losses.item(), rel=1e-4)


def test_a_plain_vit_of_another_library_is_trained_further(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    vit = ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes))
    vit.save_pretrained(tmp_path / "vit")
    arguments = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}
    network = timm.create_model("vit_tiny_patch16_224", **arguments)
    timm.models.save_for_hf(network, tmp_path / "timm", model_args=arguments, safe_serialization=True)
    for name, weight in (
        (str(tmp_path / "vit"), vit.layers[1].mlp.fc1.weight),
        (f"timm:local-dir:{tmp_path / 'timm'}", network.blocks[1].mlp.fc1.weight),
    ):
        student = load_student(name, 8, image_size=64, drop_path_rate=0.2)
        assert student.config.last_layer_num_attention_heads == 8 and student.config.num_attention_heads == 2
        assert student.unip.embeddings.position_embeddings.shape == (1, 1 + 16, 32)
        assert [layer.drop_path.rate for layer in student.unip.layers] == [0.2] * 3
        torch.testing.assert_close(student.unip.layers[1].mlp.fc1.weight, weight)
        assert student_patch_size(name) == 16 and load_student(name).config.last_layer_num_attention_heads is None
        with pytest.raises(ValueError, match="last_layer_num_attention_heads=5 does not divide"):
            load_student(name, 5)
    registers = {"num_register_tokens": 2, "image_size": 32, "patch_size": 16}
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**{**sizes, **registers})).save_pretrained(tmp_path / "dino")
    with pytest.raises(ValueError, match="is a dinov2_with_registers model: choose tiny"):
        load_student(str(tmp_path / "dino"), 8)
