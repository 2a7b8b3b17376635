"""Folders of infrared and visible images: every layout, and what is wrong with a pair is said by name."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf.data import load_infrared_dataset, scan_folder
from unip_hf.data.reading import read_sample, without_decoding


def write_pairs(folder: Path, names: Iterable[str]) -> None:
    """16-bit infrared images, visible ones in colour, and masks, as the folder in the name says."""
    generator = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "visible" in name:
            array = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        elif "mask" in name or "Class" in name:
            array = generator.integers(0, 3, (20, 24), dtype=np.uint8)
        else:
            array = generator.integers(6743, 7077, (20, 24), dtype=np.uint16)
        Image.fromarray(array).save(path)


def partners(folder: Path, **options: str) -> dict[str, str]:
    scan = scan_folder(folder, **options)
    assert scan.problems == []
    assert sum(map(len, scan.splits.values())) == len(scan.visible)
    return {
        image.relative_to(folder).as_posix(): path.relative_to(folder).as_posix()
        for image, path in scan.visible.items()
    }


LAYOUTS = {
    "splits": ["images/train/a.tif", "masks/train/a.png", "images/val/d/b.png", "masks/val/d/b.png"],
    "within": ["train/images/a.tif", "train/masks/a.png", "val/images/d/b.png", "val/masks/d/b.png"],
    "flat": ["images/a.tif", "masks/a.png", "images/d/b.png", "masks/d/b.png"],
    "voc": ["JPEGImages/a.tif", "SegmentationClass/a.png", "JPEGImages/d/b.png", "SegmentationClass/d/b.png"],
}
VISIBLE = {
    "splits": ["visible/training/a.jpg", "visible/validation/d/b_rgb.png"],
    "within": ["train/visible/a.jpg", "val/visible/d/b_rgb.png"],
    "flat": ["visible/a.jpg", "visible/d/b_rgb.png"],
    "voc": ["visible/a.jpg", "visible/d/b_rgb.png"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_may_have_visible_images(layout: str, tmp_path: Path) -> None:
    write_pairs(tmp_path, LAYOUTS[layout])
    if layout == "voc":
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("a\nd/b\n")
    (tmp_path / "id2label.json").write_text('{"0": "a", "1": "b", "2": "c"}')
    assert scan_folder(tmp_path).problems == [] and scan_folder(tmp_path).visible == {}
    assert "rgb" not in load_infrared_dataset("folder", tmp_path, split="train").column_names
    write_pairs(tmp_path, VISIBLE[layout])
    assert partners(tmp_path) == dict(zip(LAYOUTS[layout][::2], VISIBLE[layout]))
    rows = without_decoding(load_infrared_dataset("folder", tmp_path, split="train"))
    sample = read_sample(rows[0], with_visible=True)
    assert sample.visible is not None and sample.visible.shape == (20, 24, 3) and sample.image.dtype == np.uint16
    assert read_sample(rows[0]).visible is None


def test_coco_json_with_visible_images(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["train/a.png", "visible/train/a.png", "valid/b.png", "visible/valid/b.jpg"])
    for split, name in (("train", "a"), ("valid", "b")):
        box = {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": [[2, 2, 9, 2, 9, 9]],
            "area": 24,
            "iscrowd": 0,
        }
        content = {
            "images": [{"id": 1, "file_name": f"{name}.png", "height": 20, "width": 24}],
            "annotations": [{**box, "bbox": [2, 2, 7, 7]}],
            "categories": [{"id": 1, "name": "car"}],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    expected = {"train/a.png": "visible/train/a.png", "valid/b.png": "visible/valid/b.jpg"}
    assert partners(tmp_path) == expected
    assert "rgb" in load_infrared_dataset("folder", tmp_path, split="validation").column_names


def test_endings_and_images_that_no_list_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pairs(tmp_path, [f"images/{name}_ir.png", f"masks/{name}.png", f"visible/{name}_visible.jpg"])
    (tmp_path / "train.txt").write_text("a\n")
    assert partners(tmp_path, image_suffix="_ir") == {"images/a_ir.png": "visible/a_visible.jpg"}


def test_what_is_wrong_with_pairs_is_said_by_name(tmp_path: Path) -> None:
    write_pairs(tmp_path, [f"{kind}/{name}.png" for kind in ("images", "masks", "visible") for name in "abc"])
    (tmp_path / "visible" / "a.png").unlink()
    write_pairs(tmp_path, ["visible/b.jpg", "visible/z.jpg"])
    problems = scan_folder(tmp_path).problems
    assert len(problems) == 3
    for text in (
        f"The image '{tmp_path / 'images' / 'a.png'}' has no visible image in '{tmp_path / 'visible'}'. Add it",
        f"The image '{tmp_path / 'images' / 'b.png'}' has several visible images",
        f"The visible image '{tmp_path / 'visible' / 'z.jpg'}' has no infrared image.",
    ):
        assert any(problem.startswith(text) for problem in problems), (text, problems)
    with pytest.raises(ValueError, match=r"a\.png' has no visible image"):
        load_infrared_dataset("folder", tmp_path)
    with pytest.raises(ValueError, match='It holds pairs if a folder "visible" lies beside "images"'):
        load_infrared_dataset("folder", tmp_path, config_name="both")
