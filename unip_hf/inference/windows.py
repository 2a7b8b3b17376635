# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation of whole images of any size with any semantic segmentation model of `transformers`."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_reading_unip import ImageLike, read_image, to_channels_last
from ..modeling.image_settings_unip import OTHER_MODALITY
from .exported import EndToEndModel, ExportedModel


@dataclass(frozen=True)
class InferenceSettings:
    """
    How [`segment_image`] goes over an image; the defaults are the published evaluation.

    Args:
        window_size (`int`, *optional*, defaults to 512): Side of the sliding window in pixels; `None` takes the whole
            image at once.
        stride (`int`, defaults to 341): Pixels from one window to the next.
        flip (`bool`, defaults to `False`): Whether to average with the mirrored image.
        scales (`tuple[float, ...]`, defaults to `(1.0,)`): Sizes to average over, relative to the processor's.
        batch_size (`int`, defaults to 8): How many windows the model gets at once.
        output_device (`str`, *optional*): Where scores of full size are added up, e.g. `"cpu"` for images whose scores
            do not fit the GPU; by default the model's device.

    Raises:
        ValueError: if a value is out of range.
    """

    window_size: int | None = 512
    stride: int = 341
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 8
    output_device: str | None = None

    def __post_init__(self) -> None:
        if self.window_size is not None and not 1 <= self.stride <= self.window_size:
            raise ValueError(
                "window_size must be at least 1, and stride must be from 1 to window_size so that no pixel is left "
                f"out; got window_size={self.window_size} and stride={self.stride}."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {self.scales}.")

    @classmethod
    def for_model(cls, model: nn.Module, **changes: Any) -> "InferenceSettings":
        """
        The default settings for a model: windows of the size that it was trained on, two thirds of a window apart.

        Args:
            model: Segmentation model. The window of a UNIP model is the longer side of its `config.image_size`, that
                of any other model 512 pixels, and of a file for one image size at most the shorter side of that. An
                [`EndToEndModel`] takes whole frames: its `window_size` is `None`.
            changes: Fields that differ from the defaults. `stride` follows from `window_size` if it is left out.

        Raises:
            ValueError: if a value is out of range.
        """
        if isinstance(model, EndToEndModel):
            changes["window_size"] = None
        elif "window_size" not in changes:
            config: Any = model.config
            size = config.image_size if config.model_type == "unip" else 512
            changes["window_size"] = size if isinstance(size, int) else max(size)
            if isinstance(model, ExportedModel) and model.image_size is not None:
                changes["window_size"] = min(changes["window_size"], *model.image_size)
        if changes["window_size"] is not None:
            changes.setdefault("stride", max(1, round(changes["window_size"] * 2 / 3)))
        return cls(**changes)


DEFAULT_SETTINGS = InferenceSettings()


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients. Afterwards every part of the model is back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def reads_pairs(model: nn.Module) -> bool:
    """Whether a model reads pairs of an infrared and a visible image."""
    config: Any = getattr(model, "config", None)
    return getattr(config, "fusion", None) is not None


def _resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps `(B, C, h, w)` to `(B, C, *size)`."""
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last one is moved back to end at the border."""
    count = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(index * stride, side - window), 0) for index in range(count)]


