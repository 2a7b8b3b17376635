# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reports: one HTML page of headings, texts, tables and pictures, legible on a phone and in the dark."""

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

import jinja2
from PIL import Image

from ..files import write_whole


if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None


@dataclass(frozen=True)
class Heading:
    """A heading below the page's title."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; lines are kept."""

    text: str


@dataclass(frozen=True)
class Table:
    """
    Args:
        headers: One for each column.
        rows: As many cells each: text, or numbers, which [`format_cell`] writes and which stand on the right.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """
    Args:
        image: Picture or plot.
        caption: Stands below it.
        alt: What it shows, for who cannot see it; by default the caption.
    """

    image: "Image.Image | Figure"
    caption: str = ""
    alt: str = ""


Block = Heading | Text | Table | Picture

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --text: #1c2024; --page: #ffffff; --line: #d5d9de; --faint: #596068; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --page: #15181b; --line: #3a4047; --faint: #a2a9b1; }
}
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--text); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
p { white-space: pre-line; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: left; }
.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; overflow-x: auto; }
img { max-width: 100%; height: auto; border-radius: 4px; background: #ffffff; }
figcaption { color: var(--faint); font-size: 0.9rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for kind, block in blocks %}
{% if kind == "Heading" %}
<h2>{{ block.text }}</h2>
{% elif kind == "Text" %}
<p>{{ block.text }}</p>
{% elif kind == "Table" %}
<div class="scroll"><table>
<thead><tr>
{% for header in block.headers %}
<th{% if block | is_numeric(loop.index0) %} class="number"{% endif %}>{{ header }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in block.rows %}
<tr>
{% for cell in row %}
<td{% if block | is_numeric(loop.index0) %} class="number"{% endif %}>{{ cell | format_cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
{% else %}
<figure>
<img src="{{ block.image | as_data_url }}" alt="{{ block.alt or block.caption }}"
{%- if block.image | is_wide %} style="min-width: min(44rem, {{ block.image.width }}px)"{% endif %}>
{% if block.caption %}
<figcaption>{{ block.caption }}</figcaption>
{% endif %}
</figure>
{% endif %}
{% endfor %}
</body>
</html>
"""


def format_cell(cell: Cell) -> str:
    """Whole numbers with thousands separated, others with four decimals, or four digits where those would not do."""
    if cell is None or (isinstance(cell, Real) and math.isnan(cell)):
        return "–"  # noqa: RUF001
    if isinstance(cell, (str, bool)) or not isinstance(cell, Real):
        return str(cell)
    if isinstance(cell, Integral):
        return f"{int(cell):,}"
    value = float(cell)
    return f"{value:.4f}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.4g}"


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, and no text."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, Real) and not isinstance(cell, bool) for cell in cells)


def is_wide(image: "Image.Image | Figure") -> bool:
    """Whether a picture, several side by side say, would be too low on a phone: such a one is scrolled instead."""
    return isinstance(image, Image.Image) and image.width > 2 * image.height


def as_data_url(image: "Image.Image | Figure") -> str:
    """A picture as an embedded JPEG file, since thermal noise makes PNG files large; a plot as PNG."""
    encoded, kind = io.BytesIO(), "png"
    if not isinstance(image, Image.Image):
        image.savefig(encoded, format=kind, dpi=150, bbox_inches="tight")
    elif image.mode in ("L", "RGB"):
        kind = "jpeg"
        image.save(encoded, kind, quality=92, subsampling=0)
    else:
        image.save(encoded, kind)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def write_report(path: str | os.PathLike, title: str, blocks: Sequence[Block]) -> None:
    """
    Writes one HTML page that needs no other file and runs no script.

    Args:
        path: File to write; replaced if it exists.
        title: Of the page.
        blocks: [`Heading`], [`Text`], [`Table`] and [`Picture`], in their order.

    Raises:
        ValueError: if a table's rows have not as many cells as it has headers.
        OSError: if the file cannot be written.
    """
    for block in blocks:
        if isinstance(block, Table) and any(len(row) != len(block.headers) for row in block.rows):
            raise ValueError(f"Every row of a table with the headers {list(block.headers)} needs as many cells.")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        format_cell=format_cell, is_numeric=is_numeric, is_wide=is_wide, as_data_url=as_data_url
    )
    page = environment.from_string(TEMPLATE).render(
        title=title, blocks=[(type(block).__name__, block) for block in blocks]
    )
    with write_whole(path) as staged:
        staged.write_text(page, encoding="utf-8")


__all__ = ["Block", "Heading", "Picture", "Table", "Text", "format_cell", "write_report"]
