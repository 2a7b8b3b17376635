# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Small sources of every kind that InfMix mixes."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from unip_hf.data.infmix import InfMixSource, find_infmix_sources
from unip_hf.data.infmix.candidates import list_candidates


def picture(seed: int, height: int = 40, width: int = 56, noise: float = 0.0) -> np.ndarray:
    """Smooth uint8 image; another noise is nearly the same image, another seed a different one."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    image = np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return np.clip(image + np.random.default_rng(99).normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_mix(root: Path) -> Path:
    """Two infrared sources beside colour images, a zip file, two classes of photos, and COCO: 30 images."""
    for number in range(8):
        write(root / "infpre" / "drone" / "thermal" / f"{number}.png", picture(number))
        write(root / "infpre" / "drone" / "rgb" / f"{number}.png", picture(50))
        write(root / "infpre" / "car" / "thermal" / f"{number}.jpg", picture(10 + number))
    (root / "infpre" / "notes").mkdir()
    (root / "infpre" / ".trash" / "thermal").mkdir(parents=True)
    with zipfile.ZipFile(root / "boat.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"boat/{number}.png", encoded(Image.fromarray(picture(20 + number)), "PNG"))
    for number in range(5):
        write(root / "imagenet" / "train" / "n01" / f"n01_{number}.JPEG", picture(30 + number))
    write(root / "imagenet" / "train" / "n02" / "n02_9.JPEG", picture(40))
    colours = np.stack([picture(41 + channel) for channel in range(3)], axis=-1)
    for number in range(6):
        write(root / "coco" / "train2017" / f"{number:012d}.jpg", np.roll(colours, 7 * number, axis=1))
    write(root / "coco" / "val2017" / "000000000000.jpg", colours)
    return root


def all_sources(mix: Path) -> list[InfMixSource]:
    return find_infmix_sources([mix / "infpre", mix / "boat.zip"], mix / "imagenet", mix / "coco", images_per_class=3)


def names_of(sources: list[InfMixSource]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for candidate in list_candidates(sources)[0]:
        names.setdefault(candidate.source.name, []).append(candidate.name)
    return names
