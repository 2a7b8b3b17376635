"""Parameter groups and schedules against the published numbers; the loop, driven with a small model."""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, ViTConfig, ViTModel

from unip_hf import UnipForSemanticSegmentation
from unip_hf.hub.conversion import ENCODER_NAMES, rename
from unip_hf.progress import duration
from unip_hf.training import (
    RunSpeed,
    TrainingLoop,
    TrainingSettings,
    cosine_schedule,
    layer_decay_parameter_groups,
    polynomial_schedule,
)
from unip_hf.training.checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from unip_hf.training.optimization import find_blocks
from unip_hf.training.speed import measure_matrix_peak


def test_schedules_are_the_published_ones(golden: Path) -> None:
    published = json.loads((golden / "schedules.json").read_text())
    fine_tuning = published["fine_tuning"]
    for step, rate in fine_tuning["lr_at_iteration"].items():
        factor = polynomial_schedule(
            int(step),
            fine_tuning["max_iters"],
            fine_tuning["warmup_iters"],
            fine_tuning["warmup_ratio"],
            fine_tuning["power"],
        )
        assert fine_tuning["base_lr"] * factor == pytest.approx(rate, rel=1e-9)
    distillation = published["distillation"]
    for epoch, rate in distillation["lr_at_epoch"].items():
        factor = cosine_schedule(float(epoch), distillation["epochs"], distillation["warmup_epochs"])
        assert distillation["base_lr"] * factor == pytest.approx(rate, rel=1e-9)


def test_layer_decay_is_the_published_one(golden: Path, make_config: Callable) -> None:
    published = json.loads((golden / "layer_decay.json").read_text())
    model = UnipForSemanticSegmentation(make_config(num_hidden_layers=published["num_layers"]))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = layer_decay_parameter_groups(
        model, published["base_lr"], published["layer_decay"], published["weight_decay"]
    )
    ours = {names[id(p)]: group for group in groups for p in group["params"]}
    assert len(ours) == len(names)
    pairs = [(f"backbone.{theirs}", f"unip.{our}") for theirs, our in ENCODER_NAMES]
    pairs += UnipForSemanticSegmentation.published_names
    compared = 0
    for theirs, expected in published["parameters"].items():
        if theirs.startswith(("backbone.norm.", "backbone.fpn")):
            theirs = theirs.removeprefix("backbone.") if "fpn" in theirs else theirs
        name = rename(theirs, pairs)
        if name not in ours:  # the final norm, which segmentation does not have here
            assert theirs.startswith("backbone.norm."), theirs
            continue
        assert ours[name]["lr_scale"] == pytest.approx(expected["lr_scale"])
        assert ours[name]["lr"] == pytest.approx(published["base_lr"] * expected["lr_scale"])
        assert ours[name]["weight_decay"] == expected["weight_decay"]
        compared += 1
    assert compared == len(ours)


def test_blocks_are_found_in_other_models_and_stages_are_not(caplog: pytest.LogCaptureFixture) -> None:
    plain = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16))
    blocks = find_blocks(plain)
    assert blocks is not None and len(plain.get_submodule(blocks)) == 3
    groups = layer_decay_parameter_groups(plain, 1.0, 0.5)
    assert {group["lr"] for group in groups} == {0.5**4, 0.5**3, 0.5**2, 0.5, 1.0}
    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [2, 2, 2, 2], "num_attention_heads": [1, 1, 1, 1]}
    staged = SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=8))
    assert find_blocks(staged) is None
    sizes["depths"] = [1, 1, 3, 1]  # one stage of several equal blocks is not the whole encoder
    assert find_blocks(SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=8))) is None
    assert {group["lr"] for group in layer_decay_parameter_groups(staged, 1.0, 0.5)} == {1.0}
    assert "layer decay is not applied" in caplog.text
    with pytest.raises(ValueError, match="every parameter is frozen"):
        layer_decay_parameter_groups(plain.requires_grad_(False), 1.0)
    with pytest.raises(ValueError, match="layer_decay must be above 0"):
        layer_decay_parameter_groups(plain, 1.0, 1.5)


