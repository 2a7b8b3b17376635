# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""A comparison of students of different blocks of a teacher: a table, its numbers, and a figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from ..files import write_whole


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Learned(NamedTuple):
    """
    What a student learned before it was fine-tuned.

    Args:
        layer (`int`): Block of the teacher, from 1.
        objective (`str`): `"attention"` or `"features"` of that block.
    """

    layer: int
    objective: str = "attention"


def write_comparison(
    output_dir: Path,
    teacher: str,
    nmi: Sequence[float],
    mean_iou: Mapping[Learned | None, Mapping[int, float]],
    which: str = "best",
    nearest: Mapping[float, int] | None = None,
) -> str:
    """
    Writes `comparison.md`, `comparison.json` and `comparison.png`.

    Args:
        output_dir (`Path`): Folder to write to.
        teacher (`str`): Name of the teacher.
        nmi (`Sequence[float]`): Normalised mutual information of each of its blocks.
        mean_iou (`dict`): Maps what a student learned, or `None` for a random start, to mean IoU (0 to 1) by seed.
            Entries without any result are left out.
        which (`str`, *optional*, defaults to `"best"`): Which evaluation of a run this is: `"best"` or `"last"`.
        nearest (`dict`, *optional*): The block whose NMI is nearest to each target.

    Returns:
        The table, in Markdown. The spread is the sample standard deviation over seeds.
    """
    nearest = nearest or {}
    students: list[dict[str, Any]] = []
    lines = ["| student | learned | NMI of the block | mean IoU in percent | each seed |", "|---|---|---:|---:|---|"]
    for learned, by_seed in mean_iou.items():
        values = list(by_seed.values())
        if not values:
            continue
        mean, deviation = fmean(values), stdev(values) if len(values) > 1 else None
        layer, objective = learned or (None, None)
        student = {
            "student": "random start" if layer is None else f"block {layer}",
            "layer": layer,
            "objective": objective,
            "nmi": None if layer is None else nmi[layer - 1],
            "nmi_targets": [target for target, block in nearest.items() if block == layer],
            "mean_iou": mean,
            "standard_deviation": deviation,
            "mean_iou_by_seed": dict(by_seed),
        }
        students.append(student)
        of_block = "" if layer is None else f"{nmi[layer - 1]:.3f}"
        spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        lines.append(f"| {student['student']} | {objective or ''} | {of_block} | {100 * mean:.2f}{spread} | {each} |")
    notes = [f"Of each run the {which} evaluation counts; ± is the standard deviation over seeds."]
    notes += [f"Nearest to the NMI {target:g}: block {block}." for target, block in nearest.items()]
    table = "\n".join([*lines, "", *notes, ""])
    record = {"teacher": teacher, "teacher_nmi": list(nmi), "which": which, "students": students}
    with write_whole(output_dir / "comparison.json") as staged:
        staged.write_text(json.dumps(record, indent=1))
    with write_whole(output_dir / "comparison.md") as staged:
        staged.write_text(f"Students of {teacher}\n\n{table}", encoding="utf-8")
    figure = _score_figure(students)
    with write_whole(output_dir / "comparison.png") as staged:
        figure.savefig(staged, format="png", dpi=150)
    return table


def _tick(student: dict[str, Any]) -> str:
    """What stands below a student in the figure."""
    if student["layer"] is None:
        return student["student"]
    lines = [student["student"], student["objective"], f"NMI {student['nmi']:.3f}"]
    if student["nmi_targets"]:
        lines.append(f"target {', '.join(f'{target:g}' for target in student['nmi_targets'])}")
    return "\n".join(lines)


def _score_figure(students: list[dict[str, Any]]) -> "Figure":
    """A dot for each run, their mean, and the standard deviation of a single run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 1.2 * len(students), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, student in enumerate(students):
        values = [100 * value for value in student["mean_iou_by_seed"].values()]
        mean, deviation = 100 * student["mean_iou"], 100 * (student["standard_deviation"] or 0.0)
        axes.plot([place] * len(values), values, "o", color="tab:blue", alpha=0.5, markersize=5, linewidth=0)
        line: dict[str, Any] = {"color": "black", "markersize": 12, "markeredgewidth": 2, "capsize": 3}
        axes.errorbar(place + 0.15, mean, deviation, fmt="_", **line)
        axes.annotate(f"{mean:.1f}", (place + 0.15, mean), xytext=(9, 0), textcoords="offset points", va="center")
    axes.set_xticks(range(len(students)), map(_tick, students))
    axes.set_xlim(-0.5, len(students) - 0.3)
    axes.margins(y=0.15)
    axes.set_ylabel("mean IoU in percent")
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


__all__ = ["Learned", "write_comparison"]
