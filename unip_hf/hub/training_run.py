# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a checkpoint's training run left beside it: options, versions, metrics, pictures."""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from ..evaluation.result_tables import read_metrics


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TrainingRun:
    """
    A run of `unip finetune` or `unip distill`, and one of its checkpoints.

    Args:
        folder: Where it lies.
        checkpoint: Name of the checkpoint's folder: `"best"`, `"last"`, or that of one of several students.
        options: What it was started with.
        versions: Of the libraries.
        found: What it found out itself: `teacher_layer`, `teacher_nmi`, `num_images` of pre-training.
        num_planned_steps: Updates that it was to make.
        metrics: Lines of its log.
    """

    folder: Path
    checkpoint: str
    options: dict[str, Any]
    versions: dict[str, str]
    found: dict[str, Any]
    num_planned_steps: int | None
    metrics: list[dict[str, Any]]

    @property
    def is_pretraining(self) -> bool:
        return "teacher" in self.options

    @property
    def num_steps(self) -> int | None:
        """Updates that were made, as far as the log goes; `None` if nothing was logged."""
        return max((line["step"] for line in self.metrics), default=None)

    @property
    def validation_scores(self) -> dict[int, float]:
        """Mean IoU by step."""
        return {line["step"]: line["mean_iou"] for line in self.metrics if line.get("mean_iou") is not None}

    @property
    def evaluated_step(self) -> int | None:
        """After how many updates the checkpoint was evaluated: `best` where mean IoU was highest, others last."""
        scores = self.validation_scores
        if not scores:
            return None
        return max(scores, key=lambda step: (scores[step], -step)) if self.checkpoint == "best" else max(scores)

    @property
    def samples(self) -> Path | None:
        """The picture of this checkpoint's predictions on validation images, if there is one."""
        if self.checkpoint != "best" and self.evaluated_step != self.num_steps:
            return None  # training went on after it, and was not finished
        picture = self.folder / "predictions" / f"step-{self.evaluated_step or 0:08d}.png"
        return picture if picture.is_file() else None


def find_run(checkpoint: Path) -> TrainingRun | None:
    """
    The run that left a checkpoint, which is the folder `best` or `last` in that of the run, or one in `last`.

    Raises:
        OSError, ValueError: if a file of the run is damaged; the message names it.
    """
    checkpoint = checkpoint.resolve()
    if checkpoint.name in ("best", "last"):
        folder = checkpoint.parent
    elif checkpoint.parent.name == "last":  # one of several students
        folder = checkpoint.parent.parent
    else:
        return None
    file = folder / "run.json"
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        options, versions = dict(record["options"]), dict(record["versions"])
        found, num_planned_steps = dict(record.get("found") or {}), record.get("num_steps")
        if not (
            isinstance(options["dataset"], str)
            and isinstance(options["batch_size"], int)
            and isinstance(options["crop_size"], int)
            and isinstance(options["teacher" if "teacher" in options else "model"], str)
            and isinstance(num_planned_steps, (int, type(None)))
        ):
            raise TypeError("an option of another type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{file}' is damaged, or no training run of this library wrote it.") from error
    metrics = read_metrics(folder / "metrics.jsonl")
    return TrainingRun(folder, checkpoint.name, options, versions, found, num_planned_steps, metrics)


def is_hub_name(name: str) -> bool:
    """Whether a model of this name on the Hub was loaded on this machine before; a path is none."""
    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def path_name(path: str) -> str:
    """The last part of a path, of `.` and `..` the name of that folder here: what may be said of it in public."""
    if Path(path).resolve() == Path(os.path.expanduser("~")).resolve():
        return "~"  # its name is that of the user
    parts = [part for part in re.split(r"[\\/]+", path) if part not in ("", ".")]
    if parts and parts[-1] != "..":
        return parts[-1]
    return (Path(path).resolve().name if Path(path).exists() else "") or path


def checkpoint_name(path: str) -> str:
    """Of a run's `best` or `last` the name of the run, of other checkpoints that of their folder."""
    return path_name(re.sub(r"(?<=[^\\/])[\\/]+(best|last)[\\/]*$", "", path))


def without_folders(value: Any, is_checkpoint: bool = False) -> Any:
    """Options without the folders of the machine: of each path, in lists as well, the name of what it leads to."""
    if isinstance(value, list):
        return [without_folders(part, is_checkpoint) for part in value]
    if not isinstance(value, str) or not re.search(r"[\\/]|^\.\.?$", value) or is_hub_name(value):
        return value
    return checkpoint_name(value) if is_checkpoint else path_name(value)


def make_recipe(run: TrainingRun, ignored_options: Collection[str]) -> dict[str, Any]:
    """
    Options for `--config` of the same command: what decides the result, without folders.

    Args:
        run: The run.
        ignored_options: Names of options that do not change what is computed.
    """
    return {
        name: without_folders(value, is_checkpoint=name in ("model", "students", "teacher"))
        for name, value in run.options.items()
        if name not in ignored_options and value is not None and value is not False
    }


def training_curve(metrics: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """
    Loss over training steps, and beside it what the validation found: mean IoU, or, of pre-training, the normalised
    mutual information of the attention of teacher and students.

    Args:
        metrics: Lines of a run's log.

    Returns:
        `matplotlib.figure.Figure`, or `None` if no loss was logged.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for line in metrics for name in line))
    losses = [name for name in names if name.startswith("loss/")] or ["loss"] * ("loss" in names)
    scores = [name for name in names if name == "mean_iou" or name.startswith("nmi/")]
    panels = [("training loss", losses)] if losses else []
    if panels and scores:
        panels.append(("validation mean IoU" if "mean_iou" in scores else "NMI of the attention", scores))
    if not panels:
        return None
    labels = list(dict.fromkeys(name.rpartition("/")[2] for _, shown in panels for name in shown))
    figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
    for axes, (title, shown) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels):
        for name in shown:
            points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
            label = name.rpartition("/")[2]
            steps, values = zip(*points)
            colour = "C0" if len(shown) == 1 else f"C{labels.index(label)}"
            marker = "o" if len(points) < 40 else None
            axes.plot(steps, values, color=colour, marker=marker, markersize=4, label=label)
        if len(shown) > 1:
            axes.legend(frameon=False)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1) if "mean_iou" in shown else axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


__all__ = [
    "TrainingRun",
    "checkpoint_name",
    "find_run",
    "is_hub_name",
    "make_recipe",
    "path_name",
    "training_curve",
    "without_folders",
]
