# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The training loop. It does not know what is trained: model, batches, loss and evaluation are handed to it."""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, recursively_apply
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..files import could_not_write, write_whole
from ..processes import STOPPED_BY_SIGTERM, on_sigterm
from ..progress import Progress, duration
from .checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from .speed import RunSpeed


@dataclass
class TrainingSettings:
    """
    How long a run is, how an update is made, and what happens how often.

    Args:
        num_steps (`int`): Updates of the weights.
        accumulation_steps (`int`, *optional*, defaults to 1): Batches of each process for one update.
        max_gradient_norm (`float`, *optional*): Longer gradients are shortened to it.
        ema_decay (`float`, *optional*): Evaluate and save the exponential moving average of the weights with this
            decay.
        evaluate_every, save_every, log_every (`int`, *optional*): In updates. The last update is always evaluated,
            saved and logged, and every evaluated update is saved first.
    """

    num_steps: int
    accumulation_steps: int = 1
    max_gradient_norm: float | None = None
    ema_decay: float | None = None
    evaluate_every: int = 1000
    save_every: int = 1000
    log_every: int = 10


@dataclass
class TrainingLoop:
    """
    Trains a model.

    The loss of an update is the mean over all its batches, on all processes and in all accumulation steps, weighted
    with `batch_weight` (the number of labelled pixels, say). It is the same number however the batch is divided.

    A run that was interrupted goes on from its last checkpoint as if nothing had happened. SIGTERM writes a checkpoint
    and ends the process with status 143. `output_dir` gets `checkpoints/`, `best/` and `last/` (what `save_model`
    writes) and `metrics.jsonl`. A loss that is not finite ends the run. The process that had it writes its batch, and
    those of the step before, to `not_finite_batches/` (tensors as safetensors).

    Args:
        accelerator: Prepares model and optimizer. Its trackers, if there are any, get every metric.
        model: On any device.
        optimizer: `schedule` is multiplied with the `lr` of its groups.
        settings ([`TrainingSettings`]): Length and rhythm of the run.
        output_dir: Folder that exists.
        batches: Takes the number of updates made and returns this process's batches of tensors from there on, without
            an end; the same ones whenever it is asked.
        compute_loss: Takes the model and a batch on the device. Returns the mean loss of the batch, or several losses
            of shape `(number of losses,)`, whose sum is minimised.
        batch_weight: Takes a batch and returns the number of things that its loss is the mean over.
        schedule: Takes the number of updates made, 0 to `num_steps - 1`, and returns the part of the learning rate.
        save_model: Takes a model and a folder, and writes it. Called in the main process.
        evaluate (*optional*): Takes the model in evaluation mode and the step, and returns metrics. Called by every
            process.
        best_metric (*optional*): The metric that decides which model is `best/`: where it is highest. By default
            there is none.
        loss_names (*optional*): What the log calls several losses, beside their sum.
        set_training_mode (*optional*): Called with the model before training and after every evaluation.
        speed ([`RunSpeed`], *optional*): Calculates the speeds that are logged beside the losses.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: TrainingSettings
    output_dir: Path
    batches: Callable[[int], Iterable[Any]]
    compute_loss: Callable[[nn.Module, Any], torch.Tensor]
    batch_weight: Callable[[Any], float]
    schedule: Callable[[int], float]
    save_model: Callable[[nn.Module, Path], None]
    evaluate: Callable[[nn.Module, int], dict[str, Any]] | None = None
    best_metric: str | None = None
    loss_names: Sequence[str] = ()
    set_training_mode: Callable[[nn.Module], Any] = nn.Module.train
    speed: RunSpeed | None = None

    def run(self, resume_from_checkpoint: str | None = None) -> dict[str, Any]:
        """
        Trains until `num_steps` updates are made.

        Args:
            resume_from_checkpoint (`str`, *optional*): `"latest"` or the path of a checkpoint.

        Returns:
            The state at the end: `step` and `evaluated_step`, the highest value of `best_metric` as `best`, and its
            step as `best_step`.

        Raises:
            FileNotFoundError: if there is no checkpoint to resume from.
            ValueError: if the loss is not finite, or a checkpoint does not fit.
            OSError: if a checkpoint cannot be written.
        """
        self.prepare(resume_from_checkpoint)
        with on_sigterm(self.terminate):
            try:
                self.evaluate_if_due()  # a resumed run may have been interrupted before it
                while self.state["step"] < self.settings.num_steps:
                    self.step()
            except RuntimeError:
                if self.is_terminated and self.cpu_group is not None:  # another process ended before this one
                    raise SystemExit(STOPPED_BY_SIGTERM) from None
                raise
        self.progress.close()
        if not (self.output_dir / "last").exists():  # a finished run that was resumed in another folder
            self.save("last")
        return self.state

    def step(self) -> None:
        """One update of the weights, and what follows it."""
        self.start_clock()
        batches, shares = self.read_batches()
        self.losses.append(self.accumulate_gradients(batches, shares))
        self.update_weights()
        saves = self.is_due(self.settings.save_every) or self.is_evaluation_due()
        if saves or self.state["step"] % self.settings.log_every == 0:
            self.log_losses()
        if saves:
            self.save_checkpoint()
        self.evaluate_if_due()
        self.progress.update("  ".join(f"{name} {value}" for name, value in self.shown.items()))

    def terminate(self, *_: object) -> None:
        """SIGTERM ends the run after this update; an evaluation, where nothing would be lost, at once."""
        self.is_terminated = True
        if self.is_evaluating:
            raise SystemExit(STOPPED_BY_SIGTERM)

    def prepare(self, resume_from_checkpoint: str | None) -> None:
        accelerator, decay = self.accelerator, self.settings.ema_decay
        self.is_terminated = self.is_evaluating = False
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.averaged = None if decay is None else AveragedModel(self.model, accelerator.device, use_buffers=True)
        self.model, self.optimizer = accelerator.prepare(self.model, self.optimizer)
        self.losses: list[torch.Tensor] = []  # of the updates that are not logged yet
        self.shown: dict[str, str] = {}  # beside the progress
        self.state: dict[str, Any] = {"step": 0, "evaluated_step": 0, "best": None, "best_step": None}
        if resume_from_checkpoint is not None:
            self.load(find_checkpoint(self.output_dir, resume_from_checkpoint))
        self.first_step = self.started_at = step = self.state["step"]
        self.started = time.perf_counter()
        if accelerator.is_main_process and self.log_file.exists():
            self.shorten_log()
        self.progress = Progress("step", self.settings.num_steps, step, accelerator.is_main_process)
        if resume_from_checkpoint is not None:
            self.progress.say(f"Resumed at step {step} of {self.settings.num_steps}.")
        is_distributed = torch.distributed.is_initialized()
        self.cpu_group: Any = torch.distributed.new_group(backend="gloo") if is_distributed else None
        self.iterator = iter(self.batches(step))
        self.set_training_mode(self.model)

    def read_batches(self) -> tuple[list[Any], list[float]]:
        """The batches of an update, and their shares of its loss. Stops all processes if one failed or got SIGTERM."""
        batches: list[Any] = []
        failure = None
        try:
            batches = [next(self.iterator) for _ in range(self.settings.accumulation_steps)]
        except (OSError, ValueError) as error:
            failure = error
        weights = [self.batch_weight(batch) for batch in batches]
        sums = torch.tensor([sum(weights), self.is_terminated, failure is not None], dtype=torch.float64, device="cpu")
        if self.cpu_group is not None:  # which does not wait for a device
            torch.distributed.all_reduce(sums, group=self.cpu_group)
        total, num_terminated, num_failed = sums.tolist()
        if num_failed:  # all processes end with what one of them says
            raise ValueError(gather_object([str(failure)] if failure else [])[0]) from failure
        if num_terminated:
            self.log_losses()
            self.save_checkpoint()
            self.progress.say(f"Stopped by SIGTERM at step {self.state['step']}, where it can be resumed.")
            raise SystemExit(STOPPED_BY_SIGTERM)
        return batches, [weight / max(total, 1.0) for weight in weights]

    def accumulate_gradients(self, batches: list[Any], shares: list[float]) -> torch.Tensor:
        """This process's part of the losses, of shape `(accumulation steps, losses)`."""
        losses: list[torch.Tensor] = []
        for number, (batch, share) in enumerate(zip(batches, shares), start=1):
            batch = recursively_apply(send, batch, self.accelerator.device)
            with nullcontext() if number == len(batches) else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    loss = self.compute_loss(self.model, batch).reshape(-1)
                # Gradients are averaged over processes, so this makes their mean the weighted one.
                self.accelerator.backward(loss.sum() * (share * self.accelerator.num_processes))
            losses.append(loss.detach() * share)
        return torch.stack(losses)

    def update_weights(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.base_rates):
            group["lr"] = rate * self.schedule(self.state["step"])
        if self.settings.max_gradient_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.averaged is not None and self.settings.ema_decay is not None:
            decay = self.settings.ema_decay if self.state["step"] > 0 else 0.0
            update_average(self.averaged, self.accelerator.unwrap_model(self.model), decay)
        self.state["step"] += 1

    def is_due(self, every: int) -> bool:
        step = self.state["step"]
        return step > 0 and (step % every == 0 or step == self.settings.num_steps)

    def is_evaluation_due(self) -> bool:
        return self.evaluate is not None and self.is_due(self.settings.evaluate_every)

    def evaluate_if_due(self) -> None:
        """Comes after the checkpoint, which then learns of the result: nothing is lost whatever happens meanwhile."""
        step = self.state["step"]
        if self.evaluate is None or not self.is_evaluation_due() or self.state["evaluated_step"] == step:
            return
        self.is_evaluating = True
        if self.is_terminated:
            self.terminate()
        model = self.trained_model().eval()
        if self.cpu_group is not None:  # on CPUs each process has its own batch norm; the first one's is saved
            for buffer in model.buffers():
                if buffer.is_contiguous():
                    torch.distributed.broadcast(buffer, src=0)
        metrics = self.evaluate(model, step)
        self.is_evaluating = False
        self.set_training_mode(self.model)
        self.log(metrics)
        if self.best_metric is not None:
            score = metrics[self.best_metric]
            self.shown[self.best_metric] = f"{score:.4f}"
            if not math.isnan(score) and (self.state["best"] is None or score > self.state["best"]):
                self.state.update(best=score, best_step=step)
                self.save("best")
        self.state["evaluated_step"] = step
        save_checkpoint(self.accelerator, self.output_dir, self.state, self.averaged)

    def start_clock(self) -> None:
        """
        Speed is measured from one logged line to the next, where the process waits for its device anyway, without what
        follows a line. The first update prepares a lot and does not count.
        """
        step, now = self.state["step"], time.perf_counter()
        is_second = step == self.first_step + 1
        if is_second and now - self.started > 10:
            self.progress.say(f"The first update took {duration(now - self.started)}.")
        if is_second or not self.losses:
            self.started, self.started_at = now, step

    def log_losses(self) -> None:
        """Logs the mean losses of the updates since the last time."""
        if not self.losses:
            return
        own, step = torch.stack(self.losses), self.state["step"]  # (steps, accumulation steps, losses)
        means = self.accelerator.reduce(own.sum(1).mean(0), "sum").tolist()
        if not all(map(math.isfinite, means)):
            is_bad = ~own.isfinite().all(dim=2)  # (steps, accumulation steps)
            first = next((number for number, of_step in enumerate(is_bad) if of_step.any()), len(own) - 1)
            numbers = is_bad[first].nonzero().flatten().tolist()
            self.refuse(f"The loss is {sum(means)} before step {step}", step - len(own) + first, numbers)
        self.losses.clear()
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        self.shown.update({"loss": f"{sum(means):.4f}", "lr": f"{rate:.2e}"})
        speeds: dict[str, float] = {}
        if self.speed is not None and step > self.started_at:
            speeds = self.speed.rates(step - self.started_at, time.perf_counter() - self.started)
            self.shown["images/s"] = f"{speeds['images_per_second']:.4g}"
            if "mfu" in speeds:
                self.shown["MFU"] = f"{speeds['mfu']:.0%}"
        self.log({"loss": sum(means), **dict(zip(self.loss_names, means)), "learning_rate": rate, **speeds})

    @property
    def log_file(self) -> Path:
        return self.output_dir / "metrics.jsonl"

    def log(self, values: dict[str, Any]) -> None:
        """Adds a line. JSON has no NaN: it becomes `null`. Trackers get numbers only."""
        step = self.state["step"]
        place = self.output_dir / "logs"
        try:
            self.accelerator.log({k: v for k, v in values.items() if isinstance(v, (int, float))}, step=step)
            if self.accelerator.is_main_process:
                defined = {name: None if value != value else value for name, value in values.items()}
                place = self.log_file
                with open(place, "a") as file:
                    file.write(json.dumps({"step": step, **defined}) + "\n")
        except OSError as error:
            raise could_not_write(place, error) from error

    def shorten_log(self) -> None:
        """Removes the lines that a run that was interrupted will write again."""
        kept = []
        for text in self.log_file.read_text().splitlines(keepends=True):
            if text.endswith("\n"):
                line, step = json.loads(text), self.state["step"]
                is_done = "loss" in line or self.state["evaluated_step"] == step
                if line["step"] < step or (line["step"] == step and is_done):
                    kept.append(text)
        with write_whole(self.log_file) as staged:
            staged.write_text("".join(kept))

    def trained_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model) if self.averaged is None else self.averaged.module

    def save(self, kind: str) -> None:
        if self.accelerator.is_main_process:
            self.save_model(self.trained_model(), self.output_dir / kind)

    def save_checkpoint(self) -> None:
        if not torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all():
            step = self.state["step"]
            self.refuse(f"Weights are not finite after step {step}", step - 1, range(self.settings.accumulation_steps))
        self.save("last")
        save_checkpoint(self.accelerator, self.output_dir, self.state, self.averaged)

    def load(self, checkpoint: Path) -> None:
        self.state |= load_checkpoint(self.accelerator, checkpoint, self.averaged)
        if self.state["step"] > self.settings.num_steps:
            raise ValueError(
                f"The checkpoint is at step {self.state['step']}, but this run ends at step {self.settings.num_steps}."
            )
        if not (self.output_dir / "best").is_dir():  # resumed in another folder
            self.state.update(best=None, best_step=None)

    def refuse(self, message: str, step: int, numbers: Sequence[int]) -> NoReturn:
        """
        Ends the run before these weights replace a good checkpoint. Saves this process's batches of these numbers in a
        step, and all of the step before, whose gradient may have broken the weights. Batches depend on the step alone,
        so they are read again and none has to be kept.
        """
        if numbers:
            if step > self.first_step:
                self.save_batches(step - 1, range(self.settings.accumulation_steps))
            self.save_batches(step, numbers)
        self.accelerator.wait_for_everyone()  # the first process that ends takes the others along
        raise ValueError(
            f"{message}: lower the learning rate, clip gradients, or use bf16 or fp32 instead of fp16. "
            f"The batch is in '{self.output_dir / 'not_finite_batches'}'."
        )

    def save_batches(self, step: int, numbers: Sequence[int]) -> None:
        """Writes the tensors of a step's batches of these numbers, from 0, as safetensors."""
        for number, batch in enumerate(islice(self.batches(step), max(numbers) + 1)):
            if number in numbers:
                named = batch if isinstance(batch, dict) else {"batch": batch}
                tensors = {name: value.contiguous() for name, value in named.items() if torch.is_tensor(value)}
                name = f"step-{step:08d}-batch-{number + 1}-process-{self.accelerator.process_index}.safetensors"
                with write_whole(self.output_dir / "not_finite_batches" / name) as staged:
                    save_file(tensors, staged)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device, where pinned memory lets the host go on. Channels that share memory travel once."""
    if tensor.ndim > 1 and tensor.stride(1) == 0 and tensor.shape[1] > 1:
        return tensor[:, :1].to(device, non_blocking=True).expand_as(tensor)
    return tensor.to(device, non_blocking=True)


@torch.no_grad()
def update_average(averaged: AveragedModel, model: nn.Module, decay: float) -> None:
    """
    Moves averaged weights and buffers towards those of the model, or makes them equal if `decay` is 0, as it must be
    the first time. `AveragedModel.update_parameters` reads its counter on the device, and so waits for it.
    """
    by_dtype: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    of_average, of_model = (chain(one.parameters(), one.buffers()) for one in (averaged.module, model))
    for average, current in zip(of_average, of_model):
        averages, currents = by_dtype.setdefault(average.dtype, ([], []))
        averages.append(average)
        currents.append(current)
    update = get_ema_multi_avg_fn(decay)
    for averages, currents in by_dtype.values():
        update(averages, currents, None)
    averaged.n_averaged += 1


__all__ = ["TrainingLoop", "TrainingSettings"]
