# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Finds the pairs of image and mask in a folder. It looks for three layouts in this order:

1. Splits as folders: `images/{train,validation,test}` with `masks/` (or `labels/`, `annotations/`) of the same splits,
   or the other way round, `train/images` with `train/masks`.
2. Flat: `images/` with `masks/`. The lists `train.txt`, `validation.txt` and `test.txt` in the folder itself, in
   `splits/` or in `ImageSets/` name the files of the splits, one stem or file name in each line. Without lists,
   everything is "train".
3. Pascal VOC: `JPEGImages/` with `SegmentationClass/` and lists in `ImageSets/Segmentation/`. If there is no
   `train.txt`, `trainval.txt` is used.

Splits may also be called `training`, `val`, `valid` and `testing`. An image and its mask have the same path in their
folders, apart from the suffix, and the name of the mask may end in `_mask` or `_label`. If there are several folders
for masks, the first that holds any is used. If there are lists, only the files they name are used. Hidden files and
files that are not images are left out. Masks must not be JPEG, because its compression alters ids.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..files import IMAGE_SUFFIXES, JPEG_SUFFIXES, image_files


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
  JPEGImages/a.jpg    SegmentationClass/a.png  ImageSets/Segmentation/train.txt  (Pascal VOC)"""

Pairs = list[tuple[Path, Path]]


@dataclass
class FolderScan:
    """
    What [`scan_folder`] found.

    Args:
        splits (`dict[str, list[tuple[Path, Path]]]`): Absolute paths of image and mask, sorted by name, of each split
            among "train", "validation" and "test" that is not empty.
        problems (`list[str]`): Sentences about files without a partner and the like. Empty if there are none.
    """

    splits: dict[str, Pairs] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def scan_folder(data_dir: str | os.PathLike) -> FolderScan:
    """
    Finds the pairs of image and mask in a folder of one of the layouts above. It reads file names and lists only.

    Args:
        data_dir (`str` or `os.PathLike`): The folder.

    Returns:
        [`FolderScan`]: the same for the same files. It lists what is wrong with them, and nothing is raised.
    """
    folder = Path(os.path.abspath(data_dir))
    images, voc_images, voc_lists = folder / "images", folder / "JPEGImages", folder / "ImageSets" / "Segmentation"
    splits, problems = {}, []
    if not folder.is_dir():
        problems.append(f"There is no folder {str(data_dir)!r}.")
    elif _split_folders(images):
        splits = _scan_split_folders(images, _mask_folder(folder), problems)
    elif any((parent / "images").is_dir() for parent in _split_folders(folder).values()):
        for split, parent in _split_folders(folder, problems).items():
            splits[split] = _pair_folders(parent / "images", _mask_folder(parent), problems)
    elif images.is_dir():
        lists = next(filter(None, map(_split_lists, (folder, folder / "splits", folder / "ImageSets"))), {})
        splits = _scan_lists(images, _mask_folder(folder), lists, problems)
    elif voc_images.is_dir():
        lists = _split_lists(voc_lists)
        if "train" not in lists.values() and (voc_lists / "trainval.txt").is_file():
            lists[voc_lists / "trainval.txt"] = "train"
        splits = _scan_lists(voc_images, folder / "SegmentationClass", lists, problems)
    else:
        problems.append(f"{str(data_dir)!r} has none of the supported layouts:\n{LAYOUTS}.")
    return FolderScan({split: splits[split] for split in SPLITS if splits.get(split)}, problems)


def _scan_split_folders(image_root: Path, mask_root: Path, problems: list[str]) -> dict[str, Pairs]:
    images, masks = _split_folders(image_root, problems), _split_folders(mask_root, problems)
    for path in image_files(image_root):
        if image_root / path.relative_to(image_root).parts[0] not in images.values():
            problems.append(f"{str(path)!r} is in none of the splits {sorted(images)}: move or remove it.")
    problems += [f"{str(masks[split])!r} has no images beside it." for split in masks if split not in images]
    return {
        split: _pair_folders(folder, masks.get(split, mask_root / folder.name), problems)
        for split, folder in images.items()
    }


def _scan_lists(image_root: Path, mask_root: Path, lists: dict[Path, str], problems: list[str]) -> dict[str, Pairs]:
    if not lists:
        return {"train": _pair_folders(image_root, mask_root, problems)}
    images, masks = _files_by_stem(image_root), _files_by_stem(mask_root)
    splits: dict[str, Pairs] = {split: [] for split in lists.values()}
    listed_in: dict[str, Path] = {}
    for path, split in lists.items():
        stems = []
        for name in filter(None, map(str.strip, path.read_text("utf-8-sig", errors="replace").splitlines())):
            stem = name if name in images or not name.lower().endswith(IMAGE_SUFFIXES) else name.rpartition(".")[0]
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
        splits[split] += _pair(images, masks, stems, problems)
    return {split: sorted(pairs) for split, pairs in splits.items()}


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
    return {path: split for name, split in SPLIT_NAMES.items() if (path := parent / f"{name}.txt").is_file()}


def _mask_folder(parent: Path) -> Path:
    folders = [parent / name for name in MASK_FOLDERS if (parent / name).is_dir()] or [parent / MASK_FOLDERS[0]]
    return next((folder for folder in folders if any(True for _ in image_files(folder))), folders[0])


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """The image files of a folder by their path in it without suffix, which several share if only suffixes differ."""
    files: dict[str, list[Path]] = {}
    for path in image_files(folder):
        files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return files


def _pair_folders(image_folder: Path, mask_folder: Path, problems: list[str]) -> Pairs:
    images, masks = _files_by_stem(image_folder), _files_by_stem(mask_folder)
    if not images:
        problems.append(f"{str(image_folder)!r} holds no images.")
        return []
    if not masks:
        kinds = ", ".join(MASK_FOLDERS)
        problems.append(f"{str(image_folder)!r} has no masks. None are in {str(mask_folder)!r} (or {kinds}).")
        return []
    return _pair(images, masks, None, problems)


def _pair(
    images: dict[str, list[Path]], masks: dict[str, list[Path]], stems: list[str] | None, problems: list[str]
) -> Pairs:
    """Pairs of these stems, or of all, sorted by stem."""
    masks_of_image: dict[str, list[Path]] = {}
    for stem, paths in masks.items():
        ending = next((ending for ending in MASK_ENDINGS if stem.endswith(ending) and stem not in images), "")
        masks_of_image.setdefault(stem.removesuffix(ending), []).extend(paths)
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


__all__ = ["LAYOUTS", "FolderScan", "scan_folder"]
