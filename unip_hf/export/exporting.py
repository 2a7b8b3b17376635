# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation models as files for other runtimes, checked against PyTorch."""

import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from .._version import __version__
from ..data.reading import check_pairs
from ..files import read_json, write_whole
from ..hardware import cpu_name
from ..inference.exported import (
    DESCRIPTION,
    EndToEndModel,
    ExportedModel,
    is_exported,
    load_exported_model,
    require_package,
)
from ..inference.loading import load_segmentation_model
from ..inference.windows import InferenceSettings, reads_pairs, segment_image
from ..modeling.modeling_unip_layers import whole_patches
from ..modeling.modeling_unip_segmentation import UnipSegmentationModel
from .checks import compare_ids, compare_logits, compare_mean_iou, milliseconds, sample_frames, sample_pairs
from .end_to_end import EndToEndSegmentation
from .formats import FILES, INT8_FILE, PACKAGES, LogitsOnly, quantize, save, trace
from .positions import exportable_positions


logger = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of logits
MOST_IMAGES = 1024  # in a batch
MOST_PATCHES = 1024  # along one side


def export_model(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    format: str = "onnx",
    end_to_end: bool = False,
    frame_size: tuple[int, int] = (512, 640),
    frame_dtype: str = "uint16",
    int8: bool = False,
    dataset: datasets.Dataset | None = None,
    dataset_name: str | None = None,
    overwrite: bool = False,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """
    Writes a segmentation model as a file for another runtime, and checks it against PyTorch.

    The folder then holds the model file (`model.onnx`, or `model.xml` with `model.bin`), the configurations of the
    model and of its processor, and `export.json`: what was checked and measured.

    The model file takes `pixel_values`, float32 `(batch_size, num_channels, height, width)`, and gives `logits`,
    float32 `(batch_size, num_labels, rows, columns)`; the batch size, and height and width in multiples of
    `size_divisor` (in `export.json`; for UNIP 16), are free. With `end_to_end` it takes `frames`,
    `(batch_size, height, width)` of one size and dtype with raw intensities, and gives `ids`, uint8 of the same shape
    (int32 above 256 classes).

    The file of a model of pairs has a second input, `auxiliary_pixel_values` or `auxiliary_frames`, of the same height
    and width. Visible frames are uint8 `(batch_size, height, width, 3)`.

    Args:
        checkpoint: Folder of a semantic segmentation model, or its name on the Hub.
        output_dir: Folder to write.
        format: `"onnx"` or `"openvino"`.
        end_to_end: Whether the file also does what the processor does, and chooses the class of each pixel.
        frame_size: With `end_to_end`: height and width of the frames in pixels.
        frame_dtype: With `end_to_end`: `"uint16"` or `"uint8"`, of infrared frames.
        int8: Whether to also write `model_int8.onnx`, with 8-bit weights for CPUs. The folder then stands for this
            file. Only for `"onnx"`.
        dataset: With `int8`: images and masks (columns `image` and `annotation`) to measure the loss in mean IoU on.
        dataset_name: Name of the dataset in `export.json`.
        overwrite: Whether to replace an earlier export in the folder.
        image_size: Height and width in pixels of the only images that the file takes, rounded up to multiples of
            `size_divisor`, for networks that cannot be exported for any size. Smaller images are padded to it.

    Returns:
        The content of `export.json`.

    Raises:
        OSError: if there is no such checkpoint, or the disk is full.
        ValueError: if it is not a trained segmentation model or cannot be exported, a package is missing, the folder
            holds other files, or the file does not agree with PyTorch (then it is not kept).
    """
    output_dir = Path(output_dir)
    if format not in FILES:
        raise ValueError(f"format must be one of {', '.join(FILES)}, got {format!r}.")
    if int8 and format != "onnx":
        raise ValueError("int8 is for ONNX files: choose the format onnx, or leave int8 out.")
    if dataset is not None and not int8:
        raise ValueError("A dataset is only used with int8, to measure its loss. Add int8, or run `unip evaluate`.")
    if end_to_end and (min(frame_size) < 1 or frame_dtype not in ("uint8", "uint16")):
        raise ValueError(f"Frames must be uint8 or uint16 and at least 1x1 pixel, got {frame_dtype} {frame_size}.")
    if image_size is not None and (end_to_end or min(image_size) < 1):
        raise ValueError(
            f"image_size must be at least 1x1 pixel, got {image_size}."
            if not end_to_end
            else "image_size is for files that take processed images: with end_to_end, give frame_size."
        )
    if is_exported(checkpoint):
        raise ValueError(f"{os.fspath(checkpoint)!r} is an exported model: give the checkpoint that it was made from.")
    earlier_files = _earlier_files(output_dir, overwrite)
    packages = [require_package(name) for name in PACKAGES[format]]
    model, processor = load_segmentation_model(checkpoint, "cpu")
    assert isinstance(model, PreTrainedModel)  # exported ones were refused
    model = model.float()
    if getattr(model.config, "backbone_config", None) is not None:
        model.set_attn_implementation("eager")  # torch 2.11 and 2.12 cannot decompose the other one of Swin
    size_divisor = model.patch_size if isinstance(model, UnipSegmentationModel) else 32

    if image_size is not None:
        image_size = whole_patches(image_size, size_divisor)
    elif not end_to_end:
        _check_any_size(model)

    logger.info(f"Tracing {os.fspath(checkpoint)} for {format}")
    batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    network: nn.Module
    dynamic_shapes: dict[int, Any] = {0: batch}
    is_pair = reads_pairs(model)
    if is_pair and dataset is not None:
        check_pairs(dataset)
    roles = ("", "auxiliary_") if is_pair else ("",)
    frames: list[tuple[np.ndarray, ...]] = []
    if end_to_end:
        if is_pair:
            frames += sample_pairs(frame_size, frame_dtype, processor.main_modality)
        else:
            frames += [(frame,) for frame in sample_frames(frame_size, frame_dtype)]
        examples = [frame[None] for frame in frames[0]]  # (1, H, W), or (1, H, W, 3)
        network = EndToEndSegmentation(model, processor, frame_size, getattr(torch, frame_dtype))
        inputs = {f"{role}frames": torch.from_numpy(np.stack(part)) for role, part in zip(roles, zip(*frames))}
    else:
        channels = [getattr(model.config, f"{role}num_channels", 3) for role in roles]
        timed_size = image_size or whole_patches((512, 512), size_divisor)
        examples = [np.zeros((1, count, *timed_size), np.float32) for count in channels]
        network = LogitsOnly(model)
        size = image_size or (12 * size_divisor, 16 * size_divisor)
        inputs = {f"{role}pixel_values": torch.zeros(2, count, *size) for role, count in zip(roles, channels)}
        for axis, name in ((2, "rows"), (3, "columns")) if image_size is None else ():
            dynamic_shapes[axis] = size_divisor * torch.export.Dim(name, min=1, max=MOST_PATCHES)
    try:
        with exportable_positions(model):
            program = trace(network, inputs, dict.fromkeys(inputs, dynamic_shapes))
    except ValueError as error:
        raise ValueError(f"{type(model).__name__} cannot be exported to {format}: {error}") from error

    description: dict[str, Any] = {
        "checkpoint": os.fspath(checkpoint),
        "architecture": type(model).__name__,
        "format": format,
        "file": INT8_FILE if int8 else FILES[format],
        "size_divisor": size_divisor,
        "image_size": None if image_size is None else list(image_size),
        "reads_pairs": is_pair,
        "end_to_end": {"frame_size": list(frame_size), "frame_dtype": frame_dtype} if end_to_end else None,
        "versions": {
            "unip_hf": __version__,
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, *packages)},
        },
    }
    with write_whole(output_dir) as staged:
        staged.mkdir()
        save(program, staged, format, sum(parameter.nbytes for parameter in model.parameters()))
        del program
        model.config.save_pretrained(staged)
        processor.save_pretrained(staged)
        _write(staged, description)

        def check(file: str) -> tuple[ExportedModel, list[dict[str, Any]]]:
            exported = load_exported_model(staged / file)
            logger.info(f"Comparing {file} with PyTorch")
            if isinstance(exported, EndToEndModel):
                checks = compare_ids(exported, model, processor, frames)
            else:
                checks = compare_logits(exported, model, channels[0])
            for found in checks:
                share = f", {found['different_ids']:.4%} of the ids differ" if "different_ids" in found else ""
                shape = "x".join(map(str, found["shape"]))
                logger.info(f"  {shape}: largest difference {found['largest_difference']:.1e}{share}")
            return exported, checks

        exported, description["checks"] = check(FILES[format])
        for found in description["checks"]:
            if not found["largest_difference"] <= TOLERANCE * max(1.0, found["largest_logit"]):
                raise ValueError(
                    f"The exported file differs from PyTorch by {found['largest_difference']:.3g} at "
                    f"{'x'.join(map(str, found['shape']))}: nothing was written."
                )

        def run_pytorch() -> Any:
            if end_to_end:
                frame, *others = frames[0]
                return segment_image(model, processor, frame, InferenceSettings(window_size=None), *others)
            return network(*map(torch.from_numpy, examples))

        times = {
            "PyTorch": milliseconds(run_pytorch),
            FILES[format]: milliseconds(lambda: exported.run(*examples)),
        }
        if int8:
            quantize(staged)
            quantized, checks = check(INT8_FILE)
            times[INT8_FILE] = milliseconds(lambda: quantized.run(*examples))
            mean_iou = None
            if dataset is not None:
                scores = compare_mean_iou(exported, quantized, model, processor, dataset)
                mean_iou = {"dataset": dataset_name, **scores}
            description["int8"] = {"checks": checks, "mean_iou": mean_iou}
        description["speed"] = {
            "hardware": cpu_name(),
            "torch_threads": torch.get_num_threads(),
            "shape": list(examples[0].shape),
            "milliseconds": times,
        }
        model_files = [path for path in sorted(staged.glob("model*")) if path.suffix != ".py"]
        description["bytes"] = {path.name: path.stat().st_size for path in model_files}
        _write(staged, description)
    for name in earlier_files - set(description["bytes"]):
        (output_dir / name).unlink(missing_ok=True)
    return description


def _check_any_size(model: PreTrainedModel) -> None:
    """Raises a `ValueError` for attention in windows: tracing the windows of a free size does not come to an end."""
    if any(getattr(getattr(module, "config", None), "window_size", None) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has attention in windows, as Swin has, which cannot be exported for images of "
            "any size. Export it for one size, --image_size HEIGHT WIDTH, or end to end, for frames of one size."
        )


def _earlier_files(output_dir: Path, overwrite: bool) -> set[str]:
    """
    Names of the model files of an earlier export in the folder.

    Raises:
        ValueError: if the folder may not be written to.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"The output {str(output_dir)!r} is a file.")
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return set()
    if not (output_dir / DESCRIPTION).is_file():
        raise ValueError(f"{str(output_dir)!r} holds other files: choose a new folder.")
    if not overwrite:
        raise ValueError(f"{str(output_dir)!r} holds an earlier export: choose a new folder, or overwrite it.")
    try:
        before = read_json(output_dir / DESCRIPTION)
        return {Path(name).name for name in before["bytes"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The {DESCRIPTION} in {str(output_dir)!r} was not written by `unip export`: choose a new folder."
        ) from error


def _write(folder: Path, description: dict[str, Any]) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


__all__ = ["export_model"]
