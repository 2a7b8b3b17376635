# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Finds the visible image of each infrared one in a folder. They lie in a folder `visible`: beside `images` or
`JPEGImages`, or, where a folder has neither, as the folders of COCO, in the folder itself:

    images/train/a.png   visible/train/a.jpg
    train/images/a.png   train/visible/a.jpg
    images/a.png         visible/a.jpg
    JPEGImages/a.jpg     visible/a.jpg
    train2017/a.jpg      visible/train2017/a.png

Both have the same path below these folders, apart from the suffix and from how a split is called (`val` or `valid`).
The name of the visible one may end in `_visible` or `_rgb`, and lack the ending of the infrared one that
`image_suffix` gives.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..files import image_files


VISIBLE_FOLDER = "visible"
VISIBLE_ENDINGS = ("", "_visible", "_rgb")
IMAGE_FOLDERS = ("images", "JPEGImages")


def find_visible(
    folder: Path, images: Iterable[Path], image_ending: str, split_names: Mapping[str, str], problems: list[str]
) -> dict[Path, Path]:
    """
    The visible image of each infrared one. It reads file names only.

    Args:
        folder (`Path`): The whole dataset.
        images (`Iterable[Path]`): The infrared images in it.
        image_ending (`str`): How their names end, if visible ones lack that ending.
        split_names (`Mapping[str, str]`): The names of folders that mean the same split.
        problems (`list[str]`): Takes sentences about images without a partner and with several.

    Returns:
        Paths by the infrared image. Empty if there is no folder `visible` with images.
    """

    def stem_of(path: Path, root: Path) -> str:
        first, *others = path.relative_to(root).with_suffix("").parts
        return "/".join([split_names.get(first, first) if others else first, *others])

    def by_stem(root: Path) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in image_files(root):
            files.setdefault(stem_of(path, root), []).append(path)
        return files

    roots = {image: _image_root(image, folder) for image in images}
    visible = {root: by_stem(_visible_root(root, folder)) for root in sorted(set(roots.values()))}
    if not any(visible.values()):
        return {}
    found: dict[Path, Path] = {}
    used: set[Path] = set()
    for image, root in roots.items():
        stem = stem_of(image, root)
        names = [
            name + end for name in dict.fromkeys((stem, stem.removesuffix(image_ending))) for end in VISIBLE_ENDINGS
        ]
        candidates = [path for name in names for path in visible[root].get(name, [])]
        used.update(candidates)
        if not candidates:
            problems.append(
                f"The image {str(image)!r} has no visible image in {str(_visible_root(root, folder))!r}. Add it, or "
                "rename that folder to use the infrared images alone."
            )
        elif len(candidates) > 1:
            paths = " and ".join(repr(str(path)) for path in candidates)
            problems.append(f"The image {str(image)!r} has several visible images, {paths}: remove one.")
        else:
            found[image] = candidates[0]
    for root, of_stem in visible.items():
        # Images that no list or JSON file names are not in use, and neither are their partners.
        infrared = by_stem(root)
        for stem, files in of_stem.items():
            partners = {stem.removesuffix(end) + ending for end in VISIBLE_ENDINGS for ending in ("", image_ending)}
            if used.isdisjoint(files) and infrared.keys().isdisjoint(partners):
                problems.append(f"The visible image {str(files[0])!r} has no infrared image.")
    return found


def _image_root(image: Path, folder: Path) -> Path:
    """The folder `images` above an image, or the dataset's."""
    parents = [parent for parent in image.parents if parent.is_relative_to(folder) and parent != folder]
    return next((parent for parent in reversed(parents) if parent.name in IMAGE_FOLDERS), folder)


def _visible_root(image_root: Path, folder: Path) -> Path:
    return (folder if image_root == folder else image_root.parent) / VISIBLE_FOLDER


__all__ = ["VISIBLE_ENDINGS", "VISIBLE_FOLDER", "find_visible"]
