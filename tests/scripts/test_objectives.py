"""`unip distill --objective`: features of a teacher and hidden patches, as a user runs them."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from unip_hf import UnipForPreTraining, UnipModel
from unip_hf.hub.training_run import describe_origin, find_run, make_recipe
from unip_hf.scripts import cli
from unip_hf.scripts.distill import parse_arguments
from unip_hf.scripts.runs import FREE_OPTIONS
from unip_hf.training import TrainingLoop

from ..conftest import PATIENCE, save_checkpoint
from .conftest import UNIP, metrics, same_weights, weights


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
DECODER = {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
SMALL_DECODER = [word for name, value in DECODER.items() for word in (f"--{name}", value)]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A ViT whose tokens depend on the image."""
    model = ViTModel(ViTConfig(image_size=32, patch_size=16, **SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def student(make_config: Callable, tmp_path: Path) -> Path:
    config = make_config(
        hidden_size=24, num_hidden_layers=2, last_layer_num_attention_heads=None, layer_scale_init_value=None,
        position_embedding_type="sincos", image_size=32,
    )  # fmt: skip
    save_checkpoint(UnipForPreTraining(config), tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def distill(street: Path, student: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def command(objective: str, name: str, *options: object) -> list[str]:
        fixed = ["distill", "--objective", objective, "--students", student, "--data_dir", street / "images",
                 "--output_dir", tmp_path / name, "--crop_size", 32, "--batch_size", 4, "--num_workers", 0,
                 "--report_to", "none", "--log_every", 1, "--learning_rate", 3e-3, "--num_sample_images", 4,
                 ]  # fmt: skip
        return list(map(str, [*fixed, *options]))

    return command


def arguments(objective: str, teacher: Path) -> list[object]:
    if objective == "mae":
        return [*SMALL_DECODER]
    return ["--teacher", teacher, "--teacher_layer", 2]


@pytest.mark.parametrize("objective", ["features", "mae"])
def test_a_student_learns_and_is_saved_alone(
    objective: str, distill: Callable, teacher: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [*arguments(objective, teacher), "--num_steps", 60, "--pictures_every", 30, "--drop_path_rate", 0]
    if objective == "mae":
        options += ["--mask_ratio", 0.5]
    assert cli.main(distill(objective, "out", *options)) == 0
    out, printed = tmp_path / "out", capsys.readouterr().out
    title = "Teacher: block 2 of 3" if objective == "features" else "No teacher: 50% of each image is hidden"
    assert title in printed
    lines = metrics(out)
    samples = [line for line in lines if "sample_loss/student" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 60 and sum(losses[-10:]) < (0.9 if objective == "features" else 0.98) * sum(losses[:10])
    assert ("nmi/teacher" in samples[-1]) == (objective == "features") and 0 < samples[-1]["nmi/student"] < 1
    assert Image.open(out / "attention" / "step-00000060.png").width > 300
    before, after = weights(student), weights(out / "last")
    assert before.keys() == after.keys()
    untrained = {name.removeprefix("unip.") for name in before if torch.equal(before[name], after[name])}
    final_norm = {"layernorm.weight", "layernorm.bias"} if objective == "features" else set()
    assert untrained == {"embeddings.position_embeddings", *final_norm}
    model = UnipForPreTraining.from_pretrained(out / "last")
    assert model.config.last_layer_num_attention_heads is None


@pytest.mark.parametrize("objective", ["features", pytest.param("mae", marks=pytest.mark.slow)])
def test_what_is_thrown_away_is_resumed_exactly(
    objective: str, distill: Callable, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*arguments(objective, teacher), "--num_steps", 6, "--pictures_every", 2, "--drop_path_rate", 0.2]
    options += ["--per_device_batch_size", 2, "--ema_decay", 0.5, "--mixed_precision", "bf16"]
    options += ["--gradient_checkpointing", "--keep_colour"]
    options += ["--image_mean", 0.4, 0.5, 0.6, "--image_std", 0.2, 0.2, 0.2]
    assert cli.main(distill(objective, "whole", *options)) == 0
    step = TrainingLoop.step

    def stop_at_three(loop: TrainingLoop) -> None:
        step(loop)
        if loop.state["step"] == 3:
            loop.terminate()

    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(TrainingLoop, "step", stop_at_three)
        cli.main(distill(objective, "parts", *options))
    assert json.loads(next((tmp_path / "parts" / "checkpoints").glob("*/state.json")).read_text())["step"] == 3
    assert cli.main(distill(objective, "parts", *options, "--resume_from_checkpoint", "latest")) == 0
    assert same_weights(tmp_path / "whole" / "last", tmp_path / "parts" / "last")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_learn_features_as_one(distill: Callable, teacher: Path, tmp_path: Path) -> None:
    options = [*arguments("features", teacher), "--num_steps", 4, "--drop_path_rate", 0, "--pictures_every", 2]
    assert cli.main(distill("features", "one", *options)) == 0
    for objective in ("features", "mae"):
        options = [*arguments(objective, teacher), "--num_steps", 4, "--drop_path_rate", 0, "--pictures_every", 2]
        start = [UNIP, *distill(objective, f"two-{objective}", *options), "--num_processes", "2"]
        done = subprocess.run(start, env=dict(os.environ), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
    one, two = (weights(tmp_path / name / "last") for name in ("one", "two-features"))
    for name in one:
        if name.endswith("qkv.bias"):  # those of the keys change no attention: their gradient is rounding alone
            one[name], two[name] = (torch.cat(tensors[name].chunk(3)[::2]) for tensors in (one, two))
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_a_network_pre_trained_by_masking_is_a_start_and_a_teacher(
    distill: Callable, street: Path, tmp_path: Path
) -> None:
    """Of a MAE of `transformers`, as the paper's MAE-S that is pre-trained further on infrared images."""
    mae = ViTMAEForPreTraining(
        ViTMAEConfig(image_size=32, patch_size=8, decoder_intermediate_size=16, **SIZES, **DECODER)
    )
    mae.save_pretrained(tmp_path / "mae")
    options = ["--students", tmp_path / "mae", "--num_steps", 2, *SMALL_DECODER]
    assert cli.main(distill("mae", "infrared", *options)) == 0
    made = UnipModel.from_pretrained(tmp_path / "infrared" / "last")
    assert (made.config.patch_size, made.config.drop_path_rate, made.config.num_attention_heads) == (8, 0, 4)
    distance = made.layers[1].mlp.fc1.weight - mae.vit.layers[1].mlp.fc1.weight
    assert 0 < distance.abs().max() < 0.02  # it was trained, and began with these weights
    quick = ["--num_steps", 1, "--num_workers", 0, "--report_to", "none", "--crop_size", 32, "--batch_size", 2]
    taught = ["distill", "--teacher", tmp_path / "infrared" / "last", "--students", tmp_path / "mae", "--data_dir",
              street / "images", "--output_dir", tmp_path / "taught", *quick]  # fmt: skip
    tuned = ["finetune", "--model", tmp_path / "infrared" / "last", "--data_dir", street, "--output_dir",
             tmp_path / "tuned", *quick, "--shortest_edge", 32, "--window_size", 32, "--stride", 32]  # fmt: skip
    for command in (taught, tuned):
        assert cli.main(list(map(str, command))) == 0
    origin = describe_origin(find_run(tmp_path / "tuned" / "best"))
    recipe = tmp_path / "recipe.yaml"  # as a card gives it
    run = find_run(tmp_path / "infrared" / "last")
    assert run is not None
    recipe.write_text(yaml.safe_dump(make_recipe(run, FREE_OPTIONS)))
    again = parse_arguments(["--config", str(recipe), "--output_dir", "o"])
    assert (again.objective, again.decoder_hidden_size, again.mask_ratio, again.leave_out) == ("mae", 16, 0.75, None)
    assert "`infrared`, pre-trained to fill in hidden patches (MAE, 75% hidden) on the data" in origin
    assert UnipForPreTraining.from_pretrained(tmp_path / "taught" / "last").config.last_layer_num_attention_heads == 4


@pytest.mark.parametrize(("objective", "options", "message"), [
    ("features", [], "--objective features needs --teacher"),
    ("attention", [], "--objective attention needs --teacher"),
    ("mae", ["--teacher", "timm:vit"], "--objective mae has no teacher: leave --teacher out"),
    ("mae", ["--nmi_target", "0.1"], "leave --nmi_target out"),
    ("mae", ["--mask_ratio", "1"], "mask_ratio must be above 0 and below 1"),
    ("mae", ["--mask_ratio", "0.9"], "leave some of 4 patches on each side, got 0.9"),
    ("mae", ["--decoder_hidden_size", "30"], "a multiple of 4 and of its heads"),
    ("mae", ["--last_layer_num_attention_heads", "4"], "is for --objective attention"),
    ("features", ["--teacher", "t", "--mask_ratio", "0.5"], "--mask_ratio is for --objective mae"),
    ("features", ["--teacher", "t", "--nmi_target", "1.5"], "--nmi_target must be from 0 to 1, got 1.5"),
    ("mae", ["--students", "nowhere"], "nowhere"),
    ("mae", ["--leave_out", "coco"], 'leave_out is for the dataset "infmix", got \'folder\''),
    ("mae", ["--keep_colour", "--students", "tiny", "--num_channels", "1"], "--keep_colour needs students of three"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence(
    objective: str, options: list[str], message: str, distill: Callable, refuses: Callable
) -> None:
    refuses(distill(objective, "out", "--num_steps", 1, *options), message)


def test_another_target_chooses_another_block(
    distill: Callable, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    chosen, nmi = {}, []
    for target in (0, 1):
        options = ["--teacher", teacher, "--num_steps", 1, "--nmi_target", target]
        assert cli.main(distill("features", f"target-{target}", *options)) == 0
        found = json.loads((tmp_path / f"target-{target}" / "run.json").read_text())["found"]
        chosen[target], nmi = found["teacher_layer"], found["teacher_nmi"]
        printed = capsys.readouterr().out
        assert f"{nmi[chosen[target] - 1]:.4f}   <- nearest to {target}\n" in printed and "is hybrid" not in printed
    assert chosen == {0: 1 + nmi.index(min(nmi)), 1: 1 + nmi.index(max(nmi))} and chosen[0] != chosen[1]
