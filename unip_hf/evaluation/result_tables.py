# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Finished runs of `unip finetune` as the paper's tables: mean IoU by data set and size, and by block."""

import csv
import io
import json
import re
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..modeling.configuration_unip import UNIP_SIZES
from .reports import Table


TASKS = ("fine-tuning", "linear probing", "layer-wise linear probing")
SIZES = {width: name for name, (width, _, _) in UNIP_SIZES.items()}
# Data set and configuration: what the paper calls them, and the images that it reports.
COLUMNS: dict[tuple[str, str | None], tuple[str, str]] = {
    ("soda", "segmentation_class_png"): ("SODA", "test"),
    ("mfnet", "thermal"): ("MFNet-T", "validation+test"),
    ("scut-seg", "raw"): ("SCUT-Seg", "validation"),
    ("scut-seg", "converted"): ("SCUT-Seg", "validation"),
    ("mfnet", "rgb"): ("MFNet-RGB", "validation+test"),
    ("nyuv2-depth", "depth"): ("NYUv2 depth", "test"),
    ("sun-rgbd-depth", "depth"): ("SUN RGB-D depth", "test"),
    ("ade20k", "rgb"): ("ADE20K", "validation"),
}
AVERAGED = ("SODA", "MFNet-T", "SCUT-Seg")
AVERAGE = "average"
# Options that place a run in a table, or that several runs of one place may differ in.
PLACING_OPTIONS = {
    "allow_partial", "dataset", "dataset_config", "layerwise_probe", "linear_probe", "seed", "validation_split",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """
    A finished run.

    Args:
        folder: Where it lies.
        task: One of [`TASKS`].
        method: Name of the checkpoint that it started from, without the size.
        size: `"tiny"`, `"small"`, `"base"`, `"large"`; of other networks the width, or empty.
        dataset: As the paper calls it, with the split if it is not the one that the paper reports.
        mean_iou: 0..1, by block (from 1); of a whole network under `None`.
        options: What the run was started with.
    """

    folder: Path
    task: str
    method: str
    size: str
    dataset: str
    mean_iou: dict[int | None, float]
    options: dict[str, Any]


@dataclass(frozen=True)
class Score:
    """
    A cell of a table.

    Args:
        task, method, size, dataset: As in [`Run`]; the data set may be `"average"`.
        block: From 1, for layer-wise probing.
        mean_iou: 0..1, the mean over all runs of this cell.
        deviation: Standard deviation of a single run; `None` of one run and of averages.
        num_runs: How many runs are in it.
    """

    task: str
    method: str
    size: str
    dataset: str
    block: int | None
    mean_iou: float
    deviation: float | None
    num_runs: int


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """
    All folders with a `run.json`, at any depth, each once.

    Raises:
        FileNotFoundError: if a folder does not exist.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder '{folder}'.")
        for file in sorted(folder.rglob("run.json")):
            found.setdefault(file.parent.resolve(), file.parent)
    return list(found.values())


def read_run(folder: Path, which: str = "best") -> Run:
    """
    Reads what a run left: `run.json`, `metrics.jsonl` and `best/config.json`.

    Args:
        folder: Of the run.
        which: `"best"`, the highest mean IoU of all evaluations, of each block for itself; or `"last"`, that of the
            end of the training.

    Raises:
        OSError, ValueError: if the run is unfinished, a file is missing or damaged, or another command made it; the
            message names the folder or the file.
    """
    record = _read_json(folder / "run.json")
    options = record.get("options") if isinstance(record, dict) else None
    names = ("model", "dataset", "validation_split")
    if not isinstance(options, dict) or not all(isinstance(options.get(name), str) for name in names):
        raise ValueError(f"'{folder}' is no run of `unip finetune`.")
    num_steps = record.get("num_steps") or options.get("num_steps")
    if not num_steps or not isinstance(num_steps, int):
        raise ValueError(f"'{folder / 'run.json'}' does not say how many steps the run has.")
    lines = read_metrics(folder / "metrics.jsonl")
    last_step = max((line["step"] for line in lines), default=0)
    if last_step < num_steps:
        raise ValueError(f"'{folder}' is unfinished: step {last_step} of {num_steps}.")
    evaluations = [line for line in lines if "mean_iou" in line]
    if not evaluations:
        raise ValueError(f"'{folder}' was trained without being evaluated.")
    if evaluations[-1]["step"] < num_steps:
        raise ValueError(f"'{folder}' is unfinished: the model of step {num_steps} was not evaluated.")

    is_layerwise = bool(options.get("layerwise_probe"))
    pattern = r"mean_iou/block_(\d+)" if is_layerwise else r"mean_iou()"
    values: dict[int | None, list[float]] = {}
    for line in evaluations if which == "best" else evaluations[-1:]:
        for name, value in line.items():
            match = re.fullmatch(pattern, name)
            if match and value is not None:  # undefined where no class occurred
                values.setdefault(int(match[1]) if match[1] else None, []).append(value)
    if not values:
        raise ValueError(f"The mean IoU in '{folder / 'metrics.jsonl'}' is undefined.")
    config = _read_json(folder / "best" / "config.json")
    if not isinstance(config, dict):
        raise ValueError(f"'{folder / 'best' / 'config.json'}' is damaged: it holds no settings.")
    width = config.get("hidden_size")
    size = SIZES.get(width or 0, "" if width is None else f"width {width}")
    return Run(
        folder=folder,
        task=TASKS[2 if is_layerwise else 1 if options.get("linear_probe") else 0],
        method=method_name(options["model"], size),
        size=size,
        dataset=_dataset_title(options),
        mean_iou={block: max(of_block) for block, of_block in sorted(values.items(), key=lambda item: item[0] or 0)},
        options=options,
    )


def method_name(model: str, size: str) -> str:
    """
    What a row is called: the last part of a checkpoint's path without the word for its size, so that all sizes of a
    method share a row, `"models/unip-small-mae-large"` and `"small"`: `"unip-mae-large"`.
    """
    if model == size:
        return "random start"
    path = Path(model)
    name = path.parent.name if path.name in ("best", "last") else path.name
    without = re.sub(rf"(^|[-_.]){size}(?=[-_.]|$)", "", name, count=1, flags=re.IGNORECASE) if size else name
    return without.strip("-_.") or name or model


def collect_scores(runs: Iterable[Run], ignored_options: Collection[str] = ()) -> list[Score]:
    """
    The cells of the tables. Runs that differ in the seed alone share a cell; if they differ in other options, too,
    each kind gets a row of its own that says in what. Where SODA, MFNet-T and SCUT-Seg are all there, a cell of the
    data set `"average"` follows.

    Args:
        runs: What [`read_run`] returned.
        ignored_options: Names of options that do not change what is computed.
    """
    places: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        places.setdefault((run.task, run.method, run.size, run.dataset), []).append(run)
    cells: dict[tuple[str, str, str, str, int | None], list[float]] = {}
    for of_place in places.values():
        for run in _named_by_difference(of_place, {*ignored_options, *PLACING_OPTIONS}):
            for block, mean_iou in run.mean_iou.items():
                cells.setdefault((run.task, run.method, run.size, run.dataset, block), []).append(mean_iou)
    scores = [
        Score(*key, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
        for key, values in cells.items()
    ]
    return scores + _averages(scores)


def tables_to_markdown(scores: Sequence[Score]) -> str:
    """The tables of [`collect_scores`] in Markdown, mean IoU in percent."""
    parts = []
    for task in TASKS:
        of_task = [score for score in scores if score.task == task]
        if of_task:
            title = f"**{task[0].upper()}{task[1:]}**, mean IoU in percent"
            if task == TASKS[2]:
                parts.append(f"{title}, by block\n\n{_markdown(_layer_table(of_task), num_text_columns=3)}")
            else:
                parts.append(f"{title}\n\n{_markdown(_main_table(of_task), num_text_columns=1)}")
    if any(score.deviation is not None for score in scores):
        parts.append("± is the standard deviation, followed by the number of runs.\n")
    return "\n".join(parts)


def scores_to_csv(scores: Iterable[Score]) -> str:
    """The cells of [`collect_scores`] as CSV, one a line, mean IoU in percent."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["task", "method", "size", "dataset", "block", "mean_iou_percent", "deviation_percent", "runs"])
    for score in scores:
        deviation = None if score.deviation is None else f"{100 * score.deviation:.4f}"
        place = [score.task, score.method, score.size, score.dataset, score.block]
        writer.writerow([*place, f"{100 * score.mean_iou:.4f}", deviation, score.num_runs])
    return file.getvalue()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged: {error}.") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """
    The lines of a run's `metrics.jsonl`: `step`, and what was measured there. None where nothing was logged yet.

    Raises:
        ValueError: if a line is damaged; the message names it.
    """
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines  # nothing was logged yet
    for number, text in enumerate(path.read_text().splitlines(keepends=True), start=1):
        if not text.endswith("\n"):
            break  # the process was killed while it wrote
        try:
            line = json.loads(text)
            scores = [value for name, value in line.items() if name.startswith("mean_iou") and value is not None]
            if not isinstance(line["step"], int) or not all(0 <= score <= 1 for score in scores):
                raise ValueError("no step, or a mean IoU outside 0..1")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' is damaged in line {number}: {error}.") from error
        lines.append(line)
    return lines


def _dataset_title(options: dict[str, Any]) -> str:
    name, config = options["dataset"], options.get("dataset_config")
    split = options["validation_split"]
    if config is None:  # the default is the first
        config = next((known for dataset, known in COLUMNS if dataset == name), None)
    if name == "folder":
        name = Path(options.get("data_dir") or name).name
    title, reported_split = COLUMNS.get((name, config)) or (" ".join(filter(None, (name, config))), "validation")
    notes = [split] * (split != reported_split) + ["partial"] * bool(options.get("allow_partial"))
    return f"{title} ({', '.join(notes)})" if notes else title


def _named_by_difference(runs: list[Run], ignored_options: Collection[str]) -> list[Run]:
    """Runs whose method says in which options they differ, if they do."""
    compared = set.intersection(*(set(run.options) for run in runs)) - set(ignored_options)
    if runs[0].options["dataset"] != "folder":  # a benchmark is the same wherever it lies
        compared -= {"data_dir"}
    different = sorted(name for name in compared if any(run.options[name] != runs[0].options[name] for run in runs))
    if not different:
        return runs
    return [
        replace(run, method=f"{run.method} ({', '.join(f'{name} {run.options[name]}' for name in different)})")
        for run in runs
    ]


def _averages(scores: Sequence[Score]) -> list[Score]:
    rows: dict[tuple[str, str, str], dict[str, Score]] = {}
    for score in scores:
        if score.block is None:
            rows.setdefault((score.task, score.method, score.size), {})[score.dataset] = score
    averages = []
    for key, row in rows.items():
        if set(AVERAGED) <= row.keys():
            three = [row[title] for title in AVERAGED]
            mean_iou = statistics.fmean(score.mean_iou for score in three)
            averages.append(Score(*key, AVERAGE, None, mean_iou, None, sum(score.num_runs for score in three)))
    return averages


def _main_table(scores: Sequence[Score]) -> Table:
    """One row for each method, one column for each data set and size."""
    columns = sorted(
        {(score.dataset, score.size) for score in scores},
        key=lambda column: (_place(column[0], [*AVERAGED]), _place(column[1], [*UNIP_SIZES])),
    )
    cells = {(score.method, score.dataset, score.size): _format(score) for score in scores}
    methods = dict.fromkeys(score.method for score in scores)
    rows = [[method, *(cells.get((method, *column), "") for column in columns)] for method in methods]
    return Table(["method", *(f"{dataset} {_letter(size)}".strip() for dataset, size in columns)], rows)


def _layer_table(scores: Sequence[Score]) -> Table:
    """One row for each method, size and data set, one column for each block."""
    blocks = sorted({score.block for score in scores if score.block is not None})
    cells = {(score.method, score.size, score.dataset, score.block): _format(score) for score in scores}
    places = dict.fromkeys((score.method, score.size, score.dataset) for score in scores)
    rows = [[*place, *(cells.get((*place, block), "") for block in blocks)] for place in places]
    return Table(["method", "size", "data set", *map(str, blocks)], rows)


def _place(name: str, known: list[str]) -> tuple[int, str]:
    """Where a name is sorted: known ones first and in their order, averages last."""
    return (known.index(name) if name in known else len(known) + (name == AVERAGE), name)


def _letter(size: str) -> str:
    return size[0].upper() if size in UNIP_SIZES else size


def _format(score: Score) -> str:
    if score.deviation is None:
        return f"{100 * score.mean_iou:.2f}"
    return f"{100 * score.mean_iou:.2f} ± {100 * score.deviation:.2f} ({score.num_runs})"


def _markdown(table: Table, num_text_columns: int) -> str:
    """Text on the left, numbers on the right."""
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in (table.headers, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths)][:num_text_columns]
        padded += [cell.rjust(width) for cell, width in zip(row, widths)][num_text_columns:]
        lines.append(" | ".join(padded))
    rule = ["-" * width for width in widths[:num_text_columns]]
    rule += ["-" * (width - 1) + ":" for width in widths[num_text_columns:]]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join(rule), *lines[1:])) + "\n"


__all__ = [
    "Run",
    "Score",
    "collect_scores",
    "find_runs",
    "method_name",
    "read_metrics",
    "read_run",
    "scores_to_csv",
    "tables_to_markdown",
]