def sliding_window_logits(
    model: nn.Module,
    pixel_values: torch.Tensor,
    window_size: int = 512,
    stride: int = 341,
    batch_size: int = 8,
    output_device: str | torch.device | None = None,
    auxiliary_pixel_values: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Logits of images of any size from overlapping windows, averaged where they overlap.

    Windows are placed as in the published code, and the logits of each are resized (bilinear) to the window before
    they are averaged. An image side that is shorter than the window is taken whole.

    Args:
        model: Semantic segmentation model whose output has `logits`; it runs in evaluation mode.
        pixel_values: Processed images `(batch_size, channels, height, width)` on any device.
        window_size: Side of the window in pixels.
        stride: Pixels from one window to the next, at most `window_size`.
        batch_size: How many windows the model gets at once; they may come from several images.
        output_device: Where logits of full size are added up; by default the model's device.
        auxiliary_pixel_values: For a model of pairs: the processed other images, of the same size.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, classes, height, width)` on `output_device`.

    Raises:
        ValueError: if window, stride or batch size is out of range, or the images of pairs differ in number or size.
    """
    InferenceSettings(window_size, stride, batch_size=batch_size)  # checks them
    parameter = next(model.parameters())
    images, _, height, width = pixel_values.shape
    inputs = {"pixel_values": pixel_values}
    if auxiliary_pixel_values is not None:
        inputs["auxiliary_pixel_values"] = auxiliary_pixel_values
        if (sizes := auxiliary_pixel_values.shape[-2:]) != (height, width) or len(auxiliary_pixel_values) != images:
            raise ValueError(
                f"pixel_values holds {images} images of {height}x{width} pixels (height x width), but "
                f"auxiliary_pixel_values {len(auxiliary_pixel_values)} of {sizes[0]}x{sizes[1]}."
            )
    window = (min(window_size, height), min(window_size, width))
    rows, columns = _window_starts(height, window_size, stride), _window_starts(width, window_size, stride)
    corners = list(itertools.product(range(images), rows, columns))
    total: torch.Tensor | None = None
    counts = torch.zeros(height, width, device=output_device or parameter.device)
    for top, left in itertools.product(rows, columns):
        counts[top : top + window[0], left : left + window[1]] += 1
    with inference_mode(model):
        for first in range(0, len(corners), batch_size):
            batch = corners[first : first + batch_size]
            windows = {
                name: torch.stack(
                    [values[image, :, top : top + window[0], left : left + window[1]] for image, top, left in batch]
                ).to(parameter.device, parameter.dtype)
                for name, values in inputs.items()
            }  # (b, channels, window, window)
            logits = model(windows.pop("pixel_values"), **windows).logits.float()
            logits = _resize(logits, window).to(counts.device)  # (b, classes, window, window)
            if total is None:
                total = logits.new_zeros(images, logits.shape[1], height, width)
            for (image, top, left), scores in zip(batch, logits):
                total[image, :, top : top + window[0], left : left + window[1]] += scores
        if total is None:
            raise ValueError("There are no images: pixel_values is empty.")
        return total.div_(counts)


def segment_image(
    model: nn.Module,
    processor: UnipImageProcessor,
    image: ImageLike,
    settings: InferenceSettings = DEFAULT_SETTINGS,
    auxiliary_image: ImageLike | None = None,
    *,
    is_auxiliary_missing: bool = False,
) -> torch.Tensor:
    """
    Scores of every class at every pixel of an image, at its own size.

    The processor scales and resizes the image, and the logits are resized (bilinear) back. With `flip` or several
    `scales`, the softmax probabilities of all passes are averaged, as in the published code.

    Args:
        model: Semantic segmentation model whose output has `logits`; runs in evaluation mode.
        processor: Image processor.
        image: `(height, width)` or `(height, width, channels)` with the depth that the camera gave, or anything else
            that the processor takes.
        settings: Windows, flipping, scales.
        auxiliary_image: For a model of pairs: the other image, of the same size. Which of the two is the infrared one
            says `config.main_modality` of the model.
        is_auxiliary_missing: For a model of pairs: whether to go without the other image. Zeros, which are the mean of
            normalised images, stand in for it.

    Returns:
        float32 `torch.Tensor` of shape `(classes, height, width)` on the model's device, or on
        `settings.output_device`: logits of a single pass, or probabilities of several. An [`EndToEndModel`] takes the
        whole frame and gives 1 for the class of a pixel and 0 for all others.

    Raises:
        FileNotFoundError, ValueError: if an image cannot be used, or there are not as many as the model reads.
    """
    array = to_channels_last(read_image(image))  # (H, W, C)
    frames: dict[str, Any] = {"images": array}
    if auxiliary_image is not None:
        frames["auxiliary_images"] = to_channels_last(read_image(auxiliary_image))
    _check_pair(model, auxiliary_image is not None, is_auxiliary_missing)
    if isinstance(model, EndToEndModel):
        if is_auxiliary_missing:
            raise ValueError("An end-to-end file takes both raw frames: export without end_to_end to go without one.")
        if settings.flip or settings.scales != (1.0,):
            raise ValueError("An end-to-end file takes the whole frame once: leave out flip and scales.")
        return model.scores(*frames.values())
    height, width = array.shape[:2]
    passes = [
        (scale, flipped) for scale in settings.scales for flipped in ((False, True) if settings.flip else (False,))
    ]
    average: torch.Tensor | None = None
    with torch.inference_mode():
        for scale, is_flipped in passes:
            resizing: dict[str, Any] = {}
            if scale != 1:
                sides = (max(1, int(side * scale + 0.5)) for side in processor.output_size(height, width))
                resizing = {"do_resize": True, "size": dict(zip(("height", "width"), sides))}
            inputs = processor(**frames, return_tensors="pt", input_data_format="channels_last", **resizing)
            pixel_values, auxiliary = inputs["pixel_values"], inputs.get("auxiliary_pixel_values")
            if is_auxiliary_missing:
                channels = processor.auxiliary_num_channels
                auxiliary = pixel_values.new_zeros(1, channels, *pixel_values.shape[-2:])
            if is_flipped:
                pixel_values, auxiliary = (
                    None if part is None else part.flip(-1) for part in (pixel_values, auxiliary)
                )
            window_size = settings.window_size or max(pixel_values.shape[-2:])
            stride = settings.stride if settings.window_size else window_size
            logits = sliding_window_logits(
                model, pixel_values, window_size, stride, settings.batch_size, settings.output_device, auxiliary
            )
            scores = _resize(logits, (height, width))[0]  # (classes, H, W)
            if len(passes) == 1:
                return scores
            scores = scores.flip(-1) if is_flipped else scores
            scores = scores.softmax(dim=0) / len(passes)
            average = scores if average is None else average.add_(scores)
    assert average is not None
    return average


def _check_pair(model: nn.Module, is_pair: bool, is_auxiliary_missing: bool) -> None:
    """Raises a `ValueError` if a model does not read what was given."""
    if not reads_pairs(model):
        if is_pair or is_auxiliary_missing:
            raise ValueError("This model reads one image at a time: leave out the auxiliary image.")
    elif is_pair and is_auxiliary_missing:
        raise ValueError("The auxiliary image is given and said to be missing: choose one.")
    elif not is_pair and not is_auxiliary_missing:
        main = getattr(model.config, "main_modality", "infrared")
        raise ValueError(
            f"This model reads pairs: beside the {main} image it needs the {OTHER_MODALITY[main]} image of the same "
            "scene, the auxiliary image."
        )


__all__ = ["DEFAULT_SETTINGS", "InferenceSettings", "reads_pairs", "segment_image", "sliding_window_logits"]
