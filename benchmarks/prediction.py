# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of `make bench` that is about prediction: a folder of JPEG files, beside the model alone on its windows."""

import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from unip_hf import UnipConfig, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data import draw_scene
from unip_hf.inference import InferenceSettings
from unip_hf.inference.precision import autocast
from unip_hf.inference.predictor import Predictor
from unip_hf.inference.results import ResultFolder
from unip_hf.inference.sources import find_sources

from .measuring import row


HEIGHT, WIDTH = 512, 640
WINDOWS = 2  # of 512 pixels in an image of this size
BATCH_SIZE = 8


def write_images(folder: Path, count: int, distinct: int = 20) -> None:
    """Drawn scenes as 8-bit JPEG files, the same ones again and again."""
    files = []
    for number in range(min(count, distinct)):
        scene = draw_scene(number, HEIGHT, WIDTH)[0].astype(np.float32)
        grey = np.rint((scene - scene.min()) / np.ptp(scene) * 255).astype(np.uint8)
        Image.fromarray(grey).save(content := io.BytesIO(), "JPEG", quality=90)
        files.append(content.getvalue())
    for number in range(count):
        (folder / f"{number:04d}.jpg").write_bytes(files[number % distinct])


def make_model(size: str, device: torch.device) -> UnipForSemanticSegmentation:
    """Random weights, apart from a bias of the classes, without which overlays would be noise and large files."""
    torch.manual_seed(0)
    names = {index: f"class {index}" for index in range(9)}
    model = UnipForSemanticSegmentation(UnipConfig.from_size(size, image_size=512, id2label=names)).eval()
    model.decode_head.classifier.bias.data = torch.linspace(0, 1, len(names))
    return model.to(device)


@torch.inference_mode()
def run_alone(model: nn.Module, count: int, device: torch.device, dtype: str) -> None:
    """The model on as many windows as the images have."""
    windows = torch.randn(BATCH_SIZE, 3, 512, 512, device=device)
    with autocast(dtype, device):
        for first in range(0, WINDOWS * count, BATCH_SIZE):
            model(windows[: WINDOWS * count - first])
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_prediction(
    repeats: int,
    device: str | None = None,
    sizes: Sequence[str] = ("tiny",),
    dtypes: Sequence[str] = ("fp32",),
    count: int | None = None,
) -> None:
    """
    Prints images a second of `unip predict`, which reads JPEG files and writes masks and overlays, and of the model.

    Args:
        repeats: The two take turns; medians count. On a CPU at most 3.
        device: By default `cuda` where there is one, otherwise `cpu`.
        sizes, dtypes: Sizes of UNIP and precisions.
        count: Number of images; by default 1,000 on a GPU and 12 on a CPU, since one takes half a second or more.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    count = count or (1000 if place.type == "cuda" else 12)
    repeats = repeats if place.type == "cuda" else min(repeats, 3)
    settings = InferenceSettings(512, 341, batch_size=BATCH_SIZE)
    print(f"{count} JPEG files of {WIDTH}x{HEIGHT} with masks and overlays on {place}, beside the model alone")
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        write_images(images, count)
        sources = find_sources([images])
        for size in sizes:
            model, processor = make_model(size, place), UnipImageProcessor(do_resize=False)
            for dtype in dtypes:
                speeds: list[tuple[float, float]] = []
                run_alone(model, min(count, BATCH_SIZE // WINDOWS), place, dtype)  # warms up
                for turn in range(repeats):
                    results = ResultFolder(Path(folder, f"{size}-{dtype}-{turn}"))
                    predictor = Predictor(model, processor, results, settings, dtype=dtype)
                    begin = time.perf_counter()
                    predictor.run(sources)
                    middle = time.perf_counter()
                    run_alone(model, count, place, dtype)
                    speeds.append((count / (middle - begin), count / (time.perf_counter() - middle)))
                ours, alone = (statistics.median(column) for column in zip(*speeds))
                row(f"UNIP-{size.capitalize()}, {dtype}", ours, alone, "images/s")
