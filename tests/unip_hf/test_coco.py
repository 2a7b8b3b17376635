"""COCO JSON becomes masks as pycocotools would draw them, and wrong JSON a sentence, never a crash of its C code."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unip_hf.data import check_dataset, load_id2label, load_infrared_dataset, scan_folder
from unip_hf.data.coco import draw_regions
from unip_hf.data.masks import MaskError
from unip_hf.data.reading import read_sample, without_decoding

from .mask_folders import HEIGHT, KINDS, NAMES, SPLITS, WIDTH, run_lengths, save_image


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

SQUARE = [[4, 4, 20, 4, 20, 20, 4, 20]]


def draw(*segmentations: Any) -> np.ndarray:
    regions = [{"id": id, "annotation": id, "segmentation": one} for id, one in enumerate(segmentations, start=1)]
    return draw_regions(json.dumps({"size": [HEIGHT, WIDTH], "background": 0, "regions": regions}), "a.png")


def test_all_forms_are_drawn_like_pycocotools() -> None:
    generator = np.random.default_rng(0)
    for density in (0, 0.02, 0.5, 1):
        mask = (generator.random((HEIGHT, WIDTH)) < density).astype(np.uint8)
        text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        for counts in (text, run_lengths(mask)):
            np.testing.assert_array_equal(draw({"size": [HEIGHT, WIDTH], "counts": counts}), mask)
    star = [[31.5, -4.0, 40.25, 20.0, 70.0, 24.5, 40.25, 30.0, 31.5, 50.0, 25.0, 30.0]]  # beyond three edges
    expected = coco_mask.decode(coco_mask.frPyObjects(star, HEIGHT, WIDTH))[..., 0]
    np.testing.assert_array_equal(draw(star), expected)
    both = draw(star, SQUARE)
    assert (both[4:20, 4:20] == 2).all() and (both == 1).any()


@pytest.mark.parametrize(("segmentation", "message"), [
    ([], "has no segmentation. If it is only a box"),
    (None, "has no segmentation"),
    ("polygon", "neither a list of polygons nor run lengths"),
    ([4, 4, 20, 4, 20, 20], "neither a list of polygons"),
    ([[4, 4, 20, 20]], "needs at least 3 points of x and y, got 4 numbers"),
    ([*SQUARE, []], "needs at least 3 points of x and y, got 0"),
    ([[4, 4, 20, 4, 20, 20, 4]], "got 7 numbers"),
    ([[4, 4, 20, 4, 20, "20"]], "not a number"),
    ([[4, 4, 20, 4, 20, float("nan")]], "not a number"),
    ([[4, 4, 1e12, 4, 20, 20]], "far outside the image of 64x48 pixels"),
    ({"counts": [1]}, r"for the size None \(height, width\), but the image has \[48, 64\]"),
    ({"size": [64, 48], "counts": [64 * 48]}, r"for the size \[64, 48\] \(height, width\)"),
    ({"size": [48, 64], "counts": [10, 4]}, r"must add up to 3072 pixels \(48 x 64\), got 14"),
    ({"size": [48, 64], "counts": [10, -4, 3066]}, "must be a list of whole numbers"),
    ({"size": [48, 64], "counts": []}, "got 0"),
    ({"size": [48, 64], "counts": ""}, "got 0"),
    ({"size": [48, 64], "counts": 7}, "must be a list of whole numbers, or a text"),
    ({"size": [48, 64], "counts": "caf\u00e9"}, "hold the character '\u00e9'"),
    ({"size": [48, 64], "counts": "P"}, "end within a number"),
    ({"size": [48, 64], "counts": "o" * 40}, "has no meaning there"),
])  # fmt: skip
def test_what_cannot_be_drawn(segmentation: Any, message: str) -> None:
    with pytest.raises(MaskError, match=rf"^Annotation 2 of a\.png cannot be drawn: its? .*{message}"):
        draw(SQUARE, segmentation)


def change(path: str, edit: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Edits JSON, which may return what takes its place."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / path).read_text())
        replaced = edit(content)
        (folder / path).write_text(json.dumps(content if replaced is None else replaced))

    return spoil


TRAIN = "train/_annotations.coco.json"


def rename_image(content: dict) -> None:
    content["images"][1]["file_name"] = "nowhere.jpg"


def another_size(content: dict) -> None:
    content["images"][0]["height"] = 96


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda f: (f / TRAIN).write_text("no json"), "is not JSON"),
    (change(TRAIN, lambda c: [c]), "is not COCO JSON: it has no list 'images'"),
    (change(TRAIN, lambda c: {"images": c["images"]}), "it has no list 'annotations'"),
    (change(TRAIN, lambda c: c["images"][0].pop("width") and None), "an entry of 'images' has no valid 'width'"),
    (change(TRAIN, lambda c: c["categories"].append("car")), "an entry of 'categories' has no valid 'id': 'car'"),
    (change(TRAIN, lambda c: c["annotations"][2].update(category_id=9)), "Annotation 3 of .* has the category_id 9, "),
    (change(TRAIN, lambda c: c["annotations"][2].update(image_id=9)), "Annotation 3 of .* has the image_id 9, which"),
    (change(TRAIN, lambda c: c["categories"][1].update(name="car")), "two categories of the same id or name"),
    (change(TRAIN, lambda c: c["images"][1].update(id=0)), "two images with the same id"),
    (change(TRAIN, rename_image), r"names the image 'nowhere\.jpg', which is not in '.*train'"),
    (change(TRAIN, lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"])), "jpg' twice"),
    (change(TRAIN, lambda c: c.update(images=[], annotations=[])), "names no image"),
    (change(TRAIN, lambda c: c["categories"][1].update(name="people")), "have different categories: 1 'person'"),
    (change(TRAIN, another_size), r"the size \(48, 64\) \(height, width\), but .*json gives it the size \(96, 64\)"),
    (change(TRAIN, lambda c: c["annotations"][0].update(segmentation=[[1, 2]])), "Annotation 1 of .*jpg in .*json"),
    (lambda f: (f / "id2label.json").write_text('{"0": "background", "1": "car"}'), "names 'person', but .*id2label"),
    (lambda f: (f / "mask_values.json").write_text('{"0": 0}'), "but .* holds COCO JSON, not masks"),
])  # fmt: skip
def test_wrong_json_ends_with_a_sentence(spoil: Callable, message: str, tmp_path: Path) -> None:
    KINDS["roboflow"](tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError) as caught:
        for row in without_decoding(load_infrared_dataset("folder", tmp_path)["train"]):
            read_sample(row)
    assert re.search(message, str(caught.value)), caught.value


def test_ids_of_categories(tmp_path: Path) -> None:
    KINDS["coco"](tmp_path)
    assert load_id2label("folder", tmp_path) == NAMES
    # Named without a background, pixels without annotation are ignored.
    (tmp_path / "id2label.json").write_text('{"0": "car", "1": "person"}')
    loaded = load_infrared_dataset("folder", tmp_path)
    assert load_id2label("folder", tmp_path) == {0: "car", 1: "person"}
    assert set(np.unique(loaded["train"][0]["annotation"])) == {0, 1, 255}
    assert not check_dataset({"validation": loaded["validation"]}, {0: "car", 1: "person"}).has_errors
    (tmp_path / "id2label.json").unlink()
    for split in ("train", "val"):
        change(f"annotations/instances_{split}2017.json", lambda c: c["categories"][0].update(name="Background"))(
            tmp_path
        )
    assert load_id2label("folder", tmp_path) == {0: "Background", 1: "person"}


def test_a_size_that_differs_is_resized_on_request(tmp_path: Path) -> None:
    KINDS["plain_coco"](tmp_path)
    for path in (tmp_path / "images").rglob("*.png"):
        save_image(path, int(path.stem))
    change("annotations/train.json", another_size)(tmp_path)
    change("annotations/train.json", lambda c: c.update(annotations=[]))(tmp_path)
    assert check_dataset(load_infrared_dataset("folder", tmp_path), NAMES).errors[0].message.startswith("Images and")
    loaded = load_infrared_dataset("folder", tmp_path, resize_masks=True)
    assert loaded["train"][0]["annotation"].size == (WIDTH, HEIGHT)
    assert not check_dataset(loaded, NAMES).has_errors


def test_layouts(tmp_path: Path) -> None:
    KINDS["label_studio"](tmp_path / "studio")
    for name in SPLITS:
        (tmp_path / "studio" / f"{name}.txt").unlink()
    assert {split: len(pairs) for split, pairs in scan_folder(tmp_path / "studio").splits.items()} == {"train": 6}
    KINDS["coco"](tmp_path / "cvat")
    for name in ("train2017", "val2017"):  # as CVAT exports a project without subsets
        (tmp_path / "cvat" / name).rename(tmp_path / "cvat" / name.replace("train2017", "images"))
    annotations = tmp_path / "cvat" / "annotations"
    (annotations / "instances_train2017.json").rename(annotations / "instances_default.json")
    scan = scan_folder(tmp_path / "cvat")
    assert scan.problems == [] and [len(scan.splits[split]) for split in ("train", "validation")] == [4, 2]
    (annotations / "instances_Train.json").write_text((annotations / "instances_default.json").read_text())
    assert any("are the same split: keep one" in problem for problem in scan_folder(tmp_path / "cvat").problems)
    assert "leave out --mask_suffix" in scan_folder(tmp_path / "studio", "_gt").problems[0]
    (annotations / "instances_default.json").unlink()  # CVAT's own names of subsets begin with capitals
    assert [len(pairs) for pairs in scan_folder(tmp_path / "cvat").splits.values()] == [4, 2]
    # Where there are masks, JSON beside them is something else.
    save_image(tmp_path / "studio" / "masks" / "0f0f-0.png", 0)
    assert scan_folder(tmp_path / "studio").coco == {}
