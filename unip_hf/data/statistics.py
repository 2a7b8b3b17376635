# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Counts what the images and masks of a split hold, file by file, in memory that does not grow with their number."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from .reading import IGNORE_INDEX


MAX_CELLS = 65536  # holds 16 bits exactly
MAX_BINS = 64
PERCENTILES = (1, 25, 50, 75, 99)


class IntensityHistogram:
    """
    Counts raw intensities in cells of equal width. For 8 and 16 bits the counts are exact. For other dtypes the width
    is a power of two with which the values fit into `MAX_CELLS` cells.

    Args:
        values (`np.ndarray`): Finite numbers of any shape, at least one.
    """

    def __init__(self, values: np.ndarray):
        self.min, self.max = values.min().item(), values.max().item()
        self.is_integer = values.dtype.kind in "ui"
        if values.dtype in (np.uint8, np.uint16):
            self.width = 1.0
            counts = np.bincount(values.ravel())
            self.cells = counts.nonzero()[0]
            self.counts = counts[self.cells]
        else:
            precision = 1.0 if self.is_integer else max(abs(self.min), abs(self.max), 1e-30) * 2**-36
            self.width = 2.0 ** math.ceil(math.log2(max((self.max - self.min) / MAX_CELLS, precision)))
            cells = np.floor(values.ravel() / self.width).astype(np.int64)
            self.cells, self.counts = np.unique(cells, return_counts=True)

    def merge(self, other: "IntensityHistogram") -> None:
        """Adds the counts of another histogram of the same dtype."""
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        width = max(self.width, other.width)
        cells = np.concatenate([part.cells // int(width / part.width) for part in (self, other)])
        counts = np.concatenate([self.counts, other.counts])
        while len(unique := np.unique(cells)) > MAX_CELLS:
            cells, width = cells // 2, 2 * width
        self.cells, self.width = unique, width
        self.counts = np.bincount(np.searchsorted(unique, cells), weights=counts).astype(np.int64)

    @property
    def values(self) -> np.ndarray:
        """One value for each cell."""
        is_exact = self.is_integer and self.width == 1
        return (self.cells if is_exact else (self.cells + 0.5) * self.width).clip(self.min, self.max)

    def percentiles(self) -> dict[str, float]:
        """The lowest values below or at which `PERCENTILES` of all values are."""
        cumulative = self.counts.cumsum()
        places = np.searchsorted(cumulative, np.array(PERCENTILES) / 100 * cumulative[-1])
        return {str(rank): self.values[place].item() for rank, place in zip(PERCENTILES, places)}

    def bins(self) -> tuple[list[float], list[int]]:
        """Edges of at most `MAX_BINS` equal bins, and the counts in them."""
        if self.is_integer:  # equally many values in every bin, or their counts would alternate
            step = -(-(self.max - self.min + 1) // MAX_BINS)
            edges = np.arange(self.min, self.max + step + 1, step)
        else:
            edges = np.linspace(self.min, self.max, MAX_BINS + 1)
        counts, _ = np.histogram(self.values, edges, weights=self.counts)
        return edges.tolist(), counts.astype(np.int64).tolist()


@dataclass
class Intensities:
    """Raw intensities of the images of one dtype. `edges` has one more value than `counts`."""

    min: float
    max: float
    percentiles: dict[str, float]
    edges: list[float]
    counts: list[int]


@dataclass
class ClassShare:
    """One class: its share of the labelled pixels, 0 to 1, and the number of images in which it occurs."""

    id: int
    name: str | None
    pixel_share: float
    num_images: int


@dataclass
class SplitReport:
    """
    What a split holds.

    Args:
        num_images (`int`): Rows of the split, unreadable ones included.
        sizes (`dict[str, int]`): Images of the most frequent sizes, `"640x512"` (width x height).
        formats (`dict[str, int]`): Images of each dtype and number of channels, such as `"uint16, 1 channel"`.
        ignored_share (`float`): Share of all pixels that are 255, 0 to 1.
        classes (`list[ClassShare]`): All classes that have a name or occur.
        intensities (`dict[str, Intensities]`): Intensities by dtype.
        visible_formats, visible_intensities: `formats` and `intensities` of the visible images of pairs, if there are
            any.
    """

    num_images: int
    sizes: dict[str, int]
    formats: dict[str, int]
    ignored_share: float
    classes: list[ClassShare]
    intensities: dict[str, Intensities]
    visible_formats: dict[str, int] = field(default_factory=dict)
    visible_intensities: dict[str, Intensities] = field(default_factory=dict)


@dataclass
class SplitStatistics:
    """The counts from which [`SplitReport`] is made."""

    num_images: int = 0
    sizes: Counter = field(default_factory=Counter)
    formats: Counter = field(default_factory=Counter)
    histograms: dict[str, IntensityHistogram] = field(default_factory=dict)
    num_masks: int = 0
    pixels_of_id: Counter = field(default_factory=Counter)
    images_of_id: Counter = field(default_factory=Counter)
    visible: "SplitStatistics | None" = None

    def add_image(self, size: str, format: str, dtype: str, histogram: IntensityHistogram | None) -> None:
        self.sizes[size] += 1
        self.formats[format] += 1
        if histogram is not None and self.histograms.setdefault(dtype, histogram) is not histogram:
            self.histograms[dtype].merge(histogram)

    def add_visible(self, size: str, format: str, dtype: str, histogram: IntensityHistogram | None) -> None:
        self.visible = self.visible or SplitStatistics()
        self.visible.add_image(size, format, dtype, histogram)

    def add_mask(self, pixels_of_id: dict[int, int]) -> None:
        self.num_masks += 1
        self.pixels_of_id.update(pixels_of_id)
        self.images_of_id.update(pixels_of_id.keys())

    @property
    def ids(self) -> set[int]:
        """The ids that occur, 255 included."""
        return set(self.pixels_of_id)

    def report(self, id2label: dict[int, str] | None) -> SplitReport:
        total, ignored = self.pixels_of_id.total(), self.pixels_of_id[IGNORE_INDEX]
        names = id2label or {}
        visible = self.visible or SplitStatistics()
        return SplitReport(
            num_images=self.num_images,
            sizes=dict(self.sizes.most_common(5)),
            formats=dict(self.formats.most_common()),
            ignored_share=ignored / max(total, 1),
            classes=[
                ClassShare(id, names.get(id), self.pixels_of_id[id] / max(total - ignored, 1), self.images_of_id[id])
                for id in sorted({*names, *self.ids} - {IGNORE_INDEX})
            ],
            intensities=self.intensities(),
            visible_formats=dict(visible.formats.most_common()),
            visible_intensities=visible.intensities(),
        )

    def intensities(self) -> dict[str, Intensities]:
        """Intensities by dtype."""
        intensities = {}
        for dtype, histogram in sorted(self.histograms.items()):
            edges, counts = histogram.bins()
            intensities[dtype] = Intensities(histogram.min, histogram.max, histogram.percentiles(), edges, counts)
        return intensities


__all__ = ["ClassShare", "Intensities", "IntensityHistogram", "SplitReport", "SplitStatistics"]
