# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The training run that left a checkpoint: its recipe and curve, and in sentences where it comes from."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..evaluation.metrics import MAIN_METRIC
from ..evaluation.runs import TrainingRun, read_training_run
from ..modeling.configuration_unip import UNIP_SIZES
from .public_names import checkpoint_name, data_facts, is_hub_name, plain, without_folders


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
    Options for `--config` of the same command, without the folders of this machine, and without `ignored_options`,
    which do not change what is computed.
    """
    return {
        name: without_folders(value, is_checkpoint=name in ("model", "students", "teacher"))
        for name, value in run.options.items()
        if name not in ignored_options and value is not None and value is not False
    }


def training_curve(metrics: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """
    Plots the loss over the steps of a run's log, and beside it the main metric of the validation, or, of pre-training,
    the normalised mutual information of the attention of teacher and students. `None` if no loss was logged.
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


def trained_on(run: TrainingRun) -> str:
    """What a run did with the network, and on which data, in Markdown."""
    is_random = run.options.get("model") in UNIP_SIZES
    kind = "pre-trained" if run.is_pretraining else "trained" if is_random else "fine-tuned"
    return f"{kind} on the data *{plain(data_facts(run.options).title)}*"


def describe_origin(run: TrainingRun | None) -> str:
    """What training started from, and, as far as there are records, how that was trained."""
    if run is None:
        return "not recorded"
    if run.is_pretraining:
        starts = run.options.get("students") or []
        own = [start for start in starts if checkpoint_name(start) == run.checkpoint]
        return ", ".join(_start(start) for start in own or starts)
    model = run.options["model"]
    before = find_run(Path(model)) if Path(model).is_dir() else None
    if before is None or _started(before) > _started(run):  # another run has replaced the one it started from
        license = run.found.get("weights_license")
        return _start(model) + (f"; licence of its weights: {plain(license)}" if license else "")
    return f"`{checkpoint_name(model)}`, {_distillation(before) if before.is_pretraining else trained_on(before)}"


def _started(run: TrainingRun) -> int:
    return (run.folder / "run.json").stat().st_mtime_ns


def _start(model: str) -> str:
    if model in UNIP_SIZES:
        return "random weights"
    if is_hub_name(model):
        return f"[{model}](https://huggingface.co/{model})"
    return f"`{checkpoint_name(model)}`, of which nothing more is recorded"


def _distillation(run: TrainingRun) -> str:
    data = f"on the data *{data_facts(run.options).title}*"
    objective = run.options.get("objective", "attention")
    if objective == "mae":
        return f"pre-trained to fill in hidden patches (MAE, {run.options['mask_ratio']:.0%} hidden) {data}"
    teacher, layer = without_folders(run.options["teacher"], is_checkpoint=True), run.found.get("teacher_layer")
    nmi = f" (NMI {run.found['teacher_nmi'][layer - 1]:.3f})" if layer and "teacher_nmi" in run.found else ""
    learned = "the attention (NMI-HAD)" if objective == "attention" else "the features"
    return f"pre-trained on {learned} of block {layer}{nmi} of the teacher `{teacher}` {data}"


def describe_training(run: TrainingRun | None) -> str:
    """A paragraph of Markdown."""
    if run is None:
        return "How it was trained is not recorded."
    options, made, planned = run.options, run.num_steps, run.num_planned_steps
    updates = "An unknown number of updates" if made is None else f"{made:,} updates"
    if planned and (made is None or made < planned):
        updates += f" (of {planned:,} planned)"
    parts = [updates + (f" of {options['batch_size']:,} images" if options.get("batch_size") else "")]
    if options.get("crop_size"):
        parts.append(f"crops of {options['crop_size']} pixels")
    if options.get("learning_rate"):
        parts.append(f"learning rate {options['learning_rate']:g}")
    if options.get("linear_probe") or options.get("layerwise_probe"):
        parts.append("only the classifier: the encoder is frozen")
    elif options.get("layer_decay") is not None:
        parts.append(f"layer decay {options['layer_decay']:g}")
    if options.get("ema_decay"):
        parts.append(f"moving average of the weights ({options['ema_decay']:g})")
    if options.get("mixed_precision", "no") != "no":
        parts.append(str(options["mixed_precision"]))
    sentences = [f"{', '.join(parts)}, seed {options.get('seed', 0)}."]
    if run.is_pretraining:
        sentences = [f"P{_distillation(run)[1:]}.", *sentences, *_student_attention(run)]
    elif run.checkpoint == "best" and run.evaluated_step is not None:
        best, count = f"It is the checkpoint after {run.evaluated_step:,} updates", len(run.validation_scores)
        if count > 1:
            split = options.get("validation_split", "validation")
            sentences.append(
                f"{best}, the best of {count} by {MAIN_METRIC.label} on the split `{split}`: numbers on that split "
                "favour it."
            )
        elif run.evaluated_step != made:
            sentences.append(f"{best}.")
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    sentences.append(
        f"All options are in [recipe.yaml](recipe.yaml), for `unip {run.command} --config recipe.yaml`; the versions "
        f"of the libraries are in [environment.json](environment.json): {versions}."
    )
    return " ".join(sentences)


def _student_attention(run: TrainingRun) -> list[str]:
    """A sentence on the last comparison with the teacher, if there was one."""
    values = {name: value for line in run.metrics for name, value in line.items() if name.startswith("nmi/")}
    students = [name for name in values if name != "nmi/teacher"]
    own = f"nmi/{run.checkpoint}" if len(students) > 1 else next(iter(students), "")
    if own not in values or "nmi/teacher" not in values:
        return []
    return [
        f"At the end the normalised mutual information of its attention was {values[own]:.3f} on sample images, the "
        f"teacher's {values['nmi/teacher']:.3f}."
    ]


__all__ = ["describe_origin", "describe_training", "find_run", "make_recipe", "trained_on", "training_curve"]
