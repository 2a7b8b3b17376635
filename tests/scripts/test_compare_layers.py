"""`unip compare-layers` on real files: every run of it, an interruption, and a mistake."""

import argparse
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel

from unip_hf import UnipForPreTraining, UnipImageProcessor
from unip_hf.scripts import cli, compare_layers, distill

from ..conftest import PATIENCE
from .conftest import UNIP, same_weights, wait_for_step


@pytest.fixture
def command(make_config: Callable, street: Path, tmp_path: Path) -> list[str]:
    """Images, a teacher of three blocks, a student and two recipes."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path / "teacher")
    student = make_config(image_size=32, layer_scale_init_value=None, position_embedding_type="sincos")
    UnipForPreTraining(student).save_pretrained(tmp_path / "student")
    UnipImageProcessor().save_pretrained(tmp_path / "student")
    common = "batch_size: 2\nnum_workers: 0\nreport_to: [none]\ncrop_size: 32\nlearning_rate: 0.01\n"
    (tmp_path / "distil.yaml").write_text(
        f"{common}data_dir: {street / 'images'}\nstudents: [{tmp_path / 'student'}]\nnum_steps: 2\n"
        "num_sample_images: 4\nimage_mean: 0.4\npictures_every: 0\n"
    )
    (tmp_path / "finetune.yaml").write_text(
        f"{common}data_dir: {street}\nnum_steps: 4\nevaluate_every: 2\nshortest_edge: 32\n"
        "window_size: 32\nstride: 21\nmixed_precision: bf16\n"  # unlike the distillation
    )
    files = {"distillation_config": "distil.yaml", "finetuning_config": "finetune.yaml", "output_dir": "out"}
    words = ["compare-layers", "--teacher", str(tmp_path / "teacher"), "--teacher_layers", "first-third", "auto", "1"]
    return words + [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]


@pytest.mark.slow
def test_a_comparison_is_made_and_goes_on(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command[command.index("auto")] = "last"
    out = tmp_path / "out"
    assert cli.main([*command, "--seeds", "0"]) == 0
    assert "Compared: blocks 1, 3, and a random start" in capsys.readouterr().out
    first = json.loads((out / "comparison.json").read_text())
    assert [student["layer"] for student in first["students"]] == [None, 1, 3]
    assert len(first["teacher_nmi"]) == 3 and first["students"][2]["nmi"] == first["teacher_nmi"][2]
    for name in ("teacher_layers", "comparison"):
        assert Image.open(out / f"{name}.png").width > 300
    folders = ("block-01/seed-0/distillation/last", "block-03/seed-0/distillation/last", "random-start/seed-0/student")
    weights = [load_file(out / folder / "model.safetensors") for folder in folders]
    shapes = {str({name: tensor.shape for name, tensor in each.items()}) for each in weights}
    name = "unip.layers.2.attention.qkv.weight"
    assert len(shapes) == 1 and all((a[name] != b[name]).any() for a, b in zip(weights, [*weights[1:], weights[0]]))
    assert UnipImageProcessor.from_pretrained(out / "random-start/seed-0/student").image_mean == [0.4]

    # A run is lost, another was interrupted before its first checkpoint, and there is one more seed.
    untouched = out / "block-01" / "seed-0" / "distillation" / "last" / "model.safetensors"
    written = untouched.stat().st_mtime_ns
    shutil.rmtree(out / "block-03" / "seed-0" / "fine-tuning")
    shutil.rmtree(out / "random-start" / "seed-0" / "fine-tuning" / "checkpoints")
    assert cli.main([*command, "--seeds", "0", "1"]) == 0
    second = json.loads((out / "comparison.json").read_text())
    assert untouched.stat().st_mtime_ns == written
    for before, after in zip(first["students"], second["students"]):
        scores = after["mean_iou_by_seed"]
        assert list(scores) == ["0", "1"] and scores["0"] == before["mean_iou_by_seed"]["0"]
        assert after["mean_iou"] == fmean(scores.values())
        assert after["standard_deviation"] == stdev(scores.values())
    text = (out / "comparison.md").read_text()
    assert f"{100 * second['students'][0]['mean_iou']:.2f} ± " in text and text in capsys.readouterr().out + text

    (tmp_path / "distil.yaml").write_text((tmp_path / "distil.yaml").read_text() + "weight_decay: 0.5\n")
    assert cli.main(command) == 2
    assert "--weight_decay was 0.05, is 0.5" in capsys.readouterr().err


def test_a_run_is_made_once_and_one_that_fails_ends_the_comparison(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--config", tmp_path / "distil.yaml", "--teacher", tmp_path / "teacher", "--teacher_layer", 2]
    compare_layers.run_once("distill", options, tmp_path / "run")
    student = UnipForPreTraining.from_pretrained(tmp_path / "run" / "last")
    assert student.config.last_layer_num_attention_heads == 4
    with pytest.raises(SystemExit) as ended:
        compare_layers.run_once("distill", [*options, "--batch_size", 0], tmp_path / "wrong")
    assert ended.value.code == 2 and not (tmp_path / "wrong").exists()
    monkeypatch.setattr(compare_layers, "run_job", None)
    compare_layers.run_once("distill", options, tmp_path / "run")
    with pytest.raises(ValueError, match="--seed was 0, is 1"):
        compare_layers.run_once("distill", [*options, "--seed", 1], tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_job_and_the_comparison_goes_on(
    command: list[str], number: signal.Signals, status: int, tmp_path: Path
) -> None:
    recipe, layers = tmp_path / "distil.yaml", ["--teacher_layers", "2", "--seeds", "0"]
    recipe.write_text(recipe.read_text().replace("num_steps: 2", "num_steps: 60\nlog_every: 1\nsave_every: 1"))
    out = tmp_path / "out" / "block-02" / "seed-0" / "distillation"
    process = subprocess.Popen([UNIP, *command, *layers])
    wait_for_step(process, out, 2)
    process.send_signal(number)
    assert process.wait(PATIENCE) == status
    stopped = json.loads(next((out / "checkpoints").glob("*/state.json")).read_text())["step"]
    assert 0 < stopped < 60 and not (out.parent / "fine-tuning").exists()
    assert cli.main([*command, *layers]) == 0
    assert (tmp_path / "out" / "comparison.md").is_file()
    whole = ["distill", "--config", str(recipe), "--teacher", str(tmp_path / "teacher"), "--teacher_layer", "2"]
    assert cli.main([*whole, "--output_dir", str(tmp_path / "whole")]) == 0
    assert same_weights(out / "last", tmp_path / "whole" / "last")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher_layers", "middle"], "numbers from 1, or auto, first-third, last, got middle"),
        (["--teacher_layers", "4"], r"blocks of the teacher, 1 to 3, got [4]"),
        (["--finetuning_config", "nothing.yaml"], "There is no recipe 'nothing.yaml'"),
        (["--distillation_config", "two.yaml"], "choose one"),
        (["--finetuning_config", "probe.yaml"], "'probe.yaml' has layerwise_probe"),
        (["--nmi_target", "0.09", "9"], "--nmi_target must be from 0 to 1, got 9"),
        (["--distillation_config", "heads.yaml", "--objectives", "features"], "is for --objective attention"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    command: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(Path("distil.yaml").read_text() + "students: [tiny, small]\n")
    Path("heads.yaml").write_text(Path("distil.yaml").read_text() + "last_layer_num_attention_heads: 4\n")
    Path("probe.yaml").write_text("layerwise_probe: true\n")
    assert cli.main([*command, *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_objectives_and_targets_are_compared_alike(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Which runs are made; each is made for real in the tests above."""
    made: list[tuple[str, list[str]]] = []

    def run_once(job: str, arguments: list[object], output_dir: Path) -> None:
        made.append((str(output_dir.relative_to(tmp_path / "out")), list(map(str, arguments))))
        if job == "distill":
            distill.parse_arguments([*map(str, arguments), "--output_dir", str(output_dir)])
            shutil.copytree(tmp_path / "student", output_dir / "last")

    def read_run(folder: Path, which: str) -> argparse.Namespace:
        return argparse.Namespace(mean_iou={None: 0.1 * len(made)})

    monkeypatch.setattr(compare_layers, "run_once", run_once)
    monkeypatch.setattr("unip_hf.evaluation.result_tables.read_run", read_run)
    options = ["--nmi_target", "0", "1", "--objectives", "attention", "features", "--seeds", "3"]
    assert cli.main([*command, "--teacher_layers", "2", *options]) == 0
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    nmi, students = record["teacher_nmi"], record["students"]
    nearest = {0: 1 + nmi.index(min(nmi)), 1: 1 + nmi.index(max(nmi))}
    layers = sorted({2, *nearest.values()})
    assert [(student["layer"], student["objective"]) for student in students] == [
        (None, None), *((layer, objective) for layer in layers for objective in ("attention", "features"))
    ]  # fmt: skip
    assert [student["nmi_targets"] for student in students[1::2]] == [
        [target for target, block in nearest.items() if block == layer] for layer in layers
    ]
    folders = [folder for folder, _ in made]
    assert f"block-{layers[0]:02d}/seed-3/distillation" == folders[0]
    assert f"block-{layers[0]:02d}-features/seed-3/distillation" == folders[2] and folders[-1].startswith(
        "random-start"
    )
    assert all(words[-2:] == ["--seed", "3"] for _, words in made) and len(made) == 4 * len(layers) + 1
    recipes = {tuple(words[:2]) for _, words in made}
    assert len(recipes) == 2  # one for distillation, one for fine-tuning
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"Nearest to the NMI 0: block {nearest[0]}." in text and "| block 2 | features |" in text
    assert Image.open(tmp_path / "out" / "comparison.png").width > 300
    assert f"Nearest to the NMI 1: block {nearest[1]}" in capsys.readouterr().out
