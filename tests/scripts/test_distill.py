"""`unip distill` as a user runs it: published teacher files, real processes, killed and resumed ones among them."""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from unip_hf import UnipForPreTraining, UnipImageProcessor, UnipModel
from unip_hf.data.grey_crops import GreyCrop, read_crops, to_pixel_values
from unip_hf.distillation import ATTENTION, DistillationInput, Teacher, load_teacher, select_layer
from unip_hf.hub.conversion import to_published_state_dict
from unip_hf.scripts import cli, distill
from unip_hf.scripts.pretraining import prepare_inputs
from unip_hf.training import TrainingLoop

from ..conftest import PATIENCE, save_checkpoint
from .conftest import UNIP, metrics, run_killed, same_weights, weights


QUICK = ["--crop_size", "32", "--batch_size", "4", "--num_workers", "0", "--report_to", "none", "--log_every", "1",
         "--learning_rate", "3e-3", "--num_sample_images", "4", "--teacher_num_attention_heads", "4"]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Grey and colour images of several sizes and depths, among them a folder of masks."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "my images"
    for kind in ("by night", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(10):
        coarse = generator.integers(0, 256, (5, 6 + number % 3), dtype=np.uint8)
        texture = np.asarray(Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC))
        if number < 6:
            Image.fromarray(texture).save(folder / f"{number}.jpg", quality=95)
        elif number < 8:
            Image.fromarray(np.stack([texture] * 3, axis=2)).save(folder / "by night" / f"{number}.png")
        else:
            Image.fromarray(7000 + texture.astype(np.uint16)).save(folder / "by night" / f"{number}.png")
    (folder / "masks" / "0.png").write_text("no image, and not read as one")
    return folder


@pytest.fixture
def make_teacher(make_config: Callable, tmp_path: Path) -> Callable[..., Path]:
    """A ViT in the format in which MAE, DINO or iBOT publish theirs, with attention that depends on the image."""

    def make(kind: str = "mae", **changes: torch.Tensor) -> Path:
        torch.manual_seed(1)
        fixed = kind == "mae"
        fields = {"position_embedding_type": "sincos" if fixed else "learned", "image_size": 32 if fixed else 64}
        model = UnipModel(
            make_config(
                num_attention_heads=4, last_layer_num_attention_heads=None, layer_scale_init_value=None, **fields
            )
        )
        tensors = to_published_state_dict(model)
        for name in tensors:
            if name.endswith(("qkv.weight", "proj.weight")):
                tensors[name] = 3 * tensors[name]
        tensors = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
        if kind == "mae":  # with its decoder, and the arguments of its training
            tensors |= {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 32)}
            content: Any = {"model": tensors, "epoch": 800, "args": argparse.Namespace(lr=1e-3)}
        else:
            content = tensors if kind == "dino" else {"state_dict": tensors}
        path = tmp_path / f"{kind}_teacher.pth"
        torch.save(content, path)
        return path

    return make


@pytest.fixture
def student(make_config: Callable, tmp_path: Path) -> Path:
    config = make_config(
        num_hidden_layers=2,
        hidden_size=48,
        last_layer_num_attention_heads=None,
        layer_scale_init_value=None,
        position_embedding_type="sincos",
        image_size=32,
    )
    save_checkpoint(UnipForPreTraining(config), tmp_path / "student")
    return tmp_path / "student"


def command(teacher: Path, student: Path, images: Path, output_dir: Path, *options: object) -> list[str]:
    fixed = ["distill", "--teacher", teacher, "--students", student, "--data_dir", images, "--output_dir", output_dir]
    return list(map(str, [*fixed, *QUICK, *options]))


