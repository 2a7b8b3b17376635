# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The evaluations of a checkpoint: which `results.json` belong to its weights, and what they say."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.results import SUMMARY, to_eval_results
from .data_facts import DataFacts, data_facts
from .training_run import without_folders


NEEDED = ("dataset", "split", "num_images", "settings", "classes", *SUMMARY)
CLASS_COLUMNS = ("iou", "accuracy", "dice", "share_of_pixels")


def read_evaluation(path: Path) -> dict[str, Any]:
    """
    What `unip evaluate` wrote.

    Args:
        path: `results.json`, or its folder.

    Raises:
        OSError: if there is none.
        ValueError: if it is damaged.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no '{file}': `unip evaluate` writes it.")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        missing = [name for name in NEEDED if name not in record]
        if missing or not all({"name", *CLASS_COLUMNS} <= set(found) for found in record["classes"]):
            raise ValueError(f"it has no {missing or 'numbers of its classes'}")
        numbers = [record[name] for name in SUMMARY]
        numbers += [found[column] for found in record["classes"] for column in CLASS_COLUMNS]
        if not all(value is None or (isinstance(value, (int, float)) and math.isfinite(value)) for value in numbers):
            raise ValueError("a result is no number")
        window = record["settings"].get("window_size")
        if not all(isinstance(value, int) for value in (record["num_images"], window or 0)):
            raise ValueError("a size is no whole number")
        describe_settings(record)
        evaluation_name(record)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"'{file}' is damaged, or `unip evaluate` did not write it: {error}.") from error
    return record


def find_evaluations(
    checkpoint: Path, fingerprint: str, named: Sequence[Path] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    The evaluations of a checkpoint: those named, those in its folders `evaluation*`, and those beside it.

    Args:
        checkpoint: Folder.
        fingerprint: Of its weights and settings, as `unip evaluate` writes it down.
        named: Further `results.json`, or their folders.

    Returns:
        What the files hold, and a sentence on each one that was found but measured with other weights.

    Raises:
        OSError, ValueError: if a file is damaged, or one that is named was measured with other weights.
    """
    checkpoint = checkpoint.resolve()
    found = [path for folder in (checkpoint, checkpoint.parent) for path in folder.glob("evaluation*/results.json")]
    records: list[dict[str, Any]] = []
    left_out = []
    for path in [*named, *sorted(found)]:
        try:
            record = read_evaluation(path)
            if record.get("fingerprint") != fingerprint:
                which = (
                    "was measured with other weights" if "fingerprint" in record else "does not say of which weights"
                )
                raise ValueError(f"'{path}' {which}: evaluate this checkpoint again to have its numbers in the card.")
        except ValueError as error:
            if path in named:
                raise
            left_out.append(str(error))
            continue
        if record not in records:
            records.append(record)
    return records, left_out


def evaluated_data(record: dict[str, Any]) -> DataFacts:
    """The data that an evaluation was made on."""
    return data_facts(record["dataset"], record.get("data_dir"), record.get("dataset_config"))


def evaluation_name(record: dict[str, Any]) -> str:
    """`"soda-test"`, for a file."""
    parts = (evaluated_data(record).name, record.get("dataset_config"), record["split"])
    return "-".join("".join(c if c.isalnum() or c in "-_." else "_" for c in part) for part in parts if part)


def public_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the folders of the machine."""
    names = [name for name in ("checkpoint", "data_dir") if record.get(name)]
    return {**record, **{name: without_folders(record[name], name == "checkpoint") for name in names}}


def evaluation_results(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> list[EvalResult]:
    """
    Entries of the model index; their values are those of the files, to the last digit. Of several evaluations of the
    same images they say how each was made, and which file it is where that does not tell them apart.

    Args:
        evaluations: File name in the repository and content of each.
    """
    results = []
    for file, record in evaluations:
        facts, settings = evaluated_data(record), describe_settings(record)
        same = [describe_settings(r) for _, r in evaluations if evaluation_name(r) == evaluation_name(record)]
        how = {"inference": settings} if len(same) > 1 else None
        if how is not None and same.count(settings) > 1:
            how["file"] = file
        results += to_eval_results(
            record,
            {found["name"]: found["iou"] for found in record["classes"]},
            record["dataset"],
            record["split"],
            facts.name if record["dataset"] == "folder" else record.get("dataset_config"),
            facts.title,
            how,
        )
    return results


def describe_settings(record: dict[str, Any]) -> str:
    """How the images were gone over, in words."""
    settings = record["settings"]
    window = settings.get("window_size")
    parts = [f"windows of {window} pixels, {settings.get('stride')} apart" if window else "whole images"]
    parts += ["averaged with the mirrored image"] if settings.get("flip") else []
    if settings.get("scales") not in (None, [1.0]):
        parts.append(f"averaged over the scales {', '.join(f'{scale:g}' for scale in settings['scales'])}")
    precision = record.get("mixed_precision", "no")
    return ", ".join(parts) + ("" if precision == "no" else f"; {precision}")


__all__ = [
    "describe_settings",
    "evaluated_data",
    "evaluation_name",
    "evaluation_results",
    "find_evaluations",
    "public_record",
    "read_evaluation",
]
