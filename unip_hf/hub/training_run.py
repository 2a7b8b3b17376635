# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The training run that left a checkpoint: what is published of it beside the card."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..evaluation.metrics import MAIN_METRIC
from ..evaluation.runs import TrainingRun, read_training_run
from .public_names import without_folders


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def find_run(checkpoint: Path) -> TrainingRun | None:
    """
    The run that left a checkpoint: the folder that holds it as `best` or `last`, or as one of several students in
    `last`. `None` if there is no such run.

    Raises:
        OSError, ValueError: if a file of the run is damaged; the message names it.
    """
    checkpoint = checkpoint.resolve()
    is_student = checkpoint.parent.name == "last"
    folder = checkpoint.parent.parent if is_student else checkpoint.parent
    if not (is_student or checkpoint.name in ("best", "last")) or not (folder / "run.json").is_file():
        return None
    return read_training_run(folder, checkpoint.name)


def make_recipe(run: TrainingRun, ignored_options: Collection[str]) -> dict[str, Any]:
    """
    Options for `--config` of the same command, without the folders of this machine.

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
    Plots the loss over the steps of a run, and beside it the main metric of the validation, or, of pre-training, the
    normalised mutual information of the attention of teacher and students.

    Args:
        metrics: Lines of the run's log.

    Returns:
        `matplotlib.figure.Figure`, or `None` if no loss was logged.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    log = pd.DataFrame(metrics)
    losses = log.filter(regex="^loss/") if log.filter(regex="^loss/").size else log.filter(["loss"])
    if losses.empty:
        return None
    panels = [("training loss", losses)]
    if MAIN_METRIC.key in log:
        panels.append((f"validation {MAIN_METRIC.label}", log[[MAIN_METRIC.key]]))
    elif log.filter(regex="^nmi/").size:
        panels.append(("NMI of the attention", log.filter(regex="^nmi/")))
    figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
    colours: dict[str, str] = {}  # by student, alike in both panels
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels):
        for name in curves:
            values = curves[name].dropna()
            label = name.partition("/")[2]
            colour = colours.setdefault(label, f"C{len(colours)}")
            marker = "o" if len(values) < 40 else None
            axes.plot(log["step"][values.index], values, color=colour, marker=marker, markersize=4, label=label)
        if len(curves.columns) > 1:
            axes.legend(frameon=False)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1 if MAIN_METRIC.key in curves else None)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


__all__ = ["find_run", "make_recipe", "training_curve"]
