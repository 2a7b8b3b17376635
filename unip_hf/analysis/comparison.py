# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""A comparison of students of different blocks of a teacher: a table, its numbers, and a figure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_whole


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_comparison(
    output_dir: Path,
    teacher: str,
    nmi: Sequence[float],
    mean_iou: Mapping[int | None, Mapping[int, float]],
    which: str = "best",
) -> str:
    """
    Writes `comparison.md`, `comparison.json` and `comparison.png`.

    Args:
        output_dir (`Path`): Folder to write to.
        teacher (`str`): Name of the teacher.
        nmi (`Sequence[float]`): Normalised mutual information of each of its blocks.
        mean_iou (`dict`): Maps the distilled block, from 1, or `None` for a random start, to mean IoU (0 to 1) by
            seed. Entries without any result are left out.
        which (`str`, *optional*, defaults to `"best"`): Which evaluation of a run this is: `"best"` or `"last"`.

    Returns:
        The table, in Markdown. The spread is the sample standard deviation over seeds.
    """
    students: list[dict[str, Any]] = []
    lines = ["| student | NMI of the block | mean IoU in percent | each seed |", "|---|---:|---:|---|"]
    for layer, by_seed in mean_iou.items():
        values = list(by_seed.values())
        if not values:
            continue
        student = {
            "student": "random start" if layer is None else f"block {layer}",
            "layer": layer,
            "nmi": None if layer is None else nmi[layer - 1],
            "mean_iou": fmean(values),
            "standard_deviation": stdev(values) if len(values) > 1 else None,
            "mean_iou_by_seed": dict(by_seed),
        }
        students.append(student)
        of_block = "" if layer is None else f"{nmi[layer - 1]:.3f}"
        spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        lines.append(f"| {student['student']} | {of_block} | {100 * fmean(values):.2f}{spread} | {each} |")
    note = f"Of each run the {which} evaluation counts; ± is the standard deviation over seeds."
    table = "\n".join([*lines, "", note, ""])
    record = {"teacher": teacher, "teacher_nmi": list(nmi), "which": which, "students": students}
    with write_whole(output_dir / "comparison.json") as staged:
        staged.write_text(json.dumps(record, indent=1))
    with write_whole(output_dir / "comparison.md") as staged:
        staged.write_text(f"Students of {teacher}\n\n{table}", encoding="utf-8")
    titles = [s["student"] + ("" if s["nmi"] is None else f"\nNMI {s['nmi']:.3f}") for s in students]
    figure = score_figure({title: s["mean_iou_by_seed"].values() for title, s in zip(titles, students)})
    with write_whole(output_dir / "comparison.png") as staged:
        figure.savefig(staged, format="png", dpi=150)
    return table


def score_figure(scores: Mapping[str, Iterable[float]], name: str = "mean IoU in percent") -> "Figure":
    """
    A figure of scores: a dot for each run, their mean, and the standard deviation of a single run.

    Args:
        scores (`dict`): Maps what was run to its scores, 0 to 1. Entries without any are left out.
        name (`str`, *optional*): Name of the score.
    """
    from matplotlib.figure import Figure

    values = {title: 100 * np.array(list(of_runs)) for title, of_runs in scores.items()}
    values = {title: of_runs for title, of_runs in values.items() if of_runs.size}
    figure = Figure(figsize=(1.2 + 1.2 * len(values), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, of_runs in enumerate(values.values()):
        deviation = of_runs.std(ddof=1) if of_runs.size > 1 else 0.0
        axes.plot(np.full(of_runs.size, place), of_runs, "o", color="tab:blue", alpha=0.5, markersize=5, linewidth=0)
        axes.errorbar(
            place + 0.15,
            of_runs.mean(),
            deviation,
            fmt="_",
            color="black",
            markersize=12,
            markeredgewidth=2,
            capsize=3,
        )
        axes.annotate(
            f"{of_runs.mean():.1f}",
            (place + 0.15, of_runs.mean()),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xticks(range(len(values)), list(values))
    axes.set_xlim(-0.5, len(values) - 0.3)
    axes.margins(y=0.15)
    axes.set_ylabel(name)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


__all__ = ["score_figure", "write_comparison"]
