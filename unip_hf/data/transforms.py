# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Training transforms of the published fine-tuning, built on `torchvision.transforms.v2`, for images of any depth. After
the first transform, images are float32 in 0..1 and masks hold small integers with 255 to ignore.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ..modeling.image_processing_unip import UnipImageProcessor
from .reading import IGNORE_INDEX, count_ids
from .resizing import Window, nearest_pixels, resized_window, without_copies


# Of an image, ids and, optionally, the visible image of a pair and a class.
Transform = Callable[..., tuple[torch.Tensor, ...]]


def uniform(low: float, high: float) -> float:
    """A number between `low` and `high` from torch's random state."""
    return low + (high - low) * torch.rand(()).item()


class RandomCategoryCrop(nn.Module):
    """
    Crops a random window. If one class fills more than its share of the labelled pixels, another one is tried, up to
    ten times. A side that is shorter than the window is kept whole.

    If the id of a class is given beside the mask, all windows hold one of its pixels, which is drawn at random. Where
    resizing has removed the class, windows are drawn as without it.

    Args:
        size (`int` or `(height, width)`): Size of the window in pixels. A number stands for both.
        max_category_ratio (`float`, *optional*, defaults to 0.75): Largest share of one class, 0 to 1.
    """

    def __init__(self, size: int | tuple[int, int], max_category_ratio: float = 0.75):
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size
        self.max_category_ratio = max_category_ratio

    def forward(self, mask: torch.Tensor, class_id: int | None = None) -> torch.Tensor:
        return functional.crop(mask, *self.find_window(mask.numpy(), class_id))

    def find_window(self, ids: np.ndarray, class_id: int | None = None) -> Window:
        """Where to crop a mask, `(height, width)`, and its image."""
        height, width = (min(pair) for pair in zip(self.size, ids.shape))
        lowest, highest = (0, 0), (ids.shape[0] - height, ids.shape[1] - width)  # top and left of a window
        if class_id is not None and len(pixels := np.flatnonzero(ids == class_id)):
            row, column = divmod(int(pixels[int(torch.randint(len(pixels), ()))]), ids.shape[1])
            lowest = max(0, row - height + 1), max(0, column - width + 1)
            highest = min(row, highest[0]), min(column, highest[1])
        common = None  # the class that fills most of the last window
        for _ in range(10 if self.max_category_ratio < 1 else 1):
            top, left = (low + int(torch.randint(high - low + 1, ())) for low, high in zip(lowest, highest))
            window = ids[top : top + height, left : left + width]
            if common is not None and np.count_nonzero(window == common) >= self.max_category_ratio * window.size:
                continue  # whatever the rest is: quicker than counting all
            counts = count_ids(window)
            counts[IGNORE_INDEX] = 0
            if np.count_nonzero(counts) > 1 and counts.max() < self.max_category_ratio * counts.sum():
                break
            common = counts.argmax()
        return Window(top, left, height, width)


class RandomResize(nn.Module):
    """
    Resizes to the evaluation size times a random ratio, keeping the aspect ratio, and crops. Images are resized
    bilinearly, masks with nearest neighbour. Of images only the crop is computed.

    Args:
        output_size: Evaluation size for a height and width, such as [`UnipImageProcessor.output_size`].
        crop ([`RandomCategoryCrop`]): Finds the window in the resized mask.
        ratio_range (`tuple[float, float]`): Lowest and highest ratio.
        antialias (`bool`, *optional*, defaults to `True`): Whether to antialias images. OpenCV and the published code
            do not.
        mask_interpolation (`str`, *optional*, defaults to `"nearest-exact"`): `"nearest-exact"` takes the pixel at
            the centre, as Pillow does. `"nearest"` rounds down, as OpenCV and the published code do.
    """

    def __init__(
        self,
        output_size: Callable[[int, int], tuple[int, int]],
        crop: RandomCategoryCrop,
        ratio_range: tuple[float, float] = (0.5, 2.0),
        antialias: bool = True,
        mask_interpolation: str = "nearest-exact",
    ):
        super().__init__()
        self.output_size = output_size
        self.crop = crop
        self.ratio_range = ratio_range
        self.antialias = antialias
        self.mask_interpolation = mask_interpolation

    def forward(self, image: torch.Tensor, ids: np.ndarray, *others: torch.Tensor | int) -> tuple[torch.Tensor, ...]:
        """Of image `(C, H, W)`, ids `(H, W)`, and optionally auxiliary image and id of a class; without the last."""
        height, width = self.output_size(*ids.shape)
        ratio = uniform(*self.ratio_range)
        size = max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
        for axis in (1, 0):
            ids = ids.take(nearest_pixels(ids.shape[axis], size[axis], self.mask_interpolation), axis)
        window = self.crop.find_window(ids, *(other for other in others if isinstance(other, int)))
        top, left, height, width = window
        mask = tv_tensors.Mask(torch.from_numpy(ids[top : top + height, left : left + width]))
        image, *auxiliary = (
            tv_tensors.Image(resized_window(pixels, size, window, self.antialias))
            for pixels in (image, *(other for other in others if not isinstance(other, int)))
        )
        return image, mask, *auxiliary


