# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reports: one HTML page of headings, texts, tables and pictures, for large and small screens, light and dark."""

import base64
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
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
    """A paragraph of plain text. Line breaks are kept."""

    text: str


@dataclass(frozen=True)
class Table:
    """
    Args:
        headers: One for each column.
        rows: Lists of as many cells: texts, or numbers, which are right-aligned and written by [`format_cell`].
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Picture:
    """
    Args:
        image: Picture or plot.
        caption: Text below it.
        alt: What it shows, for readers who cannot see it; by default the caption.
    """

    image: "Image.Image | Figure"
    caption: str = ""
    alt: str = ""


Block = Heading | Text | Table | Picture

TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def format_cell(cell: Cell) -> str:
    """
    Writes whole numbers with separated thousands, and others with four decimals, or with four digits if they are very
    small or large. A missing or undefined number is a dash.
    """
    if cell is None or (isinstance(cell, Real) and math.isnan(cell)):
        return "–"  # noqa: RUF001
    if isinstance(cell, (str, bool)) or not isinstance(cell, Real):
        return str(cell)
    if isinstance(cell, Integral):
        return f"{int(cell):,}"
    value = float(cell)
    return f"{value:.4f}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.4g}"


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers only."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, Real) and not isinstance(cell, bool) for cell in cells)


def is_wide(image: "Image.Image | Figure") -> bool:
    """Whether a picture is so wide that it is scrolled on a phone, where it would be too small to see."""
    return isinstance(image, Image.Image) and image.width > 2 * image.height


def as_data_url(image: "Image.Image | Figure") -> str:
    """A picture as embedded JPEG, because thermal noise makes PNG files large; a plot as embedded PNG."""
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
        title: Title of the page.
        blocks: What the page shows, from top to bottom.

    Raises:
        ValueError: if a row of a table has more or fewer cells than the table has headers.
        OSError: if the file cannot be written.
    """
    for block in blocks:
        if isinstance(block, Table) and any(len(row) != len(block.headers) for row in block.rows):
            raise ValueError(f"Every row of a table needs as many cells as it has headers, {list(block.headers)}.")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        blocks=[(type(block).__name__, block) for block in blocks],
        format_cell=format_cell,
        is_numeric=is_numeric,
        is_wide=is_wide,
        as_data_url=as_data_url,
    )
    with write_whole(path) as staged:
        staged.write_text(page, encoding="utf-8")


__all__ = ["Block", "Heading", "Picture", "Table", "Text", "format_cell", "write_report"]
