# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What jobs that train share: the folder of a run, its processes, its batches, and its trackers."""

import argparse
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unip_hf._version import __version__
from unip_hf.files import alone, read_json, remove_leftovers, write_whole


if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from unip_hf import UnipImageProcessor
    from unip_hf.training import RunSpeed


def versions() -> dict[str, str]:
    """Versions of the software that a result depends on."""
    import accelerate
    import datasets
    import torch
    import transformers

    libraries = {library.__name__: library.__version__ for library in (torch, transformers, datasets, accelerate)}
    return {"unip_hf": __version__, "python": platform.python_version(), **libraries}


# Options that may differ when a run is resumed: they change what is written or how fast, not what is computed.
FREE_OPTIONS = {
    "accelerate_config", "config", "log_every", "num_processes", "num_workers", "output_dir", "overwrite",
    "per_device_batch_size", "pictures_every", "report_to", "resume_from_checkpoint", "save_every", "skip_check",
}  # fmt: skip


def open_run(options: argparse.Namespace) -> dict[str, Any]:
    """
    Looks at the folder of the run and writes nothing.

    Returns:
        What `run.json` will hold. For a run that is resumed this includes what it found out itself, as `found`, and
        `options` that are "auto" become what they were.

    Raises:
        ValueError: if the folder holds another run and neither `--overwrite` nor `--resume_from_checkpoint` was given,
            the checkpoint is of another run than the one in the folder, or the options of the resumed run differ.
    """
    from unip_hf.training.checkpoints import find_checkpoint

    output_dir = options.output_dir
    run = {"options": json.loads(json.dumps(vars(options), default=str)), "versions": versions()}  # paths are texts
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {str(output_dir)!r} is a file.")
    check_is_free(options)
    if options.resume_from_checkpoint is None:
        return run
    checkpoint, own = find_checkpoint(output_dir, options.resume_from_checkpoint), output_dir / "checkpoints"
    if checkpoint.resolve().parent != own.resolve() and any(own.glob("step-*/state.json")):
        raise ValueError(
            f"'{checkpoint}' is not from the run in '{output_dir}', whose checkpoints would be mixed with its own: "
            "choose another --output_dir."
        )
    file = checkpoint.parents[1] / "run.json"
    recorded = read_json(file) if file.is_file() else {"options": {}}
    recorded = recorded if isinstance(recorded, dict) else {}
    before, found, now = recorded.get("options"), recorded.get("found", {}), run["options"]
    if not isinstance(before, dict) or not isinstance(found, dict):
        raise ValueError(f"'{file}' is damaged: it holds no options of a run.")
    for name in [name for name in now if now[name] == "auto" and name in before and name not in FREE_OPTIONS]:
        now[name] = before[name]
        setattr(options, name, before[name])
    changed = [name for name in now if name not in FREE_OPTIONS and before.get(name, now[name]) != now[name]]
    if changed:
        named = "; ".join(f"--{name} was {before[name]!r}, is {now[name]!r}" for name in changed)
        raise ValueError(f"A resumed run must keep its options: {named}.")
    return {**run, "found": found}


