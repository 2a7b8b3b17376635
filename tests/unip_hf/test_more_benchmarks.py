"""The paired, depth and photographic benchmarks, on small archives in the layouts in which they are published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from unip_hf.data.benchmarks.ade20k import ADE20K
from unip_hf.data.benchmarks.base import InfraredBenchmark
from unip_hf.data.benchmarks.depth import NYUv2Depth, SUNRGBDDepth
from unip_hf.data.benchmarks.paired import FMB, MSRS, PST900

from .benchmark_archives import Files, decode, encode, mask, noise, write_files


def grey(seed: int = 0) -> bytes:
    return encode(noise(seed))


def deep(seed: int = 0) -> bytes:
    return encode(noise(seed, dtype=np.uint16))


def colour(seed: int = 0, format: str = "PNG") -> bytes:
    return encode(noise(seed, channels=3), format)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., datasets.DatasetDict]:
    """Prepares a dataset; the rows hold encoded files."""

    def load_encoded(benchmark_class: type[InfraredBenchmark], data_dir: Path, **options: Any) -> datasets.DatasetDict:
        builder = benchmark_class(data_dir=str(data_dir), cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
        for column in loaded[next(iter(loaded))].column_names:
            loaded = loaded.cast_column(column, datasets.Image(decode=False))
        return loaded

    return load_encoded


# The folders of thermal images, visible images and masks, and names of files as they are published.
PAIRED = {
    "MSRS": (MSRS, "MSRS-main/", ("ir", "vi", "Segmentation_labels"), ("00001D", "00055N", "01023D")),
    "PST900": (PST900, "PST900_RGBT_Dataset/", ("thermal", "rgb", "labels"), (
        "11_bag_rect_rgb_frame0000000010", "1_bag21_rect_rgb_frame0000000145", "2_bag1_rect_rgb_frame0000000000",
    )),
    "FMB": (FMB, "FMB/", ("Infrared", "Visible", "Label"), ("00000", "00010", "01499")),
}  # fmt: skip


def paired_files(name: str) -> Files:
    """Two train and one test, with what else lies in the archives."""
    benchmark_class, prefix, (thermal, rgb, annotations), (first, second, third) = PAIRED[name]
    files = {f"{prefix}README.md": b"", f"{prefix}train/visualize/{first}.png": colour()}
    for seed, (split, stem) in enumerate((("train", second), ("train", first), ("test", third))):
        files[f"{prefix}{split}/{thermal}/{stem}.png"] = grey(seed)
        files[f"{prefix}{split}/{rgb}/{stem}.png"] = colour(seed)
        files[f"{prefix}{split}/{annotations}/{stem}.png"] = mask(seed, tuple(range(len(benchmark_class.CLASSES))))
    return files


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published counts become those of the archives here."""
    for benchmark_class in (MSRS, PST900, FMB, NYUv2Depth, SUNRGBDDepth):
        monkeypatch.setattr(benchmark_class, "NUM_EXAMPLES", {"train": 2, "test": 1})
    monkeypatch.setattr(ADE20K, "NUM_EXAMPLES", {"train": 2, "validation": 1})


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("container", ["archive.zip", "unpacked"])
@pytest.mark.parametrize("name", PAIRED)
def test_paired(name: str, container: str, load: Callable, tmp_path: Path) -> None:
    benchmark_class, prefix, (thermal, rgb, annotations), (first, second, third) = PAIRED[name]
    files = paired_files(name)
    data_dir = write_files(tmp_path / container, files)
    for config, columns in {
        None: {"image": thermal},
        "thermal": {"image": thermal},
        "rgb": {"image": rgb},
        "both": {"image": thermal, "rgb": rgb},
    }.items():
        loaded = load(benchmark_class, data_dir, config_name=config)
        assert list(loaded) == ["train", "test"]
        for split, stems in {"train": [first, second], "test": [third]}.items():
            assert loaded[split].column_names == [*columns, "annotation"]
            for row, stem in zip(loaded[split], stems, strict=True):
                for column, folder in columns.items():
                    assert row[column] == {
                        "path": f"{stem}.png", "bytes": files[f"{prefix}{split}/{folder}/{stem}.png"]
                    }  # fmt: skip
                np.testing.assert_array_equal(
                    decode(row["annotation"]["bytes"]), decode(files[f"{prefix}{split}/{annotations}/{stem}.png"])
                )


