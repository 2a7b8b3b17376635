# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Figures of an analysis: each shows one thing, is legible on a phone, in grey, and to colour-blind readers."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from . import objects


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.9  # inches: on a screen of 390 pixels, text of 9.5 points is then 11.5 pixels high
FONT_SIZE = 9.5
MOST_TICKS = 13  # every block of small networks
MOST_WITH_HEADS = 3  # networks in a figure with a dot for each head
MANY_DOTS = 1000  # as vectors they would make the page large
MOST_NUMBERS = 10  # rows of a heat map with a number in each cell

# Okabe & Ito (https://jfly.uni-koeln.de/color), those with most contrast to white first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "os^DvPX*"  # one more than colours, so that 56 lines look different
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo")

# Where attention falls, from the bottom of a bar to its top. The lightness differs from each to the next.
PLACE_NAMES = ("near the query", "own object", "other foreground", "background")
PLACES = dict(zip(objects.PLACES, zip(PLACE_NAMES, ("#56B4E9", "#D55E00", "#333333", "#CFCFCF"))))


@contextmanager
def figure_style() -> Iterator[None]:
    """The settings of matplotlib in which these figures must be drawn and written."""
    from matplotlib import rc_context

    settings: Any = {
        "axes.axisbelow": True,
        "font.size": FONT_SIZE,
        "hatch.color": "white",
        "hatch.linewidth": 0.7,
        "legend.fontsize": FONT_SIZE,
        "svg.fonttype": "none",  # text stays text
        "text.parse_math": False,  # names may hold dollar signs
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # is missing: browsers have more fonts
        yield


def block_axis(axes: "Axes", first: int, last: int, most_numbers: int = 16) -> None:
    """Makes the horizontal axis one of block numbers, and draws light lines behind the values."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(first - 0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=most_numbers, integer=True, min_n_ticks=1))
    axes.set_xlabel("block")
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def hybrid_band(axes: "Axes", hybrid: Sequence[float], target: float, label: str = "{:g} ... {:g}") -> None:
    """Marks the values of hybrid attention, and the one that the choice of a block aims at."""
    axes.axhspan(*hybrid, color="tab:green", alpha=0.15, linewidth=0, label=label.format(*hybrid))
    axes.axhline(target, color="tab:green", linestyle="--", linewidth=1, label=f"target {target:g}")


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a line: any one of them tells it from its neighbours."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
        "linewidth": 1.4,
        "markersize": 4,
    }


def measure_figure(
    models: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    measure: str,
    axis_label: str,
    hybrid: Sequence[float] | None = None,
    target: float | None = None,
) -> "Figure":
    """
    A measure of attention over blocks: a line for each network, a dot for each head unless there are many networks,
    and a band of one standard deviation over images where it is known.

    Args:
        models: Networks of a report. Each block holds the measure, its values of heads under `MEASURE_of_heads`, and
            perhaps `MEASURE_deviation`.
        labels: Short names of the networks.
        measure (`str`): `"nmi"`, `"distance"` or `"entropy"`.
        axis_label (`str`): What the vertical axis shows.
        hybrid (`(lowest, highest)`, *optional*): Values of hybrid attention.
        target (`float`, *optional*): Value that the choice of a block aims at.
    """
    figure, axes = _panel()
    if hybrid is not None and target is not None:
        hybrid_band(axes, hybrid, target, "hybrid {:g} to {:g}")
    heads = [
        [(block["block"], value) for block in model["blocks"] for value in block.get(f"{measure}_of_heads") or ()]
        for model in models
    ]
    are_many = sum(map(len, heads)) > MANY_DOTS
    for index, (model, label) in enumerate(zip(models, labels)):
        style = line_style(index)
        numbers = np.array([block["block"] for block in model["blocks"]])
        values = _values(model["blocks"], measure)  # (blocks,)
        deviations = _values(model["blocks"], f"{measure}_deviation")
        band = (np.maximum(values - deviations, 0), values + deviations)
        axes.fill_between(numbers, *band, color=style["color"], alpha=0.15, linewidth=0)
        if heads[index] and len(models) <= MOST_WITH_HEADS:
            x, y = np.array(heads[index], dtype=float).T
            x = x + 0.4 * ((index + 0.5) / len(models) - 0.5)  # beside those of other networks
            axes.plot(x, y, "o", color=style["color"], markersize=2.2, alpha=0.4, mew=0, rasterized=are_many)
        axes.plot(numbers, values, label=label, **style)
    _block_limits(axes, models)
    _from_zero(axes)
    axes.set_ylabel(axis_label)
    _legend_below(figure, axes)
    return figure


def object_figure(shares: Sequence[Mapping[str, Any]], areas: Mapping[str, float] | None) -> "Figure":
    """
    Where the attention of one network falls, as stacked bars: one for each block, and beside them one of attention
    that is spread evenly.

    Args:
        shares: Of each block, from 0 to 1: `near`, `own_object`, `other_foreground`, `background`.
        areas: The same shares of evenly spread attention.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, width_ratios=[9, 1]) if areas else [figure.subplots()]
    numbers = np.array([block["block"] for block in shares])
    block_axis(panels[0], numbers.min(), numbers.max(), MOST_TICKS)
    bars = [(panels[0], numbers, shares)]
    if areas:
        bars.append((panels[1], np.array([0]), [areas]))
        panels[1].set_xticks([0], ["even"])
        panels[1].tick_params(left=False)
        panels[1].spines[["left", "top", "right"]].set_visible(False)
    for axes, places, of_blocks in bars:
        bottom = np.zeros(len(places))
        for name, (label, colour) in PLACES.items():
            values = np.nan_to_num(_values(of_blocks, name))
            axes.bar(places, values, width=0.9, bottom=bottom, color=colour, edgecolor="white", lw=0.5, label=label)
            bottom = bottom + values
    panels[0].set_ylim(0, 1)
    panels[0].set_ylabel("share of attention")
    _legend_below(figure, panels[0])
    return figure