def check_is_free(options: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: if a new run would mix its files with those of another.
    """
    is_new = options.resume_from_checkpoint is None and not options.overwrite
    if is_new and options.output_dir.exists() and any(options.output_dir.iterdir()):
        raise ValueError(
            f"{str(options.output_dir)!r} is not empty: choose another --output_dir, add --overwrite to replace the "
            "run in it, or --resume_from_checkpoint latest to go on with it."
        )


@contextmanager
def started(options: argparse.Namespace, run: dict[str, Any], accelerator: "Accelerator") -> Iterator[None]:
    """
    Starts a run: makes its folder, in which no other run can start meanwhile, writes `run.json`, and starts the
    trackers. With `--overwrite`, removes what the previous run left. Every process calls this.

    Raises:
        OSError: if another run is at work in the folder.
        ValueError: if another run was there in the meantime.
    """
    with ExitStack() as held:
        if accelerator.is_main_process:
            options.output_dir.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(options.output_dir))
            check_is_free(options)
            _prepare_folder(options, run)
        accelerator.wait_for_everyone()
        with tracked(accelerator, run):
            yield


def _prepare_folder(options: argparse.Namespace, run: dict[str, Any]) -> None:
    if options.resume_from_checkpoint is None and options.overwrite:
        for name in ("attention", "best", "checkpoints", "last", "logs", "not_finite_batches", "predictions"):
            shutil.rmtree(options.output_dir / name, ignore_errors=True)
        for name in ("class_pixels.npy", "layers.json", "layers.png", "metrics.jsonl", "teacher_layers.png"):
            (options.output_dir / name).unlink(missing_ok=True)
    remove_leftovers(options.output_dir)
    with write_whole(options.output_dir / "run.json") as staged:
        staged.write_text(json.dumps(run, indent=1))


class BatchDivision(NamedTuple):
    """How an update gets its images: their product is the batch size."""

    num_processes: int
    per_device: int
    accumulation_steps: int

    def describe(self, num_steps: int, num_images: int | None) -> str:
        """The arithmetic in words; `None` is a stream, which has an unknown number of images."""
        batch_size = self.num_processes * self.per_device * self.accumulation_steps
        text = f"Batch {batch_size} = {self.num_processes} device(s) x {self.per_device} images x "
        text += f"{self.accumulation_steps} accumulation step(s); {num_steps} steps"
        if num_images is None:
            return text
        return f"{text} = {num_steps * batch_size / num_images:.1f} epochs of {num_images} images"


def divide_batch(options: argparse.Namespace, num_processes: int) -> BatchDivision:
    """Divides `--batch_size` evenly among devices, `--per_device_batch_size` and accumulation steps."""
    share = max(1, options.batch_size // num_processes)
    largest = max(number for number in range(1, min(share, 256) + 1) if share % number == 0)  # 256: the published one
    per_device = options.per_device_batch_size or largest
    if options.batch_size % (num_processes * per_device):
        raise ValueError(
            f"--batch_size {options.batch_size} cannot be divided: it must be devices ({num_processes}) x images at "
            f"once ({per_device}) x accumulation steps. Choose another --batch_size or --per_device_batch_size."
        )
    return BatchDivision(num_processes, per_device, options.batch_size // (num_processes * per_device))


def default_num_workers() -> int:
    """As many as this process has cores beside its own, but 2 to 8. Processes of one machine share its cores."""
    is_limited = hasattr(os, "sched_getaffinity")  # on Linux, by containers and schedulers
    num_cores = len(os.sched_getaffinity(0)) if is_limited else os.cpu_count() or 1
    return min(8, max(2, num_cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def make_accelerator(options: argparse.Namespace, finds_unused_parameters: bool = False) -> "Accelerator":
    """
    Devices, precision and trackers. Also silences what libraries would log, in all processes but the first everything
    but errors. `finds_unused_parameters` is for models with parts that the loss may not reach.

    Raises:
        ValueError: if this machine lacks what the precision or a tracker needs.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
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
    logging.basicConfig(level=logging.WARNING if accelerator.is_main_process else logging.ERROR, format="%(message)s")
    if options.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("--mixed_precision fp16 needs a GPU: use bf16 or no.")  # it would do nothing
    found = {getattr(tracker, "value", tracker) for tracker in accelerator.log_with}
    missing = set(trackers or ()) - found
    if missing:
        raise ValueError(f"--report_to {' '.join(missing)}: install that package, or choose none.")
    return accelerator


def prepare_speed(accelerator: "Accelerator", batch_size: int, operations_per_image: float | None) -> "RunSpeed":
    """What the speed of a run is calculated from. Measures what its devices can multiply in its precision."""
    import torch

    from unip_hf.training.speed import RunSpeed, measure_matrix_peak

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    peak = measure_matrix_peak(accelerator.device, dtypes.get(accelerator.mixed_precision, torch.float32))
    return RunSpeed(batch_size, operations_per_image, peak * accelerator.num_processes)


def save_with_processor(
    model: "PreTrainedModel", processor: "UnipImageProcessor", folder: Path, only_trained: bool = False
) -> None:
    """Writes a checkpoint folder, whole or not at all; with `only_trained` without what is frozen."""
    with write_whole(folder) as staged:
        settings: Any = {"only_trained": True} if only_trained else {}  # which models of others do not know
        model.save_pretrained(staged, **settings)
        processor.save_pretrained(staged)


@contextmanager
def tracked(accelerator: "Accelerator", run: dict[str, Any]) -> Iterator[None]:
    """Starts the trackers with the options of a run, and finishes them even if the run fails."""
    plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in run["options"].items()}
    accelerator.init_trackers("unip", config=plain)
    try:
        yield
    except BaseException:
        for tracker in accelerator.trackers:  # which still hold something
            with suppress(OSError):  # the error that ended the run may have been a full disk
                tracker.finish()
        raise
    accelerator.wait_for_everyone()  # a process that leaves while another still talks to it may abort it
    accelerator.end_training()