@pytest.mark.usefixtures("small")
def test_raw_thermal_of_pst900_keeps_16_bits(load: Callable, tmp_path: Path) -> None:
    files = paired_files("PST900")
    write_files(tmp_path / "data", files)
    with pytest.raises(ValueError, match="has no folder 'train/thermal_raw'"):
        load(PST900, tmp_path / "data", config_name="thermal_raw")
    names = [name.replace("/thermal/", "/thermal_raw/") for name in files if "/thermal/" in name]
    raw = {name: deep(seed) for seed, name in enumerate(names)}
    write_files(tmp_path / "data", raw)
    loaded = load(PST900, tmp_path / "data", config_name="thermal_raw")
    assert {row["image"]["bytes"] for rows in loaded.values() for row in rows} == set(raw.values())
    image = loaded["train"].cast_column("image", datasets.Image())[0]["image"]
    assert image.mode == "I;16" and np.asarray(image).max() > 255
    stream = PST900(data_dir=str(tmp_path / "data"), config_name="thermal_raw").as_streaming_dataset()["train"]
    np.testing.assert_array_equal(next(iter(stream))["image"], image)
    assert load(PST900, tmp_path / "data")["train"][0]["image"]["bytes"] in files.values()  # 8 bits by default


@pytest.mark.usefixtures("small")
def test_pst900_with_288_test_images_is_whole(load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PST900, "NUM_EXAMPLES", {"train": 1, "test": 297})
    contents = {"thermal": grey(), "rgb": colour(), "labels": mask(0, (0, 4))}
    folders = {f"{split}/{folder}": content for split in ("train", "test") for folder, content in contents.items()}
    files = {
        f"{folder}/{number}.png": content
        for folder, content in folders.items()
        for number in range(1 if folder.startswith("train") else 288)
    }
    assert load(PST900, write_files(tmp_path / "288.zip", files)).num_rows == {"train": 1, "test": 288}
    truncated = {name: content for name, content in files.items() if not name.endswith("/287.png")}
    with pytest.raises(ValueError, match="should have 1 train and 297 test examples, but has 1 train and 287 test"):
        load(PST900, write_files(tmp_path / "287.zip", truncated))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("folder", "config", "message"), [
    ("train/ir", "thermal", r"of names in the folder 'train': '00055N' \(image\)"),
    ("train/ir", "both", r"'00055N' \(image\)"),
    ("train/ir", "rgb", None),  # is not needed
    ("train/vi", "thermal", None),
    ("train/vi", "rgb", r"'00055N' \(image\)"),
    ("train/vi", "both", r"'00055N' \(rgb\)"),
    ("train/Segmentation_labels", "thermal", r"'00055N' \(annotation\)"),
    ("train/Segmentation_labels", "rgb", r"'00055N' \(annotation\)"),
])  # fmt: skip
def test_without_a_partner(folder: str, config: str, message: str | None, load: Callable, tmp_path: Path) -> None:
    files = paired_files("MSRS")
    del files[f"MSRS-main/{folder}/00055N.png"]
    data_dir = write_files(tmp_path / "msrs.zip", files)
    if message is None:
        assert load(MSRS, data_dir, config_name=config).num_rows == {"train": 2, "test": 1}
    else:
        with pytest.raises(ValueError, match=message):
            load(MSRS, data_dir, config_name=config)
        assert load(MSRS, data_dir, config_name=config, allow_partial=True).num_rows == {"train": 1, "test": 1}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("lost", "config", "other"), [("ir", "rgb", "thermal"), ("vi", "thermal", "rgb")])
def test_one_modality_alone(lost: str, config: str, other: str, load: Callable, tmp_path: Path) -> None:
    files = {name: content for name, content in paired_files("MSRS").items() if f"/{lost}/" not in name}
    data_dir = write_files(tmp_path / "data", files)
    assert load(MSRS, data_dir, config_name=config).num_rows == {"train": 2, "test": 1}
    for needed in (other, "both"):
        with pytest.raises(ValueError, match=f"has no folder 'train/{lost}'"):
            load(MSRS, data_dir, config_name=needed)


