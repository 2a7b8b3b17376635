# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What the builders of the published benchmarks share. A subclass states the facts and finds the files."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import datasets
import numpy as np

from ...files import IMAGE_SUFFIXES
from ...pictures import segmentation_palette
from ..caching import ChunkedBuilder
from ..reading import IGNORE_INDEX
from ..source_files import SourceFile, SourceFiles, read_names
from .encoding import EncodedImage, encode_mask, read_ids, read_image_file


logger = logging.getLogger(__name__)

VERSION = datasets.Version(
    "1.0.0"
)  # raise it when a builder gives other rows or pixels, so that the cache is not used

Images = Mapping[str, SourceFile]  # by their names, which are paths in a folder without suffix


class Row(NamedTuple):
    """
    The files of one example. It is small, because all rows of a split are handed to other processes.

    Args:
        name (`str`): Unique in its split, such as "00001D".
        image (`SourceFile`): What the column `image` is read from.
        annotation (`SourceFile`, *optional*): The mask.
        rgb (`SourceFile`, *optional*): What the column `rgb` is read from, where there is one.
    """

    name: str
    image: SourceFile
    annotation: SourceFile | None
    rgb: SourceFile | None = None


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """
    Args:
        modality (`str`): What the column `image` holds, "thermal", "rgb" or "depth". With "both" it holds the thermal
            or depth image, and a further column `rgb` the visible one.
        allow_partial (`bool`): Whether to take what is there instead of insisting on the published lists and counts.
    """

    version: datasets.Version | str | None = VERSION
    modality: str = "thermal"
    allow_partial: bool = False

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name of the folder in the cache, which changes when a file changes, but not when all files are moved."""
        if self.data_dir is not None and os.path.exists(self.data_dir):
            config_kwargs = {**config_kwargs, "data_dir": SourceFiles(self.data_dir).fingerprint}
        return super().create_config_id(config_kwargs, custom_features)


class InfraredBenchmark(ChunkedBuilder):
    """
    A published dataset, read from the files that its authors distribute. It has the columns `image` and `annotation`,
    and `rgb` in configurations of both modalities.

    Images are the original files, with their depth. Masks are 8-bit palette PNG: the indices are class ids, 255 means
    ignore, and the colours are those of the class. Each file is decoded once, when the dataset is prepared. If
    something is wrong with it, a `ValueError` names it. What a builder leaves out by a rule in its documentation is
    counted in a warning. A dataset in the cache is found again as long as its files are there and unchanged.

    Args:
        data_dir (`str` or `os.PathLike`): The zip file, the folder that holds it, or the unpacked folder.
        config_name (`str`, *optional*): Name of one of `BUILDER_CONFIGS`.
        allow_partial (`bool`, *optional*, defaults to `False`): As in [`BenchmarkConfig`]. Its other fields may be
            given as well.
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    VERSION = VERSION

    # Facts that a subclass states.
    NAME: str  # what load_infrared_dataset calls it
    TITLE: str
    HOMEPAGE: str
    LICENSE: str
    CITATION: str  # BibTeX
    LAYOUT: str  # the files as downloaded
    CLASSES: tuple[str, ...]  # names by id
    PALETTE: tuple[tuple[int, int, int], ...] | None = None  # published colours by id, if there are any
    NUM_EXAMPLES: dict[str, int]  # published size of each split
    IDS: dict[int, int] | None = None  # id in the files -> class id or 255; None if the files hold class ids
    ID_HINT: str = ""  # added to the message about an unknown id

    def find_rows(self, files: SourceFiles) -> dict[str, list[Row]]:
        """
        The rows of each split, in an order that is the same on every machine. Every subclass must write this method.

        Raises:
            ValueError: if files or lists are missing.
        """
        raise NotImplementedError

    def select_rows(self, rows: list[Row], files: SourceFiles) -> list[Row]:
        """The rows of a split that belong to the configuration. The number of `rows` has been checked before."""
        return rows

    def read_images(self, row: Row) -> dict[str, EncodedImage]:
        """
        The columns other than `annotation`.

        Raises:
            ValueError: if a file is damaged. The message names it.
        """
        images = {"image": read_image_file(row.image)}
        if row.rgb is not None:
            images["rgb"] = read_image_file(row.rgb)
        return images

    def id_table(self) -> dict[int, int]:
        """Id in the files -> class id. The id 255, which is ignored, needs no entry."""
        return self.IDS if self.IDS is not None else {id: id for id in range(len(self.CLASSES))}

    @classmethod
    def palette(cls) -> np.ndarray:
        """Colours of the classes: uint8 `np.ndarray` of shape `(classes, 3)`."""
        return np.array(cls.PALETTE, np.uint8) if cls.PALETTE else segmentation_palette(len(cls.CLASSES))

    # Helpers for subclasses.

    def find_images(self, files: SourceFiles, *folders: str, is_required: bool = True) -> dict[str, SourceFile]:
        """
        The images in the first of these folders that exists, by their path in it without suffix.

        Args:
            files ([`SourceFiles`]): All files of the dataset.
            folders (`str`): Names, or ends of paths such as `"train/images"`.
            is_required (`bool`): Whether a missing or empty folder is an error. Otherwise the result is empty.

        Raises:
            ValueError: if the images are required and missing, or two files differ only in their suffix.
        """
        folder = files.find_folder(*folders)
        images = {} if folder is None else files.images(folder)
        if not images and is_required:
            missing = "no folder" if folder is None else "no image in the folder"
            raise ValueError(f"{files.data_dir!r} has {missing} {_any_of(folders)}. {self._layout()}")
        return images

    def read_list(self, files: SourceFiles, *lists: str) -> list[str] | None:
        """
        The names in the first of these lists that exists; `None` if there is none and the dataset may be partial.

        Raises:
            ValueError: if the list is missing or empty, or repeats a name.
        """
        file = files.find_file(*lists)
        if file is not None:
            return read_names(file)
        if not self.config.allow_partial:
            raise ValueError(f"{files.data_dir!r} has no list {_any_of(lists)}. {self._layout()}")
        return None

    def pair(
        self,
        names: Iterable[str],
        thermal: Images,
        annotations: Images,
        rgb: Images | None = None,
        source: str = "the folder of images",
    ) -> list[Row]:
        """
        Rows of files that have the same name in parallel folders. The modality decides which files a row needs.

        Args:
            names (`Iterable[str]`): With or without suffix and leading folders.
            thermal, annotations, rgb: Files by name, as [`find_images`] returns them. If a partial dataset has no
                annotations at all, its rows have none.
            source (`str`): Where the names come from, for the message.

        Raises:
            ValueError: if a file is missing. In a partial dataset, the name is left out instead.
        """
        modality = self.config.modality
        columns: dict[str, Images] = {"image": (rgb if modality == "rgb" else thermal) or {}}
        if modality == "both":
            columns["rgb"] = rgb or {}
        if annotations or not self.config.allow_partial:
            columns["annotation"] = annotations
        known = set().union(*columns.values())
        rows, missing = [], []
        for name in names:
            name = _known_name(name, known)
            found = {column: images[name] for column, images in columns.items() if name in images}
            if len(found) == len(columns):
                rows.append(Row(name, found["image"], found.get("annotation"), found.get("rgb")))
            else:
                missing.append(f"{name!r} ({' and '.join(column for column in columns if column not in found)})")
        if missing and not self.config.allow_partial:
            more = f" and of {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ValueError(
                f"{str(self.config.data_dir)!r} lacks files of names in {source}: {', '.join(missing[:3])}{more}. "
                f"{self._how_to_go_on()}"
            )
        self.leave_out(f"names in {source} without files", missing)
        return rows

    def pair_folders(
        self,
        files: SourceFiles,
        source: str,
        thermal: Iterable[str],
        annotations: Iterable[str],
        rgb: Iterable[str] = (),
    ) -> list[Row]:
        """As [`pair`], for all files in the first of these folders each that exists, as in [`find_images`]."""
        is_whole, modality = not self.config.allow_partial, self.config.modality
        images = self.find_images(files, *thermal, is_required=is_whole and modality != "rgb")
        visible = self.find_images(files, *rgb, is_required=is_whole and modality in ("rgb", "both"))
        masks = self.find_images(files, *annotations, is_required=is_whole)
        return self.pair(sorted({*images, *visible, *masks}), images, masks, visible, source)

    def leave_out(self, reason: str, names: Iterable[str]) -> None:
        """Counts what is left out, for the warning. `reason` says in the plural what it is, such as "copies"."""
        self._left_out.setdefault(reason, []).extend(names)

    def leave_out_unlisted(
        self, names: Iterable[str], splits: Mapping[str, Iterable[Row]], copies: re.Pattern | None = None
    ) -> None:
        """Counts the names that are in no split. Those that match `copies` are counted apart."""
        listed = {row.name for row in chain.from_iterable(splits.values())}
        for name in names:
            if name not in listed:
                is_copy = copies is not None and copies.search(name)
                self.leave_out("copies" if is_copy else "images that no list names", [name])

    # What the base does with it.

    def _info(self) -> datasets.DatasetInfo:
        columns = ["image", *(["rgb"] if self.config.modality == "both" else []), "annotation"]
        return datasets.DatasetInfo(
            description=f"{self.TITLE}. Ids of the classes: "
            + ", ".join(f"{id} {label}" for id, label in enumerate(self.CLASSES)),
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            features=datasets.Features({column: datasets.Image() for column in columns}),
        )

    def _layout(self) -> str:
        return f"{self.TITLE} is the zip file, or the folder it unpacks to, with\n{self.LAYOUT}"

    def _how_to_go_on(self) -> str:
        return "Download or unpack it again, or pass allow_partial=True (--allow_partial) to take what is there."

    def _open_files(self) -> SourceFiles:
        data_dir = self.config.data_dir
        if data_dir is None or not os.path.exists(data_dir):
            problem = "needs data_dir" if data_dir is None else f"is not in {str(data_dir)!r}, which does not exist"
            raise ValueError(
                f"{self.TITLE} {problem}. Get it from {self.HOMEPAGE} (licence: {self.LICENSE}) and give the path of "
                f"the zip file, or of the folder it unpacks to, with\n{self.LAYOUT}"
            )
        return SourceFiles(data_dir)

    def _check_rows(self, splits: Mapping[str, list[Row]]) -> None:
        name = f"{self.TITLE} in {str(self.config.data_dir)!r}"
        split_of: dict[str, str] = {}
        for split, rows in splits.items():
            for row in rows:
                if split_of.setdefault(row.image.path, split) != split:
                    raise ValueError(f"{row.image.path!r} is both in {split_of[row.image.path]!r} and in {split!r}.")
            if len({row.name for row in rows}) < len(rows):
                raise ValueError(f"{name} has two examples of the same name in {split!r}.")
        if not any(splits.values()):
            raise ValueError(f"{name} holds no examples. {self._layout()}")
        found = {split: len(splits.get(split, [])) for split in self.NUM_EXAMPLES}
        if found != self.NUM_EXAMPLES:
            message = f"{name} should have {_counts(self.NUM_EXAMPLES)} examples, but has {_counts(found)}"
            if not self.config.allow_partial:
                raise ValueError(f"{message}. {self._how_to_go_on()}")
            logger.warning(f"{message}. Results on it cannot be compared with published ones.")
        unlabelled = sum(row.annotation is None for rows in splits.values() for row in rows)
        if unlabelled:
            logger.warning(f"{name} has no masks of {unlabelled} images.")

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        files = self._open_files()
        self._left_out: dict[str, list[str]] = {}
        found = self.find_rows(files)
        self._check_rows(found)
        splits = {split: self.select_rows(found[split], files) for split in self.NUM_EXAMPLES if split in found}
        splits = {split: rows for split, rows in splits.items() if rows}
        if not splits:
            raise ValueError(f"The configuration {self.config.name!r} leaves nothing of {files.data_dir!r}.")
        left_out = [f"{len(names)} {reason} (such as {names[0]})" for reason, names in self._left_out.items() if names]
        if left_out:
            logger.warning(f"{self.TITLE} in {files.data_dir!r}: left out {', '.join(left_out)}.")
        # With these counts progress has an end, and datasets checks that every example has arrived.
        self.info.splits = datasets.SplitDict(
            {split: datasets.SplitInfo(split, num_examples=len(rows)) for split, rows in splits.items()}
        )
        return [self.split_generator(split, rows) for split, rows in splits.items()]

    def make_example(self, item: Row) -> tuple[str, dict[str, Any]]:
        example: dict[str, Any] = {"annotation": None}
        images = self.read_images(item)
        for column, image in images.items():
            example[column] = _column(image.name, image.content)
        shapes = {image.shape for image in images.values()}
        if item.annotation is not None:
            ids = self._read_ids(item.annotation)  # (H, W)
            example["annotation"] = _column(f"{item.annotation.stem}.png", encode_mask(ids, self.palette()))
            shapes.add(ids.shape)
        if len(shapes) > 1:
            paths = dict.fromkeys(file.path for file in (item.image, item.rgb, item.annotation) if file is not None)
            raise ValueError(
                f"The files of one example differ in size (height, width): {' and '.join(map(repr, paths))} have "
                f"{' and '.join(map(str, sorted(shapes)))}."
            )
        return item.name, example

    def _read_ids(self, file: SourceFile) -> np.ndarray:
        """Class ids of a mask: uint8 of shape (height, width)."""
        ids = read_ids(file)  # (H, W)
        table = {IGNORE_INDEX: IGNORE_INDEX, **self.id_table()}
        present = np.unique(ids).tolist()
        unknown = [id for id in present if id not in table]
        if unknown:
            raise ValueError(
                f"The mask {file.path!r} holds the ids {_spans(unknown)}, but those of {self.TITLE} are "
                f"{_spans(table)}. {self.ID_HINT}".rstrip()
            )
        class_ids = np.zeros(present[-1] + 1, np.uint8)
        class_ids[present] = [table[id] for id in present]
        return class_ids[ids]


