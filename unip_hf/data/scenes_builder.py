# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The built-in infrared scenes as a dataset."""

import io
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from PIL import Image

from .scenes import SCENE_CLASSES, draw_scene


def encode_png(array: np.ndarray) -> dict[str, Any]:
    """
    A PNG file in memory, as `datasets` stores it; written here since `datasets` makes TIFF of 16-bit arrays.

    Args:
        array (`np.ndarray` of shape `(height, width)`): uint8 or uint16.
    """
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return {"path": None, "bytes": file.getvalue()}


class InfraredScenes(datasets.GeneratorBasedBuilder):
    """
    Street scenes as a radiometric thermal camera sees them, drawn by [`draw_scene`] when first used: `image`, 16-bit
    PNG of 320x256 pixels, counts of 0.04 K; `annotation`, 8-bit PNG, ids of `SCENE_CLASSES`.
    """

    VERSION = datasets.Version("1.0.0")  # raise it whenever draw_scene draws other pixels: the cache goes by it
    CLASSES = SCENE_CLASSES
    SEEDS = {"train": range(1000, 1400), "validation": range(50), "test": range(500, 550)}

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Drawn street scenes as a 16-bit radiometric thermal camera sees them, with class ids.",
            features=datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()}),
            license="Apache-2.0",
            splits=datasets.SplitDict(
                {split: datasets.SplitInfo(split, num_examples=len(seeds)) for split, seeds in self.SEEDS.items()}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if self.config.data_dir is not None:
            raise ValueError(
                f'The "scenes" are drawn, not read from {str(self.config.data_dir)!r}: for a folder of your own use '
                '"folder".'
            )
        return [
            datasets.SplitGenerator(split, gen_kwargs={"seeds": list(seeds)})  # a list is what num_proc divides
            for split, seeds in self.SEEDS.items()
        ]

    def _generate_examples(self, seeds: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        for seed in seeds:
            counts, ids = draw_scene(seed)
            yield seed, {"image": encode_png(counts), "annotation": encode_png(ids)}


__all__ = ["InfraredScenes"]
