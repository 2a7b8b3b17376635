# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""SODA, MFNet and SCUT-Seg in the layouts in which they are published, and what the builders of all have in common."""

import multiprocessing
import re
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from unip_hf.data.benchmarks import BENCHMARKS, SODA, MFNet, SCUTSeg
from unip_hf.data.reading import read_sample, without_decoding

from .benchmark_archives import (
    Files,
    decode,
    encode,
    mask,
    mfnet_files,
    names,
    noise,
    scut_files,
    soda_files,
    write_files,
)


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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
def test_copies_that_a_list_of_soda_names(prepare: Callable, tmp_path: Path) -> None:
    files = soda_files()
    files["InfraredSemanticLabel/test_infrared.txt"] = b"0011\n0010(1)"
    loaded = prepare(SODA, write_files(tmp_path / "soda.zip", files))
    assert names(loaded)["test"] == ["0011.jpg", "0010(1).jpg"]


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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
