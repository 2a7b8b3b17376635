# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""SODA, MFNet and SCUT-Seg in the layouts in which they are published, and what the builders of all have in common."""

import errno
import logging
import multiprocessing
import re
import shutil
import zipfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import multiprocess
import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from unip_hf.data import load_infrared_dataset
from unip_hf.data.benchmarks import BENCHMARKS, SODA, InfraredBenchmark, MFNet, Row, SCUTSeg
from unip_hf.data.reading import read_sample, without_decoding

from .benchmark_archives import (
    HEIGHT,
    WIDTH,
    Files,
    decode,
    encode,
    mask,
    mfnet_files,
    noise,
    scut_files,
    soda_files,
    write_files,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published counts become those of the small archives."""
    monkeypatch.setattr(SODA, "NUM_EXAMPLES", {"train": 3, "test": 2})
    monkeypatch.setattr(MFNet, "NUM_EXAMPLES", {"train": 3, "validation": 1, "test": 2})
    monkeypatch.setattr(SCUTSeg, "NUM_EXAMPLES", {"train": 2, "validation": 1})


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., datasets.DatasetDict]:
    def prepare_dataset(
        benchmark: type[InfraredBenchmark], data_dir: Path, num_proc: int | None = None, **options: Any
    ) -> datasets.DatasetDict:
        builder = benchmark(data_dir=str(data_dir), cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset()

    return prepare_dataset


def names(dataset: Any) -> dict[str, list[str]]:
    return {split: [row["image"]["path"] for row in rows] for split, rows in without_decoding(dataset).items()}


def encoded(rows: Any, column: str) -> list[bytes]:
    return [row[column]["bytes"] for row in rows.cast_column(column, datasets.Image(decode=False))]


def pixels(dataset: Any) -> dict[str, list[tuple]]:
    """Depth and values of every image of every split."""
    return {
        split: [
            tuple((column, image.mode, np.array(image).tobytes()) for column, image in sorted(row.items()))
            for row in rows
        ]
        for split, rows in dataset.items()
    }


# The published archives.


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("target", ["InfraredSemanticLabel.zip", "unpacked"])
def test_soda(target: str, prepare: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = soda_files()
    data_dir = write_files(tmp_path / target, files)
    for config, folder in {None: "SegmentationClassPNG", "segmentation_class_one": "SegmentationClassOne"}.items():
        loaded = prepare(SODA, data_dir, config_name=config)
        stems = {"train": ["0003", "0001", "0002"], "test": ["0011", "0010"]}
        assert names(loaded) == {split: [f"{stem}.jpg" for stem in stems[split]] for split in stems}
        for split, rows in loaded.items():
            paths = [f"InfraredSemanticLabel/JPEGImages/{stem}.jpg" for stem in stems[split]]
            assert encoded(rows, "image") == [files[path] for path in paths]  # byte for byte
            for row, stem in zip(rows, stems[split], strict=True):
                assert row["annotation"].mode == "P"
                ids = decode(files[f"InfraredSemanticLabel/{folder}/{stem}.png"])
                np.testing.assert_array_equal(np.array(row["annotation"]), ids)
                colours = SODA.palette()[np.minimum(ids, 20)]
                colours[ids == 255] = 255
                np.testing.assert_array_equal(np.array(row["annotation"].convert("RGB")), colours)
    assert "left out 2 copies (such as 0010(1)), 1 images that no list names (such as synthetic_1)" in caplog.text


@pytest.mark.usefixtures("small")
def test_copies_that_a_list_of_soda_names(prepare: Callable, tmp_path: Path) -> None:
    files = soda_files()
    files["InfraredSemanticLabel/test_infrared.txt"] = b"0011\n0010(1)"
    loaded = prepare(SODA, write_files(tmp_path / "soda.zip", files))
    assert names(loaded)["test"] == ["0011.jpg", "0010(1).jpg"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("target", ["ir_seg_dataset.zip", "unpacked"])
def test_mfnet(target: str, prepare: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = mfnet_files()
    data_dir = write_files(tmp_path / target, files)
    stems = {"train": ["00001D", "00003N", "00002D"], "validation": ["00004N"], "test": ["00006D", "00005N"]}
    for config, columns in {
        None: {"image": 3},
        "thermal": {"image": 3},
        "rgb": {"image": slice(3)},
        "both": {"image": 3, "rgb": slice(3)},
    }.items():
        loaded = prepare(MFNet, data_dir, config_name=config)
        assert names(loaded) == {split: [f"{stem}.png" for stem in stems[split]] for split in stems}
        for split, rows in loaded.items():
            assert rows.column_names == [*columns, "annotation"]
            for row, stem in zip(rows, stems[split], strict=True):
                frame = decode(files[f"ir_seg_dataset/images/{stem}.png"])
                for column, channels in columns.items():
                    assert row[column].mode == ("L" if channels == 3 else "RGB")
                    assert np.array(row[column]).tobytes() == frame[..., channels].tobytes()
                ids = decode(files[f"ir_seg_dataset/labels/{stem}.png"])
                np.testing.assert_array_equal(np.array(row["annotation"]), ids)
                colours = np.array(row["annotation"].convert("RGB"))
                np.testing.assert_array_equal(colours, np.array(MFNet.PALETTE, np.uint8)[ids])
    assert (
        "left out 2 mirrored copies (such as 00001D_flip), 1 images that no list names (such as 00007D)" in caplog.text
    )


@pytest.mark.usefixtures("small")
def test_mfnet_by_time_of_day_and_black_list(prepare: Callable, tmp_path: Path) -> None:
    data_dir = write_files(tmp_path / "set.zip", mfnet_files())
    by_day = names(prepare(MFNet, data_dir, config_name="both_day"))
    assert by_day == {"train": ["00001D.png", "00002D.png"], "test": ["00006D.png"]}
    by_night = prepare(MFNet, data_dir, config_name="rgb_night")
    assert names(by_night) == {"train": ["00003N.png"], "validation": ["00004N.png"], "test": ["00005N.png"]}
    assert by_night["train"][0]["image"].mode == "RGB"
    assert names(prepare(MFNet, data_dir, use_black_list=True))["train"] == ["00001D.png", "00002D.png"]
    files = {name: content for name, content in mfnet_files().items() if "black_list" not in name}
    with pytest.raises(ValueError, match=r"other.zip' has no black_list.txt"):
        prepare(MFNet, write_files(tmp_path / "other.zip", files), use_black_list=True)


def test_mfnet_real_frames(
    real_images: Path, prepare: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = real_images / "mfnet_raw"
    frames = {stem: decode((source / "images" / f"{stem}.png").read_bytes()) for stem in ("01234N", "01477D")}
    with pytest.raises(ValueError, match=r"mfnet_raw' has no folder 'labels'. MFNet is the zip file"):
        prepare(MFNet, source)
    unlabelled = prepare(MFNet, source, allow_partial=True)
    assert names(unlabelled) == {"test": ["01477D.png", "01234N.png"]} and unlabelled["test"][0]["annotation"] is None
    assert "has no masks of 2 images" in caplog.text
    shutil.copytree(source, tmp_path / "mfnet")
    (tmp_path / "mfnet").chmod(0o755)
    masks = {f"labels/{stem}.png": mask(0, tuple(range(9)), 480, 640) for stem in frames}
    write_files(tmp_path / "mfnet", masks)
    with pytest.raises(ValueError, match=r"lacks files of names in train.txt: '00001D' \(image and .* of 781 more"):
        prepare(MFNet, tmp_path / "mfnet")
    loaded = prepare(MFNet, tmp_path / "mfnet", config_name="both", allow_partial=True)["test"]
    assert "should have 784 train, 392 validation and 393 test examples, but has 0 train, " in caplog.text
    assert "784 names in train.txt without files" in caplog.text
    for row, frame in zip(loaded, (frames["01477D"], frames["01234N"]), strict=True):
        assert row["image"].mode == "L" and np.array(row["image"]).tobytes() == frame[..., 3].tobytes()
        assert row["rgb"].mode == "RGB" and np.array(row["rgb"]).tobytes() == frame[..., :3].tobytes()
        assert (frame[..., :3].max(axis=2) > frame[..., 3]).any()  # so the colours were not multiplied by the fourth
        assert read_sample({**without_decoding(loaded)[0]}).ids.shape == (480, 640)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", ["lists", "images/train", "train/images"])
def test_scut_seg(layout: str, prepare: Callable, tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw.zip", scut_files(layout))
    loaded = prepare(SCUTSeg, raw)
    train = ["b2.jpg", "a1.jpg"] if layout == "lists" else ["a1.jpg", "b2.jpg"]
    assert names(loaded) == {"train": train, "validation": ["c3.jpg"]}
    converted = prepare(
        SCUTSeg, write_files(tmp_path / "converted.zip", scut_files(layout, tuple(range(10)))), config_name="converted"
    )
    assert pixels(loaded) == pixels(converted)
    assert set(np.unique(np.array(loaded["train"][0]["annotation"]))) == set(range(10))
    message = r"label.*\.png' holds the ids {}, but those of SCUT-Seg are .*, 255. The configuration .raw. is for"
    with pytest.raises(ValueError, match=message.format("13, 17, 21, 24 to 28")):
        prepare(SCUTSeg, raw, config_name="converted")
    with pytest.raises(ValueError, match=message.format("1 to 6, 8, 9")):
        prepare(SCUTSeg, tmp_path / "converted.zip")


def test_published_counts(tmp_path: Path) -> None:
    """With as many (empty) files as are published, the counts fit; with one fewer they do not."""
    for benchmark, counts, make in (
        (SODA, {"train": 1168, "test": 1000}, _soda_names),
        (MFNet, {"train": 784, "validation": 392, "test": 393}, _mfnet_names),
        (SCUTSeg, {"train": 1345, "validation": 665}, _scut_names),
    ):
        assert counts == benchmark.NUM_EXAMPLES
        whole = write_files(tmp_path / f"{benchmark.TITLE}.zip", make(counts))
        streamed = benchmark(data_dir=str(whole), cache_dir=str(tmp_path)).as_streaming_dataset()
        assert {split: rows.info.splits[split].num_examples for split, rows in streamed.items()} == counts
        part = write_files(tmp_path / f"{benchmark.TITLE} part.zip", make({**counts, "train": counts["train"] - 1}))
        message = f"should have {counts['train']:,} train.* examples, but has {counts['train'] - 1:,} train"
        with pytest.raises(ValueError, match=message):
            benchmark(data_dir=str(part), cache_dir=str(tmp_path)).as_streaming_dataset()


def _numbered(counts: dict[str, int]) -> dict[str, list[str]]:
    return {split: [f"{split}{index:05d}D" for index in range(count)] for split, count in counts.items()}


def _soda_names(counts: dict[str, int]) -> Files:
    stems = _numbered(counts)
    files = {f"{split}_infrared.txt": "\n".join(stems[split]).encode() for split in stems}
    for stem in chain(*stems.values()):
        files |= {f"JPEGImages/{stem}.jpg": b"", f"SegmentationClassPNG/{stem}.png": b""}
    return files


def _mfnet_names(counts: dict[str, int]) -> Files:
    stems = _numbered(counts)
    files = {f"{split.replace('idation', '')}.txt": "\n".join(stems[split]).encode() for split in stems}
    for stem in chain(*stems.values()):
        files |= {f"images/{stem}.png": b"", f"labels/{stem}.png": b""}
    return files


_scut_names = _mfnet_names


# What the builders share.


@pytest.mark.usefixtures("small")
def test_streaming_map_style_and_parquet_give_the_same_pixels(prepare: Callable, tmp_path: Path) -> None:
    for benchmark, config, files in (
        (SODA, None, soda_files(np.uint16)), (MFNet, "both", mfnet_files()), (SCUTSeg, "raw", scut_files()),
    ):  # fmt: skip
        data_dir = write_files(tmp_path / f"{benchmark.TITLE}.zip", files)
        loaded = prepare(benchmark, data_dir, config_name=config)
        expected = pixels(loaded)
        builder = benchmark(data_dir=str(data_dir), config_name=config, cache_dir=str(tmp_path / "other"))
        assert pixels(builder.as_streaming_dataset()) == expected
        builder.download_and_prepare(output_dir=str(tmp_path / "parquet"), file_format="parquet")
        data_files = {split: str(tmp_path / "parquet" / f"*-{split}.parquet") for split in expected}
        parquet = datasets.load_dataset("parquet", data_files=data_files, cache_dir=str(tmp_path / "cache"))
        assert pixels(parquet) == expected
        assert names(parquet) == names(loaded)
        shutil.rmtree(tmp_path / "parquet")
        if benchmark is SODA:
            image = loaded["train"][0]["image"]
            assert image.mode == "I;16"
            np.testing.assert_array_equal(np.array(image), noise(2, dtype=np.uint16))  # "0003" is the third


def _rows_of_rank(rows: datasets.IterableDataset, rank: int, world_size: int, num_workers: int) -> list[str]:
    shard = split_dataset_by_node(rows, rank=rank, world_size=world_size)
    loader = DataLoader(shard, batch_size=None, num_workers=num_workers)
    return [row["image"]["path"] for row in loader]


def test_workers_nodes_and_processes_see_each_image_once(
    prepare: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stems = [f"{index:05d}{'DN'[index % 2]}" for index in range(150)]  # more than there are chunks
    monkeypatch.setattr(MFNet, "NUM_EXAMPLES", {"train": 150})
    files = {"train.txt": "\n".join(stems).encode(), "val.txt": b"none", "test.txt": b"none"}
    for index, stem in enumerate(stems):
        files |= {f"images/{stem}.png": encode(noise(index, channels=4)), f"labels/{stem}.png": mask(index, (0, 8))}
    data_dir = write_files(tmp_path / "mfnet.zip", files)
    monkeypatch.setattr("unip_hf.data.benchmarks.mfnet.LISTS", {"train": "train.txt"})
    expected = [f"{stem}.png" for stem in stems]
    builder = MFNet(data_dir=str(data_dir), cache_dir=str(tmp_path / "stream"))
    streamed = without_decoding(builder.as_streaming_dataset())["train"]
    assert streamed.num_shards == 64
    assert [row["image"]["path"] for row in streamed] == expected  # from here on this process has the archive open
    assert sorted(_rows_of_rank(streamed, 0, 1, num_workers=2)) == expected
    for world_size in (2, 3):  # 3 does not divide the chunks
        parts = [_rows_of_rank(streamed, rank, world_size, num_workers=0) for rank in range(world_size)]
        assert sorted(chain(*parts)) == expected and all(parts)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.starmap(_rows_of_rank, [(streamed, rank, 2, 0) for rank in range(2)])
    assert sorted(chain(*parts)) == expected
    parts = [_rows_of_rank(streamed, rank, 2, num_workers=2) for rank in range(2)]
    assert sorted(chain(*parts)) == expected
    alone = prepare(MFNet, data_dir)
    shutil.rmtree(tmp_path / "cache")
    in_parallel = prepare(MFNet, data_dir, num_proc=2)
    assert names(alone) == names(in_parallel) == {"train": expected} and pixels(alone) == pixels(in_parallel)


@pytest.mark.usefixtures("small")
def test_changed_files_are_not_served_from_the_cache(
    prepare: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = write_files(tmp_path / "set.zip", mfnet_files())
    before = prepare(MFNet, data_dir)
    with monkeypatch.context() as unreadable:
        unreadable.setattr(MFNet, "find_rows", None)
        assert pixels(prepare(MFNet, data_dir)) == pixels(before)  # from the cache
    files = mfnet_files()
    files["ir_seg_dataset/images/00004N.png"] = encode(noise(100, channels=4))
    write_files(data_dir, files)
    after = prepare(MFNet, data_dir)
    np.testing.assert_array_equal(np.array(after["validation"][0]["image"]), noise(100, channels=4)[..., 3])
    assert pixels(after)["train"] == pixels(before)["train"]


@pytest.mark.usefixtures("small")
def test_files_in_the_working_folder_are_not_taken_instead(
    prepare: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = write_files(tmp_path / "set.zip", scut_files())
    expected = pixels(prepare(SCUTSeg, data_dir))
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.chdir(write_files(tmp_path / "here", {"a1.jpg": b"", "b2.png": mask(0, (9,))}))
    assert pixels(prepare(SCUTSeg, data_dir)) == expected


@pytest.mark.parametrize("name", BENCHMARKS)
def test_facts(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS[name]
    assert len(set(benchmark.CLASSES)) == len(benchmark.CLASSES) == len(benchmark.palette())
    assert set((benchmark.IDS or {}).values()) <= {*range(len(benchmark.CLASSES)), 255}
    assert re.match(r"@\w+\{\w+,\n(.*\n)+\}$", benchmark.CITATION) and benchmark.HOMEPAGE.startswith("https://")
    for config in benchmark.BUILDER_CONFIGS:
        for data_dir in (None, str(tmp_path / "missing")):
            builder = benchmark(config_name=config.name, data_dir=data_dir, cache_dir=str(tmp_path))
            columns = ["image", "rgb", "annotation"] if config.modality == "both" else ["image", "annotation"]
            assert list(builder.info.features) == columns
            assert builder.info.citation == benchmark.CITATION and builder.info.license == benchmark.LICENSE
            for prepare_or_stream in (builder.download_and_prepare, builder.as_streaming_dataset):
                with pytest.raises(ValueError) as raised:
                    prepare_or_stream()
                for part in (benchmark.TITLE, benchmark.HOMEPAGE, benchmark.LICENSE, benchmark.LAYOUT):
                    assert part in str(raised.value)


# What is wrong with a download.


def without(files: Files, *parts: str) -> Files:
    return {name: content for name, content in files.items() if not any(part in name for part in parts)}


SODA_ROOT = "InfraredSemanticLabel"
IMAGE, MASK = f"{SODA_ROOT}/JPEGImages/0002.jpg", f"{SODA_ROOT}/SegmentationClassPNG/0002.png"
SODA_ERRORS = {
    "a missing list": (
        lambda files: without(files, "test_infrared"), "has no list 'test_infrared.txt'. SODA is the zip file"
    ),
    "an empty list": (lambda files: {**files, f"{SODA_ROOT}/test_infrared.txt": b"\n"}, "test_infrared.txt' is empty"),
    "a name twice in a list": (
        lambda files: {**files, f"{SODA_ROOT}/test_infrared.txt": b"0010\n0010"}, "names '0010' more than once"
    ),
    "a name in two forms": (
        lambda files: {**files, f"{SODA_ROOT}/test_infrared.txt": b"0010\n0010.jpg"}, "two examples of the same name"
    ),
    "a name in two splits": (
        lambda files: {**files, f"{SODA_ROOT}/test_infrared.txt": b"0010\n0001"},
        r"JPEGImages/0001.jpg' is both in 'train' and in 'test'",
    ),
    "a missing image": (
        lambda files: without(files, IMAGE), r"lacks files of names in train_infrared.txt: '0002' \(image\)"
    ),
    "a missing mask": (
        lambda files: without(files, MASK), r"lacks files of names in train_infrared.txt: '0002' \(annotation\)"
    ),
    "a name too few": (
        lambda files: {**files, f"{SODA_ROOT}/test_infrared.txt": b"0010"},
        "SODA in .* should have 3 train and 2 test examples, but has 3 train and 1 test. Download .*--allow_partial",
    ),
    "duplicate stems": (
        lambda files: {**files, IMAGE.replace(".jpg", ".png"): files[MASK]},
        r"0002.jpg' and .*0002.png' have the same stem",
    ),
    "no masks": (lambda files: without(files, "ClassPNG"), "has no folder 'SegmentationClassPNG'"),
    "no files": (lambda files: {}, "has no folder 'JPEGImages'. SODA is the zip file, or the folder it unpacks to, "),
    "another dataset": (lambda files: mfnet_files(), "has no folder 'JPEGImages'"),
    "a truncated image": (lambda files: {**files, IMAGE: files[IMAGE][:-200]}, "0002.jpg' is damaged"),
    "a truncated mask": (lambda files: {**files, MASK: files[MASK][:-20]}, "0002.png' is damaged"),
    "a mask with a wrong byte": (
        lambda files: {**files, MASK: files[MASK][:50] + b"!" + files[MASK][51:]}, "0002.png' is damaged"
    ),
    "no image": (lambda files: {**files, IMAGE: b"<html>"}, "0002.jpg' is not an image that Pillow can read"),
    "an image of four channels": (
        lambda files: {**files, IMAGE: encode(noise(0, channels=4))}, "0002.jpg' has the mode RGBA"
    ),
    "a mask of colours": (
        lambda files: {**files, MASK: encode(noise(0, channels=3))}, r"0002.png': A mask must hold one integer id"
    ),
    "a mask of unknown ids": (
        lambda files: {**files, MASK: mask(0, (0, 20, 21, 254))},
        "The mask .*SegmentationClassPNG/0002.png' holds the ids 21, 254, but those of SODA are 0 to 20, 255.",
    ),
    "a 16-bit mask of unknown ids": (
        lambda files: {**files, MASK: encode(np.full((HEIGHT, WIDTH), 1001, np.uint16))}, "holds the ids 1001, but"
    ),
    "a mask as JPEG": (
        lambda files: {**without(files, MASK), MASK.replace(".png", ".jpg"): files[IMAGE]}, "0002.jpg' is a JPEG"
    ),
    "another size": (
        lambda files: {**files, MASK: mask(0, (0, 1), WIDTH, HEIGHT)},
        r"JPEGImages/0002.jpg' and .*ClassPNG/0002.png' have \(6, 8\) and \(8, 6\)",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("problem", SODA_ERRORS)
def test_what_is_wrong(problem: str, prepare: Callable, tmp_path: Path) -> None:
    change, message = SODA_ERRORS[problem]
    for target in ("set.zip", "unpacked"):
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        data_dir = write_files(tmp_path / target, change(soda_files()))
        with pytest.raises(ValueError, match=message) as raised:
            prepare(SODA, data_dir)
        assert str(data_dir) in str(raised.value)
    assert not list(tmp_path.rglob("*.arrow"))  # nothing that a later call could take for the dataset


@pytest.mark.usefixtures("small")
def test_damage_is_named_from_other_processes_and_while_streaming(prepare: Callable, tmp_path: Path) -> None:
    files = soda_files()
    data_dir = tmp_path / "set.zip"
    write_files(data_dir, files)
    content = bytearray(data_dir.read_bytes())
    with zipfile.ZipFile(data_dir) as archive:
        start = archive.getinfo(MASK).header_offset + 30 + len(MASK)  # behind the header of the member
    content[start + 40] ^= 255
    data_dir.write_bytes(content)
    message = rf"The member '{MASK}' of .*set.zip' cannot be read: "
    for num_proc in (None, 2):
        with pytest.raises(ValueError, match=message):
            prepare(SODA, data_dir, num_proc=num_proc)
    streamed = SODA(data_dir=str(data_dir), cache_dir=str(tmp_path / "cache")).as_streaming_dataset()
    with pytest.raises(ValueError, match=message):
        list(streamed["train"])
    with pytest.raises(ValueError, match="leads out of the archive"):
        prepare(SODA, write_files(tmp_path / "climbs.zip", {**files, "../../x.png": b""}))
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_full_disk_is_named(num_proc: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_space(builder: SODA, item: Row) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SODA, "make_example", no_space)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data_dir = write_files(tmp_path / "set.zip", soda_files())
    with pytest.raises(OSError, match=r"Could not write .*/cache/soda/.* MB are free: .*No space left on device$"):
        load_infrared_dataset("soda", data_dir, num_proc=num_proc)


def test_interrupted_while_other_processes_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(builder: SODA, **options: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise multiprocess.TimeoutError  # as datasets does it

    monkeypatch.setattr(datasets.GeneratorBasedBuilder, "download_and_prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_infrared_dataset("soda", write_files(tmp_path / "set.zip", soda_files()), num_proc=2)


@pytest.mark.usefixtures("small")
def test_converted_frames_of_mfnet(prepare: Callable, tmp_path: Path) -> None:
    files = mfnet_files()
    files["ir_seg_dataset/images/00002D.png"] = encode(noise(0, channels=3))
    with pytest.raises(ValueError, match=r"00002D.png' has the mode RGB, not the four channels"):
        prepare(MFNet, write_files(tmp_path / "set.zip", files))


@pytest.mark.usefixtures("small")
def test_part_of_a_dataset(prepare: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = without(soda_files(), "test_infrared", IMAGE)
    with caplog.at_level(logging.WARNING):
        loaded = prepare(SODA, write_files(tmp_path / "set.zip", files), allow_partial=True)
    assert names(loaded) == {"train": ["0003.jpg", "0001.jpg"]}
    assert "should have 3 train and 2 test examples, but has 2 train and 0 test" in caplog.text
    assert "1 names in train_infrared.txt without files (such as '0002' (image))" in caplog.text
    with pytest.raises(ValueError, match=r"holds no examples. SODA is the zip file"):
        prepare(SODA, write_files(tmp_path / "less.zip", without(files, "train_infrared")), allow_partial=True)
    files[MASK.replace("0002", "0001")] = b"damaged"
    with pytest.raises(ValueError, match=r"0001.png' is not an image"):  # a part is no excuse for damage
        prepare(SODA, write_files(tmp_path / "damaged.zip", files), allow_partial=True)
