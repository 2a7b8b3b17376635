# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of InfMix: what is in them, in which order they are, and the settings that this depends on."""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import datasets
import numpy as np

from .grey_images import IMAGE_FORMATS, encode


FEATURES = datasets.Features(
    {"image": datasets.Image(), "source": datasets.Value("string"), "name": datasets.Value("string")}
)


@dataclass(frozen=True)
class InfMixSettings:
    """
    What the content of the shards depends on, beside the sources.

    Args:
        shortest_edge (`int`, *optional*, defaults to 512): Limit of an image's shorter side in pixels, or
            `None`.
        image_format (`str`, *optional*, defaults to `"jpeg"`): Or `"png"`, lossless, which keeps 16 bits.
        quality (`int`, *optional*, defaults to 90): Of JPEG, 1 to 100.
        remove_near_duplicates (`bool`, *optional*, defaults to `False`): Of images that look nearly the same, keep the
            first.
        hash_distance (`int`, *optional*, defaults to 4): Bits of 64 in which the perceptual hashes of such images may
            differ, 0 to 15; [`near_duplicates`] tells what it means.
        skip_damaged (`bool`, *optional*, defaults to `False`): Leave out images that cannot be read.
        images_per_shard (`int`, *optional*, defaults to 2000): At most.
        seed (`int`, *optional*, defaults to 0): Of the order, in which the sources are mixed.

    Raises:
        ValueError: if a value makes no sense.
    """

    shortest_edge: int | None = 512
    image_format: str = "jpeg"
    quality: int = 90
    remove_near_duplicates: bool = False
    hash_distance: int = 4
    skip_damaged: bool = False
    images_per_shard: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"image_format is {' or '.join(IMAGE_FORMATS)}, not {self.image_format!r}.")
        limits = {"quality": (1, 100), "hash_distance": (0, 15), "images_per_shard": (1, math.inf)}
        limits |= {"seed": (0, math.inf), "shortest_edge": (1, math.inf)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                allowed = f"{low} or above" if high == math.inf else f"{low} to {high}"
                raise ValueError(f"{name} is {allowed}, not {value}.")


def mixed_order(positions: np.ndarray, seed: int) -> np.ndarray:
    """Positions, int64 of shape (n,), in a random order that is the same for the same seed."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(positions)


def make_row(source: str, name: str, image: np.ndarray, settings: InfMixSettings) -> dict[str, Any]:
    """
    A row of the dataset.

    Args:
        source, name (`str`): Of the image.
        image (`np.ndarray` of shape `(height, width)`): As [`prepare_grey`] returns it.
        settings (`InfMixSettings`): Format and quality.
    """
    path = PurePosixPath(source, name).with_suffix(IMAGE_FORMATS[settings.image_format])
    encoded = encode(image, settings.image_format, settings.quality)
    return {"image": {"bytes": encoded, "path": str(path)}, "source": source, "name": name}


__all__ = ["FEATURES", "InfMixSettings", "make_row", "mixed_order"]