class PhotometricDistortion(v2.Transform):
    """
    Changes brightness, contrast, saturation and hue, each with probability one half. Contrast comes before or after
    the last two at random. Images of one channel have neither saturation nor hue. Values are clipped to 0..1. The
    images of a pair, which two cameras took, change each in a way of its own.
    """

    RANGES = {  # of the summand, of two factors, and of the shift as a share of the colour circle
        "brightness": (-32 / 255, 32 / 255),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-0.1, 0.1),
    }

    def forward(self, *inputs: Any) -> Any:
        distort = super().forward
        changed = tuple(distort(value) if isinstance(value, tv_tensors.Image) else value for value in inputs)
        return changed if len(changed) > 1 else changed[0]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params: dict[str, Any] = {
            name: uniform(*limits) if torch.rand(()) < 0.5 else None for name, limits in self.RANGES.items()
        }
        return {**params, "contrast_comes_first": torch.rand(()) < 0.5}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        image = inpt.as_subclass(torch.Tensor)
        if params["brightness"] is not None:
            image = (image + params["brightness"]).clamp(0, 1)
        if params["contrast"] is not None and params["contrast_comes_first"]:
            image = (image * params["contrast"]).clamp(0, 1)
        if params["saturation"] is not None and image.shape[-3] == 3:
            image = functional.adjust_saturation(image, params["saturation"])
        if params["hue"] is not None and image.shape[-3] == 3:
            image = functional.adjust_hue(image, params["hue"])
        if params["contrast"] is not None and not params["contrast_comes_first"]:
            image = (image * params["contrast"]).clamp(0, 1)
        return tv_tensors.wrap(image, like=inpt)


class Prepare(nn.Module):
    """
    Turns images into tensors with the intensities of the processor, and with one channel if there is no colour. The
    images of a pair come by modality, and leave as main and auxiliary image.
    """

    def __init__(self, processor: UnipImageProcessor):
        super().__init__()
        self.processor = processor
        self.auxiliary = processor.auxiliary

    def forward(self, image: np.ndarray, ids: np.ndarray, *others: np.ndarray | int) -> tuple[Any, ...]:
        visible = [other for other in others if isinstance(other, np.ndarray)]
        class_ids = [other for other in others if not isinstance(other, np.ndarray)]
        ids = ids if ids.dtype == np.uint8 else ids.astype(np.int32)
        if not visible:
            return self.scale(image, self.processor), ids, *class_ids
        main, auxiliary = self.processor.by_role(image, *visible)
        return self.scale(main, self.processor), ids, self.scale(auxiliary, self.auxiliary), *class_ids

    @staticmethod
    def scale(image: np.ndarray, processor: UnipImageProcessor) -> torch.Tensor:
        if image.shape[-1] == 3 and all((image[..., 0] == image[..., channel]).all() for channel in (1, 2)):
            image = image[..., :1]  # grey stored as RGB: the channels are repeated at the end
        return processor.scale_image(image)  # (1 or 3, H, W)


