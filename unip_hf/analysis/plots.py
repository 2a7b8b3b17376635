# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of attention: how it changes from block to block, and where single queries look."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .attention import HYBRID_NMI, STABLE_NMI, attention_between_patches, normalized_mutual_information, patch_grid
from .figures import block_axis, hybrid_band


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def nmi_curve(nmi: Sequence[float], layer: int, target: float = HYBRID_NMI, title: str = "") -> "Figure":
    """
    A curve of the normalised mutual information of every block, with the chosen block marked.

    Args:
        nmi (`Sequence[float]`): Normalised mutual information of each block, 0 to 1.
        layer (`int`): Number of the chosen block, from 1.
        target (`float`, *optional*, defaults to 0.09): The value that the choice had to be nearest to.
        title (`str`, *optional*): For example the name of the teacher.

    Raises:
        ValueError: if there is no such block.
    """
    from matplotlib.figure import Figure

    if not 1 <= layer <= len(nmi):
        raise ValueError(f"layer must be between 1 and {len(nmi)}, got {layer}.")
    blocks = range(1, len(nmi) + 1)
    figure = Figure(figsize=(min(5 + 0.12 * len(nmi), 8), 3.6), layout="constrained")
    axes = figure.add_subplot()
    hybrid_band(axes, STABLE_NMI, target)
    axes.plot(blocks, nmi, color="tab:blue", marker="o", markersize=4)
    chosen = f"block {layer}: {nmi[layer - 1]:.3f}"
    axes.plot(layer, nmi[layer - 1], "o", color="tab:red", markersize=9, label=chosen, clip_on=False, zorder=3)
    block_axis(axes, 1, len(nmi))
    axes.set_ylim(0, 1.08 * max(*nmi, target, STABLE_NMI[1]))
    axes.set_ylabel("normalised mutual information")
    axes.legend(frameon=False, fontsize="small")
    axes.set_title(title)
    return figure


def attention_pictures(
    images: torch.Tensor,
    attentions: Mapping[str, torch.Tensor],
    queries: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> "Figure":
    """
    Where networks look from a few patches of a few images. Each row is a query patch, which is outlined. Each column
    is a network, with the mean attention over its heads, brightest where it is strongest. To see single heads, pass
    each as a network of its own (`{"head 1": attention[:, :1], ...}`).

    Args:
        images (uint8 `torch.Tensor` of shape `(num_images, 1 or 3, height, width)`): Images to look at.
        attentions (`dict` of `torch.Tensor` of shape `(num_images, num_heads, 1 + num_patches, 1 + num_patches)`):
            Maps the name of a network to its attention after softmax. CLS is first and is left out. Grids may differ.
        queries (*optional*): For each image, rows and columns of patches in the grid of the first network, from 0. By
            default these are the patch that stands out most from its surroundings, and one in the middle of the image
            or, if the first one lies there, away from it.

    Raises:
        ValueError: if images and attentions do not fit, or a query lies outside.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if images.ndim != 4 or images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"Images must be uint8 (number, 1 or 3, height, width), got {images.dtype} {tuple(images.shape)}."
        )
    if not attentions or any(len(attention) != len(images) for attention in attentions.values()):
        sizes = {name: len(attention) for name, attention in attentions.items()}
        raise ValueError(f"There must be attention for each of the {len(images)} images, got {sizes}.")
    height, width = images.shape[2:]
    grids = {name: _grid(attention, height, width) for name, attention in attentions.items()}
    first_grid = next(iter(grids.values()))
    if queries is None:
        queries = [outstanding_patches(image, first_grid) for image in images]
    rows = [(number, query) for number, of_image in enumerate(queries) for query in of_image]
    are_inside = all(0 <= place < side for _, query in rows for place, side in zip(query, first_grid))
    if len(queries) != len(images) or not rows or not are_inside:
        raise ValueError(
            f"There must be queries for each of the {len(images)} images, in the grid of {first_grid[0]} rows and "
            f"{first_grid[1]} columns, got {queries}."
        )

    side = 2.1  # inches
    num_columns = 1 + len(attentions)
    titles = 0.25 + 0.25 * len(images)
    size = (num_columns * side, len(rows) * side * height / width + titles)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01))
    panels = figure.subplots(len(rows), num_columns, squeeze=False)
    pixels = images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().numpy()  # (K, H, W, 3)
    for panel in panels.flat:
        panel.set_axis_off()
    for index, (number, query) in enumerate(rows):
        is_first = index == 0 or rows[index - 1][0] != number
        panels[index, 0].imshow(pixels[number])
        _outline(panels[index, 0], query, height / first_grid[0], width / first_grid[1])
        if index == 0:
            panels[index, 0].set_title("query\n", fontsize="medium")
        for panel, (name, attention) in zip(panels[index, 1:], attentions.items()):
            of_image = attention[number : number + 1].float()
            grid = grids[name]
            nearest = [place * ours // theirs for place, ours, theirs in zip(query, grid, first_grid)]
            between = attention_between_patches(of_image).mean(dim=1)[0]  # (N, N)
            looks = between[nearest[0] * grid[1] + nearest[1]].reshape(grid).cpu().numpy()
            panel.imshow(_coloured(pixels[number], looks))
            _outline(panel, (nearest[0], nearest[1]), height / grid[0], width / grid[1])
            if is_first:
                nmi = f"NMI {normalized_mutual_information(of_image).mean().item():.3f}"
                panel.set_title(f"{name}\n{nmi}" if index == 0 else nmi, fontsize="medium")
    return figure


def attention_maps(
    image: np.ndarray, columns: Mapping[str, Sequence[tuple[np.ndarray, tuple[int, int]]]], rows: Sequence[str]
) -> "Figure":
    """
    Attention of several patches, blocks, heads or networks on one image, brightest where it is strongest.

    Args:
        image (uint8 `np.ndarray` of shape `(height, width, 3)`): The image.
        columns (`dict`): Maps the title of each column to what its rows show: the attention of one patch to all
            patches, `(rows, columns)`, and the place of the patch in this grid, which is outlined.
        rows (`Sequence[str]`): Title of each row.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height, width = image.shape[:2]
    panel = 3.6 / len(columns)  # inches
    size = (3.9, len(rows) * (panel * height / width + 0.03) + 0.3)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.015, wspace=0.01, hspace=0.01))
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, (title, shown) in enumerate(columns.items()):
        for row, (looks, place) in enumerate(shown):
            axes = panels[row, column]
            axes.imshow(_coloured(image, looks))
            _outline(axes, place, height / looks.shape[0], width / looks.shape[1])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(title, fontsize="medium")
            if column == 0:
                axes.set_ylabel(rows[row], fontsize="medium")
    return figure


