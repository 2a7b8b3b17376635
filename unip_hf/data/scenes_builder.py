# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The built-in infrared scenes as a dataset."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import datasets
from PIL import Image

from .benchmarks.encoding import encode_png
from .builders import ChunkedBuilder
from .scenes import SCENE_CLASSES, draw_scene


class InfraredScenes(ChunkedBuilder):
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
            datasets.SplitGenerator(split, gen_kwargs={"chunks": [[seed] for seed in seeds]})
            for split, seeds in self.SEEDS.items()
        ]

    def _generate_examples(self, chunks: list[list[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
        for seed in chain.from_iterable(chunks):
            counts, ids = draw_scene(seed)
            # As PNG, since datasets would make TIFF of a 16-bit array.
            encoded = [{"path": None, "bytes": encode_png(Image.fromarray(array))} for array in (counts, ids)]
            yield seed, dict(zip(("image", "annotation"), encoded))


__all__ = ["InfraredScenes"]
