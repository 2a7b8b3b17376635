# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Semantic masks from COCO JSON, as COCO itself, Roboflow, CVAT and Label Studio write it: polygons, and both forms of
run lengths. Later annotations lie above earlier ones. Regions with `iscrowd` become 255, and pixels without annotation
the background.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json
from .class_names import IGNORE_INDEX, ids_by_name, read_id2label
from .masks import MaskError


BACKGROUND = "background"
LARGEST_MASK = 2**28  # pixels
LISTS = {"images": ("id", "file_name", "width", "height"), "annotations": ("image_id", "category_id"),
         "categories": ("id", "name")}  # fmt: skip


@dataclass
class CocoFile:
    """
    What a JSON file holds.

    Args:
        path (`Path`): The file.
        categories (`dict[int, str]`): Names by ascending ids, without those that only group others.
        images (`list[dict]`): As in the file, each with its `annotations`.
        problems (`list[str]`): Sentences about what is wrong.
        images_by_path (`dict[Path, dict]`): The images whose files were found.
    """

    path: Path
    categories: dict[int, str]
    images: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    images_by_path: dict[Path, dict[str, Any]] = field(default_factory=dict)


def read_coco(path: Path) -> CocoFile:
    """
    Reads a JSON file, and finds what is wrong with it.

    Raises:
        ValueError: if it is not COCO JSON.
    """
    content = read_json(path)
    for kind, keys in LISTS.items():
        rows = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError(f"{str(path)!r} is not COCO JSON: it has no list {kind!r}.")
        for row in rows:
            missing = [key for key in keys if not isinstance(row, dict) or not _is_valid(key, row.get(key))]
            if missing:
                raise ValueError(
                    f"{str(path)!r} is not COCO JSON: an entry of {kind!r} has no valid {missing[0]!r}: {_short(row)}."
                )
    names = {category["id"]: category["name"] for category in content["categories"]}
    problems = []
    if len(set(names.values())) < len(content["categories"]):
        problems.append(f"{str(path)!r} has two categories of the same id or name: {_short(list(names.values()))}.")
    images = {image["id"]: {**image, "annotations": []} for image in content["images"]}
    if len(images) < len(content["images"]):
        problems.append(f"{str(path)!r} has two images with the same id.")
    for annotation in content["annotations"]:
        where = f"Annotation {annotation.get('id')!r} of {str(path)!r}"
        if annotation["category_id"] not in names:
            problems.append(f"{where} has the category_id {annotation['category_id']}, which 'categories' lacks.")
        elif annotation["image_id"] not in images:
            problems.append(f"{where} has the image_id {annotation['image_id']}, which 'images' lacks.")
        else:
            images[annotation["image_id"]]["annotations"].append(annotation)
    # Roboflow adds a category that only groups the others.
    groups = {str(category.get("supercategory")) for category in content["categories"]} - {
        category["name"] for category in content["categories"] if category.get("supercategory") == category["name"]
    }
    used = {annotation["category_id"] for annotation in content["annotations"]}
    kept = {id: name for id, name in sorted(names.items()) if name not in groups or id in used}
    return CocoFile(path, kept or dict(sorted(names.items())), list(images.values()), problems)


