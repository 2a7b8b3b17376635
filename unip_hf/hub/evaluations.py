# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The evaluations of a checkpoint: which `results.json` belong to its weights, and what they say."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.results import SUMMARY, to_eval_results
from .data_facts import DataFacts, data_facts
from .runs import path_name


NEEDED = ("dataset", "split", "num_images", "settings", "classes", *SUMMARY)


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
        if missing or not all(
            {"name", "iou", "accuracy", "dice", "share_of_pixels"} <= set(c) for c in record["classes"]
        ):
            raise ValueError(f"it has no {missing or 'numbers of its classes'}")
    except (ValueError, TypeError) as error:
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
    hidden = {name: path_name(record[name]) for name in ("checkpoint", "data_dir") if record.get(name)}
    return {**record, **hidden}


def evaluation_results(records: Sequence[dict[str, Any]]) -> list[EvalResult]:
    """
    Entries of the model index; their values are those of the files, to the last digit. Of several evaluations of the
    same images they say how each was made.
    """
    results = []
    for record in records:
        facts = evaluated_data(record)
        same = [other for other in records if evaluation_name(other) == evaluation_name(record)]
        results += to_eval_results(
            record,
            {found["name"]: found["iou"] for found in record["classes"]},
            record["dataset"],
            record["split"],
            facts.name if record["dataset"] == "folder" else record.get("dataset_config"),
            facts.title,
            {"inference": describe_settings(record)} if len(same) > 1 else None,
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
