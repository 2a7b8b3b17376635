# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Finds the pairs of image and mask in a folder. It looks for these layouts in this order:

1. Splits as folders: `images/{train,validation,test}` with `masks/` (or `labels/`, `annotations/`) of the same splits,
   or the other way round, `train/images` with `train/masks`.
2. Flat: `images/` with `masks/`. The lists `train.txt`, `validation.txt` and `test.txt` in the folder itself, in
   `splits/` or in `ImageSets/` name the files of the splits, one stem or file name in each line. Without lists,
   everything is "train".
3. Pascal VOC: `JPEGImages/` with `SegmentationClass/` and lists in `ImageSets/Segmentation/`. If there is no
   `train.txt`, `trainval.txt` is used.

A folder without masks may hold COCO JSON, from which [`draw_regions`] makes them:

- Roboflow: `{train,valid,test}/_annotations.coco.json` beside the images.
- COCO and CVAT: `annotations/instances_{train,val}2017.json` with `train2017/` or `images/train2017/`, or without year
  and `instances_`. The split "default" means "train".
- Label Studio: `result.json` with `images/`.

A single JSON file may be split by lists, as a flat folder is. Images that no JSON file names are left out.

Splits may also be called `training`, `val`, `valid` and `testing`. An image and its mask have the same path in their
folders, apart from the suffix, and the name of the mask may end in `_mask` or `_label`. Other endings are given as
`mask_suffix` and `image_suffix`; then files without them are left out. If there are several folders for masks, the
first that holds any is used. If there are lists, only the files they name are used. Hidden files and files that are
not images are left out. Masks must not be JPEG, because its compression alters ids.

