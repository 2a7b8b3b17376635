# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The settings on which the content of InfMix depends."""

import math
from dataclasses import dataclass


IMAGE_FORMATS = {"jpeg": ".jpg", "png": ".png"}


@dataclass(frozen=True)
class InfMixSettings:
    """
    The settings on which the content of InfMix depends, apart from the sources.

    Args:
        shortest_edge (`int`, *optional*, defaults to 512): Limit of an image's shorter side in pixels, or `None`.
        image_format (`str`, *optional*, defaults to `"jpeg"`): `"jpeg"`, or `"png"`, which is lossless and keeps 16
            bits.
        quality (`int`, *optional*, defaults to 90): Quality of JPEG, 1 to 100.
        remove_near_duplicates (`bool`, *optional*, defaults to `False`): Whether to keep only the first of images that
            look nearly the same.
        hash_distance (`int`, *optional*, defaults to 4): In how many of 64 bits the perceptual hashes of such images
            may differ, 0 to 15. The module `near_duplicates` describes what distances mean.
        skip_damaged (`bool`, *optional*, defaults to `False`): Whether to leave out images that cannot be read.
        images_per_shard (`int`, *optional*, defaults to 2000): The most images in one file.
        seed (`int`, *optional*, defaults to 0): Seed of the random order.

    Raises:
        ValueError: if a value is invalid.
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
            raise ValueError(f"image_format must be {' or '.join(IMAGE_FORMATS)}, got {self.image_format!r}.")
        limits = {"quality": (1, 100), "hash_distance": (0, 15), "images_per_shard": (1, math.inf)}
        limits |= {"seed": (0, math.inf), "shortest_edge": (1, math.inf)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{name} must be {allowed}, got {value}.")


__all__ = ["InfMixSettings"]