def place_figure(models: Sequence[Mapping[str, Any]], labels: Sequence[str], place: str) -> "Figure":
    """
    How many times more attention than if it were spread evenly falls on a place, over blocks. Networks without these
    shares, or whose place has no area, are left out.

    Args:
        models: Networks of a report.
        labels: Short names of the networks.
        place (`str`): `"near"`, `"own_object"`, `"other_foreground"` or `"background"`.
    """
    figure, axes = _panel()
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":", label="spread evenly")
    for index, (model, label) in enumerate(zip(models, labels)):
        area = (model.get("object_areas") or {}).get(place)
        if model.get("objects") and area:
            numbers = [block["block"] for block in model["objects"]]
            axes.plot(numbers, _values(model["objects"], place) / area, label=label, **line_style(index))
    _block_limits(axes, models)
    _from_zero(axes)
    axes.set_ylabel("times the even share")
    _legend_below(figure, axes)
    return figure


def texture_figure(features: Mapping[str, Sequence[float]]) -> "Figure":
    """
    How alike the features of a network are before and after each change of the image, over blocks.

    Args:
        features: Maps the change to the cosine in each block.
    """
    figure, axes = _panel()
    for index, (change, cosines) in enumerate(features.items()):
        values = np.array(cosines, dtype=float)
        axes.plot(range(1, len(values) + 1), values, label=in_words(change), **line_style(index))
    block_axis(axes, 1, max(map(len, features.values())), MOST_TICKS)
    axes.set_ylim(min(0, axes.get_ylim()[0]), 1.02)
    axes.set_ylabel("cosine of features")
    _legend_below(figure, axes)
    return figure


def mean_iou_figure(drops: Mapping[str, Mapping[str, float]]) -> "Figure":
    """
    How much mean IoU each change of the images costs, as bars.

    Args:
        drops: Maps the short name of each network to its drops by change, at most 1; empty if it was not measured.
    """
    changes = list(dict.fromkeys(change for of_model in drops.values() for change in of_model))
    num_measured = sum(map(bool, drops.values()))
    figure, axes = _panel(height=0.9 + len(changes) * (0.25 + 0.2 * num_measured))
    thickness, place = 0.8 / num_measured, -0.4
    for index, (label, of_model) in enumerate(drops.items()):
        if not of_model:
            continue
        values = 100 * np.array([of_model.get(change) for change in changes], dtype=float)
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "hatch": HATCHES[index % len(HATCHES)],
            "label": label,
        }
        middles = np.arange(len(changes)) + place + thickness / 2
        bars = axes.barh(middles, values, height=0.9 * thickness, edgecolor="white", linewidth=0, **style)
        axes.bar_label(bars, ["" if math.isnan(value) else f"{value:.1f}" for value in values], padding=2)
        place += thickness
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.18)
    axes.set_yticks(range(len(changes)), [in_words(change) for change in changes])
    axes.set_ylim(len(changes) - 0.5, -0.5)  # the first at the top
    axes.set_xlabel("drop of mean IoU, percentage points")
    axes.spines[["top", "right"]].set_visible(False)
    if len(drops) > 1:  # even if only one was measured: which?
        _legend_below(figure, axes, fewest=1)
    return figure