def run(
    output_dir: Path,
    num_steps: int,
    model: nn.Module | None = None,
    evaluate: Callable | None = None,
    resume_from_checkpoint: str | None = None,
    speed: RunSpeed | None = None,
    **settings: object,
) -> dict:
    """Fits y = x with a linear model; the batch of a step depends on the step alone."""
    torch.manual_seed(0)
    model = nn.Linear(4, 4) if model is None else model
    output_dir.mkdir(exist_ok=True)

    def batches(step: int) -> Iterator[torch.Tensor]:
        for number in range(step * settings.get("accumulation_steps", 1), 10**6):  # type: ignore[call-overload]
            yield torch.randn(16, 4, generator=torch.Generator().manual_seed(number))

    def save_model(trained: nn.Module, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(trained.state_dict(), folder / "weights.bin")

    loop = TrainingLoop(
        Accelerator(cpu=True),
        model,
        torch.optim.AdamW(model.parameters(), lr=0.05),
        TrainingSettings(num_steps, **settings),  # type: ignore[arg-type]
        output_dir,
        batches=batches,
        compute_loss=lambda model, batch: (model(batch) - batch).square().mean(),
        batch_weight=len,
        schedule=lambda step: polynomial_schedule(step, num_steps),
        save_model=save_model,
        evaluate=evaluate,
        best_metric="mean_iou",
        speed=speed,
    )
    return loop.run(resume_from_checkpoint)


def test_the_loop_learns_and_keeps_the_best_and_the_last(tmp_path: Path) -> None:
    scores = iter([0.1, 0.9, 0.5])
    end = run(tmp_path, 30, evaluate=lambda model, step: {"mean_iou": next(scores)}, evaluate_every=10, save_every=10)
    assert end == {"step": 30, "evaluated_step": 30, "best": 0.9, "best_step": 20}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0] / 2
    assert [line["mean_iou"] for line in lines if "mean_iou" in line] == [0.1, 0.9, 0.5]
    best, last = (torch.load(tmp_path / kind / "weights.bin", weights_only=True) for kind in ("best", "last"))
    assert not torch.equal(best["weight"], last["weight"])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000030"]


def test_speed_is_that_of_updates_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first update, which prepares a lot, nor evaluations count, and a resumed run has its own clock."""
    clock = [0.0]

    class Slow(nn.Linear):
        duration = 100.0

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            clock[0] += self.duration
            self.duration = 0.5
            return super().forward(batch)

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        clock[0] += 1000
        return {"mean_iou": 0.5}

    monkeypatch.setattr("unip_hf.training.loop.time.perf_counter", lambda: clock[0])
    speed = RunSpeed(32, operations_per_image=1e10, peak=1e12)
    settings = {"evaluate": evaluate, "evaluate_every": 4, "log_every": 3, "accumulation_steps": 2, "speed": speed}
    run(tmp_path, 4, model=Slow(4, 4), **settings)
    run(tmp_path, 8, model=Slow(4, 4), resume_from_checkpoint="latest", **settings)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    assert [line["step"] for line in lines] == [3, 4, 6, 8]
    for line in lines:  # 32 images in a second
        assert (line["images_per_second"], line["tflops"], line["mfu"]) == pytest.approx((32, 0.32, 0.32))
    assert RunSpeed(8).rates(2, 0.5) == {"images_per_second": 32}


def test_the_matrix_peak_is_found_without_touching_the_random_state() -> None:
    before = torch.get_rng_state()
    assert 1e8 < measure_matrix_peak(torch.device("cpu"), torch.float32) < 1e14
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(nn.Linear):
    """Remembers in which mode it ran, and what the optimizer was about to do."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.modes: list[bool] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return 100 * super().forward(batch)


