# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Writes what an evaluation found: a table, `results.json`, `report.html`, and the metadata of a model card."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.reading import IGNORE_INDEX
from ..files import lock, write_whole
from ..pictures import overlay_picture, side_by_side
from .evaluator import SENSOR_FAULTS, EvaluationResult, Example
from .metrics import CLASS_METRICS, MAIN_METRIC, METRICS, Metric
from .reports import Block, Heading, Picture, Table, Text, format_cell, write_report


if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD_TEXT = "Segments infrared images."  # of a new card, below its heading
FAULTS_TEXT = (
    "Missing: zeros after normalisation stand in for the auxiliary image. Shifted: it is moved to the right by so "
    "many pixels of the original image, and its left column fills the gap."
)
LONGEST_PICTURE_SIDE = 1920  # pixels; keeps the report small


def make_record(result: EvaluationResult, id2label: Mapping[int, str]) -> dict[str, Any]:
    """
    The numbers of `results.json`: the number of images, the table of metrics, that of each class with its `id` and
    `name`, and the confusion matrix. Of a model of pairs also `sensor_faults`, the table of metrics with each fault.
    `None` stands for what is undefined.
    """

    def defined(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    def table(metrics: Mapping[str, Any]) -> dict[str, float | None]:
        return {metric.key: defined(metrics[metric.key]) for metric in METRICS}

    faults = {name: table(metrics) for name, metrics in result.sensor_faults.items()}
    of_classes = {metric.key: result.metrics[f"per_category_{metric.key}"] for metric in CLASS_METRICS}
    return {
        "num_images": result.num_images,
        **table(result.metrics),
        **({"sensor_faults": faults} if faults else {}),
        "classes": [
            {"id": index, "name": id2label[index], **{key: defined(of_classes[key][index]) for key in of_classes}}
            for index in range(len(id2label))
        ],
        "confusion_matrix": result.confusion_matrix.tolist(),
    }


def class_table(record: Mapping[str, Any]) -> Table:
    """One row for each class, one column for each of `CLASS_METRICS`."""
    rows = [[found["name"], *(found.get(metric.key) for metric in CLASS_METRICS)] for found in record["classes"]]
    return Table(["class", *(metric.label for metric in CLASS_METRICS)], rows)


def summary_table(record: Mapping[str, Any]) -> Table:
    """One row for each of `METRICS`."""
    return Table(["", "value"], [[metric.label, record.get(metric.key)] for metric in METRICS])


def fault_table(record: Mapping[str, Any]) -> Table | None:
    """One row for sound pairs and one for each fault of the sensor, one column for each of `METRICS`."""
    if not record.get("sensor_faults"):
        return None
    conditions = {"both images": record}
    conditions |= {str(SENSOR_FAULTS[name]): found for name, found in record["sensor_faults"].items()}
    rows = [[name, *(found.get(metric.key) for metric in METRICS)] for name, found in conditions.items()]
    return Table(["", *(metric.label for metric in METRICS)], rows)


def absent_classes(record: Mapping[str, Any]) -> str:
    """A sentence on the classes that have no IoU; empty if there are none."""
    absent = [found["name"] for found in record["classes"] if found["iou"] is None]
    return f"In neither truth nor prediction, and not in the means: {', '.join(absent)}." if absent else ""


def headline_scores(record: Mapping[str, Any]) -> Iterator[tuple[Metric, str | None, float | None]]:
    """The headline metrics: row of the table, name of the class (`None` for all together), and value."""
    for metric in METRICS:
        if metric.is_headline:
            yield metric, None, record.get(metric.key)
    for metric in CLASS_METRICS:
        if metric.is_headline:
            yield from ((metric, found["name"], found.get(metric.key)) for found in record["classes"])


def format_result(result: EvaluationResult, id2label: Mapping[int, str]) -> str:
    """The result as text for a terminal."""
    record = make_record(result, id2label)
    lines = [_plain_table(class_table(record))]
    means = "  ".join(f"{label} {format_cell(value)}" for label, value in summary_table(record).rows)
    images = f"{result.num_images:,} image{'s' * (result.num_images != 1)}"
    lines += [absent_classes(record), f"{means}  ({images})"]
    if (faults := fault_table(record)) is not None:
        lines.append(_plain_table(faults))
    return "\n".join(filter(None, lines))


def _plain_table(table: Table) -> str:
    """A table of one column of names and others of numbers as text."""
    cells = pd.DataFrame([[format_cell(cell) for cell in row] for row in table.rows], columns=list(table.headers))
    alignment = ["left"] + ["right"] * (len(table.headers) - 1)
    return cells.to_markdown(index=False, tablefmt="plain", colalign=alignment, disable_numparse=True)


def example_picture(example: Example, id2label: Mapping[int, str]) -> Picture:
    """Image (of a pair both), truth and prediction in a row."""
    nothing = np.full(example.ids.shape, IGNORE_INDEX)
    images = [("image", example.image)]
    if example.visible is not None:
        images = [("infrared", example.image), ("visible", example.visible)]
    panels = [(title, overlay_picture(image, nothing, id2label)) for title, image in images]
    for title, ids in (("truth", example.ids), ("prediction", example.predicted_ids)):
        panels.append((title, overlay_picture(example.image, ids, id2label, with_legend=True)))
    picture = side_by_side(panels)
    picture.thumbnail((LONGEST_PICTURE_SIDE, LONGEST_PICTURE_SIDE))
    caption = f"{os.path.basename(example.name)}: {MAIN_METRIC.label} {format_cell(example.mean_iou)}"
    return Picture(picture, caption, alt=f"Image, truth and prediction of {caption}")


def confusion_matrix_figure(confusion_matrix: np.ndarray, id2label: Mapping[int, str]) -> "Figure":
    """
    Plots how the pixels of each class were classified.

    Args:
        confusion_matrix: Pixel counts, `(num_labels, num_labels)`, rows truth, columns prediction.
        id2label: Names of the classes.

    Returns:
        `matplotlib.figure.Figure`: Each row is in percent of the pixels of its class. Rows without pixels are empty.
    """
    from matplotlib.figure import Figure

    classes = len(confusion_matrix)
    totals = confusion_matrix.sum(axis=1, keepdims=True)
    percent = np.divide(100.0 * confusion_matrix, totals, out=np.full((classes, classes), np.nan), where=totals > 0)
    side = min(2 + 0.6 * classes, 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    names = [id2label[index] for index in range(classes)]
    axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if classes <= 30:  # more numbers would not be legible
        for row, column in zip(*np.nonzero(np.isfinite(percent))):
            value = percent[row, column]
            colour = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(shown, ax=axes, label="percent of the class's pixels", shrink=0.8)
    return figure


def write_results(
    output_dir: str | os.PathLike,
    result: EvaluationResult,
    id2label: Mapping[int, str],
    details: Mapping[str, Any],
    title: str = "Evaluation",
) -> None:
    """
    Writes `results.json` with all numbers, and `report.html` to look at.

    Args:
        output_dir: Folder; other files in it stay.
        result: What [`evaluate_dataset`] returned.
        id2label: Names of the classes.
        details: What the numbers depend on (checkpoint, dataset, settings, versions). Both files hold it as it is.
        title: Title of the report.

    Raises:
        OSError: if the files cannot be written.
    """
    record = make_record(result, id2label)
    blocks: list[Block] = [summary_table(record)]
    if (faults := fault_table(record)) is not None:
        blocks += [Heading("If the auxiliary image fails"), faults, Text(FAULTS_TEXT)]
    blocks += [Heading("Classes"), class_table(record)]
    if absent_classes(record):
        blocks.append(Text(absent_classes(record)))
    caption = "Rows: true class; columns: what was predicted there, in percent of the row's pixels."
    figure = confusion_matrix_figure(result.confusion_matrix, id2label)
    blocks += [Heading("Confusion matrix"), Picture(figure, caption, alt=f"Confusion matrix. {caption}")]
    for heading, examples in (("Worst images", result.worst), ("Best images", result.best)):
        if examples:
            blocks += [Heading(heading), *(example_picture(example, id2label) for example in examples)]
    settings = [
        [name, "none" if value is None else str(value)]
        for name, value in _flattened({**details, "num_images": result.num_images})
    ]
    blocks += [Heading("Settings"), Table(["name", "value"], settings)]
    with write_whole(output_dir) as staged:
        staged.mkdir()
        text = json.dumps({**details, **record}, indent=2, allow_nan=False)
        (staged / "results.json").write_text(text + "\n", encoding="utf-8")
        write_report(staged / "report.html", title, blocks)


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_eval_results(
    record: Mapping[str, Any],
    dataset: str,
    split: str,
    dataset_config: str | None = None,
    dataset_name: str | None = None,
    settings: dict[str, Any] | None = None,
) -> list[EvalResult]:
    """
    Entries of a model card's model index: the headline metrics of the images and of each class, 0 to 1. What is
    undefined is left out.

    Args:
        record: What [`make_record`] returns, or the content of `results.json`.
        dataset: Name of the dataset.
        split: The split that was evaluated.
        dataset_config: Which of several datasets of that name, e.g. the folder.
        dataset_name: What readers see; by default the configuration or the name.
        settings: What else the numbers depend on.
    """
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=dataset,
            dataset_name=dataset_name or dataset_config or dataset,
            dataset_config=dataset_config,
            dataset_split=split,
            metric_type=metric.key,
            metric_name=f"{metric.label[0].upper()}{metric.label[1:]}" + (f" of {name}" if name is not None else ""),
            metric_value=value,
            metric_args=settings,
        )
        for metric, name, value in headline_scores(record)
        if value is not None
    ]


