# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What jobs that train share: the folder of a run, its processes, and its trackers."""

import argparse
import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from unip_hf._version import __version__
from unip_hf.files import write_whole


if TYPE_CHECKING:
    from accelerate import Accelerator


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    import accelerate
    import datasets
    import torch
    import transformers

    modules = (torch, transformers, datasets, accelerate)
    return {
        "unip_hf": __version__,
        "python": platform.python_version(),
        **{m.__name__: m.__version__ for m in modules},
    }


# Options that may differ when a run is resumed: they change what is written or how fast, not what is computed.
FREE_OPTIONS = {
    "accelerate_config", "config", "log_every", "num_processes", "num_workers", "output_dir", "overwrite",
    "per_device_batch_size", "pictures_every", "report_to", "resume_from_checkpoint", "save_every", "skip_check",
}  # fmt: skip


def open_run(options: argparse.Namespace) -> dict[str, Any]:
    """
    Looks at the folder of the run, writes nothing.

    Returns:
        What `run.json` shall hold; of a run that is resumed also what it found out itself, as `found`.

    Raises:
        ValueError: if the folder holds another run and neither `--overwrite` nor `--resume_from_checkpoint` was given,
            or the options of the resumed run differ.
    """
    from unip_hf.training.checkpoints import find_checkpoint

    settings = json.loads(json.dumps(vars(options), default=str))  # paths are texts
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise ValueError(f"--output_dir {str(options.output_dir)!r} is a file.")
    if options.resume_from_checkpoint is None:
        is_empty = not options.output_dir.exists() or not any(options.output_dir.iterdir())
        if not is_empty and not options.overwrite:
            raise ValueError(
                f"{str(options.output_dir)!r} is not empty: choose another --output_dir, add --overwrite to replace "
                "the run in it, or --resume_from_checkpoint latest to go on with it."
            )
        return {"options": settings, "versions": versions()}
    file = find_checkpoint(options.output_dir, options.resume_from_checkpoint).parents[1] / "run.json"
    found = {}
    if file.is_file():
        recorded = json.loads(file.read_text())
        before, found = recorded["options"], recorded.get("found", {})
        changed = [n for n in settings if n not in FREE_OPTIONS and n in before and before[n] != settings[n]]
        if changed:
            named = "; ".join(f"--{name} was {before[name]!r}, is {settings[name]!r}" for name in changed)
            raise ValueError(f"A resumed run keeps its options: {named}.")
    return {"options": settings, "versions": versions(), "found": found}


def start_run(options: argparse.Namespace, run: dict[str, Any]) -> None:
    """Makes the folder of the run and writes `run.json`; with `--overwrite`, removes what the run before left."""
    if options.resume_from_checkpoint is None and options.overwrite:
        for name in ("attention", "best", "checkpoints", "last", "logs", "not_finite_batches", "predictions"):
            shutil.rmtree(options.output_dir / name, ignore_errors=True)
        for name in ("metrics.jsonl", "teacher_layers.png"):
            (options.output_dir / name).unlink(missing_ok=True)
    for left_behind in list(options.output_dir.rglob(".incomplete-*")):  # by a run that was killed while it wrote
        shutil.rmtree(left_behind, ignore_errors=True)
    with write_whole(options.output_dir / "run.json") as staged:
        staged.write_text(json.dumps(run, indent=1))


def divide_batch(options: argparse.Namespace, num_processes: int, most: int | None = None) -> tuple[int, int]:
    """
    How an update gets its `--batch_size` images.

    Args:
        options: With `batch_size` and `per_device_batch_size`.
        num_processes (`int`): Devices.
        most (`int`, *optional*): Images at once on each device, at most, where the options do not say how many.

    Returns:
        Images at once on each device, and accumulation steps.

    Raises:
        ValueError: if the batch cannot be divided so.
    """
    share = max(1, options.batch_size // num_processes)
    divisors = (number for number in range(1, min(share, most or share) + 1) if share % number == 0)
    per_device = options.per_device_batch_size or max(divisors)
    if options.batch_size % (num_processes * per_device):
        raise ValueError(
            f"--batch_size {options.batch_size} cannot be divided: it is devices ({num_processes}) x images at once "
            f"({per_device}) x accumulation steps. Choose another --batch_size or --per_device_batch_size."
        )
    return per_device, options.batch_size // (num_processes * per_device)


def make_accelerator(options: argparse.Namespace, finds_unused_parameters: bool = False) -> "Accelerator":
    """
    Devices, precision and trackers.

    Args:
        options: With what `add_training_options` adds.
        finds_unused_parameters (`bool`, *optional*, defaults to `False`): Whether the model may have parts that the
            loss does not reach.

    Raises:
        ValueError: if the precision or a tracker is not to be had.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration

    trackers = [name for name in options.report_to if name != "none"] or None
    folders = ProjectConfiguration(str(options.output_dir), logging_dir=str(options.output_dir / "logs"))
    reach = DistributedDataParallelKwargs(find_unused_parameters=finds_unused_parameters)
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # while the first process checks or writes
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=trackers,
        project_config=folders,
        kwargs_handlers=[reach, patience],
    )
    if options.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("--mixed_precision fp16 needs a GPU: use bf16 or no.")  # it would do nothing
    found = {getattr(tracker, "value", tracker) for tracker in accelerator.log_with}
    missing = set(trackers or ()) - found
    if missing:
        raise ValueError(f"--report_to {' '.join(missing)}: install that package, or choose none.")
    return accelerator


@contextmanager
def tracked(accelerator: "Accelerator", run: dict[str, Any]) -> Iterator[None]:
    """Starts the trackers with the options of a run, and finishes them also where the run fails."""
    plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in run["options"].items()}
    accelerator.init_trackers("unip", config=plain)
    try:
        yield
    except BaseException:
        for tracker in accelerator.trackers:  # which still hold something
            tracker.finish()
        raise
    accelerator.wait_for_everyone()  # a process that leaves while another still talks to it may abort it
    accelerator.end_training()


__all__ = ["FREE_OPTIONS", "divide_batch", "make_accelerator", "open_run", "start_run", "tracked", "versions"]
