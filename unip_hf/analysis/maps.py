# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Attention maps of some images for the page of an analysis: which places look, and where they look."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..pictures import grey_picture
from .figures import figure_style
from .inputs import Place, grid_of
from .measures import NetworkMeasures
from .objects import objects_of_patches
from .page import Picture
from .plots import attention_maps, outstanding_patches


if TYPE_CHECKING:
    from ..data.reading import Sample

MOST_COLUMNS = 3  # legible on a phone


@dataclass(frozen=True)
class MappedImage:
    """
    An image whose attention maps are drawn.

    Args:
        number (`int`): Which of the images of the analysis.
        name (`str`): For titles.
        picture (uint8 `np.ndarray` of shape `(height, width, 3)`): As the page shows it.
        places (`Sequence[Place]`): Of the patches that look.
    """

    number: int
    name: str
    picture: np.ndarray
    places: Sequence[Place]


def choose_images(
    samples: "Sequence[Sample]",
    count: int,
    size: tuple[int, int],
    background: Sequence[int] = (0,),
    pixels: Sequence[tuple[int, int]] | None = None,
    grid: int | None = None,
) -> list[MappedImage]:
    """
    The first images, those with objects before others, and the places in them that look.

    Args:
        samples (`Sequence[Sample]`): All images of the analysis.
        count (`int`): How many to choose.
        size (`(height, width)`): Size of the picture.
        background (`Sequence[int]`, *optional*): Ids in the masks that are not objects.
        pixels (`Sequence[tuple[int, int]]`, *optional*): Places that look, as x and y in pixels of the image.
        grid (`int`, *optional*): `grid` x `grid` evenly spaced places instead. By default see [`default_places`].

    Raises:
        ValueError: if a pixel lies outside of an image.
    """
    has_objects = [sample.ids is not None and not np.isin(sample.ids, [*background, 255]).all() for sample in samples]
    order = sorted(range(len(samples)), key=lambda number: not has_objects[number])
    images = []
    for number in order[:count]:
        sample = samples[number]
        height, width = sample.image.shape[:2]
        resized = Image.fromarray(grey_picture(sample.image)).resize(size[::-1], Image.Resampling.BICUBIC)
        picture = np.array(resized)  # (H, W, 3)
        places = default_places(picture, sample.ids, background)
        if grid is not None:
            steps = [(index + 0.5) / grid for index in range(grid)]
            places = [(y, x) for y in steps for x in steps]
        elif pixels is not None:
            outside = [(x, y) for x, y in pixels if x >= width or y >= height]
            if outside:
                raise ValueError(
                    f"The pixel {outside[0][0]} {outside[0][1]} (x, y) lies outside of {sample.name}, which has "
                    f"{width} columns and {height} rows."
                )
            places = [((y + 0.5) / height, (x + 0.5) / width) for x, y in pixels]
        images.append(MappedImage(number, f"image {number + 1}, {Path(sample.name).name}", picture, places))
    return images


def default_places(
    picture: np.ndarray, ids: np.ndarray | None = None, background: Sequence[int] = (0,)
) -> list[Place]:
    """
    Two places that look: the middle of the largest object, or what stands out most from its surroundings; and a place
    away from what stands out.

    Args:
        picture (uint8 `np.ndarray` of shape `(height, width, 3)`): The image.
        ids (`np.ndarray` of shape `(height, width)`, *optional*): Its mask.
        background (`Sequence[int]`, *optional*): Ids that are not objects.
    """
    grid_size = grid_of(picture.shape[:2], 16)
    patches = outstanding_patches(torch.from_numpy(picture).permute(2, 0, 1), grid_size)
    objects = np.zeros(grid_size) if ids is None else objects_of_patches(ids, grid_size, background)
    if (objects > 0).any():
        largest = 1 + np.bincount(objects[objects > 0])[1:].argmax()
        of_object = np.argwhere(objects == largest)  # (patches, 2)
        patches[0] = tuple(of_object[np.square(of_object - of_object.mean(axis=0)).sum(axis=1).argmin()])
    return [((row + 0.5) / grid_size[0], (column + 0.5) / grid_size[1]) for row, column in patches]