@pytest.mark.parametrize("kind", ["mae", "dino", pytest.param("ibot", marks=pytest.mark.slow)])
def test_a_student_learns_the_attention_of_a_published_teacher(
    kind: str, make_teacher: Callable, student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    options = ["--teacher_layer", 2, "--num_steps", 60, "--pictures_every", 30, "--drop_path_rate", 0]
    assert cli.main(command(make_teacher(kind), student, images, out, *options)) == 0
    printed = capsys.readouterr()
    assert "Teacher: block 2 of 3" in printed.out and "4 heads" in printed.out
    assert (
        "Batch 4 = 1 device(s) x 4 images x 1 accumulation step(s); 60 steps = 24.0 epochs of 10 images" in printed.out
    )
    assert "step 60/60" in printed.err
    lines = metrics(out)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    speeds = [line for line in metrics(out, keeps_speeds=True) if "loss" in line]
    (operations,) = {round(1e12 * line["tflops"] / line["images_per_second"]) for line in speeds}
    assert 1e6 < operations < 1e8 and all(0 < line["mfu"] < 1 for line in speeds)
    samples = [line for line in lines if "sample_loss/student" in line]
    assert [line["step"] for line in samples] == [30, 60]
    assert samples[-1]["sample_loss/student"] < 0.95 * losses[0]
    assert 0 < samples[-1]["nmi/student"] < 1 and samples[0]["nmi/teacher"] == samples[1]["nmi/teacher"] > 0
    assert Image.open(out / "attention" / "step-00000060.png").width > 300

    model = AutoModelForPreTraining.from_pretrained(out / "last")
    assert type(model) is UnipForPreTraining and model.config.last_layer_num_attention_heads == 4
    assert UnipImageProcessor.from_pretrained(out / "last").image_std == UnipImageProcessor().image_std
    before, after = weights(student), weights(out / "last")
    untrained = {name for name in before if torch.equal(before[name], after[name])}
    behind = ("layers.1.attention.projection", "layers.1.layernorm_after", "layers.1.mlp", "layernorm.")
    expected = {n for n in before if n.removeprefix("unip.").startswith((*behind, "embeddings.position_embeddings"))}
    assert untrained == expected and len(expected) == 11


def test_a_teacher_file_that_does_not_match_stops_with_the_list(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changes = {
        "blocks.1.attn.qkv.weight": torch.zeros(96, 16),
        "blocks.0.norm1.bias": None,
        "blocks.0.new": torch.zeros(1),
    }
    teacher = make_teacher("mae", **changes)
    assert cli.main(command(teacher, student, images, tmp_path / "out", "--num_steps", 1)) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("blocks.1.attn.qkv.weight", "layernorm_before.bias", "blocks.0.new"))
    assert not (tmp_path / "out").exists()


def test_auto_learns_the_layer_that_the_rule_gives(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from unip_hf.data.grey_crops import sample_crops
    from unip_hf.data.unlabelled import load_unlabelled

    out, teacher = tmp_path / "out", make_teacher("dino")
    assert cli.main(command(teacher, student, images, out, "--num_steps", 1)) == 0
    found = json.loads((out / "run.json").read_text())["found"]
    loaded = load_teacher(str(teacher), num_attention_heads=4)
    sample = sample_crops(load_unlabelled("folder", images), 4, 32)
    choice = select_layer(loaded, DistillationInput(loaded, UnipImageProcessor()).for_teacher(sample))
    assert found["teacher_nmi"] == pytest.approx(choice.nmi) and len(choice.nmi) == 3
    assert found["teacher_layer"] == choice.layer == 1 + int(np.argmin(np.abs(np.array(choice.nmi) - 0.09)))
    printed = capsys.readouterr().out
    assert f"block  {choice.layer}  {choice.nmi[choice.layer - 1]:.4f}   <- nearest to 0.09" in printed
    assert Image.open(out / "teacher_layers.png").width > 300


@pytest.mark.slow
def test_students_that_learn_together_learn_what_each_learns_alone(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    model = UnipForPreTraining.from_pretrained(student)
    model.config.drop_path_rate = 0.5  # another network, another start
    with torch.no_grad():
        model.unip.embeddings.cls_token.add_(1.0)
    save_checkpoint(model, tmp_path / "other.student")
    options = ["--teacher_layer", 2, "--num_steps", 5, "--drop_path_rate", 0, "--per_device_batch_size", 2]
    teacher = make_teacher()
    both = ["--students", student, tmp_path / "other.student"]
    assert cli.main(command(teacher, student, images, tmp_path / "both", *options, *both)) == 0
    for name, folder in (("student", student), ("other_student", tmp_path / "other.student")):
        alone = tmp_path / f"alone-{name}"
        assert cli.main(command(teacher, folder, images, alone, *options)) == 0
        assert same_weights(tmp_path / "both" / "last" / name, alone / "last")
        losses = [line["loss"] for line in metrics(alone) if "loss" in line]
        together = [line[f"loss/{name}"] for line in metrics(tmp_path / "both") if "loss" in line]
        assert together == pytest.approx(losses, abs=1e-6)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_weights(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    """Drop path, moving average, the choice of the layer and the order of crops all go on where they were."""
    options = ["--num_steps", 60, "--save_every", 3, "--ema_decay", 0.9, "--num_workers", 1, "--drop_path_rate", 0.2]
    options += ["--pictures_every", 30, "--per_device_batch_size", 2]
    teacher, whole, out = make_teacher(), tmp_path / "whole", tmp_path / "killed"
    assert cli.main(command(teacher, student, images, whole, *options)) == 0
    done = run_killed(command(teacher, student, images, out, *options), out, kill_at=(7, 25))
    assert done.returncode == 0, done.stderr
    assert same_weights(whole / "last", out / "last") and metrics(whole) == metrics(out)


@pytest.mark.slow
@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_processes_learn_as_one(
    is_sharded: bool, make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    options = ["--teacher_layer", 3, "--num_steps", 6, "--drop_path_rate", 0, "--pictures_every", 3]
    teacher = make_teacher()
    assert cli.main(command(teacher, student, images, tmp_path / "one", *options)) == 0
    start = [UNIP, *command(teacher, student, images, tmp_path / "two", *options), "--num_processes", "2"]
    environment = {**os.environ, **({"ACCELERATE_USE_FSDP": "true"} if is_sharded else {})}
    done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "Batch 4 = 2 device(s) x 2 images x 1 accumulation step(s)" in done.stdout
    one, two = (weights(tmp_path / name / "last") for name in ("one", "two"))
    for name in one:
        if name.endswith("qkv.bias"):  # those of the keys change no attention: their gradient is rounding alone
            one[name], two[name] = (torch.cat(tensors[name].chunk(3)[::2]) for tensors in (one, two))
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--teacher_layer", 2, "--num_steps", 30, "--learning_rate", 1e12, "--per_device_batch_size", 2]
    assert cli.main(command(make_teacher(), student, images, tmp_path / "out", *options)) == 2
    assert "error: The loss is nan before step 3: lower the learning rate" in capsys.readouterr().err
    saved = sorted((tmp_path / "out" / "not_finite_batches").iterdir())
    names = [f"step-0000000{step}-batch-{number}-process-0.safetensors" for step in (1, 2) for number in (1, 2)]
    assert [path.name for path in saved] == names
    batch = load_file(saved[0])["images"]
    assert batch.shape == (2, 1, 32, 32) and batch.dtype == torch.uint8 and batch.float().std() > 10


def test_a_stream_in_half_precision_is_learned_and_resumed_by_the_same_readers(
    make_teacher: Callable,
    student: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    options = ["--streaming", "--num_steps", 40, "--teacher_normalization", "teacher", "--teacher_dtype", "bf16"]
    options += ["--mixed_precision", "bf16", "--image_mean", 0.4, "--image_std", 0.2, "--pictures_every", 0]
    options += ["--drop_path_rate", 0]
    start = command(make_teacher("ibot"), student, images, tmp_path / "out", *options)
    assert cli.main(start) == 0
    losses = [line["loss"] for line in metrics(tmp_path / "out") if "loss" in line]
    assert len(losses) == 40 and np.mean(losses[-8:]) < 0.97 * np.mean(losses[:8])
    assert UnipImageProcessor.from_pretrained(tmp_path / "out" / "last").image_mean == [0.4]
    monkeypatch.setattr("unip_hf.distillation.select_layer", None)  # the choice is kept, not made again
    elsewhere = ["--resume_from_checkpoint", str(tmp_path / "out" / "checkpoints" / "step-00000040")]
    elsewhere += ["--output_dir", str(tmp_path / "elsewhere")]
    assert cli.main([*start, *elsewhere]) == 0
    assert same_weights(tmp_path / "out" / "last", tmp_path / "elsewhere" / "last")
    assert cli.main([*start, *elsewhere, "--num_workers", "1"]) == 2
    assert "must keep its processes, images at once and workers" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "precision", "expected"), [
    ("cuda", "bf16", "bf16"), ("cuda", "fp16", "fp32"), ("cuda", "no", "fp32"), ("cpu", "bf16", "fp32"),
])  # fmt: skip
def test_the_teacher_is_in_half_precision_where_that_is_fast(
    device: str, precision: str, expected: str, make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    words = command(make_teacher(), student, images, tmp_path / "out", "--teacher_layer", 2)[1:]
    accelerator: Any = argparse.Namespace(device=torch.device(device), mixed_precision=precision)
    for given, dtype in ((["--teacher_dtype", "fp16"], "fp16"), ([], expected)):
        options = distill.parse_arguments([*words, *given])
        inputs, found = prepare_inputs(options, ATTENTION, accelerator, torch.zeros(0), {})
        assert found == {"teacher_layer": 2, "teacher_dtype": dtype}
        (weights_dtype,) = {weight.dtype for weight in inputs.teacher.parameters()}  # type: ignore[union-attr]
        assert str(weights_dtype) == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}.get(dtype, "torch.float16")


def test_a_resumed_run_keeps_the_dtype_and_the_layer_of_its_teacher(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    start = command(make_teacher(), student, images, tmp_path / "out", "--num_steps", 1)
    assert cli.main([*start, "--teacher_layer", "3", "--teacher_dtype", "bf16"]) == 0
    assert cli.main([*start, "--resume_from_checkpoint", "latest"]) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["options"]["teacher_dtype"] == run["found"]["teacher_dtype"] == "bf16"
    assert "Teacher: block 3 of 3" in capsys.readouterr().out
    assert cli.main([*start, "--resume_from_checkpoint", "latest", "--teacher_dtype", "fp32"]) == 2
    assert "--teacher_dtype was 'bf16', is 'fp32'" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_images_and_several_students_are_told_apart(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = make_teacher()
    for name in ("a", "b"):
        start = command(teacher, student, images, tmp_path / name, "--num_steps", 1, "--teacher_layer", 2)
        assert cli.main(start) == 0
    other = tmp_path / "a" / "checkpoints" / "step-00000001"
    assert cli.main([*start, "--resume_from_checkpoint", str(other)]) == 2
    assert "is not from the run in" in capsys.readouterr().err
    (images / "5.jpg").unlink()
    assert cli.main([*start, "--resume_from_checkpoint", "latest"]) == 2
    assert "there were 10, now 9" in capsys.readouterr().err
    both = ["--students", tmp_path / "a" / "last", tmp_path / "b" / "last", "--num_steps", 1, "--teacher_layer", 2]
    assert cli.main(command(teacher, student, images, tmp_path / "both", *both)) == 0
    places = [tmp_path / "both" / "last" / name for name in ("a-last", "b-last")]
    assert all(f"{place}" in capsys.readouterr().out or place.is_dir() for place in places)
    again = command(teacher, tmp_path / "both" / "last", images, tmp_path / "again", "--num_steps", 1)
    assert cli.main(again) == 2 and "holds several checkpoints, a-last, b-last" in capsys.readouterr().err


def test_each_network_sees_its_normalisation(make_config: Callable) -> None:
    model = UnipModel(make_config(last_layer_num_attention_heads=None))
    teacher = Teacher(model, 2, image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6))
    images = torch.randint(256, (2, 1, 32, 32), dtype=torch.uint8)
    student = to_pixel_values(images, [0.7], [0.2])
    own = to_pixel_values(images, teacher.image_mean, teacher.image_std)
    for which, seen in (("student", student), ("teacher", own)):
        processor = UnipImageProcessor(image_mean=0.7, image_std=0.2)
        pixel_values, *pair = DistillationInput(teacher, processor, which)(images)
        torch.testing.assert_close(pixel_values, student)
        torch.testing.assert_close(tuple(pair), teacher.query_key(seen))


def test_the_layer_is_the_one_that_all_processes_agreed_on(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a configuration for FSDP, which is about the teacher alone."""
    sharded = []
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(Teacher, "shard", lambda teacher, device, **options: sharded.append((teacher.layer, options)))
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda found: [1, [0.5, 0.4, 0.3]])
    assert cli.main(command(make_teacher(), student, images, tmp_path / "out", "--num_steps", 1)) == 0
    found = json.loads((tmp_path / "out" / "run.json").read_text())["found"]
    assert (found["teacher_layer"], found["teacher_nmi"]) == (1, [0.5, 0.4, 0.3])
    ((layer, settings),) = sharded
    assert layer == 1 and settings["reshard_after_forward"] is True and "ACCELERATE_USE_FSDP" not in os.environ


def test_the_recipe_reaches_the_optimizer_and_the_student(
    make_teacher: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict = {}
    compiled: list[type] = []

    def read(rows: object, crop: GreyCrop, *arguments: Any, **settings: Any) -> Iterator[dict[str, torch.Tensor]]:
        seen.update(crop=crop, reader=settings)
        return read_crops(rows, crop, *arguments, **settings)  # type: ignore[arg-type]

    def load(*arguments: Any, **settings: Any) -> Teacher:
        seen["dtype"] = settings["dtype"]
        return load_teacher(*arguments, **settings)

    def run(loop: TrainingLoop, resume_from_checkpoint: None) -> None:
        settings = {**vars(loop), **vars(loop.settings)}
        seen.update(settings, students=loop.model, batch=next(iter(loop.batches(0))))

    monkeypatch.setattr(TrainingLoop, "run", run)
    monkeypatch.setattr("unip_hf.data.grey_crops.read_crops", read)
    monkeypatch.setattr("unip_hf.distillation.load_teacher", load)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *_, **__: compiled.append(type(module)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "students: [tiny]\nbatch_size: 8\nnum_epochs: 40\nnum_warmup_epochs: 2\ncrop_scale: [0.5, 0.6]\n"
    )
    options = ["distill", "--config", recipe, "--teacher", make_teacher(), "--teacher_num_attention_heads", 4]
    options += ["--data_dir", images, "--output_dir", tmp_path / "out", "--report_to", "none", "--num_workers", 0]
    options += ["--teacher_layer", 1, "--crop_size", 64, "--per_device_batch_size", 4]
    options += ["--flip_probability", 0.25, "--seed", 7, "--max_gradient_norm", 2, "--ema_decay", 0.9]
    options += ["--teacher_dtype", "bf16", "--gradient_checkpointing", "--compile"]
    assert cli.main(list(map(str, options))) == 0
    assert seen["crop"] == GreyCrop(64, (0.5, 0.6), flip_probability=0.25) and seen["reader"]["seed"] == 7
    assert (seen["max_gradient_norm"], seen["ema_decay"], seen["dtype"]) == (2, 0.9, torch.bfloat16)
    assert UnipForPreTraining in compiled
    assert seen["num_steps"] == 40 and seen["accumulation_steps"] == 2  # one update an epoch, what is left not counted
    assert [seen["schedule"](step) for step in (0, 1, 2)] == [0, 0.5, 1] and 0 < seen["schedule"](39) < 0.01
    groups = seen["optimizer"].param_groups
    assert {group["betas"] for group in groups} == {(0.9, 0.95)}
    assert {group["weight_decay"] for group in groups} == {0, 0.05}
    assert {group["lr"] for group in groups} == {1.5e-4 * 8 / 256}
    (student,) = seen["students"].values()
    config = student.config
    assert all(layer.gradient_checkpointing for layer in student.unip.layers)
    assert (config.hidden_size, config.num_hidden_layers, config.last_layer_num_attention_heads) == (192, 12, 4)
    assert (config.drop_path_rate, config.drop_path_schedule, config.image_size) == (0.1, "constant", 64)
    assert config.position_embedding_type == "sincos" and config.layer_scale_init_value is None
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in student.parameters() if parameter.requires_grad}
    loss = seen["compute_loss"](seen["students"], seen["batch"])
    loss.sum().backward()
    assert seen["batch"]["images"].shape == (4, 1, 64, 64) and seen["batch_weight"](seen["batch"]) == 4
    assert all(parameter.grad is not None for parameter in student.parameters() if parameter.requires_grad)


def test_a_student_keeps_its_patches_and_its_normalisation(
    make_teacher: Callable, make_config: Callable, images: Path, tmp_path: Path
) -> None:
    fields = {"layer_scale_init_value": None, "position_embedding_type": "sincos", "patch_size": 8, "image_size": 32}
    folder = tmp_path / "fine patches"
    UnipForPreTraining(make_config(num_channels=1, **fields)).save_pretrained(folder)
    UnipImageProcessor(num_channels=1, image_mean=0.4, image_std=0.3).save_pretrained(folder)
    options = ["--teacher_layer", 2, "--num_steps", 2]
    assert cli.main(command(make_teacher(), folder, images, tmp_path / "out", *options)) == 0
    processor = UnipImageProcessor.from_pretrained(tmp_path / "out" / "last")
    assert (processor.num_channels, processor.image_mean, processor.image_std) == (1, [0.4], [0.3])
    assert UnipForPreTraining.from_pretrained(tmp_path / "out" / "last").config.patch_size == 8


def test_the_published_schedule_has_20900_updates() -> None:
    def count(num_images: int | None, *options: str) -> tuple[int, float]:
        return distill.count_steps(
            distill.parse_arguments(["--teacher", "t", "--output_dir", "o", *options]), num_images
        )

    assert count(859_375) == (20_900, 20_900 / 20) == count(859_375, "--num_warmup_epochs", "5")
    assert count(1024, "--num_epochs", "8") == (2, 0.1)  # less than a batch in an epoch
    assert count(1000, "--batch_size", "100", "--num_steps", "100", "--num_warmup_epochs", "2") == (100, 20)
    with pytest.raises(ValueError, match="but the run has only"):
        count(1000, "--batch_size", "100", "--num_epochs", "2", "--num_warmup_epochs", "2")
    with pytest.raises(ValueError, match="with a stream"):
        count(None, "--num_steps", "100", "--num_warmup_epochs", "2")


@pytest.mark.parametrize(("options", "message"), [
    (["--teacher", "nowhere.pth"], "nowhere.pth"),
    (["--teacher_layer", "4"], "no block 4"),
    (["--teacher_layer", "first"], '--teacher_layer must be "auto" or the number of a block'),
    (["--students", "huge"], "huge"),
    (["--students", "tiny", "tiny"], "names of their own"),
    (["--last_layer_num_attention_heads", "3"], "must be that of the teacher, 4"),
    (["--teacher_num_attention_heads", "5"], "5"),
    (["--crop_size", "40", "--teacher_layer", "2"], "multiple of the patch size, 16"),
    (["--drop_path_rate", "1"], "drop_path_rate must be at least 0 and below 1, got 1"),
    (["--students", "train"], "train"),
    (["--students", "student", "tiny", "--max_gradient_norm", "1"], "train one alone"),
    (["--split", "test"], "no split 'test'"),
    (["--learning_rate", "nan"], "--learning_rate must be above 0"),
    (["--crop_scale", "0", "1"], "scale"),
    (["--data_dir", "nowhere"], "nowhere"),
    (["--streaming"], "--num_steps"),
    (["--ema_decay", "2"], "--ema_decay must be between 0 and 1"),
    (["--batch_size", "6", "--per_device_batch_size", "4"], "--batch_size 6 cannot be divided"),
    (["--image_mean", "0.5", "0.5"], "mean"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_status_2_and_nothing_written(
    options: list, message: str, make_teacher: Callable, student: Path, images: Path, tmp_path: Path, refuses: Callable
) -> None:
    refuses(command(make_teacher(), student, images, tmp_path / "out", *options), message)