def _is_valid(key: str, value: Any) -> bool:
    if key in ("file_name", "name"):
        return isinstance(value, str) and bool(value)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and (0 < value <= 65535 or key not in ("width", "height"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:100] + "..."


def class_ids(files: Sequence[CocoFile], folder: Path) -> dict[str, int]:
    """
    The ids of the categories and of the background, by name. The background is a category of that name, or is added.
    It has the id 0, and the other categories follow in the order of their ids, unless `id2label.json` says otherwise.
    If that file has no background, pixels without annotation are ignored.

    Raises:
        ValueError: if the files have different categories, or `id2label.json` lacks one.
    """
    categories = _all_categories(files)
    names = list(categories.values())
    background = next((name for name in names if name.lower() == BACKGROUND), BACKGROUND)
    others = [name for name in names if name != background]
    id2label = read_id2label(folder)
    if id2label is not None and background not in names:
        background = next((label for label in id2label.values() if label.lower() == BACKGROUND), "")
    ordered = [background, *others] if background else others
    ids = ids_by_name(ordered, folder, files[0].path)
    return ids if background else {**ids, BACKGROUND: IGNORE_INDEX}


def _all_categories(files: Sequence[CocoFile]) -> dict[int, str]:
    """The categories of all files by ascending ids. A group that one file leaves out may be used in another."""
    categories: dict[int, str] = {}
    for file in files:
        for id, name in file.categories.items():
            if categories.setdefault(id, name) != name or list(categories.values()).count(name) > 1:
                raise ValueError(
                    f"{str(files[0].path)!r} and {str(file.path)!r} have different categories: {id} {name!r} is "
                    "another one there. Export all splits from one project."
                )
    return dict(sorted(categories.items()))


def regions_of(image: dict[str, Any], ids: dict[str, int], categories: dict[int, str]) -> str:
    """
    The annotations of an image as JSON, from which [`draw_regions`] makes a mask.

    Args:
        image (`dict`): One of [`CocoFile`]'s.
        ids (`dict[str, int]`): As [`class_ids`] returns them.
        categories (`dict[int, str]`): Of the file.
    """
    background = next(id for name, id in ids.items() if name.lower() == BACKGROUND)
    regions = [
        {
            "id": IGNORE_INDEX if annotation.get("iscrowd") else ids[categories[annotation["category_id"]]],
            "annotation": annotation.get("id"),
            "segmentation": annotation.get("segmentation"),
        }
        for annotation in image["annotations"]
    ]
    return json.dumps({"size": [image["height"], image["width"]], "background": background, "regions": regions})


def draw_regions(text: str, name: str) -> np.ndarray:
    """
    The mask of what [`regions_of`] returned.

    Args:
        text (`str`): The JSON.
        name (`str`): The image and its file of annotations, for messages.

    Returns:
        `np.ndarray` of shape `(height, width)`: uint8 ids.

    Raises:
        MaskError: if a segmentation cannot be drawn. The message names the annotation.
    """
    content = json.loads(text)
    height, width = content["size"]
    if height * width > LARGEST_MASK:
        raise MaskError(f"The mask of {name} cannot be drawn: it claims {width}x{height} pixels.", "undrawable")
    ids = np.full((height, width), content["background"], np.uint8)
    for region in content["regions"]:
        try:
            ids[_draw(region["segmentation"], height, width)] = region["id"]
        except ValueError as error:
            message = f"Annotation {region['annotation']!r} of {name} cannot be drawn: {error}"
            raise MaskError(message, "undrawable") from error
    return ids


def _draw(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A segmentation as booleans of shape `(height, width)`. pycocotools trusts its input, so that is checked here."""
    if not segmentation:
        raise ValueError("it has no segmentation. If it is only a box, export polygons or masks.")
    if isinstance(segmentation, dict):
        return _draw_run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise ValueError("its segmentation is neither a list of polygons nor run lengths.")
    for polygon in segmentation:
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in polygon):
            raise ValueError("its polygon holds something that is not a number.")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"its polygon needs at least 3 points of x and y, got {len(polygon)} numbers.")
        limits = np.array([width, height])
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2)  # (N, 2)
        if (points < -limits).any() or (points > 2 * limits).any():
            raise ValueError(f"its polygon lies far outside the image of {width}x{height} pixels.")
    from pycocotools import mask

    return mask.decode(mask.merge(mask.frPyObjects(segmentation, height, width))).astype(bool)


def _draw_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(
            f"its run lengths are for the size {size} (height, width), but the image has {[height, width]}."
        )
    counts = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("its run lengths must be a list of whole numbers, or a text.")
    if sum(counts) != height * width:
        raise ValueError(
            f"its run lengths must add up to {height * width} pixels ({height} x {width}), got {sum(counts)}."
        )
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)  # (H * W,), column after column
    return runs.reshape(width, height).T


def _decompress(text: str) -> list[int]:
    """
    The run lengths in COCO's text form. Each number is written in characters of 5 bits, least significant first, with
    a sixth bit if more follow; from the fourth number on, they are differences from the number before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError(f"its run lengths hold the character {character!r}, which has no meaning there.")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # negative
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("its run lengths end within a number.")
    return counts


__all__ = ["CocoFile", "class_ids", "draw_regions", "read_coco", "regions_of"]