def cka_figure(values: Sequence[Sequence[float]], models: Sequence[int], labels: Sequence[str]) -> "Figure":
    """
    A heat map of the similarity of all blocks of all networks, with lines between networks.

    Args:
        values: CKA of each block with each, 0 to 1.
        models: The network of each row, from 0; its blocks follow one another.
        labels: Short names of the networks.
    """
    figure, axes = _panel(height=3.3)
    grid = np.array(values, dtype=float)  # (rows, rows)
    image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, interpolation="none")
    figure.colorbar(image, ax=axes, shrink=0.8, label="CKA")
    depths = [(model, len(list(rows))) for model, rows in groupby(models)]
    starts = np.cumsum([0, *(depth for _, depth in depths)])
    points = 72 * 2.5 / len(grid)  # of a row, about
    step = next(step for step in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 96, 10**6) if step * points >= 18)
    ticks = [
        (start + number - 1, number)
        for start, (_, depth) in zip(starts, depths)
        for number in range(step, depth + 1, step)
    ]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([place for place, _ in ticks], [str(number) for _, number in ticks])
    axes.tick_params(length=2, pad=2)
    for border in starts[1:-1] - 0.5:
        for draw in (axes.axhline, axes.axvline):
            draw(border, color="black", linewidth=2.2)
            draw(border, color="white", linewidth=1)
    if len(depths) == 1:
        axes.set_xlabel("block")
        axes.set_ylabel("block")
    else:
        style: dict[str, Any] = {"textcoords": "offset points", "weight": "bold", "annotation_clip": False}
        for start, (model, depth) in zip(starts, depths):
            middle, number = start + (depth - 1) / 2, str(model + 1)
            across, down = axes.get_xaxis_transform(), axes.get_yaxis_transform()
            axes.annotate(number, (middle, 0), (0, -17), xycoords=across, ha="center", va="top", **style)
            axes.annotate(number, (0, middle), (-19, 0), xycoords=down, ha="right", va="center", **style)
            axes.plot([], [], " ", label=labels[model])
        _legend_below(figure, axes, handlelength=0, handletextpad=0)
    if len(grid) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(grid):
            colour = "black" if value > 0.5 else "white"
            text = "" if math.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)
            axes.text(column, row, text, ha="center", va="center", color=colour)
    return figure


def as_svg(figure: "Figure", description: str, dpi: float = 200) -> str:
    """
    A figure for a page of HTML. It fills the width that it gets; a wide one asks for enough to be legible.

    Args:
        figure (`Figure`): The figure.
        description (`str`): What it shows, for readers who cannot see it. It must differ from that of other figures
            on the page, because names inside the figure are made from it.
        dpi (`float`, *optional*, defaults to 200): Pixels per inch of images inside the figure.
    """
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": description}):  # the same names every time
        figure.savefig(text, format="svg", dpi=dpi, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    inside = text.getvalue().partition("<svg")[2].partition(">")[2]
    # Names that nothing refers to; every figure has them, and a page must not have any twice.
    inside = re.sub(r' id="[A-Za-z.0-9]+_\d+"', "", inside)
    width, height = (72 * float(side) for side in figure.get_size_inches())
    smallest = f' style="min-width: {1.15 * width:.0f}px"' if width > 72 * (WIDTH + 1) else ""
    start = f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {width:g} {height:g}"{smallest}>'
    return start + inside.strip()


def in_words(name: str) -> str:
    """A name of JSON as text."""
    return name.replace("_", " ")


def short_names(names: Sequence[str], longest: int = 30) -> list[str]:
    """
    Names for figures: the last two parts of a path, or as many as tell the names apart. Long ones lose their middle.
    Where there are several, numbers in front always tell them apart.
    """
    parts = [[part for part in re.split(r"[/\\]", name) if part] or [name] for name in names]
    for count in range(2, max(map(len, parts)) + 2):
        shortened = ["/".join(part[-count:]) for part in parts]
        if len(set(shortened)) == len(set(names)):
            break
    half = (longest - 1) // 2
    shortened = [name if len(name) <= longest else f"{name[:half]}…{name[-half:]}" for name in shortened]
    return shortened if len(names) == 1 else [f"{number} {name}" for number, name in enumerate(shortened, 1)]


def _panel(height: float = 2.9) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _values(blocks: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A number of each block; what is missing is not a number."""
    return np.array([block.get(name) for block in blocks], dtype=float)


def _block_limits(axes: "Axes", models: Sequence[Mapping[str, Any]]) -> None:
    numbers = [block["block"] for model in models for block in model["blocks"]]
    block_axis(axes, min(numbers), max(numbers), MOST_TICKS)


def _from_zero(axes: "Axes") -> None:
    """Starts the vertical axis at zero, with room above for marks of curves that are nearly level."""
    axes.set_ylim(0, 1.04 * axes.get_ylim()[1])


def _legend_below(figure: "Figure", axes: "Axes", fewest: int = 2, **options: Any) -> None:
    """A legend below the axes, in two columns where the texts are short, for which the figure grows."""
    handles, texts = axes.get_legend_handles_labels()
    if len(texts) < fewest:
        return
    columns = 2 if max(map(len, texts)) <= 19 else 1
    rows = math.ceil(len(texts) / columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(
        handles,
        texts,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelspacing=0.3,
        **{"columnspacing": 1.2, "handlelength": 2.6, "borderpad": 0.1, **options},
    )


__all__ = [
    "MOST_WITH_HEADS",
    "PLACES",
    "WIDTH",
    "as_svg",
    "block_axis",
    "cka_figure",
    "figure_style",
    "hybrid_band",
    "in_words",
    "line_style",
    "mean_iou_figure",
    "measure_figure",
    "object_figure",
    "place_figure",
    "short_names",
    "texture_figure",
]