@pytest.mark.parametrize(("benchmark_class", "kinds", "counts"), [
    (MSRS, ("ir", "vi", "Segmentation_labels"), "1,083 train and 361 test"),
    (PST900, ("thermal", "rgb", "labels"), "597 train and 297 test"),
    (FMB, ("Infrared", "Visible", "Label"), "1,220 train and 280 test"),
])  # fmt: skip
def test_truncated_pairs(
    benchmark_class: type, kinds: tuple, counts: str, load: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = dict(zip(kinds, (grey(), colour(), mask(0, (0, 1))), strict=True))
    data_dir = write_files(tmp_path / "data", {f"test/{kind}/a.png": content for kind, content in contents.items()})
    with pytest.raises(ValueError, match=f"has no folder 'train/{kinds[0]}'"):
        load(benchmark_class, data_dir)
    write_files(data_dir, {f"train/{kind}/{name}": b"" for kind in kinds for name in ("list.txt", ".hidden.png")})
    with pytest.raises(ValueError, match=f"has no image in the folder 'train/{kinds[0]}'"):
        load(benchmark_class, data_dir)
    assert load(benchmark_class, data_dir, allow_partial=True).num_rows == {"test": 1}
    assert f"should have {counts} examples, but has 0 train and 1 test. Results" in caplog.text
    write_files(data_dir, {f"train/{kind}/b.png": content for kind, content in contents.items()})
    with pytest.raises(ValueError, match=f"should have {counts} examples, but has 1 train and 1 test.*allow_partial"):
        load(benchmark_class, data_dir)


@pytest.mark.parametrize("benchmark_class", [MSRS, PST900, FMB, NYUv2Depth, SUNRGBDDepth, ADE20K])
def test_wrong_folders(benchmark_class: type[InfraredBenchmark], load: Callable, tmp_path: Path) -> None:
    wrong = write_files(tmp_path / "wrong", {"images/a.png": grey(), "masks/a.png": mask(0, (0,))})
    with pytest.raises(ValueError, match="has no folder") as caught:
        load(benchmark_class, wrong)
    assert benchmark_class.LAYOUT in str(caught.value)
    with pytest.raises(ValueError, match=r"holds no examples|has no"):
        load(benchmark_class, wrong, allow_partial=True)


# Four images, of which the lists name three; each pair is the content of train.txt and of test.txt.
LISTS = {
    "numbers": ("0\n2\n", "1\n"),
    "files": ("0.jpg\r\n2.jpg\r\n", "1.jpg"),
    "with folder": ("RGB/0.jpg\nRGB/2.jpg\n", "RGB/1.jpg\n\n"),
    "pairs": ("RGB/0.jpg Label/0.png\nRGB/2.jpg Label/2.png\n", "\ufeffRGB/1.jpg Label/1.png\n"),
    "tabs": ("rgb/0.jpg\tlabels/0.png\nrgb/2.jpg\tlabels/2.png\n", "rgb/1.jpg\tlabels/1.png\n"),
    "full paths": ("./NYUDepthv2/RGB/0.jpg\nNYUDepthv2/RGB/2.jpg\n", "/data/NYUDepthv2/RGB/1.jpg\n"),
}


def depth_files(
    prefix: str = "NYUDepthv2/", depth: str = "Depth", labels: str = "Label", lists: str = "pairs", classes: int = 41,
    suffix: str = "",
) -> Files:  # fmt: skip
    """Depth images of 16 bits, of 8 bits, and of 8 bits in three channels."""
    files = {f"{prefix}{split}{suffix}.txt": text.encode() for split, text in zip(("train", "test"), LISTS[lists])}
    for number, encoded_depth in enumerate((deep(0), grey(1), colour(2), deep(3))):
        files[f"{prefix}RGB/{number}.jpg"] = colour(number, "JPEG")
        files[f"{prefix}{depth}/{number}.png"] = encoded_depth
        files[f"{prefix}{labels}/{number}.png"] = mask(number, tuple(range(classes)))
    return files


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("benchmark_class", "layout", "container"),
    [
        *((NYUv2Depth, {"lists": lists}, "data") for lists in LISTS),
        (NYUv2Depth, {"depth": "depth", "labels": "labels", "prefix": ""}, "nyu.zip"),
        (NYUv2Depth, {"labels": "Labels"}, "nyu.zip"),
        (NYUv2Depth, {"labels": "Lable_single_channel", "suffix": "_depth"}, "data"),
        (SUNRGBDDepth, {"prefix": "SUNRGBD/", "labels": "labels", "classes": 38}, "sun.zip"),
        (SUNRGBDDepth, {"prefix": "SUNRGBD/", "labels": "labels", "classes": 38, "suffix": "_depth"}, "data"),
    ],
)
def test_depth(
    benchmark_class: type,
    layout: dict,
    container: str,
    load: Callable,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = depth_files(**layout)
    data_dir = write_files(tmp_path / container, files)
    prefix, depth, labels = layout.get("prefix", "NYUDepthv2/"), layout.get("depth", "Depth"), layout.get("labels")
    for config, columns in {
        None: {"image": depth}, "rgb": {"image": "RGB"}, "both": {"image": depth, "rgb": "RGB"}
    }.items():  # fmt: skip
        caplog.clear()
        loaded = load(benchmark_class, data_dir, config_name=config)
        assert "left out 1 images that no list names (such as 3)" in caplog.text
        for split, numbers in {"train": [0, 2], "test": [1]}.items():
            assert loaded[split].column_names == [*columns, "annotation"]
            for row, number in zip(loaded[split], numbers, strict=True):
                for column, folder in columns.items():
                    suffix = "jpg" if folder == "RGB" else "png"
                    assert row[column] == {
                        "path": f"{number}.{suffix}", "bytes": files[f"{prefix}{folder}/{number}.{suffix}"]
                    }  # fmt: skip
                expected = files[f"{prefix}{labels or 'Label'}/{number}.png"]
                np.testing.assert_array_equal(decode(row["annotation"]["bytes"]), decode(expected))


@pytest.mark.usefixtures("small")
def test_depth_in_folders_of_splits(load: Callable, tmp_path: Path) -> None:
    files = {"SUNRGBD/train.txt": b"train/5\nRGB/train/6.jpg\n", "SUNRGBD/test.txt": b"test/5\n"}
    for seed, name in enumerate(("train/5", "train/6", "test/5")):
        files |= {f"SUNRGBD/Depth/{name}.png": deep(seed), f"SUNRGBD/labels/{name}.png": mask(seed, (0, 37))}
    loaded = load(SUNRGBDDepth, write_files(tmp_path / "data", files))  # without the visible images
    assert loaded["test"][0]["image"]["bytes"] == files["SUNRGBD/Depth/test/5.png"]
    assert loaded["train"][1]["image"]["bytes"] == files["SUNRGBD/Depth/train/6.png"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("changes", "config", "message"), [
    ({"Depth/2.png": None}, "depth", r"of names in train.txt: '2' \(image\)"),
    ({"RGB/1.jpg": None}, "both", r"of names in test.txt: '1' \(rgb\)"),
    ({"Label/0.png": None}, "rgb", r"of names in train.txt: '0' \(annotation\)"),
    ({"test.txt": None}, "depth", "has no list 'test.txt' or 'test_depth.txt'"),
    ({"test.txt": None, "test_depth.txt": b"7\n"}, "depth", r"of names in test_depth.txt: '7' \(image"),
    ({"test.txt": b"\n"}, "depth", "test.txt' is empty"),
    ({"test.txt": b"0\n"}, "depth", "0.png' is both in 'train' and in 'test'"),
    ({"train.txt": b"RGB/0.jpg\n0\n"}, "depth", "two examples of the same name in 'train'"),
    ({"train.txt": b"0\n"}, "depth", "should have 2 train and 1 test examples, but has 1 train and 1 test"),
    ({"Label/1.png": mask(0, (0, 41))}, "depth", r"Label/1.png' holds the ids \[?41\b.*raw labels"),
    ({"Label/1.png": mask(0, (0, 39, 255))}, "depth", r"Label/1.png' holds both 0 and 255, as if 1 had"),
    ({"Depth/2.png": colour()[:90]}, "depth", "Depth/2.png'? is damaged"),
    ({"Depth/2.png": encode(np.zeros((5, 8), np.uint8))}, "depth", r"differ in size .*Depth/2.png'.*Label/2.png'"),
])  # fmt: skip
def test_what_is_wrong_in_depth(changes: Files, config: str, message: str, load: Callable, tmp_path: Path) -> None:
    files = depth_files(prefix="") | changes
    data_dir = write_files(
        tmp_path / "data", {name: content for name, content in files.items() if content is not None}
    )
    with pytest.raises(ValueError, match=message):
        load(NYUv2Depth, data_dir, config_name=config)


@pytest.mark.usefixtures("small")
def test_partial_depth(load: Callable, tmp_path: Path) -> None:
    files = depth_files(prefix="")
    for name in ("train.txt", "Label/0.png", "Depth/2.png"):
        del files[name]
    data_dir = write_files(tmp_path / "data", files)
    assert load(NYUv2Depth, data_dir, allow_partial=True).num_rows == {"test": 1}
    (data_dir / "test.txt").unlink()
    with pytest.raises(ValueError, match="no list that says which images"):
        load(NYUv2Depth, data_dir, allow_partial=True)
    ignored = {"test.txt": b"1\n", "train.txt": b"3\n", "Label/3.png": mask(0, (1, 40, 255))}  # 255 in place of 0
    loaded = load(NYUv2Depth, write_files(data_dir, ignored), allow_partial=True)
    np.testing.assert_array_equal(decode(loaded["train"][0]["annotation"]["bytes"]), decode(mask(0, (1, 40, 255))))


def test_matlab_files_are_named(load: Callable, tmp_path: Path) -> None:
    path = write_files(tmp_path / "data", {"nyu_depth_v2_labeled.mat": b"MATLAB 7.3"}) / "nyu_depth_v2_labeled.mat"
    sun = write_files(
        tmp_path / "SUNRGBD.zip", {"kv1/b3dodata/img_1/seg.mat": b"", "kv1/b3dodata/img_1/depth/1.png": b""}
    )
    for benchmark_class, data_dir in ((NYUv2Depth, path), (NYUv2Depth, path.parent), (SUNRGBDDepth, sun)):
        with pytest.raises(ValueError, match=r"\.mat' is a MATLAB file.*export images, depth images") as caught:
            load(benchmark_class, data_dir)
        assert benchmark_class.LAYOUT in str(caught.value)


ADE20K_STEMS = {"training": ("ADE_train_00000001", "ADE_train_00020210"), "validation": ("ADE_val_00000001",)}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("container", ["ADEChallengeData2016.zip", "unpacked"])
def test_ade20k(container: str, load: Callable, tmp_path: Path) -> None:
    ids = np.arange(200).reshape(10, 20).astype(np.uint8) % 151
    image = encode(np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8), "JPEG")
    files = {"ADEChallengeData2016/objectInfo150.txt": b"", "ADEChallengeData2016/sceneCategories.txt": b""}
    for folder, stems in ADE20K_STEMS.items():
        for stem in stems:
            files[f"ADEChallengeData2016/images/{folder}/{stem}.jpg"] = image
            files[f"ADEChallengeData2016/annotations/{folder}/{stem}.png"] = encode(ids)
    data_dir = write_files(tmp_path / container, files)
    loaded = load(ADE20K, data_dir)
    for split, folder in {"train": "training", "validation": "validation"}.items():
        for row, stem in zip(loaded[split], ADE20K_STEMS[folder], strict=True):
            assert row["image"] == {"path": f"{stem}.jpg", "bytes": image}
            found = decode(row["annotation"]["bytes"])
            assert (found[ids == 0] == 255).all() and (found[ids > 0] == ids[ids > 0] - 1).all()

    lost = "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    with pytest.raises(ValueError, match=r"in the folder 'validation': 'ADE_val_00000002' \(image\)"):
        load(ADE20K, write_files(tmp_path / "other.zip", files | {lost.replace("1.png", "2.png"): files[lost]}))
    with pytest.raises(ValueError, match=r"ADE_val_00000001.png' holds the ids \[?151\b"):
        load(ADE20K, write_files(tmp_path / "ids.zip", files | {lost: encode(np.full((10, 20), 151, np.uint8))}))


