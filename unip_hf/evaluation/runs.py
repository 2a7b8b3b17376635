# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads what a training run left in its folder: options, versions, log, and pictures of predictions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from .metrics import MAIN_METRIC


# Types of the options that tables and cards read.
OPTION_TYPES: dict[tuple[type, ...], tuple[str, ...]] = {
    (int, float): ("batch_size", "crop_size", "learning_rate", "layer_decay", "ema_decay", "mask_ratio"),
    (str,): ("model", "dataset", "dataset_config", "validation_split", "mixed_precision", "teacher"),
}


@dataclass(frozen=True)
class TrainingRun:
    """
    A run of `unip finetune` or `unip distill`, and one of its checkpoints.

    Args:
        folder: Folder of the run.
        checkpoint: Name of the checkpoint's folder: `"best"`, `"last"`, or that of one of several students.
        options: What it was started with.
        versions: Versions of the libraries.
        found: What it found out itself: `teacher_layer`, `teacher_nmi`, `num_images` of pre-training.
        num_planned_steps: Updates that it was to make.
        metrics: Lines of its log: `step`, and what was measured there.
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
    def command(self) -> str:
        return "distill" if self.is_pretraining else "finetune"

    @property
    def num_steps(self) -> int | None:
        """Updates that were made, as far as the log goes; `None` if nothing was logged."""
        return max((line["step"] for line in self.metrics), default=None)

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of the log that an evaluation wrote."""
        return [line for line in self.metrics if MAIN_METRIC.key in line]

    @property
    def validation_scores(self) -> dict[int, float]:
        """The main metric by step, where it is defined."""
        return {line["step"]: line[MAIN_METRIC.key] for line in self.evaluations if line[MAIN_METRIC.key] is not None}

    @property
    def evaluated_step(self) -> int | None:
        """The step at which this checkpoint was evaluated: of `best` the first with the highest score."""
        scores = self.validation_scores
        return max(scores, key=scores.__getitem__ if self.checkpoint == "best" else None, default=None)

    @property
    def samples(self) -> Path | None:
        """The picture of this checkpoint's predictions on validation images, if there is one."""
        if self.checkpoint != "best" and self.evaluated_step != self.num_steps:
            return None  # training went on after the evaluation
        picture = self.folder / "predictions" / f"step-{self.evaluated_step or 0:08d}.png"
        return picture if picture.is_file() else None


def read_training_run(folder: Path, checkpoint: str = "best") -> TrainingRun:
    """
    Reads `run.json` and `metrics.jsonl` in the folder of a run.

    Raises:
        OSError: if there is no `run.json`.
        ValueError: if a file is damaged; the message names it.
    """
    file = folder / "run.json"
    try:
        record = read_json(file)
        options, versions, found = dict(record["options"]), *(dict(record.get(n, {})) for n in ("versions", "found"))
        num_steps = record.get("num_steps") or options.get("num_steps")
        for kind, names in OPTION_TYPES.items():
            odd = [name for name in names if not isinstance(options.get(name), (*kind, type(None)))]
            if odd:
                raise ValueError(f"{odd[0]} is of a wrong type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"'{file}' is damaged, or it is not from a training run of this library.") from error
    num_steps = num_steps if isinstance(num_steps, int) else None
    return TrainingRun(folder, checkpoint, options, versions, found, num_steps, read_metrics(folder / "metrics.jsonl"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """
    The lines of a run's `metrics.jsonl`; none if nothing was logged yet.

    Raises:
        ValueError: if a line is damaged; the message names it.
    """
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for number, text in enumerate(path.read_text("utf-8", errors="replace").splitlines(keepends=True), start=1):
        if not text.endswith("\n"):
            break  # the process was killed while it wrote
        try:
            line = json.loads(text)
            odd = [name for name, value in line.items() if not isinstance(value, (int, float, type(None)))]
            if odd or not isinstance(line["step"], int):
                raise ValueError(f"{(odd or ['step'])[0]!r} is not a number")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"'{path}' is damaged in line {number}: {error}.") from error
        lines.append(line)
    return lines


__all__ = ["TrainingRun", "read_metrics", "read_training_run"]
