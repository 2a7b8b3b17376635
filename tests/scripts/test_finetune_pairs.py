"""`unip finetune` of pairs and of small parts: what is trained, saved, dropped and resumed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unip_hf import (
    UnipForMlaSegmentation,
    UnipForPreTraining,
    UnipForSegformerSegmentation,
    UnipForSemanticSegmentation,
)
from unip_hf.inference import load_segmentation_model
from unip_hf.scripts import cli
from unip_hf.training import TrainingLoop

from ..conftest import PATIENCE, save_checkpoint
from .conftest import UNIP, metrics, run_killed, same_weights, weights


QUICK = ["--dataset", "mfnet", "--allow_partial", "--crop_size", "32", "--shortest_edge", "32", "--batch_size", "4",
         "--num_workers", "0", "--report_to", "none", "--log_every", "1", "--window_size", "32",
         "--stride", "21"]  # fmt: skip
PAIRS = ["--dataset_config", "both"]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """MFNet with six frames of four channels to train and one to validate: each modality shows one of two classes."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "frames"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    names = [f"0000{number}D" for number in range(7)]
    for name in names:
        ids = np.kron(generator.integers(0, 3, (3, 4), dtype=np.uint8), np.ones((16, 16), np.uint8))
        channels = generator.integers(0, 40, (*ids.shape, 4), dtype=np.uint8)
        channels[..., 3] += 120 * (ids == 1).astype(np.uint8)
        channels[..., :3] += 120 * (ids == 2).astype(np.uint8)[..., None]
        Image.fromarray(channels).save(folder / "images" / f"{name}.png")
        Image.fromarray(ids).save(folder / "labels" / f"{name}.png")
    (folder / "train.txt").write_text("\n".join(names[:6]))
    (folder / "val.txt").write_text(names[6])
    return folder


@pytest.fixture
def student(make_config: Callable, tmp_path: Path) -> Path:
    config = make_config(num_hidden_layers=4, layer_scale_init_value=None, position_embedding_type="sincos")
    save_checkpoint(UnipForPreTraining(config), tmp_path / "student")
    return tmp_path / "student"


def command(student: Path, frames: Path, output_dir: Path, *options: object) -> list[str]:
    fixed = ["finetune", "--model", student, "--data_dir", frames, "--output_dir", output_dir, *QUICK, *options]
    return list(map(str, fixed))


