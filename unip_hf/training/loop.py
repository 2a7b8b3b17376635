# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The training loop. It knows nothing of what is trained: model, batches, loss and evaluation are handed to it."""

import json
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..files import write_whole
from ..progress import Progress
from .checkpoints import find_checkpoint, load_checkpoint, save_checkpoint, update_checkpoint


STOPPED_BY_SIGTERM = 143  # exit status: 128 + 15


class MetricsLog:
    """
    What was measured during a run, one JSON object a line, and the trackers.

    Args:
        accelerator: Whose trackers get the same values; the main process writes.
        path (`Path`): File to append to.
        is_known (`Callable`): Takes a line's values; the others are removed, since a run that was interrupted makes
            them again.
    """

    def __init__(self, accelerator: Accelerator, path: Path, is_known: Callable[[dict[str, Any]], bool]):
        self.accelerator = accelerator
        self.path = path
        if accelerator.is_main_process and path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and is_known(json.loads(line))]
            with write_whole(path) as staged:
                staged.write_text("".join(kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        self.accelerator.log({k: v for k, v in values.items() if isinstance(v, (int, float))}, step=step)
        if self.accelerator.is_main_process:
            with open(self.path, "a") as file:
                defined = {name: None if value != value else value for name, value in values.items()}  # no NaN in JSON
                file.write(json.dumps({"step": step, **defined}) + "\n")


class Termination:
    """
    Remembers that SIGTERM came while it is entered. Where nothing would be lost, `is_safe`, the signal ends the
    process at once.
    """

    def __init__(self) -> None:
        self.came = False
        self.is_safe = False

    def __enter__(self) -> "Termination":
        self.is_main = threading.current_thread() is threading.main_thread()  # only there signals can be handled
        if self.is_main:
            self.before = signal.signal(signal.SIGTERM, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_main:
            signal.signal(signal.SIGTERM, self.before)

    def receive(self, *_: object) -> None:
        self.came = True
        if self.is_safe:
            raise SystemExit(STOPPED_BY_SIGTERM)

    @contextmanager
    def safe(self) -> Iterator[None]:
        self.is_safe = True
        if self.came:
            raise SystemExit(STOPPED_BY_SIGTERM)
        try:
            yield
        finally:
            self.is_safe = False


def save_batches(
    batches: Iterable[Any], numbers: Sequence[int], folder: Path, prefix: str, accelerator: Accelerator
) -> None:
    """Writes the tensors of the batches of these numbers, from 0, as safetensors."""
    for number, batch in enumerate(islice(batches, max(numbers) + 1)):
        if number in numbers:
            named = batch if isinstance(batch, dict) else {"batch": batch}
            tensors = {name: value.contiguous() for name, value in named.items() if isinstance(value, torch.Tensor)}
            name = f"{prefix}-batch-{number + 1}-process-{accelerator.process_index}.safetensors"
            with write_whole(folder / name) as staged:
                save_file(tensors, staged)


def make_sum_over_processes() -> Callable[[list[float]], list[float]]:
    """A function that adds numbers up over all processes, on the CPU, so that no device has to be waited for."""
    if not torch.distributed.is_initialized():
        return lambda numbers: numbers
    group: Any = torch.distributed.new_group(backend="gloo")

    def add_up(numbers: list[float]) -> list[float]:
        sums = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        torch.distributed.all_reduce(sums, group=group)
        return sums.tolist()

    return add_up


def train(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    batches: Callable[[int], Iterable[Any]],
    compute_loss: Callable[[nn.Module, Any], torch.Tensor],
    batch_weight: Callable[[Any], float],
    schedule: Callable[[int], float],
    num_steps: int,
    output_dir: Path,
    save_model: Callable[[nn.Module, Path], None],
    loss_names: Sequence[str] = (),
    evaluate: Callable[[nn.Module, int], dict[str, Any]] | None = None,
    best_metric: str | None = None,
    evaluate_every: int = 1000,
    save_every: int = 1000,
    log_every: int = 10,
    accumulation_steps: int = 1,
    max_gradient_norm: float | None = None,
    ema_decay: float | None = None,
    set_training_mode: Callable[[nn.Module], Any] = lambda model: model.train(),
    resume_from_checkpoint: str | None = None,
) -> dict[str, Any]:
    """
    Trains a model until `num_steps` updates are made.

    The loss of an update is the mean over all its batches, on all processes and in all accumulation steps, weighted
    with `batch_weight` (the number of labelled pixels, say): the same number whichever way the batch is divided.

    A run that is interrupted goes on from its last checkpoint as if nothing had happened. SIGTERM writes a checkpoint
    and ends the process with status 143. `output_dir` gets `checkpoints/`, `best/` and `last/` (what `save_model`
    writes) and `metrics.jsonl`. A loss that is not finite ends the run, and the batch it came from is written to
    `not_finite_batches/` (tensors, safetensors) by the process that had it, beside those of the step before.

    Args:
        accelerator: Prepares model and optimizer; its trackers, if there are any, get every metric.
        model: On any device.
        optimizer: Its groups' `lr` is the rate that `schedule` is multiplied with.
        batches: From the number of updates made to this process's batches of tensors from there on, without an end;
            the same ones whenever it is asked.
        compute_loss: From model and batch (on the device) to the mean loss of the batch; or to several, of shape
            `(number of losses,)`, whose sum is minimised.
        batch_weight: Number of things that this mean is over.
        schedule: From the number of updates made, 0 to `num_steps - 1`, to the part of the learning rate.
        num_steps: Updates.
        output_dir: Folder that exists.
        save_model: Writes model and folder, in the main process.
        loss_names: What the log calls several losses, beside their sum.
        evaluate: From model and step to metrics, called by every process; the model is in evaluation mode.
        best_metric: Which of the metrics `best/` is saved for, where it is highest; by default none.
        evaluate_every, save_every, log_every: In updates. The last update is always evaluated, saved and logged.
        accumulation_steps: Batches of each process for one update.
        max_gradient_norm: Longer gradients are shortened to it.
        ema_decay: Evaluate and save the exponential moving average of the weights with this decay.
        set_training_mode: Called with the model before training and after every evaluation.
        resume_from_checkpoint: `"latest"` or the path of a checkpoint.

    Returns:
        The state at the end: `step` and `evaluated_step`, the highest value of `best_metric` as `best`, and its step
        as `best_step`.

    Raises:
        FileNotFoundError: if there is no checkpoint to resume from.
        ValueError: if the loss is not finite, or a checkpoint does not fit.
        OSError: if a checkpoint cannot be written.
    """
    base_rates = [group["lr"] for group in optimizer.param_groups]
    averaged = None
    if ema_decay is not None:
        averaging = get_ema_multi_avg_fn(ema_decay)
        averaged = AveragedModel(model, accelerator.device, multi_avg_fn=averaging, use_buffers=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    state: dict[str, Any] = {"step": 0, "evaluated_step": 0, "best": None, "best_step": None}
    if resume_from_checkpoint is not None:
        state |= load_checkpoint(accelerator, find_checkpoint(output_dir, resume_from_checkpoint), averaged)
        if state["step"] > num_steps:
            raise ValueError(f"The checkpoint is at step {state['step']}, behind the end of this run, {num_steps}.")
        if not (output_dir / "best").is_dir():  # resumed in another folder
            state.update(best=None, best_step=None)
    first_step, is_evaluated = state["step"], state["evaluated_step"] == state["step"]
    log = MetricsLog(
        accelerator,
        output_dir / "metrics.jsonl",
        lambda line: line["step"] < first_step or (line["step"] == first_step and ("loss" in line or is_evaluated)),
    )
    progress = Progress("step", num_steps, state["step"], accelerator.is_main_process)
    if resume_from_checkpoint is not None:
        progress.say(f"Resumed at step {state['step']} of {num_steps}.")

    losses: list[torch.Tensor] = []
    latest: dict[str, str] = {}

    def trained_model() -> nn.Module:
        return accelerator.unwrap_model(model) if averaged is None else averaged.module

    def save(kind: str) -> None:
        if accelerator.is_main_process:
            save_model(trained_model(), output_dir / kind)

    def save_state() -> None:
        if not torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all():
            refuse(f"Weights are not finite after step {state['step']}", state["step"] - 1, range(accumulation_steps))
        save("last")
        save_checkpoint(accelerator, output_dir, state, averaged)

    def is_due(every: int) -> bool:
        return state["step"] > 0 and (state["step"] % every == 0 or state["step"] == num_steps)

    def evaluate_and_keep_the_best() -> None:
        """Comes after the checkpoint, which then learns of the result: whatever happens meanwhile, nothing is lost."""
        if evaluate is None or not is_due(evaluate_every) or state["evaluated_step"] == state["step"]:
            return
        with termination.safe():
            metrics = evaluate(trained_model().eval(), state["step"])
        set_training_mode(model)
        log.write(state["step"], metrics)
        if best_metric is not None:
            score = metrics[best_metric]
            latest[best_metric] = f"{score:.4f}"
            if not math.isnan(score) and (state["best"] is None or score > state["best"]):
                state.update(best=score, best_step=state["step"])
                save("best")
        state["evaluated_step"] = state["step"]
        update_checkpoint(accelerator, output_dir, state)

    def log_loss() -> None:
        if not losses:
            return
        own = torch.stack(losses)  # (steps, accumulation steps, losses)
        means = accelerator.reduce(own.sum(1).mean(0), "sum").tolist()
        if not all(map(math.isfinite, means)):
            is_bad = ~own.isfinite().all(dim=2)  # (steps, accumulation steps)
            first = next((number for number, of_step in enumerate(is_bad) if of_step.any()), len(own) - 1)
            message = f"The loss is {sum(means)} before step {state['step']}"
            refuse(message, state["step"] - len(own) + first, is_bad[first].nonzero().flatten().tolist())
        losses.clear()
        rate = max(group["lr"] for group in optimizer.param_groups)
        latest.update({"loss": f"{sum(means):.4f}", "lr": f"{rate:.2e}"})
        log.write(state["step"], {"loss": sum(means), **dict(zip(loss_names, means)), "learning_rate": rate})

    def refuse(message: str, step: int, numbers: Sequence[int]) -> NoReturn:
        """
        Ends the run before these weights replace a good checkpoint, and saves the batches of these numbers in a step
        of this process, and all of the step before, whose gradient may have been what broke the weights. Batches
        follow from the step, so that they are read again, and none needs to be kept.
        """
        folder = output_dir / "not_finite_batches"
        if numbers:
            if step > first_step:
                save_batches(batches(step - 1), range(accumulation_steps), folder, f"step-{step - 1:08d}", accelerator)
            save_batches(batches(step), numbers, folder, f"step-{step:08d}", accelerator)
        accelerator.wait_for_everyone()  # the first process that ends takes the others along
        raise ValueError(
            f"{message}: lower the learning rate, clip gradients, or use bf16 or fp32 instead of fp16. "
            f"The batch is in '{folder}'."
        )

    add_up = make_sum_over_processes()
    iterator = iter(batches(state["step"]))
    set_training_mode(model)
    with Termination() as termination:
        evaluate_and_keep_the_best()  # where a resumed run had not come to it
        while state["step"] < num_steps:
            micro_batches: list[Any] = []
            failure = None
            try:
                micro_batches = [next(iterator) for _ in range(accumulation_steps)]
            except (OSError, ValueError) as error:
                failure = error
            weights = [batch_weight(batch) for batch in micro_batches]
            try:
                total, num_terminated, num_failed = add_up([sum(weights), termination.came, failure is not None])
            except RuntimeError:
                if termination.came:  # another process was in an evaluation and ended at once
                    raise SystemExit(STOPPED_BY_SIGTERM) from None
                raise
            if num_failed:  # all processes end, with what one of them says
                raise ValueError(gather_object([str(failure)] if failure else [])[0]) from failure
            if num_terminated:
                log_loss()
                save_state()
                progress.say(f"Stopped by SIGTERM at step {state['step']}, where it can be resumed.")
                raise SystemExit(STOPPED_BY_SIGTERM)

            for group, rate in zip(optimizer.param_groups, base_rates):
                group["lr"] = rate * schedule(state["step"])
            shares: list[torch.Tensor] = []
            for number, (batch, weight) in enumerate(zip(micro_batches, weights), start=1):
                batch = send_to_device(batch, accelerator.device, non_blocking=True)
                share = weight / max(total, 1.0)
                with nullcontext() if number == accumulation_steps else accelerator.no_sync(model):
                    with accelerator.autocast():
                        loss = compute_loss(model, batch).reshape(-1)
                    # Gradients are averaged over processes, so this makes their mean the weighted one.
                    accelerator.backward(loss.sum() * (share * accelerator.num_processes))
                shares.append(loss.detach() * share)
            losses.append(torch.stack(shares))
            if max_gradient_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            if averaged is not None:
                averaged.update_parameters(accelerator.unwrap_model(model))
            state["step"] += 1

            saves = is_due(save_every) or (evaluate is not None and is_due(evaluate_every))
            if state["step"] % log_every == 0 or saves:
                log_loss()
            if saves:
                save_state()
            evaluate_and_keep_the_best()
            progress.update("  ".join(f"{name} {value}" for name, value in latest.items()))
    progress.close()
    if not (output_dir / "last").exists():  # a finished run that was resumed in another folder
        save("last")
    return state


__all__ = ["STOPPED_BY_SIGTERM", "MetricsLog", "train"]
