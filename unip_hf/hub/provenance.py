# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where a checkpoint comes from, in sentences: its data, what it started from, and how it was trained."""

from pathlib import Path
from typing import Any

from ..modeling.configuration_unip import UNIP_SIZES
from .data_facts import DataFacts, data_facts
from .training_run import TrainingRun, checkpoint_name, find_run, is_hub_name, without_folders


def training_data(run: TrainingRun | None) -> DataFacts | None:
    """The data of a run; `None` if there is no record of it."""
    if run is None:
        return None
    options = run.options
    return data_facts(options["dataset"], options.get("data_dir"), options.get("dataset_config"))


def describe_origin(run: TrainingRun | None) -> str:
    """What training started from, and, as far as records go back, how that was trained."""
    if run is None:
        return "not recorded"
    if run.is_pretraining:
        starts = run.options.get("students") or []
        own = [start for start in starts if checkpoint_name(start) == run.checkpoint]
        return ", ".join(_start(start) for start in own or starts)
    model = run.options["model"]
    before = find_run(Path(model)) if Path(model).is_dir() else None
    if before is None or _started(before) > _started(run):  # another run, which took the place of the one before
        return _start(model)
    data = training_data(before)
    how = "trained" if before.options.get("model") in UNIP_SIZES else "fine-tuned"
    what = _distillation(before) if before.is_pretraining else f"{how} on the data *{data.title if data else ''}*"
    return f"`{checkpoint_name(model)}`, {what}"


def _started(run: TrainingRun) -> int:
    return (run.folder / "run.json").stat().st_mtime_ns


def _start(model: str) -> str:
    if model in UNIP_SIZES:
        return "random weights"
    if is_hub_name(model):
        return f"[{model}](https://huggingface.co/{model})"
    return f"`{checkpoint_name(model)}`, of which nothing more is recorded"


def _distillation(run: TrainingRun) -> str:
    data, teacher = training_data(run), without_folders(run.options["teacher"], is_checkpoint=True)
    layer: Any = run.found.get("teacher_layer")
    nmi = f" (NMI {run.found['teacher_nmi'][layer - 1]:.3f})" if "teacher_nmi" in run.found else ""
    return (
        f"pre-trained on the attention (NMI-HAD) of block {layer}{nmi} of the teacher "
        f"`{teacher}` on the data *{data.title if data else 'unknown'}*"
    )


def describe_training(run: TrainingRun | None) -> str:
    """Paragraphs of Markdown."""
    if run is None:
        return "How it was trained is not recorded."
    options = run.options
    command = "distill" if run.is_pretraining else "finetune"
    made, planned = run.num_steps, run.num_planned_steps
    parts = ["An unknown number of updates" if made is None else f"{made:,} updates"]
    if planned and (made is None or made < planned):
        parts[0] += f" (of {planned:,} planned)"
    parts[0] += f" of {options['batch_size']:,} images, crops of {options['crop_size']} pixels"
    if options.get("learning_rate"):
        parts.append(f"learning rate {options['learning_rate']:g}")
    is_probe = bool(options.get("linear_probe") or options.get("layerwise_probe"))
    if is_probe:
        parts.append("only the classifier: the encoder is frozen")
    elif "layer_decay" in options:
        parts.append(f"layer decay {options['layer_decay']:g}")
    if options.get("ema_decay"):
        parts.append(f"moving average of the weights ({options['ema_decay']:g})")
    if options.get("mixed_precision", "no") != "no":
        parts.append(options["mixed_precision"])
    sentences = [", ".join(parts) + f", seed {options.get('seed', 0)}."]
    if run.is_pretraining:
        sentences.insert(0, _distillation(run)[:1].upper() + _distillation(run)[1:] + ".")
        sentences += _student_attention(run)
    elif run.checkpoint == "best" and len(run.validation_scores) > 1:
        split = options.get("validation_split", "validation")
        sentences.append(
            f"It is the checkpoint after {run.evaluated_step:,} updates, the best of {len(run.validation_scores)} by "
            f"mean IoU on the split `{split}`: numbers on that split favour it."
        )
    elif run.checkpoint == "best" and run.evaluated_step is not None and run.evaluated_step != made:
        sentences.append(f"It is the checkpoint after {run.evaluated_step:,} updates.")
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    sentences.append(
        f"All options are in [recipe.yaml](recipe.yaml), for `unip {command} --config recipe.yaml`; the libraries in "
        f"[environment.json](environment.json): {versions}."
    )
    return " ".join(sentences)


def _student_attention(run: TrainingRun) -> list[str]:
    """What the last comparison with the teacher found."""
    values = {name: value for line in run.metrics for name, value in line.items() if name.startswith("nmi/")}
    students = [name for name in values if name != "nmi/teacher"]
    own = f"nmi/{run.checkpoint}" if len(students) > 1 else next(iter(students), "")
    if own not in values or "nmi/teacher" not in values:
        return []
    return [
        f"At the end the normalised mutual information of its attention was {values[own]:.3f} on sample images, the "
        f"teacher's {values['nmi/teacher']:.3f}."
    ]


__all__ = ["describe_origin", "describe_training", "training_data"]