@pytest.mark.parametrize(("benchmark_class", "num_classes", "num_examples", "some"), [
    (MSRS, 9, {"train": 1083, "test": 361}, {0: "background", 1: "car", 8: "bump"}),
    (PST900, 5, {"train": 597, "test": 297}, {0: "background", 1: "fire-extinguisher", 4: "survivor"}),
    (FMB, 15, {"train": 1220, "test": 280}, {0: "background", 1: "road", 8: "person", 14: "pole"}),
    (NYUv2Depth, 41, {"train": 795, "test": 654}, {0: "background", 1: "wall", 24: "refrigerator", 40: "otherprop"}),
    (SUNRGBDDepth, 38, {"train": 5285, "test": 5050}, {0: "background", 1: "wall", 25: "television", 37: "bag"}),
    (ADE20K, 150, {"train": 20210, "validation": 2000}, {
        0: "wall", 7: "bed", 12: "person", 20: "car", 43: "signboard", 72: "palm", 100: "poster", 127: "bicycle",
        136: "traffic light", 149: "flag",
    }),
])  # fmt: skip
def test_published_facts(
    benchmark_class: type[InfraredBenchmark], num_classes: int, num_examples: dict, some: dict
) -> None:
    assert len(benchmark_class.CLASSES) == num_classes
    assert {id: benchmark_class.CLASSES[id] for id in some} == some
    assert num_examples == benchmark_class.NUM_EXAMPLES
    assert len(np.unique(benchmark_class.palette(), axis=0)) == num_classes
