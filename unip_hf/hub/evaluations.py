# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The evaluations of a checkpoint: which `results.json` belong to its weights, and what they say."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.results import to_eval_results
from ..files import read_json
from .public_names import data_facts, without_folders


def read_evaluation(path: Path, fingerprint: str) -> dict[str, Any]:
    """
    Reads what `unip evaluate` wrote.

    Args:
        path: `results.json`, or its folder.
        fingerprint: Fingerprint of the weights and settings that it must have been measured with.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is damaged, or was measured with other weights.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no '{file}': `unip evaluate` writes it.")
    try:
        record = read_json(file)
        measured_with = record["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{file}' is damaged, or `unip evaluate` did not write it.") from error
    if measured_with != fingerprint:
        raise ValueError(
            f"'{file}' was measured with other weights or settings. Evaluate this checkpoint again to have its "
            "numbers in the card."
        )
    return record


def find_evaluations(
    checkpoint: Path, fingerprint: str, named: Sequence[Path] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    The evaluations of a checkpoint: the named ones, and those in folders `evaluation*` in it and beside it.

    Args:
        checkpoint: Folder.
        fingerprint: Fingerprint of its weights and settings.
        named: Further `results.json`, or their folders.

    Returns:
        The content of the files, and a sentence on each file that was found but cannot be used.

    Raises:
        OSError, ValueError: if a named file cannot be used.
    """
    records = [read_evaluation(path, fingerprint) for path in named]
    left_out = []
    checkpoint = checkpoint.resolve()
    found = [path for folder in (checkpoint, checkpoint.parent) for path in folder.glob("evaluation*/results.json")]
    for path in sorted(found):
        try:
            records.append(read_evaluation(path, fingerprint))
        except ValueError as error:
            left_out.append(str(error))
    return [record for number, record in enumerate(records) if record not in records[:number]], left_out


def evaluation_name(record: dict[str, Any]) -> str:
    """`"soda-test"`, for the name of a file."""
    parts = (data_facts(record).name, record.get("dataset_config"), record["split"])
    return "-".join(re.sub(r"[^\w.-]", "_", part) for part in parts if part)


def public_record(record: dict[str, Any]) -> dict[str, Any]:
    """The content of `results.json` without the folders of this machine."""
    folders = {name: without_folders(record.get(name), name == "checkpoint") for name in ("checkpoint", "data_dir")}
    return {**record, **folders}


def evaluation_results(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> list[EvalResult]:
    """
    Entries of the model index, with the very numbers of the files. Where the same images were evaluated several times,
    they say how, and, if that does not tell the evaluations apart, in which file the numbers are.

    Args:
        evaluations: File name in the repository and content of each.
    """
    results = []
    for file, record in evaluations:
        facts, settings = data_facts(record), describe_settings(record)
        same = [describe_settings(r) for _, r in evaluations if evaluation_name(r) == evaluation_name(record)]
        how = {"inference": settings} if len(same) > 1 else None
        if how is not None and same.count(settings) > 1:
            how["file"] = file
        dataset, split = record["dataset"], record["split"]
        config = facts.name if dataset == "folder" else record.get("dataset_config")
        results += to_eval_results(record, dataset, split, config, facts.title, how)
    return results


def describe_settings(record: dict[str, Any]) -> str:
    """How the images were segmented, in words."""
    settings = record["settings"]
    window = settings["window_size"]
    parts = [f"windows of {window} pixels, {settings['stride']} apart" if window else "whole images"]
    if settings["flip"]:
        parts.append("averaged with the mirrored image")
    if settings["scales"] != [1.0]:
        parts.append(f"averaged over the scales {', '.join(f'{scale:g}' for scale in settings['scales'])}")
    precision = record.get("mixed_precision", "no")
    return ", ".join(parts) + ("" if precision == "no" else f"; {precision}")


__all__ = [
    "describe_settings",
    "evaluation_name",
    "evaluation_results",
    "find_evaluations",
    "public_record",
    "read_evaluation",
]
