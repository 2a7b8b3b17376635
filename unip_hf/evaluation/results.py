# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Writes what an evaluation found: a table, `results.json`, `report.html`, and the metadata of a model card."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.reading import IGNORE_INDEX
from ..files import write_whole
from ..pictures import overlay_picture, side_by_side
from .confusion_matrix import confusion_matrix_figure
from .evaluator import EvaluationResult, Example
from .reports import Block, Heading, Picture, Table, Text, format_cell, write_report


SUMMARY = {
    "mean_iou": "mean IoU",
    "mean_accuracy": "mean accuracy",
    "overall_accuracy": "overall accuracy",
    "mean_dice": "mean Dice",
}
CARD_TEXT = "Segments infrared images."  # of a new card, below its heading
LONGEST_PICTURE_SIDE = 1920  # pixels; keeps the report small


def class_table(result: EvaluationResult, id2label: Mapping[int, str]) -> Table:
    """Name, IoU, accuracy, Dice and share of the labelled pixels of each class; `None` where undefined."""
    shares = result.confusion_matrix.sum(axis=1) / max(result.confusion_matrix.sum(), 1)
    columns = [result.metrics[f"per_category_{name}"] for name in ("iou", "accuracy", "dice")] + [shares]
    rows = [
        [id2label[index], *(None if math.isnan(column[index]) else float(column[index]) for column in columns)]
        for index in range(len(id2label))
    ]
    return Table(["class", "IoU", "accuracy", "Dice", "share of pixels"], rows)


def summary_table(result: EvaluationResult) -> Table:
    """The means over all classes that occur."""
    return Table(["", "value"], [[label, result.metrics[name]] for name, label in SUMMARY.items()])


def absent_classes(result: EvaluationResult, id2label: Mapping[int, str]) -> str:
    """A sentence on the classes that have no IoU; empty if there are none."""
    absent = [id2label[index] for index, iou in enumerate(result.metrics["per_category_iou"]) if math.isnan(iou)]
    return f"In neither truth nor prediction, and not in the means: {', '.join(absent)}." if absent else ""


def format_table(table: Table) -> str:
    """A table as lines of text."""
    cells = [list(table.headers), *([format_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths))
        )
        for row in cells
    )


def format_result(result: EvaluationResult, id2label: Mapping[int, str]) -> str:
    """The result as text for a terminal."""
    parts = [format_table(class_table(result, id2label)), absent_classes(result, id2label)]
    means = "  ".join(f"{label} {format_cell(result.metrics[name])}" for name, label in SUMMARY.items())
    return "\n".join(
        [*filter(None, parts), f"{means}  ({result.num_images:,} image{'' if result.num_images == 1 else 's'})"]
    )


def example_picture(example: Example, id2label: Mapping[int, str]) -> Picture:
    """Image, truth and prediction in a row."""
    panels = [("image", overlay_picture(example.image, np.full(example.ids.shape, IGNORE_INDEX), id2label))]
    for title, ids in (("truth", example.ids), ("prediction", example.predicted_ids)):
        panels.append((title, overlay_picture(example.image, ids, id2label, with_legend=True)))
    picture = side_by_side(panels)
    picture.thumbnail((LONGEST_PICTURE_SIDE, LONGEST_PICTURE_SIDE))
    caption = f"{os.path.basename(example.name)}: mean IoU {format_cell(example.mean_iou)}"
    return Picture(picture, caption, alt=f"Image, truth and prediction of {caption}")


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
        details: What the numbers depend on (checkpoint, dataset, settings, versions); goes into both files as it is.
        title: Of the report.

    Raises:
        OSError: if the files cannot be written.
    """
    table = class_table(result, id2label)
    names = ("name", "iou", "accuracy", "dice", "share_of_pixels")
    values = {name: result.metrics[name] for name in SUMMARY}
    record = {
        **details,
        "num_images": result.num_images,
        **{name: None if math.isnan(value) else value for name, value in values.items()},
        "classes": [{"id": index, **dict(zip(names, row))} for index, row in enumerate(table.rows)],
        "confusion_matrix": result.confusion_matrix.tolist(),
    }
    blocks: list[Block] = [summary_table(result), Heading("Classes"), table]
    if absent_classes(result, id2label):
        blocks.append(Text(absent_classes(result, id2label)))
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
        (staged / "results.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        write_report(staged / "report.html", title, blocks)


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_eval_results(
    means: Mapping[str, float | None],
    class_iou: Mapping[str, float | None],
    dataset: str,
    split: str,
    dataset_config: str | None = None,
    dataset_name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[EvalResult]:
    """
    Entries of a model card's model index: mean IoU, mean and overall accuracy, and the IoU of each class, 0 to 1.
    What is undefined, `None` or NaN, is left out.

    Args:
        means: `mean_iou`, `mean_accuracy`, `overall_accuracy`; others are not used.
        class_iou: By the name of the class.
        dataset: Name of the dataset.
        split: That was evaluated.
        dataset_config: Which of several datasets of that name, e.g. the folder.
        dataset_name: What readers see, by default the configuration or the name.
        settings: What the numbers depend on besides.
    """
    values = [(name, SUMMARY[name], means[name]) for name in ("mean_iou", "mean_accuracy", "overall_accuracy")]
    values += [("iou", f"IoU of {label}", iou) for label, iou in class_iou.items()]
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=dataset,
            dataset_name=dataset_name or dataset_config or dataset,
            dataset_config=dataset_config,
            dataset_split=split,
            metric_type=metric,
            metric_name=label[0].upper() + label[1:],
            metric_value=float(value),
            metric_args=None if settings is None else dict(settings),
        )
        for metric, label, value in values
        if value is not None and not math.isnan(value)
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
    Writes mean IoU, mean and overall accuracy, and the IoU of each class into the model index of a checkpoint's
    `README.md`, which is made if there is none. Earlier numbers of the same dataset and split are replaced; all else
    in the file stays.

    Args:
        folder: Of the checkpoint.
        result: What [`evaluate_dataset`] returned.
        id2label: Names of the classes.
        dataset: Name of the dataset.
        split: That was evaluated.
        dataset_config: Which of several datasets of that name, e.g. the folder.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the metadata in the file is not valid.
    """
    path = Path(folder) / "README.md"
    class_iou = {id2label[index]: iou for index, iou in enumerate(result.metrics["per_category_iou"])}
    new = to_eval_results(result.metrics, class_iou, dataset, split, dataset_config)
    name = path.resolve().parent.name
    if path.is_file():
        card = load_card(path)
    else:
        new_data = ModelCardData(library_name="transformers", pipeline_tag="image-segmentation", tags=["infrared"])
        card = ModelCard(f"---\n{new_data.to_yaml()}\n---\n\n# {name}\n\n{CARD_TEXT}\n")
    data: Any = card.data
    where: dict[str, Any] = {
        "task_type": "image-segmentation",
        "dataset_type": dataset,
        "dataset_config": dataset_config,
        "dataset_split": split,
    }
    kept = [
        earlier
        for earlier in data.eval_results or []
        if any(getattr(earlier, field) != value for field, value in where.items())
    ]
    data.model_name = data.model_name or name
    data.eval_results = kept + new
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
    "format_result",
    "format_table",
    "load_card",
    "to_eval_results",
    "update_model_card",
    "write_results",
]