@pytest.mark.parametrize(("fusion", "main", "task", "kind"), [
    ("iv_tuning", "infrared", "segformer", UnipForSegformerSegmentation),
    ("unirgb_ir", "visible", "mla", UnipForMlaSegmentation),
])  # fmt: skip
def test_a_frozen_backbone_learns_from_pairs(
    fusion: str,
    main: str,
    task: str,
    kind: type,
    student: Path,
    frames: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "out"
    options = [*PAIRS, "--fusion", fusion, "--main_modality", main, "--task", task]
    options += ["--num_steps", 3, "--only_trained", "--ema_decay", "0.5"]
    options += ["--learning_rate", "1e-2", "--num_warmup_steps", 0, "--decoder_channels", 8, "--modality_dropout", 0.3]
    assert cli.main(command(student, frames, out, *options)) == 0
    printed = capsys.readouterr().out
    model, processor = load_segmentation_model(out / "last")
    assert type(model) is kind and processor.main_modality == main
    assert (model.config.fusion, model.config.backbone_checkpoint) == (fusion, str(student))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    of_encoder = sum(p.numel() for name, p in model.named_parameters() if name in trained and name.startswith("unip."))
    assert f"Trained: {of_encoder:,} parameters in the encoder" in printed
    assert {name.split(".")[1] for name in trained if name.startswith("unip.")} == {"fusion"}
    before, after = load_file(student / "model.safetensors"), model.state_dict()
    frozen = [name for name in after if name.startswith("unip.layers.")]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    saved = weights(out / "last").keys()
    assert trained <= saved and not saved & set(frozen)
    (optimizer,) = (torch.load(path, weights_only=True) for path in (out / "checkpoints").rglob("optimizer.bin"))
    assert len(optimizer["state"]) == len(trained)
    assert all(after[name].any() for name in trained if "gate" in name or "scale" in name)
    assert 0 <= metrics(out)[-1]["mean_iou"] <= 1 and (out / "predictions").is_dir()

    # The same model goes on, with its own method and backbone.
    more = [*PAIRS, "--fusion", fusion, "--num_steps", 1, "--task", task, "--only_trained"]
    assert cli.main(command(out / "last", frames, tmp_path / "more", *more)) == 0
    again, _ = load_segmentation_model(tmp_path / "more" / "last")
    assert again.config.backbone_checkpoint == str(student)
    assert (again.config.fusion, again.config.main_modality) == (fusion, main)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What a run would train with, and its first batch: it stops there."""
    found: dict = {}

    def run(loop: TrainingLoop, resume_from_checkpoint: None) -> dict:
        found.update(vars(loop), batch=next(iter(loop.batches(0))))
        return {"best": None}

    monkeypatch.setattr(TrainingLoop, "run", run)
    return found


def test_the_visible_image_can_be_the_main_one_and_the_backbone_be_trained(
    student: Path, frames: Path, tmp_path: Path, seen: dict
) -> None:
    options = [*PAIRS, "--fusion", "iv_tuning", "--num_steps", 10, "--no_photometric_distortion"]
    assert cli.main(command(student, frames, tmp_path / "infrared", *options)) == 0
    infrared, optimizer = seen["batch"], seen["optimizer"]
    assert infrared["auxiliary_pixel_values"].shape == (4, 3, 32, 32)
    assert {round(group["lr_scale"], 6) for group in optimizer.param_groups} == {1.0}
    options += ["--main_modality", "visible", "--unfreeze"]
    assert cli.main(command(student, frames, tmp_path / "visible", *options)) == 0
    model, visible = seen["model"], seen["batch"]
    assert model.config.main_modality == "visible" and all(p.requires_grad for p in model.parameters())
    assert len({group["lr_scale"] for group in seen["optimizer"].param_groups}) == 6
    # Grey in one, colour in the other; only the statistics differ.
    grey = infrared["pixel_values"], visible["auxiliary_pixel_values"]
    assert all(torch.equal(images[:, 0], images[:, 2]) for images in grey)
    assert not torch.equal(visible["pixel_values"][:, 0], visible["pixel_values"][:, 2])


def test_examples_lose_their_second_image_by_seed_and_place_alone(
    student: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(loop: TrainingLoop, resume_from_checkpoint: None) -> dict:
        for first in (0, 3):
            batches = loop.batches(first)
            seen.append([next(batches) for _ in range(12)])
        return {"best": None}

    seen: list = []
    monkeypatch.setattr(TrainingLoop, "run", run)
    options = [*PAIRS, "--fusion", "iv_tuning", "--num_steps", 1]
    for name, more in (("with", ["--modality_dropout", 0.5]), ("without", [])):
        assert cli.main(command(student, frames, tmp_path / name, *options, *more)) == 0
    dropped, resumed, whole, _ = ([batch["auxiliary_pixel_values"] for batch in part] for part in seen)
    empty = torch.stack([images.flatten(1).abs().sum(1) == 0 for images in dropped])
    assert 12 < empty.sum() < 36 and empty.any(0).all()
    for images, full, gone in zip(dropped, whole, empty):
        assert torch.equal(images, full * ~gone[:, None, None, None])
    assert all(torch.equal(one, other) for one, other in zip(dropped[3:], resumed))
    mains = ([batch["pixel_values"] for batch in part] for part in seen[::2])
    assert all(torch.equal(*pair) for pair in zip(*mains))


@pytest.mark.parametrize("fusion", [None, pytest.param("iv_tuning", marks=pytest.mark.slow)])
def test_lora_is_merged_into_an_ordinary_model(
    fusion: str | None, student: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    networks: list = []
    run = TrainingLoop.run

    def record(loop: TrainingLoop, *args: object) -> dict:
        networks.append(loop.model)
        return run(loop, *args)

    monkeypatch.setattr(TrainingLoop, "run", record)
    options = [*PAIRS, "--lora_rank", 2, "--num_steps", 3, "--learning_rate", "1e-2", "--num_warmup_steps", 0]
    options += [] if fusion is None else ["--fusion", fusion]
    assert cli.main(command(student, frames, tmp_path / "out", *options)) == 0
    (network,) = (model.eval() for model in networks)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    of_lora = {name for name in trained if "lora_" in name}
    assert len(of_lora) == 2 * 4 * 4  # two matrices for each of four layers in four blocks
    others = {name.split(".")[0] if not name.startswith("unip") else name.split(".")[1] for name in trained - of_lora}
    assert others == {"pyramid", "decode_head", "auxiliary_head", *([] if fusion is None else ["fusion"])}
    printed = capsys.readouterr().out
    of_encoder = sum(p.numel() for n, p in network.named_parameters() if n in trained and n[:4] == "unip")
    assert f"Trained: {of_encoder:,}" in printed
    assert ("Of each pair only the infrared image is read" in printed) == (fusion is None)
    model, _ = load_segmentation_model(tmp_path / "out" / "last")
    assert not any("lora" in name or "base_layer" in name for name in model.state_dict())
    before = load_file(student / "model.safetensors")["unip.layers.1.mlp.fc1.weight"]
    assert not torch.allclose(model.unip.layers[1].mlp.fc1.weight, before)
    image = {"pixel_values": torch.randn(1, 3, 32, 32)}
    image |= {} if fusion is None else {"auxiliary_pixel_values": torch.randn(1, 3, 32, 32)}
    with torch.no_grad():
        torch.testing.assert_close(model(**image).logits, network(**image).logits, atol=1e-4, rtol=1e-4)


def test_the_published_recipe_of_unirgb_ir_is_followed(
    student: Path, frames: Path, tmp_path: Path, seen: dict
) -> None:
    class_weights = [1.5, 15.8, 30.1, 41.7, 38.3, 39.8, 47.0, 46.5, 44.2]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "optimizer: sgd\nlearning_rate: 0.01\nfinal_learning_rate: 1e-4\ndecay_power: 0.9\nnum_warmup_steps: 0\n"
        "weight_decay: 5e-4\ndecay_vectors: true\nlayer_decay: 1\nnum_steps: 100\nloss_average: all_pixels\n"
        f"class_weights: {class_weights}\nresize_to: [48, 48]\nratio_range: [1, 1]\nno_photometric_distortion: true\n"
        "fusion: unirgb_ir\ntask: mla\ndataset_config: both\n"
    )
    options = ["--config", recipe, "--crop_size", 48, "--window_size", 48, "--stride", 32]
    plain = command(student, frames, tmp_path / "out", *options)
    del plain[plain.index("--shortest_edge") : plain.index("--shortest_edge") + 2]
    assert cli.main(plain) == 0
    optimizer = seen["optimizer"]
    assert type(optimizer) is torch.optim.SGD
    assert {(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.01, 0.9, 5e-4)}
    rates = [0.01 * seen["schedule"](step) for step in (0, 50, 100)]
    assert rates == pytest.approx([0.01, (0.01 - 1e-4) * 0.5**0.9 + 1e-4, 1e-4])
    assert seen["compute_loss"].class_weights == class_weights and seen["model"].config.loss_average == "all_pixels"
    assert seen["batch"]["pixel_values"].shape == (4, 3, 48, 48) and (seen["batch"]["labels"] != 255).all()


def test_lora_names_what_has_to_be_installed(
    student: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert cli.main(command(student, frames, tmp_path / "out", "--num_steps", 1, "--lora_rank", 2)) == 2
    assert 'pip install ".[lora]"' in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--fusion", "iv_tuning"], "The model reads pairs, but the dataset has no visible images. Choose the"),
    ([*PAIRS, "--main_modality", "visible"], "--main_modality is for pairs of images: add --fusion"),
    ([*PAIRS, "--modality_dropout", "0.1"], "--modality_dropout is for pairs of images"),
    (["--unfreeze"], "--unfreeze is for pairs of images"),
    (["--auxiliary_image_std", "0.2"], "--auxiliary_image_std is for pairs of images"),
    ([*PAIRS, "--fusion", "iv_tuning", "--modality_dropout", "1"], "--modality_dropout must be between 0 and 1"),
    (["--lora_rank", "1000"], "--lora_rank must be at most 32, the highest rank in the encoder, got 1000"),
    (["--lora_rank", "0"], "--lora_rank must be above 0, got 0"),
    (["--lora_rank", "2", "--only_trained"], "--lora_rank freezes the backbone, and is merged into it"),
    (["--lora_rank", "2", "--linear_probe"], "leave out --unfreeze, --only_trained and the probes"),
    ([*PAIRS, "--fusion", "iv_tuning", "--linear_probe"], "A probe trains classifiers alone"),
    (["--only_trained"], "no frozen weight of this model is as in"),
    (["--only_trained", "--unfreeze"], "--only_trained leaves out a frozen backbone"),
    (["--momentum", "0.9"], "--momentum goes with --optimizer sgd"),
    (["--final_learning_rate", "1"], "--final_learning_rate 1.0 must not be above --learning_rate 0.0001"),
    (["--class_weights", "1", "2"], "--class_weights has 2 numbers, but there are 9 classes"),
    (["--class_weights", "1", "much"], "--class_weights takes one word, or a number for each class"),
    ([*PAIRS, "--model", "other", "--fusion", "iv_tuning"], "was trained with fusion=unirgb_ir, not"),
])  # fmt: skip
def test_wrong_options_end_with_a_sentence_and_nothing_written(
    options: list, message: str, student: Path, frames: Path, make_config: Callable, tmp_path: Path, refuses: Callable
) -> None:
    if "other" in options:
        other = make_config(num_hidden_layers=4, fusion="unirgb_ir", num_labels=9)
        save_checkpoint(UnipForSemanticSegmentation(other), tmp_path / "other")
    refuses(command(student, frames, tmp_path / "out", "--num_steps", 1, *options), message)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["--modality_dropout", 0.3, *PAIRS, "--fusion", "iv_tuning"], ["--lora_rank", 2]])
def test_a_run_that_was_killed_ends_with_the_same_weights(
    parts: list, student: Path, frames: Path, tmp_path: Path
) -> None:
    options = ["--num_steps", 30, "--save_every", 2, "--ema_decay", "0.9", "--num_workers", 1, *parts]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert cli.main(command(student, frames, whole, *options)) == 0
    done = run_killed(command(student, frames, out, *options), out, kill_at=(5, 15))
    assert done.returncode == 0 and "Resumed at step" in done.stderr, done.stderr
    assert same_weights(whole / "last", out / "last") and metrics(whole) == metrics(out)
    assert same_weights(whole / "checkpoints" / "step-00000030", out / "checkpoints" / "step-00000030")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["--modality_dropout", 0.3, *PAIRS, "--fusion", "unirgb_ir"], ["--lora_rank", 2]])
def test_two_processes_train_as_one(parts: list, student: Path, frames: Path, tmp_path: Path) -> None:
    config = json.loads((student / "config.json").read_text())
    config["classifier_dropout_prob"] = 0.0  # random numbers of two processes are not those of one
    (student / "config.json").write_text(json.dumps(config))
    options = ["--num_steps", 6, "--drop_path_rate", 0, "--freeze_batch_norm", "--learning_rate", "1e-2", *parts]
    assert cli.main(command(student, frames, tmp_path / "one", *options)) == 0
    start = [UNIP, *command(student, frames, tmp_path / "two", *options), "--num_processes", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    lines = list(zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True))
    losses = [(one["loss"], two["loss"]) for one, two in lines if "loss" in one]  # the others are evaluations
    assert losses
    for one, two in losses:
        assert one == pytest.approx(two, abs=1e-5)
