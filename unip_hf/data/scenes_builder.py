# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The built-in infrared scenes as a dataset."""

from typing import Any

import datasets
from PIL import Image

from .benchmarks.encoding import encode_image
from .caching import ChunkedBuilder
from .scenes import SCENE_CLASSES, draw_scene


class InfraredScenes(ChunkedBuilder):
    """
    Street scenes as a radiometric thermal camera sees them, drawn by [`draw_scene`] when first used. `image` is a
    16-bit PNG of 320x256 pixels with counts of 0.04 K, and `annotation` an 8-bit PNG with ids of `SCENE_CLASSES`.
    """

    VERSION = datasets.Version("1.0.0")  # raise it when draw_scene changes, so that the cache is not used
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
                f'The "scenes" are drawn, not read from {str(self.config.data_dir)!r}. For a folder of your own, use '
                '"folder".'
            )
        return [self.split_generator(split, seeds, max_chunks=len(seeds)) for split, seeds in self.SEEDS.items()]

    def make_example(self, item: int) -> tuple[int, dict[str, Any]]:
        # As PNG, because datasets would store a 16-bit array as TIFF.
        image, annotation = (
            {"path": None, "bytes": encode_image(Image.fromarray(array))} for array in draw_scene(item)
        )
        return item, {"image": image, "annotation": annotation}


__all__ = ["InfraredScenes"]
