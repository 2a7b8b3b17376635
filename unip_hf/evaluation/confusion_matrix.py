# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""A picture of a confusion matrix."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion_matrix_figure(confusion_matrix: np.ndarray, id2label: Mapping[int, str]) -> "Figure":
    """
    Plots how the pixels of each class were classified.

    Args:
        confusion_matrix: Pixel counts, `(num_labels, num_labels)`, rows truth, columns prediction.
        id2label: Names of the classes.

    Returns:
        `matplotlib.figure.Figure`: Each row is in percent of the pixels of its class. Rows without pixels are empty.
    """
    from matplotlib.figure import Figure

    classes = len(confusion_matrix)
    totals = confusion_matrix.sum(axis=1, keepdims=True)
    percent = np.divide(100.0 * confusion_matrix, totals, out=np.full((classes, classes), np.nan), where=totals > 0)
    side = min(2 + 0.6 * classes, 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    names = [id2label[index] for index in range(classes)]
    axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if classes <= 30:  # more numbers would not be legible
        for row, column in zip(*np.nonzero(np.isfinite(percent))):
            value = percent[row, column]
            colour = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(shown, ax=axes, label="percent of the class's pixels", shrink=0.8)
    return figure


__all__ = ["confusion_matrix_figure"]