def test_mode_rate_and_gradient_are_right_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = Recorder(), []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = torch.stack([parameter.grad.norm() for parameter in model.parameters()])
        seen.append((self.param_groups[0]["lr"], gradients.norm().item()))
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        model(torch.ones(1, 4))
        return {"mean_iou": 0.5}

    run(tmp_path, 4, model=model, evaluate=evaluate, evaluate_every=2, max_gradient_norm=0.25)
    assert model.modes == [True, True, False] * 2
    assert [rate for rate, _ in seen] == pytest.approx([0.05 * factor for factor in (1, 0.75, 0.5, 0.25)])
    assert [norm for _, norm in seen] == pytest.approx([0.25] * 4, rel=1e-3)
    assert json.loads((tmp_path / "checkpoints" / "step-00000004" / "state.json").read_text())["best_step"] == 2


def test_weights_that_are_lost_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    class Breaking(nn.Linear):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(batch) * (float("nan") if self.calls > 6 else 1.0)

    with pytest.raises(ValueError, match=r"The loss is nan before step 8.*not_finite_batches"):
        run(tmp_path, 20, model=Breaking(4, 4), save_every=4, log_every=10)
    saved = {path.name: load_file(path)["batch"] for path in (tmp_path / "not_finite_batches").iterdir()}
    assert saved.keys() == {f"step-0000000{step}-batch-1-process-0.safetensors" for step in (5, 6)}
    seventh = torch.randn(16, 4, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(saved["step-00000006-batch-1-process-0.safetensors"], seventh)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    weights = torch.load(tmp_path / "last" / "weights.bin", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in weights.values())

    class Losing(nn.Linear):
        """Its loss is finite, the gradient is not: 0 divided by 0 in the derivative of the root."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            outputs = super().forward(batch)
            return outputs + (0.0 * self.weight.sum()).square().sqrt() if self.calls == 8 else outputs

    for name, every, message in (("lost", 1, "Weights are not finite after step 4"), ("late", 10, "The loss is nan")):
        folder = tmp_path / name
        with pytest.raises(ValueError, match=message):
            run(folder, 20, model=Losing(4, 4), save_every=every, log_every=10, accumulation_steps=2)
        guilty = load_file(folder / "not_finite_batches" / "step-00000003-batch-2-process-0.safetensors")["batch"]
        torch.testing.assert_close(guilty, torch.randn(16, 4, generator=torch.Generator().manual_seed(7)))
    assert [path.name for path in (tmp_path / "lost" / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 4)
    with pytest.raises(ValueError, match="at step 4, but this run ends at step 2"):
        run(tmp_path, 2, resume_from_checkpoint="latest")
    with pytest.raises(ValueError, match=r"step-00000004' does not fit this run: .*averaged_model.bin"):
        run(tmp_path, 8, resume_from_checkpoint="latest", ema_decay=0.9)
    elsewhere = str(tmp_path / "checkpoints" / "step-00000004")
    scores = {"evaluate": lambda model, step: {"mean_iou": 0.1}, "evaluate_every": 6}
    end = run(tmp_path / "elsewhere", 6, resume_from_checkpoint=elsewhere, **scores)
    assert end == {"step": 6, "evaluated_step": 6, "best": 0.1, "best_step": 6}
    with pytest.raises(FileNotFoundError, match="There is no checkpoint to resume in"):
        run(tmp_path / "new", 6, resume_from_checkpoint="latest")


def test_sigterm_during_an_evaluation_ends_at_once_and_the_evaluation_is_made_up_for(tmp_path: Path) -> None:
    def terminated(model: nn.Module, step: int) -> dict[str, float]:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on after SIGTERM")
        return {"mean_iou": 0.1 * step}

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, 6, evaluate=terminated, evaluate_every=2, log_every=1)
    assert stopped.value.code == 143
    seen = []

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        seen.append(step)
        return {"mean_iou": 0.1 * step}

    run(tmp_path, 6, evaluate=evaluate, evaluate_every=2, log_every=1, resume_from_checkpoint="latest")
    assert seen == [4, 6]
    run(tmp_path / "whole", 6, evaluate=evaluate, evaluate_every=2, log_every=1)
    assert (tmp_path / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_accumulation_and_unequal_batches_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    """Two batches of weights 1 and 3 are one batch in which the second counts three times."""
    values = torch.tensor([[2.0], [10.0]])
    seen = []
    for name, batches, accumulation_steps in (("halves", [values[:1], values[1:]], 2), ("whole", [values], 1)):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)

        def compute_loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
            weights = torch.where(batch == 2, 1.0, 3.0)
            return (model(batch) * weights).sum() / weights.sum()

        (tmp_path / name).mkdir()
        loop = TrainingLoop(
            Accelerator(cpu=True),
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            TrainingSettings(num_steps=1, accumulation_steps=accumulation_steps),
            tmp_path / name,
            batches=lambda step, batches=batches: iter(batches),
            compute_loss=compute_loss,
            batch_weight=lambda batch: 1.0 if batch.tolist() == [[2.0]] else 3.0,
            schedule=lambda step: 1.0,
            save_model=lambda model, folder: None,
        )
        loop.run()
        loss = json.loads((tmp_path / name / "metrics.jsonl").read_text())["loss"]
        seen.append((model.weight.item(), loss))
    assert seen[0] == pytest.approx((1 - 8.0, 8.0)) and seen[1] == pytest.approx((1 - 8.0, 8.0))


def test_the_moving_average_is_evaluated_and_saved(tmp_path: Path) -> None:
    start = nn.Linear(4, 4).requires_grad_(True)
    averages = []
    run(
        tmp_path, 3, model=start, ema_decay=0.5, evaluate_every=1, log_every=1,
        evaluate=lambda model, step: {"mean_iou": float(averages.append(model.weight.clone()) or 0)},
    )  # fmt: skip
    last = torch.load(tmp_path / "last" / "weights.bin", weights_only=True)["weight"]
    assert torch.equal(last, averages[-1]) and not torch.equal(last, start.weight)
    # AveragedModel starts with the first weights it sees, then moves half the way at each step.
    assert torch.allclose(averages[2] * 2 - averages[1], start.weight, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    nn.init.constant_(model.weight, float("inf"))
    with pytest.raises(ValueError, match=r"The loss is (nan|inf) before step 10: lower the learning rate"):
        run(tmp_path, 20, model=model)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    model = nn.Linear(400, 400)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model)
    save_checkpoint(accelerator, tmp_path, {"step": 1})
    weights = tmp_path / "checkpoints" / "step-00000001" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    save_checkpoint(accelerator, tmp_path, {"step": 1})  # nothing is taken away to be written again
    assert weights.stat().st_mtime_ns == written
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as on a full disk, writing fails midway
    try:
        with pytest.raises(OSError, match=r"Could not write .*step-00000002', where [\d,]+ MB are free"):
            save_checkpoint(accelerator, tmp_path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    before = prepared.weight.detach().clone()
    nn.init.zeros_(prepared.weight)
    assert load_checkpoint(accelerator, find_checkpoint(tmp_path, "latest")) == {"step": 1}
    assert torch.equal(prepared.weight, before)


def test_a_checkpoint_that_is_half_removed_does_not_look_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(folder: Path, **settings: object) -> None:
        if folder.name.endswith("step-00000002") and folder.exists():
            raise KeyboardInterrupt  # as if killed

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unip_hf.training.checkpoints.shutil.rmtree", remove)
        run(tmp_path, 4, save_every=2)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000004"]
    assert run(tmp_path, 6, save_every=2, resume_from_checkpoint="latest")["step"] == 6
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]


def test_durations_are_readable() -> None:
    assert [duration(s) for s in (42.4, 185, 7380)] == ["42 s", "3 min 05 s", "2 h 03 min"]
