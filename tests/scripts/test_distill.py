"""`unip distill` as a user runs it: published teacher files, real processes, killed and resumed ones among them."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from unip_hf import UnipForPreTraining, UnipImageProcessor, UnipModel
from unip_hf.distillation import DistillationInput, load_teacher, select_layer
from unip_hf.hub.conversion import to_published_state_dict
from unip_hf.scripts import cli, distill


UNIP = str(Path(sys.executable).parent / "unip")
QUICK = ["--crop_size", "32", "--batch_size", "4", "--num_workers", "0", "--report_to", "none", "--log_every", "1",
         "--learning_rate", "3e-3", "--num_sample_images", "4", "--teacher_num_attention_heads", "4"]  # fmt: skip


@pytest.fixture(autouse=True)
def forget_the_process() -> Iterator[None]:
    """Accelerate keeps devices and precision for the life of a process; each test is a user's new one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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
    UnipForPreTraining(config).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def command(teacher: Path, student: Path, images: Path, output_dir: Path, *options: object) -> list[str]:
    fixed = ["distill", "--teacher", teacher, "--students", student, "--data_dir", images, "--output_dir", output_dir]
    return list(map(str, [*fixed, *QUICK, *options]))


def metrics(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["mae", "dino", "ibot"])
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
    samples = [line for line in lines if "sample_loss/student" in line]
    assert [line["step"] for line in samples] == [30, 60]
    assert samples[-1]["sample_loss/student"] < samples[0]["sample_loss/student"]
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


def test_students_that_learn_together_learn_what_each_learns_alone(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    model = UnipForPreTraining.from_pretrained(student)
    model.config.drop_path_rate = 0.5  # another network, another start
    with torch.no_grad():
        model.unip.embeddings.cls_token.add_(1.0)
    model.save_pretrained(tmp_path / "other.student")
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
def test_killed_three_times_the_run_ends_with_the_same_weights(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    """Drop path, moving average, the choice of the layer and the order of crops all go on where they were."""
    options = ["--num_steps", 50, "--save_every", 3, "--ema_decay", 0.9, "--num_workers", 1, "--drop_path_rate", 0.2]
    options += ["--pictures_every", 25, "--per_device_batch_size", 2]
    teacher = make_teacher()
    subprocess.run([UNIP, *command(teacher, student, images, tmp_path / "whole", *options)], check=True, timeout=300)
    out, chance = tmp_path / "killed", random.Random(0)
    resume: list[str] = []
    for kill_at in sorted(chance.sample(range(4, 48), 3)):
        process = subprocess.Popen([UNIP, *command(teacher, student, images, out, *options, *resume)])
        until = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or last_step(out) < kill_at:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        resume = ["--resume_from_checkpoint", "latest"]
    subprocess.run([UNIP, *command(teacher, student, images, out, *options, *resume)], check=True, timeout=300)
    assert same_weights(tmp_path / "whole" / "last", out / "last")
    assert metrics(tmp_path / "whole") == metrics(out)


def last_step(output_dir: Path) -> int:
    lines = (output_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


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
    done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=300)
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
    assert [path.name for path in saved] == [f"step-00000002-batch-{n}-process-0.safetensors" for n in (1, 2)]
    batch = load_file(saved[0])["images"]
    assert batch.shape == (2, 1, 32, 32) and batch.dtype == torch.uint8 and batch.float().std() > 10


def test_a_stream_and_the_teachers_own_normalisation(
    make_teacher: Callable, student: Path, images: Path, tmp_path: Path
) -> None:
    options = ["--streaming", "--num_steps", 40, "--teacher_normalization", "teacher", "--teacher_dtype", "bf16"]
    options += ["--mixed_precision", "bf16", "--image_mean", 0.4, "--image_std", 0.2, "--pictures_every", 0]
    options += ["--teacher_layer", 2, "--drop_path_rate", 0]
    assert cli.main(command(make_teacher("ibot"), student, images, tmp_path / "out", *options)) == 0
    losses = [line["loss"] for line in metrics(tmp_path / "out") if "loss" in line]
    assert len(losses) == 40 and np.mean(losses[-8:]) < 0.95 * np.mean(losses[:8])
    assert UnipImageProcessor.from_pretrained(tmp_path / "out" / "last").image_mean == [0.4]


def test_the_recipe_reaches_the_optimizer_and_the_student(
    make_teacher: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict = {}

    def train(accelerator: object, students: Any, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        seen.update(settings, students=students, optimizer=optimizer, batch=next(iter(settings["batches"](0))))

    monkeypatch.setattr("unip_hf.training.train", train)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "students: [tiny]\nbatch_size: 8\nnum_epochs: 40\nnum_warmup_epochs: 2\ncrop_scale: [0.5, 0.6]\n"
    )
    options = ["distill", "--config", recipe, "--teacher", make_teacher(), "--teacher_num_attention_heads", 4]
    options += ["--data_dir", images, "--output_dir", tmp_path / "out", "--report_to", "none", "--num_workers", 0]
    options += ["--teacher_layer", 1, "--crop_size", 64, "--per_device_batch_size", 4]
    assert cli.main(list(map(str, options))) == 0
    assert seen["num_steps"] == 40 and seen["accumulation_steps"] == 2  # one update an epoch, what is left not counted
    assert [seen["schedule"](step) for step in (0, 1, 2)] == [0, 0.5, 1] and 0 < seen["schedule"](39) < 0.01
    groups = seen["optimizer"].param_groups
    assert {group["betas"] for group in groups} == {(0.9, 0.95)}
    assert {group["weight_decay"] for group in groups} == {0, 0.05}
    assert {group["lr"] for group in groups} == {1.5e-4 * 8 / 256}
    (student,) = seen["students"].values()
    config = student.config
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
    options = distill.parse_arguments(["--teacher", "t", "--output_dir", "o"])
    assert distill.count_steps(options, 859_375) == (20_900, 20_900 / 20)
    options = distill.parse_arguments(["--teacher", "t", "--output_dir", "o", "--num_epochs", "8"])
    assert distill.count_steps(options, 1024) == (2, 0.1)  # less than a batch in an epoch


@pytest.mark.parametrize(("options", "message"), [
    (["--teacher", "nowhere.pth"], "nowhere.pth"),
    (["--teacher_layer", "4"], "no block 4"),
    (["--teacher_layer", "first"], '--teacher_layer is "auto" or the number of a block'),
    (["--students", "huge"], "huge"),
    (["--students", "tiny", "tiny"], "same name"),
    (["--last_layer_num_attention_heads", "3"], "the teacher has 4"),
    (["--teacher_num_attention_heads", "5"], "5"),
    (["--crop_size", "40"], "multiples of 16"),
    (["--crop_scale", "0", "1"], "scale"),
    (["--data_dir", "nowhere"], "nowhere"),
    (["--streaming"], "--num_steps"),
    (["--ema_decay", "2"], "--ema_decay lies between 0 and 1"),
    (["--batch_size", "6", "--per_device_batch_size", "4"], "--batch_size 6 cannot be divided"),
    (["--image_mean", "0.5", "0.5"], "mean"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_status_2_and_nothing_written(
    options: list[str],
    message: str,
    make_teacher: Callable,
    student: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    start = command(make_teacher(), student, images, tmp_path / "out", *options)
    before = set(tmp_path.rglob("*"))
    assert cli.main(start) == 2
    errors = capsys.readouterr().err
    assert message in errors and "\nerror: " in f"\n{errors}" and "Traceback" not in errors
    assert set(tmp_path.rglob("*")) == before