Where the images are infrared, a folder `visible` beside them may hold the visible image of each, see [`find_visible`].
"""

import os
import re
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ..files import IMAGE_SUFFIXES, JPEG_SUFFIXES, image_files
from .coco import CocoFile, read_coco
from .masks import COLOURS_FILES, VALUES_FILE
from .visible import find_visible


MASK_FOLDERS = ("masks", "labels", "annotations")
MASK_ENDINGS = ("_mask", "_label")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
SPLITS = ("train", "validation", "test")
LAYOUTS = """\
  images/train/a.png  masks/train/a.png   (validation and test likewise; also labels/ or annotations/)
  train/images/a.png  train/masks/a.png   (validation and test likewise)
  images/a.png        masks/a.png         (with train.txt, validation.txt, test.txt, or all of it is "train")
  JPEGImages/a.jpg    SegmentationClass/a.png  ImageSets/Segmentation/train.txt  (Pascal VOC)
  train/a.jpg         train/_annotations.coco.json  (Roboflow; validation and test likewise)
  train2017/a.jpg     annotations/instances_train2017.json  (COCO; also images/ with annotations/train.json)
  images/a.jpg        result.json         (Label Studio: COCO)"""
ROBOFLOW = "_annotations.coco.json"
LABEL_STUDIO = "result.json"

OTHER_JSON = ("id2label.json", "origin.json", VALUES_FILE, *COLOURS_FILES)
VOC_MASKS = "SegmentationClass"
COCO_NAME = re.compile(r"(?P<instances>instances_)?(?P<name>(?P<split>[a-zA-Z]+)(\d{4})?)\.json")
COCO_SPLITS = {**SPLIT_NAMES, "default": "train"}

Pairs = list[tuple[Path, Path]]
Files = dict[str, list[Path]]


class Endings(NamedTuple):
    """How the names of images and masks end."""

    image: str = ""
    mask: str = ""


@dataclass
class FolderScan:
    """
    What [`scan_folder`] found.

    Args:
        splits (`dict[str, list[tuple[Path, Path]]]`): Absolute paths of image and mask, sorted by name, of each split
            among "train", "validation" and "test" that is not empty. With COCO JSON, that file is the mask.
        problems (`list[str]`): Sentences about files without a partner and the like. Empty if there are none.
        coco (`dict[Path, CocoFile]`): COCO JSON by its path. Empty if there are masks.
        visible (`dict[Path, Path]`): The visible image of each infrared one. Empty if there are none.
    """

    splits: dict[str, Pairs] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    coco: dict[Path, CocoFile] = field(default_factory=dict)
    visible: dict[Path, Path] = field(default_factory=dict)


def scan_folder(
    data_dir: str | os.PathLike, mask_suffix: str | None = None, image_suffix: str | None = None
) -> FolderScan:
    """
    Finds the pairs of image and mask in a folder of one of the layouts above. It reads file names, lists and COCO JSON
    only.

    Args:
        data_dir (`str` or `os.PathLike`): The folder.
        mask_suffix (`str`, *optional*): How the names of masks end, `"_gt"` for `a_gt.png`. By default like the image,
            or in `_mask` or `_label`.
        image_suffix (`str`, *optional*): How the names of images end, `"_img"` for `a_img.png`.

    Returns:
        [`FolderScan`]: the same for the same files. It lists what is wrong with them, and nothing is raised.
    """
    folder = Path(os.path.abspath(data_dir))
    endings, problems = Endings(image_suffix or "", mask_suffix or ""), []
    images, voc_images, voc_lists = folder / "images", folder / "JPEGImages", folder / "ImageSets" / "Segmentation"
    splits: dict[str, Pairs] = {}
    coco: dict[Path, CocoFile] = {}
    if not folder.is_dir():
        problems.append(f"There is no folder {str(data_dir)!r}.")
    elif wrong := [suffix for suffix in endings if "/" in suffix or suffix.lower().endswith(IMAGE_SUFFIXES)]:
        problems.append(f"A suffix is the end of a name without file type, such as _gt, got {wrong[0]!r}.")
    elif not _has_masks(folder) and (json_files := _coco_files(folder, problems)):
        if any(endings):
            problems.append(f"{str(folder)!r} holds COCO JSON, not masks: leave out --mask_suffix and --image_suffix.")
        splits, coco = _scan_coco(folder, json_files, problems)
    elif _split_folders(images):
        splits = _scan_split_folders(images, _mask_folder(folder), endings, problems)
    elif any((parent / "images").is_dir() for parent in _split_folders(folder).values()):
        for split, parent in _split_folders(folder, problems).items():
            splits[split] = _pair_folders(parent / "images", _mask_folder(parent), endings, problems)
    elif images.is_dir():
        splits = _scan_flat(images, _mask_folder(folder), _flat_lists(folder), endings, problems)
    elif voc_images.is_dir():
        lists = _split_lists(voc_lists)
        if "train" not in lists.values() and (voc_lists / "trainval.txt").is_file():
            lists[voc_lists / "trainval.txt"] = "train"
        splits = _scan_flat(voc_images, folder / VOC_MASKS, lists, endings, problems)
    else:
        problems.append(f"{str(data_dir)!r} has none of the supported layouts:\n{LAYOUTS}.")
    others = [path for parent in (folder, folder / "annotations") for path in sorted(parent.glob("*.json"))]
    others = [path for path in others if path not in coco and path.name not in OTHER_JSON]
    if others and problems and not coco and not any(splits.values()):
        problems.append(
            f"If {str(others[0])!r} is COCO JSON, give it a name and a place as in these layouts:\n{LAYOUTS}."
        )
    splits = {split: splits[split] for split in SPLITS if splits.get(split)}
    images_found = [image for pairs in splits.values() for image, _ in pairs]
    visible = find_visible(folder, images_found, endings.image, SPLIT_NAMES, problems)
    return FolderScan(splits, problems, coco, visible)


def _scan_split_folders(image_root: Path, mask_root: Path, endings: Endings, problems: list[str]) -> dict[str, Pairs]:
    images, masks = _split_folders(image_root, problems), _split_folders(mask_root, problems)
    for path in image_files(image_root):
        if image_root / path.relative_to(image_root).parts[0] not in images.values():
            problems.append(f"{str(path)!r} is in none of the splits {sorted(images)}: move or remove it.")
    problems += [f"{str(masks[split])!r} has no images beside it." for split in masks if split not in images]
    return {
        split: _pair_folders(folder, masks.get(split, mask_root / folder.name), endings, problems)
        for split, folder in images.items()
    }


def _scan_flat(
    image_root: Path, mask_root: Path, lists: dict[Path, str], endings: Endings, problems: list[str]
) -> dict[str, Pairs]:
    if not lists:
        return {"train": _pair_folders(image_root, mask_root, endings, problems)}
    images, masks = _files_by_stem(image_root, endings.image), _files_by_stem(mask_root, endings.mask)
    return _scan_lists(images, masks, lists, image_root, endings, problems)


def _scan_lists(
    images: Files, masks: Files, lists: dict[Path, str], image_root: Path, endings: Endings, problems: list[str]
) -> dict[str, Pairs]:
    splits: dict[str, Pairs] = {split: [] for split in lists.values()}
    listed_in: dict[str, Path] = {}
    for path, split in lists.items():
        stems = []
        for name in filter(None, map(str.strip, path.read_text("utf-8-sig", errors="replace").splitlines())):
            stem = name if name in images or not name.lower().endswith(IMAGE_SUFFIXES) else name.rpartition(".")[0]
            stem = stem if stem in images else stem.removesuffix(endings.image)
            if stem not in images:
                problems.append(f"{str(path)!r} names {name!r}, but {str(image_root)!r} has no such image.")
            elif stem in listed_in:
                problems.append(
                    f"{name!r} is listed in {str(listed_in[stem])!r} and in {str(path)!r}: keep it in one."
                )
            else:
                listed_in[stem] = path
                stems.append(stem)
        if not stems:
            problems.append(f"The list {str(path)!r} names no image.")
        splits[split] += _pair(images, masks, stems, endings, problems)
    return {split: sorted(pairs) for split, pairs in splits.items()}


def _coco_files(folder: Path, problems: list[str]) -> dict[Path, tuple[str, list[Path]]]:
    """The COCO JSON files of a folder, each with its split and the folders that may hold its images."""
    parents = _split_folders(folder)
    files = {path: (split, [path.parent]) for split in parents if (path := parents[split] / ROBOFLOW).is_file()}
    if files:
        return files
    if (folder / ROBOFLOW).is_file():
        return {folder / ROBOFLOW: ("train", [folder])}
    found = {path: match for path in sorted((folder / "annotations").glob("*.json"))
             if (match := COCO_NAME.fullmatch(path.name)) and match["split"].lower() in COCO_SPLITS}  # fmt: skip
    if any(match["instances"] for match in found.values()):  # beside person_keypoints_train2017.json
        found = {path: match for path, match in found.items() if match["instances"]}
    first: dict[str, Path] = {}
    for path, match in found.items():
        split = COCO_SPLITS[match["split"].lower()]
        if first.setdefault(split, path) != path:
            problems.append(f"{str(first[split])!r} and {str(path)!r} are the same split: keep one.")
            continue
        aliases = [name for name in COCO_SPLITS if COCO_SPLITS[name] == split]
        roots = [base / name for base in (folder / "images", folder) for name in (match["name"], *aliases)]
        files[path] = (split, [root for root in (*roots, folder / "images", folder) if root.is_dir()])
    if not files and (folder / LABEL_STUDIO).is_file() and (folder / "images").is_dir():
        files[folder / LABEL_STUDIO] = ("train", [folder / "images", folder])
    return files


def _scan_coco(
    folder: Path, json_files: dict[Path, tuple[str, list[Path]]], problems: list[str]
) -> tuple[dict[str, Pairs], dict[Path, CocoFile]]:
    splits: dict[str, Pairs] = {}
    coco: dict[Path, CocoFile] = {}
    for json_file, (split, roots) in json_files.items():
        try:
            file = coco[json_file] = read_coco(json_file)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        problems += file.problems
        for image in file.images:
            name = image["file_name"].replace("\\", "/")
            # Label Studio may write where its server keeps a file, of which only the name remains.
            places = [root / part for part in (name, os.path.basename(name)) for root in roots]
            path = next((Path(os.path.abspath(place)) for place in places if place.is_file()), None)
            if path is None:
                problems.append(f"{str(json_file)!r} names the image {name!r}, which is not in {str(roots[0])!r}.")
            elif path in file.images_by_path:
                problems.append(f"{str(json_file)!r} names the image {str(path)!r} twice.")
            else:
                file.images_by_path[path] = image
        splits[split] = [(path, json_file) for path in sorted(file.images_by_path)]
        if not file.images:
            problems.append(f"{str(json_file)!r} names no image.")
    lists = _flat_lists(folder)
    if lists and list(splits) == ["train"]:
        roots = next(iter(json_files.values()))[1]
        images: Files = {}
        for path, _ in splits["train"]:
            root = next(root for root in (*roots, path.parent) if path.is_relative_to(root))
            images.setdefault(path.relative_to(root).with_suffix("").as_posix(), []).append(path)
        masks = {stem: [next(iter(coco))] for stem in images}
        splits = _scan_lists(images, masks, lists, roots[0], Endings(), problems)
    return splits, coco


def _has_masks(folder: Path) -> bool:
    parents = (folder, *_split_folders(folder).values())
    return any(True for parent in parents for name in (*MASK_FOLDERS, VOC_MASKS) for _ in image_files(parent / name))


def _split_folders(parent: Path, problems: list[str] | None = None) -> dict[str, Path]:
    """The folder of each split."""
    folders: dict[str, Path] = {}
    for path in (parent / name for name in SPLIT_NAMES if (parent / name).is_dir()):
        first = folders.setdefault(SPLIT_NAMES[path.name], path)
        if first != path and problems is not None:
            problems.append(f"{str(first)!r} and {str(path)!r} are the same split: keep one.")
    return folders


def _split_lists(parent: Path) -> dict[Path, str]:
    """The lists of a folder and the splits they stand for."""
    found = {path.stem.lower(): path for path in sorted(parent.glob("*.txt"))}  # CVAT writes Train.txt
    return {found[name]: split for name, split in SPLIT_NAMES.items() if name in found}


def _mask_folder(parent: Path) -> Path:
    folders = [parent / name for name in MASK_FOLDERS if (parent / name).is_dir()] or [parent / MASK_FOLDERS[0]]
    return next((folder for folder in folders if any(True for _ in image_files(folder))), folders[0])


def _flat_lists(folder: Path) -> dict[Path, str]:
    return next(filter(None, map(_split_lists, (folder, folder / "splits", folder / "ImageSets"))), {})


def _files_by_stem(folder: Path, ending: str = "") -> Files:
    """
    The image files of a folder whose stems have this ending, by their path in it without suffix and ending, which
    several share if only suffixes differ.
    """
    files: Files = {}
    for path in image_files(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem.endswith(ending):
            files.setdefault(stem.removesuffix(ending), []).append(path)
    return files


def _pair_folders(image_folder: Path, mask_folder: Path, endings: Endings, problems: list[str]) -> Pairs:
    images, masks = _files_by_stem(image_folder, endings.image), _files_by_stem(mask_folder, endings.mask)
    if not images:
        named = f" whose names end in {endings.image}" if endings.image else ""
        problems.append(f"{str(image_folder)!r} holds no images{named}.")
        return []
    if not masks:
        kinds = ", ".join(MASK_FOLDERS)
        named = f" whose names end in {endings.mask}" if endings.mask else ""
        problems.append(f"{str(image_folder)!r} has no masks{named}. None are in {str(mask_folder)!r} (or {kinds}).")
        return []
    return _pair(images, masks, None, endings, problems)


def _pair(images: Files, masks: Files, stems: list[str] | None, endings: Endings, problems: list[str]) -> Pairs:
    """Pairs of these stems, or of all, sorted by stem."""
    masks_of_image: Files = {}
    for stem, paths in masks.items():
        known = () if endings.mask else MASK_ENDINGS
        ending = next((ending for ending in known if stem.endswith(ending) and stem not in images), "")
        masks_of_image.setdefault(stem.removesuffix(ending), []).extend(paths)
    proposal = _propose_endings(images, masks_of_image, endings)
    if proposal is not None and proposal not in problems:  # by another split
        problems.insert(0, proposal)
    pairs = []
    for stem in sorted({*images, *masks_of_image} if stems is None else stems):
        image_files, mask_files = images.get(stem, []), masks_of_image.get(stem, [])
        names = [repr(str(path)) for path in image_files or mask_files]
        if not image_files:
            problems.append(f"The mask {names[0]} has no image.")
        elif len(image_files) > 1:
            problems.append(f"The images {' and '.join(names)} have the same stem: rename or remove one.")
        elif not mask_files:
            problems.append(f"The image {names[0]} has no mask.")
        elif len(mask_files) > 1:
            mask_names = " and ".join(repr(str(path)) for path in mask_files)
            problems.append(f"The image {names[0]} has several masks, {mask_names}: remove one.")
        elif mask_files[0].suffix.lower() in JPEG_SUFFIXES:
            problems.append(f"The mask {str(mask_files[0])!r} is a JPEG, which alters ids. Make it again as PNG.")
        else:
            pairs.append((image_files[0], mask_files[0]))
    return pairs


def _propose_endings(images: Files, masks: Files, endings: Endings) -> str | None:
    """The options with which every image has a mask, if no image has one without them."""
    if any(endings) or not images or not masks or not images.keys().isdisjoint(masks):
        return None
    first = min(images)
    longest = max(len(_shared_start(first, mask)) for mask in masks)
    for mask in sorted((mask for mask in masks if len(_shared_start(first, mask)) == longest), key=len):
        shared = _shared_start(first, mask)
        if not first.startswith(mask) and not mask.startswith(first):  # both have endings, which start at a separator
            shared = re.sub(r"[-_. ]+[^-_. ]*$", "", shared) or shared
        image_ending, mask_ending = first[len(shared) :], mask[len(shared) :]
        if not shared or "/" in image_ending + mask_ending or (image_ending + mask_ending).isdigit():
            continue  # numbers tell images apart
        if all(
            name.endswith(image_ending) and name.removesuffix(image_ending) + mask_ending in masks for name in images
        ):
            options = {"--image_suffix": image_ending, "--mask_suffix": mask_ending}
            given = " ".join(f"{option}={ending}" for option, ending in options.items() if ending)
            return f"No image has a mask of the same name. They fit with {given}."
    return None


def _shared_start(first: str, second: str) -> str:
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))


__all__ = ["LAYOUTS", "FolderScan", "scan_folder"]