def _grid(attention: torch.Tensor, height: int, width: int) -> tuple[int, int]:
    """The grid of square patches in an image of this size in pixels."""
    num_patches = attention.shape[-1] - 1
    patch_size = math.sqrt(height * width / max(num_patches, 1))
    return patch_grid(num_patches, (round(height / patch_size), round(width / patch_size)))


def outstanding_patches(image: torch.Tensor, grid: tuple[int, int]) -> list[tuple[int, int]]:
    """The patch with most contrast to its surroundings, often an object, and one away from it."""
    means = nn.functional.adaptive_avg_pool2d(image.float().mean(dim=0)[None, None], grid)  # (1, 1, rows, columns)
    surroundings = nn.functional.avg_pool2d(means, kernel_size=5, stride=1, padding=2, count_include_pad=False)
    row, column = divmod(int((means - surroundings).abs().argmax()), grid[1])
    for place in ((1 / 2, 1 / 2), (1 / 4, 1 / 4)):
        other = (int(place[0] * grid[0]), int(place[1] * grid[1]))
        if abs(row - other[0]) > grid[0] // 5 or abs(column - other[1]) > grid[1] // 5:
            break
    return [(row, column), other]


def colour_attention(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """
    Attention over an image: the stronger, the brighter and more opaque. Weak attention to many patches counts as well.

    Args:
        grey (`np.ndarray`): Grey values of the image, 0 to 1, of any shape.
        strength (`np.ndarray` of the same shape): Attention divided by the strongest, 0 to 1.

    Returns:
        `np.ndarray` of shape `(..., 3)`: colours, 0 to 1.
    """
    from matplotlib import colormaps

    strength = np.sqrt(strength)[..., None]
    opacity = 0.85 * strength
    return (1 - opacity) * 0.6 * grey[..., None] + opacity * colormaps["inferno"](strength[..., 0])[..., :3]


def _coloured(pixels: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """An image `(H, W, 3)` under attention `(rows, columns)`, which is resized (bicubic)."""
    resized = nn.functional.interpolate(
        torch.from_numpy(looks)[None, None], size=pixels.shape[:2], mode="bicubic", align_corners=False
    )[0, 0].numpy()  # (H, W)
    return colour_attention(pixels.mean(axis=2) / 255, (resized / looks.max()).clip(0, 1))


def _outline(panel: "Axes", query: tuple[int, int], height: float, width: float) -> None:
    """Marks a patch of this size in pixels."""
    from matplotlib.patches import Rectangle

    corner = (query[1] * width - 0.5, query[0] * height - 0.5)
    for colour, line in (("black", 2.5), ("cyan", 1.2)):
        panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line))


__all__ = ["attention_maps", "attention_pictures", "colour_attention", "nmi_curve", "outstanding_patches"]
