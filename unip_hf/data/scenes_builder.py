# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The built-in infrared scenes as a dataset."""

from typing import Any

import datasets
from PIL import Image

from .benchmarks.encoding import encode_image
from .caching import ChunkedBuilder
from .reading import VISIBLE_COLUMN
from .scenes import SCENE_CLASSES, draw_scene, draw_scene_pair


class InfraredScenes(ChunkedBuilder):
    """
    Street scenes as a radiometric thermal camera sees them, drawn by [`draw_scene`] when first used. `image` is a
    16-bit PNG of 320x256 pixels with counts of 0.04 K, and `annotation` an 8-bit PNG with ids of `SCENE_CLASSES`.

    The configuration "both" has the pairs of [`draw_scene_pair`]. Its further column `rgb` is what a camera of visible
    light sees, an 8-bit PNG in colour, by day or by night.
    """

    VERSION = datasets.Version("1.0.0")  # raise it when draw_scene changes, so that the cache is not used
    BUILDER_CONFIGS = [datasets.BuilderConfig(name) for name in ("thermal", "both")]
    DEFAULT_CONFIG_NAME = "thermal"
    CLASSES = SCENE_CLASSES
    SEEDS = {"train": range(1000, 1400), "validation": range(50), "test": range(500, 550)}

    @property
    def columns(self) -> tuple[str, ...]:
        return ("image", VISIBLE_COLUMN, "annotation") if self.config.name == "both" else ("image", "annotation")

    def _info(self) -> datasets.DatasetInfo:
        description = "Drawn street scenes as a 16-bit radiometric thermal camera sees them, with class ids"
        return datasets.DatasetInfo(
            description=description + (", and visible images." if self.config.name == "both" else "."),
            features=datasets.Features({column: datasets.Image() for column in self.columns}),
            license="Apache-2.0",
            splits=datasets.SplitDict(
                {split: datasets.SplitInfo(split, num_examples=len(seeds)) for split, seeds in self.SEEDS.items()}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if self.config.data_dir is not None:
            raise ValueError(
                f'The "scenes" are drawn, not read from {str(self.config.data_dir)!r}. For a folder of your own, use '
                '"folder".'
            )
        return [self.split_generator(split, seeds, max_chunks=len(seeds)) for split, seeds in self.SEEDS.items()]

    def make_example(self, item: int) -> tuple[int, dict[str, Any]]:
        draw = draw_scene_pair if self.config.name == "both" else draw_scene
        # As PNG, because datasets would store a 16-bit array as TIFF.
        images = ({"path": None, "bytes": encode_image(Image.fromarray(array))} for array in draw(item))
        return item, dict(zip(self.columns, images))


__all__ = ["InfraredScenes"]
