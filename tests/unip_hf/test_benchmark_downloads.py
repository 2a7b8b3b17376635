# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with the download of a benchmark is named, and nothing is left that could be taken for the dataset."""

import errno
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import multiprocess
import numpy as np
import pytest

from unip_hf.data import load_infrared_dataset
from unip_hf.data.benchmarks import SODA, MFNet, Row

from .benchmark_archives import HEIGHT, WIDTH, Files, encode, mask, mfnet_files, names, noise, soda_files, write_files


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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
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


@pytest.mark.usefixtures("small_counts")
def test_converted_frames_of_mfnet(prepare: Callable, tmp_path: Path) -> None:
    files = mfnet_files()
    files["ir_seg_dataset/images/00002D.png"] = encode(noise(0, channels=3))
    with pytest.raises(ValueError, match=r"00002D.png' has the mode RGB, not the four channels"):
        prepare(MFNet, write_files(tmp_path / "set.zip", files))


@pytest.mark.usefixtures("small_counts")
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
