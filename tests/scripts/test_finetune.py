"""`unip finetune` as a user runs it: real files, real processes, killed and resumed ones among them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, SegformerConfig, SegformerForSemanticSegmentation

from unip_hf import UnipForLinearSegmentation, UnipForPreTraining, UnipForSemanticSegmentation
from unip_hf.evaluation import MeanIoU, segmentation_scores
from unip_hf.finetuning.validation import describe_classes
from unip_hf.inference import load_segmentation_model, segment_image
from unip_hf.scripts import cli
from unip_hf.training import TrainingLoop

from ..conftest import PATIENCE, save_checkpoint
from .conftest import UNIP, metrics, run_killed, same_weights, wait_for_step, weights


QUICK = ["--crop_size", "32", "--shortest_edge", "32", "--batch_size", "4", "--window_size", "32", "--stride", "21",
         "--num_workers", "0", "--report_to", "none", "--log_every", "1"]  # fmt: skip

RARE_CLASSES = ["--class_weights", "inverse_sqrt", "--dice_loss_weight", "1", "--rare_class_sampling", "0.5"]
CHECKSUM = 112.098  # of the weights after four updates


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 16-bit images with masks of three classes that their counts give away; sizes differ."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "images-and-masks"
    for split, count in (("train", 6), ("validation", 3)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            coarse = generator.integers(0, 3, (3, 4), dtype=np.uint8)
            ids = np.kron(coarse, np.ones((16, 16 + number % 2), np.uint8))
            counts = (7000 + 100.0 * ids + generator.integers(0, 30, ids.shape)).astype(np.uint16)
            Image.fromarray(counts).save(folder / "images" / split / f"{number}.png")
            ids[0, :9] = 255
            Image.fromarray(ids).save(folder / "masks" / split / f"{number}.png")
    (folder / "id2label.json").write_text(json.dumps({"0": "cold", "1": "mild", "2": "warm"}))
    return folder


def command(student: Path, images: Path, output_dir: Path, *options: object) -> list[str]:
    fixed = ["finetune", "--model", student, "--data_dir", images, "--output_dir", output_dir, *QUICK, *options]
    return list(map(str, fixed))


def test_a_student_becomes_a_model_that_finds_the_classes(
    student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: 2e-2\nnum_steps: 999\nratio_range: [0.8, 1.25]\nlinear_probe: false\n")
    options = ["--config", recipe, "--num_steps", 120, "--evaluate_every", 60, "--report_to", "tensorboard"]
    assert cli.main(command(student, images, out, *options)) == 0
    printed = capsys.readouterr()
    assert (
        "Batch 4 = 1 device(s) x 4 images x 1 accumulation step(s); 120 steps = 80.0 epochs of 6 images" in printed.out
    )
    assert "step 120/120" in printed.err and "left" in printed.err
    lines = metrics(out)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 120 and np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
    assert max(line["learning_rate"] for line in lines if "loss" in line) == pytest.approx(0.9 * 2e-2)
    assert lines[-1]["mean_iou"] > 0.7 and lines[-1]["iou/warm"] > 0.7
    speeds = [line for line in metrics(out, keeps_speeds=True) if "loss" in line]
    assert all(0 < line["mfu"] < 1 and line["tflops"] > 0 for line in speeds)

    model, processor = load_segmentation_model(out / "best")
    assert type(model) is UnipForSemanticSegmentation and model.config.id2label == {0: "cold", 1: "mild", 2: "warm"}
    assert processor.image_std == [0.25] and processor.size["shortest_edge"] == 32
    assert model.config.drop_path_rate == 0.1 and model.config.last_layer_num_attention_heads is None
    metric = MeanIoU(3)
    for path in sorted((images / "images" / "validation").iterdir()):
        scores = segment_image(model, processor, str(path), settings=inference_settings())
        metric.add(
            prediction=scores.argmax(0), reference=np.asarray(Image.open(images / "masks/validation" / path.name))
        )
    assert metric.compute()["mean_iou"] == max(line["mean_iou"] for line in lines if "mean_iou" in line)

    run = json.loads((out / "run.json").read_text())
    assert run["options"]["learning_rate"] == 2e-2 and "torch" in run["versions"]
    assert Image.open(out / "predictions" / "step-00000120.png").width > 100
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = {path.parent for path in (out / "logs" / "unip").glob("events*")}
    board = EventAccumulator(str(events)).Reload()
    assert {"loss", "learning_rate", "mean_iou", "iou/mild"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["predictions"] or board.Tags()["images"][0].startswith("predictions")


def checksum(folder: Path) -> float:
    """One number that every weight has a part in, and that rounding errors hardly change."""
    return sum(float((w.double().flatten() * torch.arange(w.numel()).cos()).sum()) for w in weights(folder).values())


def test_without_new_options_the_weights_are_those_of_the_published_recipe(
    student: Path, images: Path, tmp_path: Path
) -> None:
    """The same seed gave these weights before rare classes had options: same draws, same order, same loss."""
    assert cli.main(command(student, images, tmp_path / "out", "--num_steps", 4, "--learning_rate", "1e-3")) == 0
    assert checksum(tmp_path / "out" / "last") == pytest.approx(CHECKSUM, abs=0.02)


def test_a_rare_class_is_counted_weighted_drawn_and_told_of(
    student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, refuses: Callable
) -> None:
    for path in sorted((images / "masks" / "train").iterdir()):
        ids = np.where(np.asarray(Image.open(path)) == 255, 255, 0).astype(np.uint8)
        ids[40, 50] = 2 * (path.name in ("1.png", "4.png"))
        Image.fromarray(ids).save(path)
    out = tmp_path / "out"
    options = [*RARE_CLASSES, "--focal_gamma", 2, "--num_steps", 2, "--learning_rate", "1e-9"]
    assert cli.main(command(student, images, out, *options)) == 0
    counts = np.load(out / "class_pixels.npy")
    assert counts.shape == (6, 3) and counts[:, 2].tolist() == [0, 1, 0, 0, 1, 0] and counts[:, 1].sum() == 0
    found = json.loads((out / "run.json").read_text())["found"]
    assert found["class_shares"]["warm"] == 2 / counts.sum() and found["class_weights"]["warm"] > 50
    last = metrics(out)[-1]
    assert sum(last[f"share_of_predictions/{name}"] for name in ("cold", "mild", "warm")) == pytest.approx(1)
    printed = capsys.readouterr().err
    assert "Step 2: IoU (share of the predicted pixels) cold " in printed
    assert ("for every pixel" in printed) == (1.0 in [v for k, v in last.items() if k.startswith("share_of")])

    resume = [*options, "--resume_from_checkpoint", "latest"]
    np.save(out / "class_pixels.npy", counts[:5])
    refuses(
        command(student, images, out, *resume), "class_pixels.npy' is of another dataset than this one of 6 images"
    )
    wrong = command(student, images, tmp_path / "no", "--class_weights", "much")
    refuses(wrong, "--class_weights must be none, enet, inverse_sqrt or a JSON file")


def test_a_model_that_predicts_a_single_class_is_told_of() -> None:
    names = {0: "background", 1: "person"}
    text = describe_classes(segmentation_scores(np.array([[90, 0], [10, 0]])), names, 7)
    assert text.startswith(
        "Step 7: IoU (share of the predicted pixels) background 0.900 (100.00%), person 0.000 (0.00%)\n"
        "The model predicts 'background' for every pixel. If it still does after more steps, try --dice_loss_weight"
    )
    assert "\n" not in describe_classes(segmentation_scores(np.array([[90, 0], [9, 1]])), names, 7)


def inference_settings() -> object:
    from unip_hf.inference import InferenceSettings

    return InferenceSettings(window_size=32, stride=21)


@pytest.mark.slow
@pytest.mark.parametrize("rare_class_options", [[], RARE_CLASSES])
def test_a_run_that_was_killed_ends_with_the_same_weights(
    rare_class_options: list[str], student: Path, images: Path, tmp_path: Path
) -> None:
    """Dropout, drop path, moving average, the order of samples and their augmentation all go on where they were."""
    options = ["--num_steps", 60, "--evaluate_every", 20, "--save_every", 2, "--ema_decay", "0.9", "--num_workers", 1]
    options += rare_class_options
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert cli.main(command(student, images, whole, *options)) == 0
    done = run_killed(command(student, images, out, *options), out, kill_at=(5, 25))
    assert done.returncode == 0 and "Resumed at step" in done.stderr, done.stderr
    assert same_weights(whole / "last", out / "last") and same_weights(whole / "best", out / "best")
    assert same_weights(whole / "checkpoints" / "step-00000060", out / "checkpoints" / "step-00000060")
    assert metrics(whole) == metrics(out)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step-00000060"}
    assert not list(out.rglob(".incomplete*"))


@pytest.mark.slow
def test_sigterm_saves_and_resuming_keeps_the_options(
    student: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    start = [UNIP, *command(student, images, out, "--num_steps", 100000, "--num_workers", 2)]
    process = subprocess.Popen(start, start_new_session=True)
    wait_for_step(process, out, 3)
    os.killpg(process.pid, signal.SIGTERM)  # as schedulers do: to the workers, too
    assert process.wait(timeout=PATIENCE) == 143
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert json.loads((checkpoint / "state.json").read_text())["step"] >= 3 and (out / "last" / "config.json").exists()
    resume = ["--num_steps", 100000, "--resume_from_checkpoint", "latest"]
    assert cli.main(command(student, images, out, *resume, "--learning_rate", "1e-3")) == 2
    assert "--learning_rate was 0.0001, is 0.001" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "rare_class_options"), [("unip", []), ("unip", RARE_CLASSES), ("torchrun", [])])
def test_two_processes_train_as_one(
    student: Path, images: Path, tmp_path: Path, launcher: str, rare_class_options: list[str]
) -> None:
    config = json.loads((student / "config.json").read_text())
    config["classifier_dropout_prob"] = 0.0  # random numbers of two processes are not those of one
    (student / "config.json").write_text(json.dumps(config))
    options = [
        "--num_steps",
        8,
        "--evaluate_every",
        4,
        "--drop_path_rate",
        0,
        "--freeze_batch_norm",
        "--num_epochs",
        3,
    ]
    options += ["--learning_rate", "1e-2", *rare_class_options]
    assert cli.main(command(student, images, tmp_path / "one", *options)) == 0
    arguments = command(student, images, tmp_path / "two", *options)
    start = [UNIP, *arguments, "--num_processes", "2"]
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        start = [*torchrun, str(Path(__file__).parents[2] / "scripts" / "finetune.py"), *arguments[1:]]
    done = subprocess.run(
        start, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "Batch 4 = 2 device(s) x 2 images x 1 accumulation step(s)" in done.stdout
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one.keys() == two.keys()
        assert {k: v for k, v in one.items() if k != "loss"} == pytest.approx(
            {k: v for k, v in two.items() if k != "loss"}, abs=1e-3
        )
        if "loss" in one:
            assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)


def test_probes_train_classifiers_alone(student: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "layers"
    options = ["--num_steps", 10, "--learning_rate", 0.05]
    assert cli.main(command(student, images, out, "--layerwise_probe", *options)) == 0
    layers = json.loads((out / "layers.json").read_text())
    assert set(layers["mean_iou"]) == {"1", "2", "3"} and Image.open(out / "layers.png").width > 500
    best, _ = load_segmentation_model(out / "best")
    assert type(best) is UnipForLinearSegmentation and len(best.feature_layers) == 1
    before, after = load_file(student / "model.safetensors"), best.state_dict()
    best.train()
    assert not best.unip.training
    frozen = [name for name in after if name.startswith("unip.layers")]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)

    # The classifier of a block is the one that a probe of this block alone learns.
    layer = best.feature_layers[0]
    alone = ["--linear_probe", "--feature_layers", layer, *options]
    assert cli.main(command(student, images, tmp_path / "alone", *alone)) == 0
    scores = [line["mean_iou"] for line in metrics(tmp_path / "alone") if "mean_iou" in line]
    assert 0 < max(scores) <= 1 and len(scores) == 10
    assert cli.main(command(student, images, tmp_path / "four", "--linear_probe", "--num_steps", 1)) == 0
    four = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "four" / "last")
    assert four.config.feature_layers == [1, 2, 3]


def test_other_models_train_under_the_same_recipe(images: Path, tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
    torch.manual_seed(0)
    config = SegformerConfig(**sizes, decoder_hidden_size=16, num_labels=3)
    save_checkpoint(SegformerForSemanticSegmentation(config), tmp_path / "segformer")
    options = ["--num_steps", 3, "--evaluate_every", 3, "--mixed_precision", "bf16", "--gradient_checkpointing"]
    assert cli.main(command(tmp_path / "segformer", images, tmp_path / "out", *options)) == 0
    model, processor = load_segmentation_model(tmp_path / "out" / "last")
    assert type(model) is SegformerForSemanticSegmentation and model.config.id2label[2] == "warm"
    assert type(processor).__name__ == "UnipImageProcessor" and processor.num_channels == 3


def test_the_recipe_reaches_the_optimizer_and_the_model(
    student: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict = {}

    def run(loop: TrainingLoop, resume_from_checkpoint: None) -> dict:
        loop.set_training_mode(loop.model)
        settings = {**vars(loop), **vars(loop.settings)}
        seen.update(settings, groups=loop.optimizer.param_groups, batch=next(iter(loop.batches(0))))
        return {"best": None}

    monkeypatch.setattr(TrainingLoop, "run", run)
    options = ["--num_epochs", 30, "--weight_decay", 0.1, "--freeze_batch_norm", "--max_gradient_norm", 2]
    options += ["--batch_size", 6, "--per_device_batch_size", 3, "--ema_decay", 0.99, "--drop_path_rate", 0.2]
    assert cli.main(command(student, images, tmp_path / "fine", *options)) == 0
    assert {round(group["lr_scale"], 6) for group in seen["groups"]} == {1.0, 0.85, 0.7225, 0.614125, 0.522006}
    assert {group["weight_decay"] for group in seen["groups"]} == {0.0, 0.1}
    assert seen["num_steps"] == 30 and seen["schedule"](0) == pytest.approx(1e-6) and seen["schedule"](3) == 0.9
    assert (seen["max_gradient_norm"], seen["ema_decay"], seen["accumulation_steps"]) == (2, 0.99, 2)
    model, batch = seen["model"], seen["batch"]
    assert batch["pixel_values"].shape == (3, 1, 32, 32)
    assert seen["batch_weight"](batch) == (batch["labels"] != 255).sum() == batch["num_labelled"]
    modes = {type(m).__name__: m.training for m in model.modules()}
    assert modes["BatchNorm2d"] is False and modes["UnipLayer"] is True
    assert (model.config.drop_path_rate, model.config.drop_path_schedule) == (0.2, "linear")
    assert model.config.layer_scale_init_value == 1.0 and model.config.position_embedding_type == "learned"
    nothing = {**batch, "labels": torch.full_like(batch["labels"], 255), "num_labelled": 0}
    loss = seen["compute_loss"](model, nothing)
    loss.backward()
    assert loss == 0 and all(p.grad is not None for p in model.parameters() if p.requires_grad)

    assert cli.main(command(student, images, tmp_path / "probe", "--layerwise_probe")) == 0
    (group,) = seen["groups"]  # the bias decays as the weight does
    assert (group["lr"], group["weight_decay"]) == (1e-4, 0.05) and not seen["model"].unip.training
    trained = {name for name, parameter in seen["model"].named_parameters() if parameter.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"}


IMAGE, MASK = "images/train/2.png", "masks/train/2.png"


@pytest.mark.parametrize(("break_it", "message"), [
    (lambda folder: [path.unlink() for path in folder.rglob("*.png")], "mages"),
    (lambda folder: (folder / IMAGE).unlink(), "2.png"),
    (lambda folder: (folder / IMAGE).write_text("no image"), "2.png"),
    (lambda folder: (folder / IMAGE).write_bytes((folder / IMAGE).read_bytes()[:200]), "2.png"),
    (lambda folder: Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / MASK), "2.png"),
    (lambda folder: Image.fromarray(np.full((48, 64), 7, np.uint8)).save(folder / MASK), "7"),
])  # fmt: skip
def test_broken_data_ends_with_a_sentence_status_2_and_nothing_written(
    break_it: Callable, message: str, student: Path, images: Path, tmp_path: Path, refuses: Callable
) -> None:
    break_it(images)
    refuses(command(student, images, tmp_path / "out", "--num_steps", 1), message)


@pytest.mark.parametrize(("options", "message"), [
    (["--data_dir", "nowhere"], "nowhere"),
    (["--model", "nowhere"], "nowhere"),
    (["--model", "four-classes"], "'four-classes' has 4 classes (LABEL_0, LABEL_1, LABEL_2, LABEL_3), "
                                  "the dataset 3 (cold, mild, warm): add --new_classifier"),
    (["--output_dir", "used"], "'used' is not empty: choose another --output_dir, add --overwrite"),
    (["--resume_from_checkpoint", "latest"], "There is no checkpoint to resume"),
    (["--batch_size", "4", "--per_device_batch_size", "3"], "--batch_size 4 cannot be divided"),
    (["--learning_rate", "0"], "--learning_rate must be above 0"),
    (["--num_workers", "-1"], "--num_workers must be 0 or above"),
    (["--rare_class_sampling", "0"], "--rare_class_sampling must be above 0, got 0.0"),
    (["--focal_gamma", "-1"], "--focal_gamma must be 0 or above, got -1.0"),
    (["--dice_loss_weight", "nan"], "--dice_loss_weight must be 0 or above, got nan"),
    (["--stride", "99"], "stride"),
    (["--mixed_precision", "fp16"], "fp16 needs a GPU"),
    (["--train_split", "night"], "no split 'night', only train, validation"),
    (["--report_to", "wandb"], "wandb"),
    (["--config", "nothing.yaml"], "no recipe 'nothing.yaml'"),
    (["--linear_probe", "--layerwise_probe"], "cannot be used together"),
    (["--task", "dance"], "There is no task 'dance': choose one of fine_tuning, linear_probe"),
    (["--feature_layers", "9"], "blocks that do not exist"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_status_2_and_nothing_written(
    options: list, message: str, student: Path, images: Path, make_config: Callable, tmp_path: Path, refuses: Callable
) -> None:
    UnipForSemanticSegmentation(make_config(num_channels=1, num_labels=4)).save_pretrained(tmp_path / "four-classes")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    refuses(command(student, images, tmp_path / "out", "--num_steps", 1, *options), message)


def test_a_new_head_is_as_wide_as_its_configuration_or_the_option_says(
    make_config: Callable, images: Path, tmp_path: Path
) -> None:
    save_checkpoint(UnipForPreTraining(make_config(num_channels=1, decoder_channels=24)), tmp_path / "student")
    for options, width in (([], 24), (["--decoder_channels", 16], 16)):
        out = tmp_path / str(width)
        assert cli.main(command(tmp_path / "student", images, out, "--num_steps", 1, *options)) == 0
        model = AutoModelForSemanticSegmentation.from_pretrained(out / "last")
        assert model.config.decoder_channels == model.decode_head.classifier.in_channels == width


def test_new_classifiers_and_overwriting_when_told(
    student: Path, images: Path, make_config: Callable, tmp_path: Path
) -> None:
    save_checkpoint(UnipForSemanticSegmentation(make_config(num_channels=1, num_labels=4)), tmp_path / "four")
    out = tmp_path / "out"
    for _ in range(2):
        options = ["--num_steps", 2, "--evaluate_every", 2, "--new_classifier", "--overwrite"]
        assert cli.main(command(tmp_path / "four", images, out, *options)) == 0
        assert [line["step"] for line in metrics(out)] == [1, 2, 2]
    options = ["--num_steps", 2, "--overwrite", "--stride", 99]  # wrong: nothing of the old run is removed
    assert cli.main(command(out / "best", images, out, *options)) == 2 and len(metrics(out)) == 3
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("num-steps: 1\noverwrite: true\ndrop_path_rate: 0.3\nfeature_layers: [2]\n")
    assert cli.main(command(out / "best", images, tmp_path / "more", "--config", recipe)) == 0
    more, processor = load_segmentation_model(tmp_path / "more" / "last")
    assert more.config.drop_path_rate == 0.3 and more.feature_layers == [2] and processor.size["shortest_edge"] == 32
    model, _ = load_segmentation_model(out / "last")
    assert model.config.num_labels == 3 and model.decode_head.classifier.out_channels == 3


@pytest.mark.slow
def test_a_full_disk_stops_with_a_sentence(student: Path, images: Path, tmp_path: Path) -> None:
    limited = f"ulimit -f 40; exec {UNIP} {' '.join(command(student, images, tmp_path / 'out', '--num_steps', 2))}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2 and "error: Could not write" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("checkpoints/*")) and not (tmp_path / "out" / "last").exists()
