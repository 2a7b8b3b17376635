# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Finished runs of `unip finetune` as the tables of the paper: mean IoU by data set and size, and by block."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import read_json
from ..modeling.configuration_unip import UNIP_SIZES
from ..paper import FUSION_PAPERS
from .runs import read_training_run


TASKS = ("fine-tuning", "linear probing", "layer-wise linear probing")
SIZES = {width: name for name, (width, _, _) in UNIP_SIZES.items()}
# Data set and configuration: their name in the paper, and the split that it reports.
COLUMNS: dict[tuple[str, str | None], tuple[str, str]] = {
    ("soda", "segmentation_class_png"): ("SODA", "test"),
    ("mfnet", "thermal"): ("MFNet-T", "validation+test"),
    ("scut-seg", "raw"): ("SCUT-Seg", "validation"),
    ("scut-seg", "converted"): ("SCUT-Seg", "validation"),
    ("mfnet", "rgb"): ("MFNet-RGB", "validation+test"),
    ("nyuv2-depth", "depth"): ("NYUv2 depth", "test"),
    ("sun-rgbd-depth", "depth"): ("SUN RGB-D depth", "test"),
    ("ade20k", "rgb"): ("ADE20K", "validation"),
    ("mfnet", "both"): ("MFNet, pairs", "test"),
    ("msrs", "both"): ("MSRS, pairs", "test"),
}
AVERAGED = ("SODA", "MFNet-T", "SCUT-Seg")
AVERAGE = "average"
# Options that give a run its place in a table, or that the runs of one cell may differ in.
PLACING_OPTIONS = {
    "allow_partial", "dataset", "dataset_config", "layerwise_probe", "linear_probe", "seed", "validation_split",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """
    A finished run.

    Args:
        task: One of [`TASKS`].
        method: Name of the checkpoint that it started from, without the size, and how it reads pairs, if it does.
        size: `"tiny"`, `"small"`, `"base"` or `"large"`; the width of other networks, or empty if they have none.
        dataset: Its name in the paper, followed by the split if it is not the one that the paper reports.
        mean_iou: 0 to 1, by block (from 1); that of a whole network is under `None`.
        options: What the run was started with.
    """

    task: str
    method: str
    size: str
    dataset: str
    mean_iou: dict[int | None, float]
    options: dict[str, Any]


def read_run(folder: Path, which: str = "best") -> Run:
    """
    Reads what a run left: `run.json`, `metrics.jsonl` and `best/config.json`.

    Args:
        folder: Folder of the run.
        which: `"best"` is the highest mean IoU of all evaluations, separately for each block; `"last"` is that of the
            end of the training.

    Raises:
        OSError, ValueError: if the run is unfinished, a file is missing or damaged, or another command made it; the
            message names the folder or the file.
    """
    run = read_training_run(folder)
    options, num_steps, evaluations = run.options, run.num_planned_steps, run.evaluations
    if not all(isinstance(options.get(name), str) for name in ("model", "dataset", "validation_split")):
        raise ValueError(f"'{folder}' is not a run of `unip finetune`.")
    if not isinstance(num_steps, int):
        raise ValueError(f"'{folder / 'run.json'}' does not say how many steps the run has.")
    if (run.num_steps or 0) < num_steps:
        raise ValueError(f"'{folder}' is unfinished: step {run.num_steps or 0} of {num_steps}.")
    if not evaluations:
        raise ValueError(f"'{folder}' was trained without being evaluated.")
    if evaluations[-1]["step"] < num_steps:
        raise ValueError(f"'{folder}' is unfinished: the model of step {num_steps} was not evaluated.")

    is_layerwise = bool(options.get("layerwise_probe"))
    counted = pd.DataFrame(evaluations if which == "best" else evaluations[-1:])
    columns = counted.filter(regex=r"^mean_iou/block_\d+$" if is_layerwise else "^mean_iou$")
    highest = columns.astype(float).max().dropna()  # undefined where no class occurred
    if highest.empty or not highest.between(0, 1).all():
        raise ValueError(f"The mean IoU in '{folder / 'metrics.jsonl'}' is undefined, or outside 0 to 1.")
    file = folder / "best" / "config.json"
    try:
        config = read_json(file)
        # A backbone of another kind has no size of UNIP; its name is in that of the checkpoint.
        width = None if config.get("backbone_config") else config.get("hidden_size")
        size, fusion = "" if width is None else SIZES.get(width, f"width {width}"), _fusion(config)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"'{file}' is damaged: {error}.") from error
    return Run(
        task=TASKS[2 if is_layerwise else 1 if options.get("linear_probe") else 0],
        method=method_name(options["model"], size) + fusion,
        size=size,
        dataset=_dataset_title(options),
        mean_iou={int(name.rpartition("_")[2]) if is_layerwise else None: value for name, value in highest.items()},
        options=options,
    )


