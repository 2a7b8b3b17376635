# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the images of InfMix come from."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...files import IMAGE_SUFFIXES, read_yaml


logger = logging.get_logger(__name__)

THERMAL = "thermal"  # folder of the infrared images of a source that has others, too


@dataclass(frozen=True)
class InfMixSource:
    """
    Images that belong together, and which of them are wanted. The images are sorted by name. First, at most
    `images_per_class` of each class are taken, of those every `every`-th, and of those at most `limit`.

    Args:
        name (`str`): Name in tables and in the column `source`.
        path (`str`, *optional*): Zip file, or folder with all folders below. If there is a folder "thermal", only the
            images in it are taken. With `images_per_class`, a folder with one folder for each class.
        dataset (`str`, *optional*): In place of `path`, the name of a labelled dataset for [`load_infrared_dataset`].
        data_dir, config_name (`str`, *optional*): Arguments for that dataset.
        allow_partial (`bool`, *optional*, defaults to `False`): Whether to take what is there of a benchmark.
        split (`str`, *optional*, defaults to `"train"`): Split of that dataset. `None` takes all splits.
        every (`int`, *optional*, defaults to 1): Takes every n-th image, for example of a video.
        crop_border (`int`, *optional*, defaults to 0): Pixels to cut off on each side.
        minimum_brightness (`float`, *optional*): An image is taken if its largest grey value, in the units of the
            file, is above this.
        images_per_class (`int`, *optional*): The most images of each class.
        limit (`int`, *optional*): The most images in all.

    Raises:
        ValueError: if a value is invalid.
    """

    name: str
    path: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    config_name: str | None = None
    allow_partial: bool = False
    split: str | None = "train"
    every: int = 1
    crop_border: int = 0
    minimum_brightness: float | None = None
    images_per_class: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        def check(holds: bool, message: str) -> None:
            if not holds:
                raise ValueError(f"The source {self.name!r}: {message}.")

        for name in ("name", "path", "dataset", "data_dir", "config_name", "split"):
            value = getattr(self, name)
            is_text = isinstance(value, str) and bool(value)
            check(is_text or (value is None and name != "name"), f"{name} must be a text, got {value!r}")
        check((self.path is None) != (self.dataset is None), "it must have either a path or a dataset")
        for name, lowest in (("every", 1), ("crop_border", 0), ("images_per_class", 1), ("limit", 1)):
            value = getattr(self, name)
            is_number = isinstance(value, int) and not isinstance(value, bool) and value >= lowest
            is_left_out = value is None and name in ("images_per_class", "limit")
            check(is_number or is_left_out, f"{name} must be a whole number of at least {lowest}, got {value!r}")
        brightness = self.minimum_brightness
        is_number = isinstance(brightness, (int, float)) and not isinstance(brightness, bool) and brightness >= 0
        check(brightness is None or is_number, f"minimum_brightness must be at least 0, got {brightness!r}")
        check(isinstance(self.allow_partial, bool), f"allow_partial must be true or false, got {self.allow_partial!r}")
        check(self.path is not None or self.images_per_class is None, "images_per_class needs a path")


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def find_infmix_sources(
    infrared: Sequence[str | os.PathLike] = (),
    imagenet: str | os.PathLike | None = None,
    coco: str | os.PathLike | None = None,
    sources_file: str | os.PathLike | None = None,
    images_per_class: int = 200,
) -> list[InfMixSource]:
    """
    Finds the sources of InfMix at these places.

    Args:
        infrared (`Sequence[str]`, *optional*): Folders and zip files, one source each. A folder whose folders have a
            folder "thermal" (`llvip/thermal/010001.jpg`, and perhaps `llvip/rgb/010001.jpg`) holds one source in each
            of them.
        imagenet (`str`, *optional*): ImageNet's `train` folder, with one folder for each class, or the folder above.
        coco (`str`, *optional*): The folder `train2017`, `train2017.zip`, or the folder that has one of them.
        sources_file (`str`, *optional*): YAML file for [`read_sources_file`].
        images_per_class (`int`, *optional*, defaults to 200): The most images of each class of ImageNet.

    Raises:
        OSError: if something is missing.
        ValueError: if the file of sources is invalid.
    """
    sources = [source for path in infrared for source in _find_infrared(Path(os.path.abspath(path)))]
    if sources_file is not None:
        sources += read_sources_file(sources_file)
    if imagenet is not None:
        folder = Path(os.path.abspath(imagenet))
        folder = folder / "train" if (folder / "train").is_dir() else folder
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {str(folder)!r} with ImageNet's classes. Unpack it first.")
        sources.append(InfMixSource("imagenet", str(folder), images_per_class=images_per_class))
    if coco is not None:
        folder = Path(os.path.abspath(coco))
        inner = [folder / name for name in ("train2017", "train2017.zip") if (folder / name).exists()]
        if not inner and folder.is_dir() and not any(is_image(name) for name in os.listdir(folder)):
            raise FileNotFoundError(f"{str(folder)!r} has neither a folder train2017 nor train2017.zip.")
        sources.append(InfMixSource("coco", str((inner or [folder])[0])))
    return sources


