# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny benchmarks in the layouts in which they are published, odd names included: path -> content of the file."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unip_hf.data.reading import without_decoding


Files = dict[str, bytes]

HEIGHT, WIDTH = 6, 8
SCUT_IDS = (0, 7, 24, 25, 26, 27, 13, 21, 28, 17)


def write_files(target: Path, files: Files) -> Path:
    """A zip file if the path ends in .zip, otherwise a folder."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)
    return target


def encode(array: np.ndarray, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=format)
    return file.getvalue()


def decode(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


def noise(seed: int, channels: int | None = None, dtype: type = np.uint8) -> np.ndarray:
    """Another image for each seed, with all values a file of that depth may have."""
    shape = (HEIGHT, WIDTH) if channels is None else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def mask(seed: int, ids: tuple[int, ...], height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """Holds all of the ids, if there are pixels enough."""
    return encode(np.roll(np.resize(np.array(ids, np.uint8), height * width), seed).reshape(height, width))


def soda_files(depth: type = np.uint8) -> Files:
    """Three train and two test, with copies and a synthetic image; the masks of the two folders differ."""
    format, suffix = ("JPEG", "jpg") if depth is np.uint8 else ("PNG", "png")
    files = {
        "InfraredSemanticLabel/train_infrared.txt": b"0003\n0001.jpg\n0002\n",
        "InfraredSemanticLabel/test_infrared.txt": b"\xef\xbb\xbf0011\r\n0010.jpg\r\n\r\n",
        "__MACOSX/InfraredSemanticLabel/._train_infrared.txt": b"",
        "InfraredSemanticLabel/.DS_Store": b"",
    }
    for seed, stem in enumerate(("0001", "0002", "0003", "0010", "0011", "0010(1)", "0034~temp", "synthetic_1")):
        image_suffix = "png" if stem == "0034~temp" else suffix
        files[f"InfraredSemanticLabel/JPEGImages/{stem}.{image_suffix}"] = encode(noise(seed, dtype=depth), format)
        for folder, shift in (("SegmentationClassPNG", 0), ("SegmentationClassOne", 5)):
            content = mask(seed + shift, (*range(21), 255))
            files[f"InfraredSemanticLabel/{folder}/{stem}.png"] = content
    return files


def mfnet_files() -> Files:
    """Three train, one validation and two test, with mirrored copies and a black list."""
    files = {
        "ir_seg_dataset/train.txt": b"00001D\n00003N\n00002D\n00002D_flip",
        "ir_seg_dataset/val.txt": b"00004N",
        "ir_seg_dataset/test.txt": b"00006D\n00005N",
        "ir_seg_dataset/test_day.txt": b"00006D",
        "ir_seg_dataset/test_night.txt": b"00005N",
        "ir_seg_dataset/black_list.txt": b"00003N.png\n",
    }
    stems = ("00001D", "00002D", "00003N", "00004N", "00005N", "00006D", "00001D_flip", "00002D_flip", "00007D")
    for seed, stem in enumerate(stems):
        files[f"ir_seg_dataset/images/{stem}.png"] = encode(noise(seed, channels=4))
        files[f"ir_seg_dataset/labels/{stem}.png"] = mask(seed, tuple(range(9)))
    return files


def scut_files(layout: str = "lists", ids: tuple[int, ...] = SCUT_IDS) -> Files:
    """Two train and one validation; `layout` is "lists", "images/train" or "train/images"."""
    files = {"SCUT-Seg/README.md": b"", "SCUT-Seg/colour/a1.png": b"not read"}
    if layout == "lists":
        files |= {"SCUT-Seg/train.txt": b"image/b2.jpg\nimage/a1.jpg\n", "SCUT-Seg/val.txt": b"image\\c3.jpg\n"}
    for seed, (stem, split) in enumerate({"a1": "train", "b2": "train", "c3": "val"}.items()):
        for kind, content in (("image", encode(noise(seed), "JPEG")), ("label", mask(seed, ids))):
            folder = {"lists": kind, "images/train": f"{kind}/{split}", "train/images": f"{split}/{kind}"}[layout]
            files[f"SCUT-Seg/{folder}/{stem}.{'jpg' if kind == 'image' else 'png'}"] = content
    return files


def names(dataset: Any) -> dict[str, list[str]]:
    return {split: [row["image"]["path"] for row in rows] for split, rows in without_decoding(dataset).items()}