def update_model_card(
    folder: str | os.PathLike,
    result: EvaluationResult,
    id2label: Mapping[int, str],
    dataset: str,
    split: str,
    dataset_config: str | None = None,
) -> Path:
    """
    Writes the headline metrics into the model index of a checkpoint's `README.md`, which is made if there is none.
    Earlier numbers of the same dataset and split are replaced. Everything else in the file stays.

    Args:
        folder: Folder of the checkpoint.
        result: What [`evaluate_dataset`] returned.
        id2label: Names of the classes.
        dataset: Name of the dataset.
        split: The split that was evaluated.
        dataset_config: Which of several datasets of that name, e.g. the folder.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the metadata in the file is not valid.
    """
    path = Path(folder) / "README.md"
    name = path.resolve().parent.name
    with lock(Path(folder), wait=True):  # numbers that another evaluation adds just now are not lost
        if path.is_file():
            card = load_card(path)
        else:
            new_data = ModelCardData(library_name="transformers", pipeline_tag="image-segmentation", tags=["infrared"])
            card = ModelCard(f"---\n{new_data.to_yaml()}\n---\n\n# {name}\n\n{CARD_TEXT}\n")
        data: Any = card.data
        replaced = ("image-segmentation", dataset, dataset_config, split)
        data.eval_results = [
            earlier
            for earlier in data.eval_results or []
            if (earlier.task_type, earlier.dataset_type, earlier.dataset_config, earlier.dataset_split) != replaced
        ] + to_eval_results(make_record(result, id2label), dataset, split, dataset_config)
        data.model_name = data.model_name or name
        with write_whole(path) as staged:
            card.save(staged)
    return path


def load_card(path: Path) -> ModelCard:
    """
    Reads a model card.

    Raises:
        ValueError: if its metadata is not valid.
    """
    try:
        return ModelCard.load(path)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata at the top of {str(path)!r} is not valid: {error}") from error


__all__ = [
    "CARD_TEXT",
    "absent_classes",
    "class_table",
    "confusion_matrix_figure",
    "fault_table",
    "format_result",
    "headline_scores",
    "load_card",
    "make_record",
    "summary_table",
    "to_eval_results",
    "update_model_card",
    "write_results",
]