def _known_name(name: str, known: set[str]) -> str:
    """A name from a list in the form that the files have. It stays as it is if no file has it."""
    end = name.replace("\\", "/")
    while end:
        stem = end.rpartition(".")[0] if end.lower().endswith(IMAGE_SUFFIXES) else end
        for candidate in (end, stem):
            if candidate in known:
                return candidate
        end = end.partition("/")[2]
    return name


def _column(name: str, content: bytes) -> dict[str, Any]:
    # If a file of that name lies in the working folder, datasets would store its path instead of these bytes.
    return {"path": None if os.path.isfile(name) else name, "bytes": content}


def _spans(ids: Iterable[int]) -> str:
    """0, 1, 2, 5 as "0 to 2, 5"."""
    spans: list[list[int]] = []
    for id in sorted(ids):
        if spans and id == spans[-1][-1] + 1:
            spans[-1].append(id)
        else:
            spans.append([id])
    texts = [f"{span[0]} to {span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans[:10]]
    return ", ".join(texts) + (", ..." if len(spans) > 10 else "")


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))


def _counts(counts: Mapping[str, int]) -> str:
    texts = [f"{count:,} {split}" for split, count in counts.items()]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


__all__ = ["BenchmarkConfig", "Images", "InfraredBenchmark", "Row"]
