# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""InfMix as a dataset: from the original files, from what `unip prepare-infmix` wrote, or from the Hub."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..builders import ChunkedBuilder
from .candidates import Candidates, list_candidates, read_candidate
from .grey_images import prepare_grey
from .rows import FEATURES, InfMixSettings, make_row, mixed_order
from .sources import Source, find_sources


PUBLISHED = "casiatao/InfMix"
VERSION = datasets.Version("1.0.0")
MAX_CHUNKS = 64  # what workers and processes can share at most


@dataclass
class InfMixConfig(datasets.BuilderConfig):
    """
    Args:
        sources_file (`str`, *optional*): YAML file, see [`read_sources_file`].
        infrared, imagenet, coco, images_per_class (*optional*): As [`find_sources`] takes them.
        shortest_edge, image_format, quality, skip_damaged, seed (*optional*): As in [`InfMixSettings`].
    """

    version: datasets.Version | str | None = VERSION
    sources_file: str | None = None
    infrared: Sequence[str] = ()
    imagenet: str | None = None
    coco: str | None = None
    images_per_class: int = 200
    shortest_edge: int | None = 512
    image_format: str = "jpeg"
    quality: int = 90
    skip_damaged: bool = False
    seed: int = 0

    def sources(self) -> list[Source]:
        """
        Raises:
            ValueError: if none are given.
        """
        sources = find_sources(self.infrared, self.imagenet, self.coco, self.sources_file, self.images_per_class)
        if not sources:
            raise ValueError("InfMix needs sources_file, or infrared, imagenet and coco: where its images lie.")
        return sources

    def settings(self) -> InfMixSettings:
        names = ("shortest_edge", "image_format", "quality", "skip_damaged", "seed")
        return InfMixSettings(**{name: getattr(self, name) for name in names})

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name of the folder in the cache: another one when a file has changed."""
        _, counts = list_candidates(self.sources())
        config_kwargs = {**config_kwargs, "fingerprints": [count.fingerprint for count in counts]}
        return super().create_config_id(config_kwargs, custom_features)


class InfMix(ChunkedBuilder):
    """
    The grey images of infrared datasets, ImageNet and COCO, made from the original files while they are read, with
    the columns of [`prepare_infmix`]: `image`, `source` and `name`, one split "train", in the same mixed order.
    Near-duplicates and evaluation sets stay: to leave them out, and for speed, prepare the set once.

    Args:
        sources_file, infrared, ... (*optional*): Fields of [`InfMixConfig`].
    """

    BUILDER_CONFIG_CLASS = InfMixConfig
    VERSION = VERSION
    config: InfMixConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Grey images for pre-training: infrared datasets, a part of ImageNet, and COCO.",
            features=FEATURES,
            homepage="https://arxiv.org/abs/2502.02257",
            license="Each source keeps its own.",
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        candidates, _ = list_candidates(self.config.sources())
        order = mixed_order(np.arange(len(candidates)), self.config.seed)
        chunks = [candidates.take(part) for part in np.array_split(order, min(MAX_CHUNKS, len(order)))]
        # A list is what num_proc, workers and split_dataset_by_node divide.
        return [datasets.SplitGenerator("train", gen_kwargs={"chunks": chunks})]

    def _generate_examples(self, chunks: list[Candidates]) -> Iterator[tuple[str, dict[str, Any]]]:
        settings = self.config.settings()
        for chunk in chunks:
            for candidate in chunk:
                _, image = read_candidate(candidate, settings.skip_damaged)
                if image is not None:
                    grey = prepare_grey(image, settings.shortest_edge, settings.image_format)
                    yield (
                        f"{candidate.source.name}/{candidate.name}",
                        make_row(candidate.source.name, candidate.name, grey, settings),
                    )


def load_infmix(
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """
    Loads InfMix; its images are in the column `image`.

    Args:
        data_dir (`str` or `os.PathLike`, *optional*): The folder that `unip prepare-infmix` wrote, or a YAML file of
            sources (see [`read_sources_file`]), whose files are then read directly. By default the published set,
            from the Hub.
        split (`str`, *optional*): "train"; by default a dictionary of all there are.
        streaming (`bool`, *optional*, defaults to `False`): Give an iterable dataset, which caches nothing.
        num_proc (`int`, *optional*): Processes that fill the cache.

    Raises:
        OSError: if the Hub or a file cannot be reached.
        ValueError: if the folder is unfinished, incomplete, or none of InfMix.
    """
    options: dict[str, Any] = {"split": split, "streaming": streaming}
    options |= {} if streaming else {"num_proc": num_proc}
    if data_dir is None:
        return _load_published(**options)
    path = Path(os.path.abspath(data_dir))
    if path.suffix.lower() in (".yaml", ".yml"):
        builder = InfMix(dataset_name="infmix", sources_file=str(path))
        if streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset(split)
    return datasets.load_dataset("parquet", data_files={"train": _finished_shards(path)}, **options)


def _finished_shards(folder: Path) -> list[str]:
    if not (folder / "infmix.json").is_file():
        if (folder / "unfinished").is_dir():
            raise ValueError(
                f"InfMix in {str(folder)!r} is unfinished: start `unip prepare-infmix` again to finish it."
            )
        raise ValueError(
            f"{str(folder)!r} is no InfMix: give the folder that `unip prepare-infmix` wrote, or a .yaml file that "
            "lists sources."
        )
    shards = [folder / name for name in json.loads((folder / "infmix.json").read_text())["shards"]]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(shards)} files of InfMix are missing, such as {missing[0]!r}.")
    return [str(shard) for shard in shards]


def _load_published(**options: Any) -> Any:
    try:
        loaded = datasets.load_dataset(PUBLISHED, **options)
    except OSError as error:
        raise OSError(
            f"The published InfMix, {PUBLISHED!r} on the Hugging Face Hub, cannot be reached: go online, or give "
            "data_dir, a folder that `unip prepare-infmix` wrote."
        ) from error
    if isinstance(loaded, dict):
        return type(loaded)({key: _with_column_image(rows) for key, rows in loaded.items()})
    return _with_column_image(loaded)


def _with_column_image(rows: Any) -> Any:
    """The rows with their image column called `image`."""
    if rows.features is None:  # of a streamed set known only after the first row
        rows = rows._resolve_features()
    if "image" in rows.features:
        return rows
    images = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if len(images) != 1:
        raise ValueError(f"{PUBLISHED!r} has {len(images)} columns of images among {', '.join(rows.features)}.")
    return rows.rename_column(images[0], "image")


__all__ = ["InfMix", "InfMixConfig", "load_infmix"]