class Finish(nn.Module):
    """
    Normalises as the processor does, pads to one size at the right and the bottom, and repeats grey channels, which
    share their memory.
    """

    def __init__(self, processor: UnipImageProcessor, size: tuple[int, int]):
        super().__init__()
        self.processors = processor, processor.auxiliary
        self.size = size

    def forward(self, image: torch.Tensor, mask: torch.Tensor, *auxiliary: torch.Tensor) -> tuple[torch.Tensor, ...]:
        labels = self.pad(mask.as_subclass(torch.Tensor).long(), IGNORE_INDEX)
        images = []
        for processor, pixels in zip(self.processors, (image, *auxiliary)):
            pixels = processor.normalize_channels(pixels.as_subclass(torch.Tensor))  # (C, h, w)
            padded = self.pad(without_copies(pixels), 0)  # 0 is the mean of normalised images
            images.append(padded.expand(len(pixels), -1, -1))
        return images[0], labels, *images[1:]

    def pad(self, pixels: torch.Tensor, value: float) -> torch.Tensor:
        padding = (0, self.size[1] - pixels.shape[-1], 0, self.size[0] - pixels.shape[-2])
        return nn.functional.pad(pixels, padding, value=value) if any(padding) else pixels


def training_transforms(
    processor: UnipImageProcessor,
    crop_size: int | tuple[int, int] = 512,
    ratio_range: tuple[float, float] = (0.5, 2.0),
    max_category_ratio: float = 0.75,
    flip_probability: float = 0.5,
    photometric_distortion: bool = True,
    mask_interpolation: str = "nearest-exact",
) -> Transform:
    """
    The published augmentation: resize by a random ratio, crop with at most 75 % of one class, flip, photometric
    distortion, normalise, pad.

    Args:
        processor ([`UnipImageProcessor`]): Scales intensities, and determines the size before the ratio, antialiasing,
            mean and standard deviation.
        crop_size (`int` or `(height, width)`, *optional*, defaults to 512): Size of the output in pixels, or its side.
        ratio_range (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`): Lowest and highest ratio of the
            resize.
        max_category_ratio (`float`, *optional*, defaults to 0.75): Largest share of one class in a crop, 0 to 1.
        flip_probability (`float`, *optional*, defaults to 0.5): Probability of a horizontal flip.
        photometric_distortion (`bool`, *optional*, defaults to `True`): Whether brightness, contrast and colours vary.
        mask_interpolation (`str`, *optional*, defaults to `"nearest-exact"`): As in [`RandomResize`].

    Returns:
        A callable from an image, `(height, width, channels)` of any depth, and ids, `(height, width)`, to
        `pixel_values`, float32 `(num_channels, *crop_size)`, and `labels`, int64 `crop_size`. Repeated channels share
        their memory. It draws from torch's random state. Two more arguments are optional, in this order:

        - the visible image of a pair, `(height, width, channels)`, where the first is the infrared one. As main and
          auxiliary image, which the processor tells apart, they are resized, cropped and flipped together, and the
          result is `pixel_values`, `labels` and `auxiliary_pixel_values`, float32
          `(auxiliary_num_channels, *crop_size)`;
        - the id of a class, some of which the crop then holds.

    Raises:
        ValueError: if an argument is invalid.
    """
    low, high = ratio_range
    size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if min(size) < 1 or not 0 < low <= high or not 0 < max_category_ratio <= 1 or not 0 <= flip_probability <= 1:
        raise ValueError(
            "crop_size must be at least 1, ratio_range positive and rising, max_category_ratio above 0 and at most 1, "
            f"and flip_probability from 0 to 1, got {crop_size}, {ratio_range}, {max_category_ratio} and "
            f"{flip_probability}."
        )
    if mask_interpolation not in ("nearest", "nearest-exact"):
        raise ValueError(f'mask_interpolation must be "nearest" or "nearest-exact", got {mask_interpolation!r}.')
    return v2.Compose(
        [
            Prepare(processor),
            RandomResize(
                *(processor.output_size, RandomCategoryCrop(size, max_category_ratio), ratio_range),
                *(processor.antialias, mask_interpolation),
            ),
            v2.RandomHorizontalFlip(flip_probability),
            PhotometricDistortion() if photometric_distortion else v2.Identity(),
            Finish(processor, size),
        ]
    )


__all__ = [
    "PhotometricDistortion",
    "RandomCategoryCrop",
    "RandomResize",
    "Transform",
    "training_transforms",
]