def map_pictures(
    images: Sequence[MappedImage],
    networks: Mapping[str, NetworkMeasures],
    blocks: Sequence[int] | None = None,
    each_head: bool = False,
    target: float = 0.09,
) -> Iterator[Picture]:
    """
    Draws attention maps: of one network its blocks below and the places beside one another, of several networks the
    networks beside one another.

    Args:
        images: Those whose places the networks have measured.
        networks (`dict`): Measures by the short name of the network.
        blocks (`Sequence[int]`, *optional*): By default a third of the depth, the one nearest to `target`, the last.
        each_head (`bool`, *optional*, defaults to `False`): Whether to draw each head of a block, not the mean.
        target (`float`, *optional*, defaults to 0.09): NMI of the ideal block.

    Raises:
        ValueError: if a network has no such block.
    """
    shown = {name: _blocks_of(name, measures, blocks, target) for name, measures in networks.items()}
    for image in images:
        places = {f"place {index + 1}": index for index in range(len(image.places))}
        if each_head:
            for name, measures in networks.items():
                for number in sorted({*shown[name].values()}):
                    heads = measures.blocks[number - 1].maps[image.number]  # (heads, Q, rows, columns)
                    columns = {title: [(of_head[q], q) for of_head in heads] for title, q in places.items()}
                    rows = [f"head {head + 1}" for head in range(len(heads))]
                    yield from _figures(image, columns, rows, f"{name}, block {number}", "Each head of the block.")
        elif len(networks) == 1:
            [(name, measures)] = networks.items()
            columns = {title: _cells(measures, shown[name], image, q) for title, q in places.items()}
            rows = [f"block {number}" for number in shown[name].values()]
            yield from _figures(image, columns, rows, name, "The mean over the heads of each block.")
        else:
            numbers = "; ".join(f"{name}: blocks {', '.join(map(str, of.values()))}" for name, of in shown.items())
            for title, q in places.items():
                columns = {name: _cells(measures, shown[name], image, q) for name, measures in networks.items()}
                rows = list(next(iter(shown.values())))
                yield from _figures(image, columns, rows, title, f"The mean over the heads of each block. {numbers}.")


def _blocks_of(name: str, measures: NetworkMeasures, blocks: Sequence[int] | None, target: float) -> dict[str, int]:
    last = len(measures.blocks)
    if blocks is None:
        return {"1/3 deep": max(1, round(last / 3)), f"NMI {target:g}": measures.nearest_block(target), "last": last}
    wrong = [number for number in blocks if not 1 <= number <= last]
    if wrong:
        raise ValueError(f"{name} has no block {wrong[0]}: choose from 1 to {last}.")
    return {f"block {number}": number for number in blocks}


def _cells(
    measures: NetworkMeasures, blocks: Mapping[str, int], image: MappedImage, place: int
) -> list[tuple[torch.Tensor, int]]:
    """The mean over heads of what a place looks at, `(rows, columns)`, in each block, and the index of the place."""
    maps = [measures.blocks[number - 1].maps[image.number] for number in blocks.values()]
    return [(of_block.mean(dim=0)[place], place) for of_block in maps]


def _figures(
    image: MappedImage,
    columns: Mapping[str, Sequence[tuple[torch.Tensor, int]]],
    rows: Sequence[str],
    what: str,
    caption: str,
) -> Iterator[Picture]:
    """Figures with a few columns each. A cell is the map of a place and its index."""

    def cell(shown: torch.Tensor, place: int) -> tuple[np.ndarray, tuple[int, int]]:
        y, x = image.places[place]
        return shown.numpy(), (int(y * shown.shape[0]), int(x * shown.shape[1]))

    titles = list(columns)
    parts = [titles[start : start + MOST_COLUMNS] for start in range(0, len(titles), MOST_COLUMNS)]
    for number, part in enumerate(parts, start=1):
        drawn = {title: [cell(*shown) for shown in columns[title]] for title in part}
        of_parts = f" ({number} of {len(parts)})" * (len(parts) > 1)
        with figure_style():
            figure = attention_maps(image.picture, drawn, rows)
        yield Picture(f"{image.name}: {what}{of_parts}", caption, figure)


__all__ = ["MappedImage", "choose_images", "default_places", "map_pictures"]
