# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Lists the images of the sources of InfMix, in order, and reads them one by one."""

import dataclasses
import functools
import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ...files import could_not_read
from ..benchmarks import BENCHMARKS
from ..labelled import load_labelled, select_split
from ..reading import encoded_bytes, without_decoding
from ..source_files import SourceFile, SourceFiles
from .grey_images import UnusableImage, read_grey
from .sources import THERMAL, InfMixSource, is_image


class Candidate(NamedTuple):
    """One image of a source: a file, or the row of a dataset whose number is the name of the file."""

    source: InfMixSource
    file: SourceFile

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def path(self) -> str:
        """What messages call it."""
        if self.source.dataset is not None:
            return f"row {int(self.name)} of the dataset {self.source.dataset}"
        return self.file.path

    def read(self) -> bytes:
        """
        Raises:
            OSError: if the file cannot be read.
            ValueError: if the member of a zip file is damaged.
        """
        if self.source.dataset is None:
            return self.file.read()
        return encoded_bytes(_open_dataset(self.source)[int(self.name)]["image"])


@dataclass
class Candidates:
    """
    The wanted images of all sources, in their order. An image takes about fifty bytes.

    Args:
        sources (`list[InfMixSource]`): Where they come from.
        containers (`list[tuple[str, bool]]`): Path of each folder or zip file, and whether it is a zip file.
        table (`pa.Table`): Columns `source` and `container`, which are indices into these lists, and `name`.
    """

    sources: list[InfMixSource]
    containers: list[tuple[str, bool]]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Candidate]:
        for batch in self.table.to_batches(max_chunksize=1000):
            for source, container, name in zip(*(column.to_pylist() for column in batch.columns)):
                path, is_zipped = self.containers[container]
                yield Candidate(self.sources[source], SourceFile(path, name, is_zipped))

    @property
    def source_numbers(self) -> np.ndarray:
        """int64 of shape (N,)"""
        return self.table["source"].to_numpy().astype(np.int64)

    def take(self, positions: np.ndarray) -> "Candidates":
        """The candidates at these positions, int64 of shape (n,), in this order."""
        return dataclasses.replace(self, table=self.table.take(pa.array(positions)).combine_chunks())


@dataclass
class SourceCount:
    """
    Args:
        found (`int`): Images in a source.
        taken (`int`): Images that the options of the source select.
        fingerprint (`str`): Changes when a selected file changes its name, its size or its time.
        classes (`int`, *optional*): Number of classes, if the source has folders of classes.
        small_classes (`int`): How many of these have fewer images than `images_per_class`.
    """

    found: int
    taken: int
    fingerprint: str
    classes: int | None = None
    small_classes: int = 0


def list_candidates(sources: Sequence[InfMixSource]) -> tuple[Candidates, list[SourceCount]]:
    """
    Lists the wanted images, without reading any.

    Raises:
        OSError: if a folder or file is missing.
        ValueError: if two sources have the same name, a source has no images, two of its files differ only in their
            suffix, or a zip file is damaged or has a member that leads out of it.
    """
    _open_dataset.cache_clear()  # files may have changed
    names = [source.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"Several sources have the name {repeated[0]!r}. Rename one, or list it in --sources.")
    containers: dict[tuple[str, bool], int] = {}
    tables, counts = [], []
    for number, source in enumerate(sources):
        files, count = _list_source(source)
        if not files:
            where = source.path or f"the dataset {source.dataset!r}"
            raise ValueError(f"The source {source.name!r} has no images in {where}.")
        used = [containers.setdefault((file.container, file.is_zipped), len(containers)) for file in files]
        columns = {
            "source": pa.array(np.full(len(files), number, dtype=np.int32)),
            "container": pa.array(used, type=pa.int32()),
            "name": pa.array([file.name for file in files], type=pa.large_string()),
        }
        tables.append(pa.table(columns))
        counts.append(count)
    if not tables:
        raise ValueError("There are no sources. Give --infrared, --imagenet, --coco or --sources.")
    return Candidates(list(sources), list(containers), pa.concat_tables(tables).combine_chunks()), counts


