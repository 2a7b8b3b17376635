# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a network sees in an analysis: the same images for all networks, in whole patches of each."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..modeling.image_processing_unip import UnipImageProcessor
from .measures import Images
from .objects import objects_of_patches
from .texture import Corruption


if TYPE_CHECKING:
    from ..data.reading import Sample

Place = tuple[float, float]  # from top and left, as shares of height and width

VISIBLE = "visible"


@dataclass(frozen=True)
class AnalysisData:
    """
    Images that networks are analysed on.

    Args:
        samples (`Sequence[Sample]`): With masks for [`objects_of_patches`], or without.
        size (`(height, width)`): Size in pixels that all are resized to, as far as it is whole patches.
        corruptions (`Sequence[Corruption]`, *optional*): Of the resized images.
        background (`Collection[int]`, *optional*): Ids in the masks that are not objects; `None` leaves masks out.
        places (`Mapping[int, Sequence[Place]]`, *optional*): For the numbers of images whose attention maps are kept:
            where the patches lie that look.
        batch_size (`int`, *optional*, defaults to 16): Images at once.
    """

    samples: "Sequence[Sample]"
    size: tuple[int, int]
    corruptions: Sequence[Corruption] = ()
    background: Collection[int] | None = None
    places: Mapping[int, Sequence[Place]] = field(default_factory=dict)
    batch_size: int = 16

    def batches(self, processor: UnipImageProcessor, patch_size: int) -> Iterator[Images]:
        """
        Yields:
            All images for a network with this processor and patch size, in batches that are as even as possible and
            have the four images that CKA needs, if there are four. Of pairs, the visible image is one of the changes.
        """
        rows, columns = grid_of(self.size, patch_size)
        size = {"height": rows * patch_size, "width": columns * patch_size}

        def processed(image: np.ndarray) -> torch.Tensor:
            inputs = processor(
                image, return_tensors="pt", input_data_format="channels_last", do_resize=True, size=size
            )
            return inputs["pixel_values"]  # (1, C, H, W)

        numbers = range(len(self.samples))
        num_batches = max(1, min(math.ceil(len(numbers) / self.batch_size), len(numbers) // 4))
        for part in np.array_split(numbers, num_batches):
            samples = {int(number): self.samples[number] for number in part}
            clean = torch.cat([processed(sample.image) for sample in samples.values()])  # (B, C, H, W)
            changed = {}
            for corruption in self.corruptions:
                images = [
                    corruption.apply(image.permute(1, 2, 0).numpy(), number) for image, number in zip(clean, samples)
                ]
                changed[corruption.name] = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            visible = [sample.visible for sample in samples.values() if sample.visible is not None]
            if len(visible) == len(samples):
                changed[VISIBLE] = torch.cat([processed(image) for image in visible])
            objects = None
            if self.background is not None:
                of_images = [sample.ids for sample in samples.values() if sample.ids is not None]
                objects = [objects_of_patches(ids, (rows, columns), self.background) for ids in of_images]
            queries = {
                number: [(int(y * rows), int(x * columns)) for y, x in self.places[number]]
                for number in samples
                if number in self.places
            }
            yield Images(list(samples), clean, changed, objects, queries)


def grid_of(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of the whole patches that are nearest to a size in pixels, at least 2 x 2."""
    rows, columns = (max(2, round(side / patch_size)) for side in size)
    return rows, columns


def whole_tiles(grid_size: tuple[int, int], wanted: int = 4) -> int | None:
    """The number nearest to `wanted` of tiles along each side that are whole patches; `None` if only one is."""
    common = math.gcd(*grid_size)
    divisors = [tiles for tiles in range(2, common + 1) if common % tiles == 0]
    return min(divisors, key=lambda tiles: abs(math.log(tiles / wanted)), default=None)


__all__ = ["VISIBLE", "AnalysisData", "Place", "grid_of", "whole_tiles"]
