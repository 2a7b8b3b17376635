"""Folders of images and masks in every layout and depth, and the drawn scenes, as datasets."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from unip_hf.data import SCENE_CLASSES, draw_scene, load_id2label, load_infrared_dataset, scan_folder
from unip_hf.data.reading import read_sample, without_decoding
from unip_hf.data.scenes_builder import InfraredScenes


def write_files(folder: Path, names: Iterable[str]) -> None:
    """Images of noise; in folders of masks, ids 0 to 2."""
    generator = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_mask = not any("images" in part.lower() for part in path.parts[len(folder.parts) :])
        values = generator.integers(0, 3 if is_mask else 256, (20, 24), dtype=np.uint8)
        Image.fromarray(values).save(path)


def stems(folder: Path) -> dict[str, list[str]]:
    """Stems of the images of each split, whose masks have the same stem but for an ending."""
    scan = scan_folder(folder)
    assert scan.problems == []
    for image, mask in (pair for pairs in scan.splits.values() for pair in pairs):
        assert image.is_absolute() and mask.is_file() and image.is_file()
        assert mask.stem.removesuffix("_mask").removesuffix("_label") == image.stem
    return {split: [image.stem for image, _ in pairs] for split, pairs in scan.splits.items()}


@pytest.mark.parametrize("masks", ["masks", "labels", "annotations"])
def test_splits_as_folders(masks: str, tmp_path: Path) -> None:
    names = {"training": ["b", "a", "deep/er/c"], "val": ["d"], "testing": ["e"]}
    write_files(tmp_path, (f"images/{split}/{name}.JPG" for split in names for name in names[split]))
    write_files(tmp_path, (f"{masks}/{split}/{name}.png" for split in names for name in names[split]))
    assert stems(tmp_path) == {"train": ["a", "b", "c"], "validation": ["d"], "test": ["e"]}


def test_images_within_splits(tmp_path: Path) -> None:
    write_files(
        tmp_path, ["train/images/a.png", "train/labels/a_label.png", "valid/images/b.bmp", "valid/masks/b.tif"]
    )
    (tmp_path / "train" / "masks").mkdir()  # empty: the labels are meant
    assert stems(tmp_path) == {"train": ["a"], "validation": ["b"]}


def test_linked_folders_and_endings_that_belong_to_the_name(tmp_path: Path) -> None:
    write_files(tmp_path / "far", ["images/train/a_mask.png", "masks/train/a_mask.png"])
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        (tmp_path / "data" / kind / "train").symlink_to(tmp_path / "far" / kind / "train")
    scan = scan_folder(tmp_path / "data")
    assert scan.problems == [] and [image.name for image, _ in scan.splits["train"]] == ["a_mask.png"]
    write_files(tmp_path / "data", ["images/test/deep/b.png", "masks/test/deep/b.png"])
    (tmp_path / "far" / "sequence").mkdir()
    write_files(tmp_path / "far", ["sequence/images/c.png", "sequence/masks/c.png"])
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind / "test" / "linked").symlink_to(tmp_path / "far" / "sequence" / kind)
    assert [image.name for image, _ in scan_folder(tmp_path / "data").splits["test"]] == ["b.png", "c.png"]


def test_flat_folder_with_and_without_lists(tmp_path: Path) -> None:
    write_files(tmp_path, [f"images/{name}.png" for name in "abcd"] + [f"masks/{name}_mask.png" for name in "abcd"])
    write_files(tmp_path, ["images/.hidden.png", "images/.git/x.png"])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    assert stems(tmp_path) == {"train": ["a", "b", "c", "d"]}
    for place in ("ImageSets", "splits", "."):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "train.txt").write_text("\ufeffd\n\n a.png \n", encoding="utf-8")
        (tmp_path / place / "val.txt").write_text("b")
        assert stems(tmp_path) == {"train": ["a", "d"], "validation": ["b"]}  # c is in no list


def test_pascal_voc(tmp_path: Path) -> None:
    write_files(tmp_path, [f"JPEGImages/{name}.jpg" for name in "abcd"])
    write_files(tmp_path, [f"SegmentationClass/{name}.png" for name in "abc"])
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("a\nb\nc\n")
    assert stems(tmp_path) == {"train": ["a", "b", "c"]}
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("c\n")
    assert stems(tmp_path) == {"train": ["a", "b"], "validation": ["c"]}


PAIR = ["images/train/a.png", "masks/train/a.png"]


def lists_with_errors(folder: Path) -> None:
    write_files(folder, ["images/a.png", "masks/a.png"])
    (folder / "train.txt").write_text("a\nmissing\n")
    (folder / "test.txt").write_text("a.png\n")


@pytest.mark.parametrize(("make", "messages"), [
    (lambda f: f.rmdir(), ["There is no folder"]),
    (lambda f: None, ["none of the supported layouts:\n  images/train/a.png  masks/train/a.png"]),
    (lambda f: (f / "images").mkdir(), ["images' holds no images"]),
    (lambda f: write_files(f, ["images/a.png"]), ["images' has no masks. None are in"]),
    (lambda f: write_files(f, ["images/a.png", "images/b.png", "masks/b.png"]), ["a.png' has no mask."]),
    (lambda f: write_files(f, ["images/a.png", "masks/b.png", "masks/a.png"]), ["masks/b.png' has no image."]),
    (lambda f: write_files(f, ["images/a.png", "images/a.jpg", "masks/a.png"]), ["a.jpg' and ", "have the same stem"]),
    (lambda f: write_files(f, ["images/a.png", "masks/a.png", "masks/a_mask.png"]), ["a.png' has several masks, "]),
    (lambda f: write_files(f, ["images/a.png", "masks/a.jpg"]), ["masks/a.jpg' is a JPEG, which alters ids"]),
    (lists_with_errors, ["names 'missing', but ", "'a.png' is listed in ", "The list ", "names no image"]),
    (lambda f: write_files(f, ["images/train/a.png", "images/b.png", "masks/train/a.png"]), ["b.png' is in none"]),
    (lambda f: write_files(f, ["images/val/a.png", "images/valid/b.png", "masks/val/a.png"]), ["are the same split"]),
    (lambda f: write_files(f, [*PAIR, "masks/val/b.png"]), ["masks/val' has no images"]),
    (lambda f: write_files(f, ["images/train/a.png", "masks/a.png"]), ["images/train' has no masks"]),
])  # fmt: skip
def test_problems_of_a_folder(make: Callable, messages: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    scan = scan_folder(folder)
    for message in messages:
        assert any(message in problem for problem in scan.problems), scan.problems
    with pytest.raises(ValueError) as caught:
        load_infrared_dataset("folder", folder)
    assert scan.problems[0] in str(caught.value)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, [f"images/{number}.png" for number in range(7)] + ["masks/0.png"])
    with pytest.raises(
        ValueError, match=r"1\.png' has no mask.*There are 6 such problems; `unip check-dataset` lists"
    ):
        load_infrared_dataset("folder", tmp_path)


def test_depth_palettes_and_streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.linspace(0, 65535, 480).astype(np.uint16).reshape(20, 24)
    ids = (np.arange(480) % 3).astype(np.uint8).reshape(20, 24)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    images = {"a.png": counts, "b.tiff": counts, "c.tif": counts.astype(np.float32) / 100, "d.bmp": ids * 100}
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    for name, values in images.items():
        Image.fromarray(values).save(tmp_path / "data" / "images" / name)
        palette.save(tmp_path / "data" / "masks" / f"{name[0]}.png")

    monkeypatch.chdir(tmp_path)
    dataset = load_infrared_dataset("folder", "data", split="train")
    stream = load_infrared_dataset("folder", "data", split="train", streaming=True)
    assert isinstance(dataset, datasets.Dataset) and isinstance(stream, datasets.IterableDataset)
    monkeypatch.chdir(os.sep)
    for row, streamed, values in zip(dataset, stream, images.values(), strict=True):
        assert np.asarray(row["image"]).dtype == values.dtype
        np.testing.assert_array_equal(row["image"], values)
        np.testing.assert_array_equal(row["annotation"], ids)
        for column in row:
            np.testing.assert_array_equal(row[column], streamed[column])
    for number, row in enumerate(without_decoding(dataset)):
        np.testing.assert_array_equal(read_sample(row, number).ids, ids)

    # Nothing is cached: a file that changes is read anew.
    Image.fromarray(counts + 1).save(tmp_path / "data" / "images" / "a.png")
    np.testing.assert_array_equal(load_infrared_dataset("folder", tmp_path / "data")["train"][0]["image"], counts + 1)


@pytest.mark.parametrize(("content", "message"), [
    (None, 'There is no .* such as {"0": "background", .* `unip check-dataset` lists the ids'),
    ('{"0": "a"', "is not of the form"),
    ('["a", "b"]', "is not of the form"),
    ('{"zero": "a"}', "is not of the form"),
    ('{"0": ["a"]}', "is not of the form"),
    ("{}", "without a gap"),
    ('{"1": "a", "2": "b"}', r"0, 1, 2, .* got \[1, 2\]"),
    ('{"0": "a", "1": "b", "255": "ignored"}', "255 means ignore"),
    ('{"0": "a", "1": "a"}', "twice"),
    ('{"a": 0, "b": 0}', "twice"),
])  # fmt: skip
def test_wrong_names_of_classes(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "id2label.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_id2label("folder", tmp_path)
    assert "id2label.json" in str(caught.value)


def test_names_of_classes(tmp_path: Path) -> None:
    for content in ('{"1": "person", "0": "ground"}', '{"person": 1, "ground": 0}'):
        (tmp_path / "id2label.json").write_text(content)
        assert list(load_id2label("folder", tmp_path).items()) == [(0, "ground"), (1, "person")]
    assert load_id2label("scenes") == dict(enumerate(SCENE_CLASSES))


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "sodaa"}, "There is no labelled dataset 'sodaa'. There are folder, scenes"),
    ({"name": "folder"}, "needs data_dir"),
    ({"name": "scenes", "split": "dev", "streaming": True}, "no split 'dev', only train, validation, test"),
    ({"name": "scenes", "data_dir": "x", "streaming": True}, "are drawn, not read from 'x'"),
])  # fmt: skip
def test_unknown_names(arguments: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(ValueError, match=message):
        load_infrared_dataset(**arguments)


def test_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(InfraredScenes, "SEEDS", {"train": range(6), "validation": range(10, 13)})
    loaded = load_infrared_dataset("scenes", num_proc=2)
    streamed = load_infrared_dataset("scenes", streaming=True)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 6, "validation": 3}
    for split, seeds in InfraredScenes.SEEDS.items():
        for seed, row, again in zip(seeds, loaded[split], streamed[split], strict=True):
            counts, ids = draw_scene(seed)
            assert row["image"].format == "PNG" and row["image"].mode == "I;16" and row["annotation"].mode == "L"
            for found in (row, again):
                np.testing.assert_array_equal(found["image"], counts)
                np.testing.assert_array_equal(found["annotation"], ids)
    assert (tmp_path / "scenes").is_dir()
    assert "examples" not in capfd.readouterr().err  # no progress bar where there is no terminal
    assert not datasets.are_progress_bars_disabled()


def test_scenes_have_disjoint_seeds_and_a_version() -> None:
    seeds = [seed for split in InfraredScenes.SEEDS.values() for seed in split]
    assert len(seeds) == len(set(seeds)) == 500
    counts, ids = draw_scene(0)
    pixels = np.bincount(ids.ravel(), minlength=len(SCENE_CLASSES))
    drawing = {"1.0.0": (7047.583, [15999, 15740, 13804, 14757, 1852, 0, 17560, 2208])}
    mean, pixels_of_class = drawing[str(InfraredScenes.VERSION)]  # another drawing needs another version
    assert counts.mean() == pytest.approx(mean, abs=0.01)
    np.testing.assert_allclose(pixels, pixels_of_class, atol=20)
