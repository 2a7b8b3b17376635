# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The picture of how cost grows."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that everyone can tell apart, and markers and lines that differ as well.
STYLES: dict[str, dict[str, Any]] = {
    "plain": {"color": "#D55E00", "marker": "s", "linestyle": "--", "label": "plain head"},
    "fast": {"color": "#0072B2", "marker": "o", "linestyle": "-", "label": "fast head"},
}


def draw_scaling(found: Mapping[str, Sequence[dict[str, Any]]], file: Path) -> None:
    """
    Args:
        found: What `measure_scaling` returned.
        file: SVG or PNG; narrow, so that it can be read on a telephone.
    """
    import matplotlib
    from matplotlib.figure import Figure

    def milliseconds(result: dict[str, Any]) -> float:
        return 1000 * statistics.median(result["seconds"]) / result["batch_size"]

    style: Any = {"font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.color": "0.85"}
    style["svg.hashsalt"] = "unip"  # the same picture gives the same file
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4, 10.5), layout="constrained", facecolor="white")
        side, memory, batch, classes, processes = figure.subplots(5)
        batch_side = found["batch_size"][0]["side"]
        _curves(side, found["side"], "side", milliseconds, "Milliseconds, by side of the image in pixels")
        _curves(memory, found["side"], "side", lambda one: one["peak_megabytes"], "Memory in MB, by side of the image")
        title = f"Milliseconds for each image of {batch_side}x{batch_side}, by batch"
        _curves(batch, found["batch_size"], "batch_size", milliseconds, title)
        _curves(classes, found["classes"], "classes", milliseconds, "Milliseconds for 512x512, by classes")
        for axes in (side, memory):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.yaxis.set_minor_formatter("")
        for axes in (batch, classes):
            axes.set_ylim(0, 1.2 * axes.get_ylim()[1])
        side.legend(frameon=False)
        jobs = list(dict.fromkeys(one["job"] for one in found["processes"]))
        for number, colour, hatch in ((1, STYLES["plain"]["color"], "//"), (2, STYLES["fast"]["color"], None)):
            speeds = [one["images_per_second"] for one in found["processes"] if one["processes"] == number]
            places = [index + 0.4 * (number - 1.5) for index in range(len(jobs))]
            bars = processes.bar(places, [statistics.median(one) for one in speeds], width=0.36, color=colour)
            for bar in bars:
                bar.set(hatch=hatch, edgecolor="white")
            bars.set_label(f"{number} process{'es' * (number - 1)}")
            processes.bar_label(bars, fmt="%.2g")
        processes.set_xticks(range(len(jobs)), jobs)
        processes.set_title("Images a second, by CPU processes of one thread")
        processes.margins(y=0.2)
        processes.grid(visible=False)
        processes.legend(frameon=False)
        figure.savefig(file, dpi=200, metadata={"Date": None} if file.suffix == ".svg" else None)


def _curves(
    axes: "Axes", results: Sequence[dict[str, Any]], way: str, value: Callable[[dict[str, Any]], float], title: str
) -> None:
    """One line for each head, with the places that were measured as ticks."""
    for head, style in STYLES.items():
        points = [(one[way], value(one)) for one in results if one["head"] == head]
        axes.plot(*zip(*points), markersize=4, **style)
    axes.set_xscale("log")
    places = sorted({one[way] for one in results})
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xticks([], minor=True)
    axes.set_title(title)
