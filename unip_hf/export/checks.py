# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Compares exported files with PyTorch: differences, time, and the loss of 8-bit weights in mean IoU."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..data.scenes import draw_scene
from ..evaluation.evaluator import evaluate_dataset
from ..inference.exported import EndToEndModel, ExportedModel
from ..inference.windows import InferenceSettings, segment_image
from ..modeling.image_processing_unip import UnipImageProcessor


CHECKED_SHAPES = ((1, 512, 512), (1, 480, 640), (2, 261, 333))  # images, height, width


def sample_frames(frame_size: tuple[int, int], frame_dtype: str) -> list[np.ndarray]:
    """Two drawn scenes, mirrored or cut to the size, and a frame without any contrast; `(height, width)` each."""
    frames = []
    for index in range(2):
        scene = draw_scene(index)[0]
        margins = [(0, max(0, size - side)) for size, side in zip(frame_size, scene.shape)]
        frame = np.pad(scene, margins, mode="symmetric")[: frame_size[0], : frame_size[1]]
        frames.append(frame if frame_dtype == "uint16" else (frame // 16 % 256).astype(np.uint8))
    return [*frames, np.full(frame_size, 100, frame_dtype)]


def sample_pairs(
    frame_size: tuple[int, int], frame_dtype: str, main_modality: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The frames of [`sample_frames`] with visible partners, uint8 `(height, width, 3)`; the main one comes first."""
    pairs = []
    for number, infrared in enumerate(sample_frames(frame_size, frame_dtype)):
        grey = (infrared // (16 if frame_dtype == "uint16" else 1) % 256).astype(np.uint8)
        visible = np.stack([grey, 255 - grey, np.roll(grey, 5 * number, axis=1)], axis=2)
        pairs.append((infrared, visible) if main_modality == "infrared" else (visible, infrared))
    return pairs


def compare_logits(exported: ExportedModel, model: nn.Module, num_channels: int) -> list[dict[str, Any]]:
    """
    Largest differences between the logits of random images at [`CHECKED_SHAPES`], and for UNIP also at one patch; of
    a file for one size, at this size.

    Raises:
        ValueError: if the file gives logits of another shape, or the model or the file refuses a size.
    """
    generator = torch.Generator().manual_seed(0)
    checks = []
    is_unip = exported.config.model_type == "unip"
    divisor = exported.size_divisor
    shapes = [*CHECKED_SHAPES, *([(1, divisor, divisor)] if is_unip else [])]
    if exported.image_size is not None:
        shapes = [(images, *exported.image_size) for images in (1, 2)]
    for images, *size in shapes:
        if not is_unip:  # other models do not pad their input as the file's runner does
            size = [-(-side // divisor) * divisor for side in size]
        pixel_values = torch.randn(images, num_channels, *size, generator=generator)
        inputs = {"pixel_values": pixel_values}
        if exported.reads_pairs:
            channels = exported.config.auxiliary_num_channels
            inputs["auxiliary_pixel_values"] = torch.randn(images, channels, *size, generator=generator)
        try:
            with torch.inference_mode():
                expected = model(**inputs).logits.float()
        except RuntimeError as error:
            raise ValueError(
                f"{type(model).__name__} refuses images of shape {tuple(pixel_values.shape)}: {error}"
            ) from error
        try:
            found = exported(**inputs).logits
        except ValueError as error:
            raise ValueError(
                f"{type(model).__name__} cannot be exported for images of any size: its file refuses "
                f"{tuple(pixel_values.shape)}. Export it for one size, --image_size HEIGHT WIDTH, or end to end, for "
                "frames of one size."
            ) from error
        if found.shape != expected.shape:
            raise ValueError(
                f"The exported file gives logits {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}."
            )
        checks.append(
            {
                "shape": [images, num_channels, *size],
                "largest_difference": (found - expected).abs().max().item(),
                "largest_logit": expected.abs().max().item(),
            }
        )
    return checks


def compare_ids(
    exported: EndToEndModel, model: nn.Module, processor: UnipImageProcessor, frames: list[tuple[np.ndarray, ...]]
) -> list[dict[str, Any]]:
    """
    Compares the ids of frames, or pairs of frames, one by one and all at once, with those of processor and model: the
    share of pixels that differ, and by how much the logit of such an id is lower at most. (Where two classes tie,
    rounding decides.)
    """
    together = exported.run(*(np.stack(part) for part in zip(*frames))).long()  # (B, H, W)
    checks = []
    for index, (frame, *others) in enumerate(frames):
        settings = InferenceSettings(window_size=None)
        logits = segment_image(model, processor, frame, settings, *others)  # (classes, H, W)
        for images, ids in ((1, exported.segment(frame, *others).long()), (len(frames), together[index])):
            lower = logits.amax(0) - logits.gather(0, ids[None])[0]  # (H, W)
            checks.append(
                {
                    "shape": [images, *frame.shape[:2]],
                    "different_ids": (ids != logits.argmax(0)).float().mean().item(),
                    "largest_difference": lower.max().item(),
                    "largest_logit": logits.abs().max().item(),
                }
            )
    return checks


def compare_mean_iou(
    exported: ExportedModel,
    quantized: ExportedModel,
    model: PreTrainedModel,
    processor: UnipImageProcessor,
    dataset: datasets.Dataset,
) -> dict[str, Any]:
    """Mean IoU of a file and of its 8-bit version on images and masks, in the windows that `unip evaluate` takes."""
    settings = InferenceSettings.for_model(exported)
    id2label = {int(index): name for index, name in (model.config.id2label or {}).items()}
    before, after = (
        evaluate_dataset(file, processor, dataset, id2label, settings).metrics["mean_iou"]
        for file in (exported, quantized)
    )
    return {
        "images": len(dataset),
        "settings": asdict(settings),
        "float32": before,
        "int8": after,
        "loss": before - after,
    }


def milliseconds(run: Callable[[], Any], repeats: int = 5) -> float:
    """Median time of a call, after one that warms up."""
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds[1:]), 1)


__all__ = [
    "CHECKED_SHAPES",
    "compare_ids",
    "compare_logits",
    "compare_mean_iou",
    "milliseconds",
    "sample_frames",
    "sample_pairs",
]
