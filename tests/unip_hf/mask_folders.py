# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Small folders with the same masks in every form that people have: each function writes one, and returns options."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


HEIGHT, WIDTH = 48, 64
SPLITS = {"train": range(4), "validation": range(4, 6)}
NAMES = {0: "background", 1: "person", 2: "car"}
COLOURS = {0: (0, 0, 0), 1: (192, 128, 128), 2: (128, 0, 64), 255: (224, 224, 192)}
CAR, PERSON, CROWD = (5, 8, 40, 30), (30, 20, 50, 44), (0, 0, 10, 4)  # left, top, right, bottom
Options = dict[str, Any]


def truth(number: int) -> np.ndarray:
    """The ids of a mask: a person in front of a car that moves, and a region to ignore. Image 3 is empty."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    for id, box in boxes(number):
        ids[region(box)] = id
    return ids


def boxes(number: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    left, top, right, bottom = CAR
    return [] if number == 3 else [(2, (left + number, top, right, bottom)), (1, PERSON), (255, CROWD)]


def region(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def save_image(path: Path, number: int, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(number).integers(0, 60, (HEIGHT, WIDTH)) + 60 * (truth(number) % 255)
    Image.fromarray((values * (1 if dtype == np.uint8 else 100)).astype(dtype)).save(path)


def save_masks(folder: Path, turn: Callable[[np.ndarray], Image.Image], name: str = "{}.png") -> None:
    """Pairs in folders of images and masks, without names of classes."""
    for split, numbers in SPLITS.items():
        for number in numbers:
            save_image(folder / "images" / split / f"{number}.png", number)
            path = folder / "masks" / split / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            turn(truth(number)).save(path)


def save_names(folder: Path) -> None:
    (folder / "id2label.json").write_text(json.dumps(NAMES))


def in_values(ids: np.ndarray) -> Image.Image:
    values = np.zeros(256, np.uint8)
    values[[1, 2, 255]] = 128, 250, 255
    return Image.fromarray(values[ids])


def in_colour(ids: np.ndarray) -> Image.Image:
    colours = np.zeros((256, 3), np.uint8)
    for id, colour in COLOURS.items():
        colours[id] = colour
    return Image.fromarray(colours[ids])


def with_palette(ids: np.ndarray) -> Image.Image:
    return in_colour(ids).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)


def grey_in_rgb(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([ids] * 3))


def grey_in_rgba(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([ids] * 3 + [np.full_like(ids, 255)]))


def values_in_a_file(folder: Path) -> Options:
    save_masks(folder, in_values)
    save_names(folder)
    (folder / "mask_values.json").write_text('{"0": 0, "128": 1, "250": 2}')
    return {}


def values_in_an_option(folder: Path) -> Options:
    save_masks(folder, in_values)
    save_names(folder)
    return {"mask_values": "0=0,128=1,250=2"}


def cvat(folder: Path, turn: Callable[[np.ndarray], Image.Image] = in_colour) -> Options:
    """As CVAT exports "Segmentation mask 1.1" and Pascal VOC."""
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (folder / "SegmentationClass").mkdir()
    for split, numbers in SPLITS.items():
        (lists / f"{split.title()}.txt").write_text("".join(f"{number}\n" for number in numbers))
        for number in numbers:
            save_image(folder / "JPEGImages" / f"{number}.png", number)
            turn(truth(number)).save(folder / "SegmentationClass" / f"{number}.png")
    lines = [f"{NAMES.get(id, 'ignore')}:{','.join(map(str, colour))}::" for id, colour in COLOURS.items()]
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    return {}


def cvat_palette(folder: Path) -> Options:
    return cvat(folder, with_palette)


def colours_in_a_file(folder: Path) -> Options:
    save_masks(folder, in_colour)
    listed = {"#" + bytes(colour).hex().upper(): NAMES.get(id, "ignore") for id, colour in COLOURS.items()}
    (folder / "mask_colors.json").write_text(json.dumps(listed))
    return {}


def grey_saved_as_rgb(folder: Path) -> Options:
    save_masks(folder, lambda ids: (grey_in_rgb if ids.any() else grey_in_rgba)(ids))
    save_names(folder)
    return {}


def other_sizes(folder: Path) -> Options:
    save_masks(folder, lambda ids: Image.fromarray(np.kron(ids, np.ones((2, 3), np.uint8))))
    save_names(folder)
    return {"resize_masks": True}


def other_names(folder: Path) -> Options:
    save_masks(folder, Image.fromarray, "{}_labelIds.png")
    for path in list((folder / "images").rglob("*.png")):
        path.rename(path.with_stem(f"{path.stem}_img"))
    save_image(folder / "masks" / "train" / "0_preview.png", 0)  # left out, as in Cityscapes
    save_names(folder)
    return {"mask_suffix": "_labelIds", "image_suffix": "_img"}


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed, column after column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


def segmentation(box: tuple[int, int, int, int], form: str) -> Any:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[region(box)] = 1
    if form == "uncompressed":
        return {"size": [HEIGHT, WIDTH], "counts": run_lengths(mask)}
    if form == "compressed":
        return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}
    left, top, right, bottom = box
    middle = (left + right) // 2  # two polygons that touch
    return [
        [left, top, middle, top, middle, bottom, left, bottom],
        [middle, top, right, top, right, bottom, middle, bottom],
    ]


def coco_json(numbers: range, names: dict[int, str], categories: dict[int, str], forms: list[str]) -> dict[str, Any]:
    """COCO JSON with the segmentations in these forms by turns."""
    annotations: list[dict[str, Any]] = []
    ids = {name: id for id, name in categories.items()}
    for number in numbers:
        for id, box in boxes(number):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": ids[NAMES.get(id, "person")],
                    "segmentation": segmentation(box, forms[len(annotations) % len(forms)]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(id == 255),
                }
            )
    return {
        "info": {"year": 2026, "version": "1.0"},
        "images": [{"id": number, "width": WIDTH, "height": HEIGHT, "file_name": names[number]} for number in numbers],
        "categories": [{"id": id, "name": name, "supercategory": ""} for id, name in categories.items()],
        "annotations": annotations,
    }


def roboflow(folder: Path) -> Options:
    for split, numbers in SPLITS.items():
        names = {number: f"{number}_png.rf.1a2b3c.jpg" for number in numbers}
        parent = folder / {"validation": "valid"}.get(split, split)
        for number in numbers:
            save_image(parent / names[number], number)
        content = coco_json(numbers, names, {0: "things", 1: "person", 2: "car"}, ["polygons"])
        for category in content["categories"]:
            category["supercategory"] = "things" if category["id"] else "none"
        (parent / "_annotations.coco.json").write_text(json.dumps(content))
    return {}


def coco(folder: Path) -> Options:
    """COCO's own layout with 16-bit images, every form of segmentation, and ids with gaps, not in order."""
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in SPLITS.items():
        name = {"validation": "val"}.get(split, split) + "2017"
        for number in numbers:
            save_image(folder / name / f"{number:012}.png", number, np.uint16)
        names = {number: f"{number:012}.png" for number in numbers}
        content = coco_json(numbers, names, {7: "car", 3: "person"}, ["uncompressed", "polygons", "compressed"])
        (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        (folder / "annotations" / f"person_keypoints_{name}.json").write_text("{}")
    return {}


def plain_coco(folder: Path) -> Options:
    """With classes that id2label.json orders, and a background of its own name."""
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in SPLITS.items():
        for number in numbers:
            save_image(folder / "images" / split / f"{number}.png", number)
        names = {number: f"{number}.png" for number in numbers}
        content = coco_json(numbers, names, {1: "car", 2: "person", 3: "background"}, ["compressed"])
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    save_names(folder)
    return {}


def label_studio(folder: Path) -> Options:
    numbers = range(SPLITS["validation"].stop)
    names = {number: f"images/0f0f-{number}.png" for number in numbers}
    for number in numbers:
        save_image(folder / names[number], number)
    content = coco_json(numbers, names, {0: "person", 1: "car"}, ["polygons"])
    names_of_a_server = {"file_name": "../../label-studio/data\\media/upload/1/0f0f-2.png"}
    content["images"][2] |= names_of_a_server
    (folder / "result.json").write_text(json.dumps(content))
    for split, listed in SPLITS.items():
        (folder / f"{split}.txt").write_text("".join(f"0f0f-{number}\n" for number in listed))
    return {}


KINDS: dict[str, Callable[[Path], Options]] = {
    kind.__name__: kind
    for kind in (
        values_in_a_file, values_in_an_option, cvat, cvat_palette, colours_in_a_file, grey_saved_as_rgb, other_sizes,
        other_names, roboflow, coco, plain_coco, label_studio,
    )
}  # fmt: skip


def as_arguments(options: Options) -> list[str]:
    """As a user types them."""
    return [
        word for name, value in options.items() for word in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]