def method_name(model: str, size: str) -> str:
    """
    The name of a row: the last part of a checkpoint's path without the word for its size, so that all sizes of a
    method share a row. `"models/unip-small-mae-large"` of size `"small"` gives `"unip-mae-large"`.
    """
    if model == size:
        return "random start"
    path = Path(model)
    name = path.parent.name if path.name in ("best", "last") else path.name
    without = re.sub(rf"(^|[-_.]){size}(?=[-_.]|$)", "", name, count=1, flags=re.IGNORECASE) if size else name
    return without.strip("-_.") or name or model


def _fusion(config: dict[str, Any]) -> str:
    """`" + IV-tuning"`, and which image goes through the backbone, for a model of pairs."""
    if not config.get("fusion"):
        return ""
    name, _ = FUSION_PAPERS[config["fusion"]]
    return f" + {name}, main image {config.get('main_modality', 'infrared')}"


def collect_scores(runs: Iterable[Run], ignored_options: Collection[str] = ()) -> pd.DataFrame:
    """
    The cells of the tables. Runs that differ only in the seed share a cell. If they differ in other options, too, each
    kind gets a row of its own, whose name says in which. Where a method and size has all of SODA, MFNet-T and
    SCUT-Seg, a cell of the data set `"average"` follows.

    Args:
        runs: What [`read_run`] returned.
        ignored_options: Names of options that do not change what is computed.

    Returns:
        One row for each cell, with the columns `task`, `method`, `size`, `dataset` (as in [`Run`]), `block` (from 1,
        missing of whole networks), `mean_iou_percent` (mean over the runs of the cell), `deviation_percent` (standard
        deviation of a single run, missing of one run and of averages) and `runs` (how many).
    """
    places: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        places.setdefault((run.task, run.method, run.size, run.dataset), []).append(run)
    values = [
        (run.task, run.method + difference, run.size, run.dataset, block, 100 * mean_iou)
        for of_place in places.values()
        for run, difference in zip(of_place, _differences(of_place, {*ignored_options, *PLACING_OPTIONS}))
        for block, mean_iou in run.mean_iou.items()
    ]
    row, cell = ["task", "method", "size"], ["task", "method", "size", "dataset", "block"]
    frame = pd.DataFrame(values, columns=[*cell, "mean_iou"]).astype({"block": "Int64"})
    of_cells = frame.groupby(cell, sort=False, dropna=False)["mean_iou"]
    scores = of_cells.agg(mean_iou_percent="mean", deviation_percent="std", runs="count").reset_index()
    of_rows = scores[scores["dataset"].isin(AVERAGED) & scores["block"].isna()].groupby(row, sort=False)
    averages = of_rows.agg({"mean_iou_percent": "mean", "runs": "sum"})[of_rows.size() == len(AVERAGED)].reset_index()
    return pd.concat([scores, averages.assign(dataset=AVERAGE)], ignore_index=True)