def _list_source(source: InfMixSource) -> tuple[list[SourceFile], SourceCount]:
    classes, small_classes, fingerprint = None, 0, hashlib.sha256()
    if source.dataset is not None:
        rows = _open_dataset(source)
        files = [SourceFile("", f"{number:07d}", False) for number in range(len(rows))]
        found = len(files)
        fingerprint.update(_fingerprint_of_dataset(source, rows).encode())
    elif source.images_per_class is not None:
        files, class_sizes = _list_classes(source)
        found = sum(class_sizes)
        classes, small_classes = len(class_sizes), sum(size < source.images_per_class for size in class_sizes)
    else:
        inner = os.path.join(str(source.path), THERMAL)
        images = SourceFiles(inner if os.path.isdir(inner) else str(source.path)).images(".").values()
        thermal = [file for file in images if THERMAL in file.name.split("/")[:-1]]
        files = thermal or list(images)
        found = len(files)
    files = files[:: source.every][: source.limit]
    if source.path is not None:
        archives = set()
        for file in files:
            path = file.container if file.is_zipped else file.path
            if path not in archives:
                status = os.stat(path)
                fingerprint.update(f"{status.st_size}\0{status.st_mtime_ns}\0".encode())
            if file.is_zipped:
                archives.add(path)
            fingerprint.update(f"{file.name}\0".encode())
    return files, SourceCount(found, len(files), fingerprint.hexdigest()[:16], classes, small_classes)


def _list_classes(source: InfMixSource) -> tuple[list[SourceFile], list[int]]:
    """The wanted files, and how many there are in each class. It holds the names of one class at a time."""
    root = os.path.abspath(str(source.path))
    if not os.path.isdir(root):
        raise ValueError(
            f"The source {source.name!r}: images_per_class needs a folder, got {root!r}. Unpack it first."
        )
    files: list[SourceFile] = []
    class_sizes = []
    for folder in sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."):
        names = sorted(name for name in os.listdir(os.path.join(root, folder)) if is_image(name))
        stems = [name.rpartition(".")[0] for name in names]
        if len(set(stems)) < len(stems):
            stem = next(stem for stem in stems if stems.count(stem) > 1)
            raise ValueError(f"The folder {os.path.join(root, folder)!r} has several images {stem!r}. Remove one.")
        class_sizes.append(len(names))
        files += [SourceFile(root, f"{folder}/{name}", False) for name in names[: source.images_per_class]]
    return files, class_sizes


@functools.cache
def _open_dataset(source: InfMixSource) -> datasets.Dataset:
    """The images of a dataset as encoded files. It is opened once in each process."""
    assert source.dataset is not None
    loaded = load_labelled(
        source.dataset,
        source.data_dir,
        config_name=source.config_name,
        allow_partial=source.allow_partial and source.dataset in BENCHMARKS,  # others are never partial
    )
    rows = select_split(loaded, "+".join(loaded) if source.split is None else source.split)
    return without_decoding(rows.select_columns(["image"]))


def _fingerprint_of_dataset(source: InfMixSource, rows: datasets.Dataset) -> str:
    """Changes when the files of the dataset change or, if it has no files of its own, its copy in the cache."""
    data_dir = source.data_dir or ""
    if os.path.isdir(data_dir) or zipfile.is_zipfile(data_dir):
        return SourceFiles(data_dir).fingerprint
    paths = [Path(file["filename"]) for file in rows.cache_files]
    return " ".join([str(len(rows)), *(f"{path.name} {path.stat().st_size}" for path in paths)])


class Outcome(IntEnum):
    """What became of a candidate."""

    KEPT = 0
    TOO_DARK = 1
    DAMAGED = 2
    IN_EVALUATION_SET = 3
    DUPLICATE = 4


def read_candidate(candidate: Candidate, skip_damaged: bool) -> tuple[Outcome, np.ndarray | None]:
    """
    Reads a candidate as a grey image, cropped as its source says. Images that are too dark are left out, and with
    `skip_damaged` damaged ones as well.

    Returns:
        `Outcome.KEPT` and what [`read_grey`] returns, or another outcome and `None`.

    Raises:
        ValueError: if its file cannot be read or is damaged. The message names it.
    """
    source = candidate.source
    try:
        try:
            encoded = candidate.read()
        except OSError as error:
            raise could_not_read(candidate.path, error) from error
        except ValueError as error:  # a damaged member of a zip file
            raise UnusableImage(str(error)) from error
        image = read_grey(encoded, candidate.path, source.crop_border)
    except UnusableImage as error:
        if skip_damaged:
            return Outcome.DAMAGED, None
        raise ValueError(f"{error} Replace it, or add --skip_damaged to leave such images out.") from error
    if source.minimum_brightness is not None and image.max() <= source.minimum_brightness:
        return Outcome.TOO_DARK, None
    return Outcome.KEPT, image


__all__ = ["Candidate", "Candidates", "Outcome", "SourceCount", "list_candidates", "read_candidate"]