def _find_infrared(path: Path) -> list[InfMixSource]:
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or zip file {str(path)!r}.")
    if path.is_file():
        return [InfMixSource(path.stem, str(path))]
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
    sources = [folder for folder in folders if (folder / THERMAL).is_dir()]
    if not sources or (path / THERMAL).is_dir():
        return [InfMixSource(path.name, str(path))]
    others = [folder.name for folder in folders if folder not in sources]
    if others:
        logger.warning(f"{str(path)!r}: {', '.join(others)} left out, because there is no folder {THERMAL!r} in it.")
    return [InfMixSource(folder.name, str(folder)) for folder in sources]


def find_evaluation_sets(places: Sequence[str], allow_partial: bool = False) -> list[InfMixSource]:
    """
    Finds the images that must not be trained on.

    Args:
        places (`Sequence[str]`): Folders or zip files of images, or `"NAME=PATH"` for all splits of the labelled
            dataset of this name at this path. Those of the same name are numbered.
        allow_partial (`bool`, *optional*, defaults to `False`): Whether to take what is there of benchmarks.

    Raises:
        FileNotFoundError: if something is missing.
    """
    sets: list[InfMixSource] = []
    found: Counter[str] = Counter()
    for place in places:
        name, equals, data_dir = place.partition("=")
        fields: dict[str, Any] = {"path": os.path.abspath(place)}
        if os.path.exists(place):
            name = Path(fields["path"]).stem
        elif equals:
            fields = {"dataset": name, "data_dir": os.path.abspath(data_dir) if data_dir else None, "split": None}
            fields["allow_partial"] = allow_partial
        else:
            raise FileNotFoundError(f"There is no evaluation set {place!r}. Give a folder, a zip file, or NAME=PATH.")
        found[name] += 1
        sets.append(InfMixSource(name if found[name] == 1 else f"{name} ({found[name]})", **fields))
    return sets


def read_sources_file(path: str | os.PathLike) -> list[InfMixSource]:
    """
    Reads sources from a YAML file, which is a list of entries with the fields of [`InfMixSource`]. Paths are relative
    to the folder of the file. The default name is that of the folder or of the dataset.

    Raises:
        FileNotFoundError: if the file or a path in it does not exist.
        ValueError: if the file is not such a list, or a field is unknown or invalid.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} that lists sources.")
    entries = read_yaml(path)
    known = [field.name for field in dataclasses.fields(InfMixSource)]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{str(path)!r} is not a list of sources such as "- {{name: llvip, path: LLVIP, every: 2}}".')
    sources = []
    for entry in entries:
        unknown = sorted(str(key) for key in entry if key not in known)
        if unknown:
            raise ValueError(
                f"{str(path)!r}: the source {entry.get('name', entry)!r} has the unknown field {unknown[0]!r}. There "
                f"are {', '.join(known)}."
            )
        fields = dict(entry)
        for name in ("path", "data_dir"):
            if isinstance(fields.get(name), str):
                fields[name] = str(path.parent / os.path.expanduser(fields[name]))
        if "name" not in fields:
            fields["name"] = (
                Path(fields["path"]).stem if isinstance(fields.get("path"), str) else fields.get("dataset")
            )
        try:
            sources.append(InfMixSource(**fields))
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: {error}") from error
    for source in sources:
        if source.path is not None and not os.path.exists(source.path):
            raise FileNotFoundError(f"The source {source.name!r} in {str(path)!r}: there is no {source.path!r}.")
    return sources


__all__ = ["THERMAL", "InfMixSource", "find_evaluation_sets", "find_infmix_sources", "is_image", "read_sources_file"]