def tables_to_markdown(scores: pd.DataFrame) -> str:
    """The tables of [`collect_scores`] in Markdown, mean IoU in percent."""
    columns = ["mean_iou_percent", "deviation_percent", "runs"]
    texts = [
        f"{mean:.2f}" if pd.isna(deviation) else f"{mean:.2f} ± {deviation:.2f} ({runs})"
        for mean, deviation, runs in scores[columns].itertuples(index=False)
    ]
    scores = scores.assign(text=texts).replace(r"\|", r"\|", regex=True)  # within a name
    parts = []
    for task in TASKS:
        of_task = scores[scores["task"] == task]
        if not of_task.empty:
            is_by_block = task == TASKS[2]
            title = f"**{task[0].upper()}{task[1:]}**, mean IoU in percent{', by block' * is_by_block}"
            parts.append(f"{title}\n\n{_layer_table(of_task) if is_by_block else _main_table(of_task)}\n")
    if scores["deviation_percent"].notna().any():
        parts.append("± is the standard deviation, followed by the number of runs.\n")
    return "\n".join(parts)


def _dataset_title(options: dict[str, Any]) -> str:
    name, config = options["dataset"], options.get("dataset_config")
    split = options["validation_split"]
    if config is None:  # the default is the first
        config = next((known for dataset, known in COLUMNS if dataset == name), None)
    if name == "folder":
        name = Path(str(options.get("data_dir") or name)).name
    title, reported_split = COLUMNS.get((name, config)) or (" ".join(filter(None, (name, config))), "validation")
    notes = [split] * (split != reported_split) + ["partial"] * bool(options.get("allow_partial"))
    return f"{title} ({', '.join(notes)})" if notes else title


def _differences(runs: list[Run], ignored_options: Collection[str]) -> list[str]:
    """What tells each of several runs of one place from the others, such as `" (learning_rate 0.1)"`."""
    compared = set.intersection(*(set(run.options) for run in runs)) - set(ignored_options)
    if runs[0].options["dataset"] != "folder":  # a benchmark is the same wherever it lies
        compared -= {"data_dir"}
    names = sorted(name for name in compared if any(run.options[name] != runs[0].options[name] for run in runs))
    texts = [", ".join(f"{name} {run.options[name]}" for name in names) for run in runs]
    return [f" ({text})" if text else "" for text in texts]


def _main_table(scores: pd.DataFrame) -> str:
    """One row for each method, one column for each data set and size."""
    table = scores.pivot_table("text", "method", ["dataset", "size"], aggfunc="first", sort=False)
    order = sorted(table, key=lambda column: (_place(column[0], AVERAGED), _place(column[1], SIZES.values())))
    table = table[order]
    table.columns = [f"{dataset} {size[0].upper() if size in UNIP_SIZES else size}".strip() for dataset, size in order]
    return to_markdown(table.reset_index(), num_text_columns=1)


def _place(name: str, known: Collection[str]) -> tuple[int, str]:
    """Where a name is sorted: known ones first and in their order, averages last."""
    return (list(known).index(name) if name in known else len(known) + (name == AVERAGE), name)


def _layer_table(scores: pd.DataFrame) -> str:
    """One row for each method, size and data set, one column for each block."""
    places = ["method", "size", "dataset"]
    table = scores.pivot_table("text", places, "block", aggfunc="first", sort=False).sort_index(axis=1).reset_index()
    return to_markdown(table.rename(columns={"dataset": "data set"}), num_text_columns=len(places))


def to_markdown(table: pd.DataFrame, num_text_columns: int) -> str:
    """Text on the left, numbers on the right."""
    alignment = ["left"] * num_text_columns + ["right"] * (len(table.columns) - num_text_columns)
    return table.fillna("").to_markdown(index=False, disable_numparse=True, colalign=alignment)


__all__ = [
    "Run",
    "collect_scores",
    "method_name",
    "read_run",
    "tables_to_markdown",
    "to_markdown",
]
