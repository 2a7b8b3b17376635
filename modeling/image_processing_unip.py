# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor for infrared images of any depth."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .image_reading_unip import ImageLike, as_list, read_image, read_mask, to_channels_last
from .intensities_unip import for_channels, luminance, percentiles, scale_between


logger = logging.get_logger(__name__)

INTENSITY_SCALINGS = ("dtype_range", "fixed_range", "percentiles")
RESAMPLING_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling: mode of interpolate


class UnipImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings that only [`UnipImageProcessor`] has, and which are documented there."""

    num_channels: int
    antialias: bool
    intensity_scaling: str | None
    intensity_percentiles: list[float] | tuple[float, float]
    intensity_range: list[float] | tuple[float, float] | None
    counts_to_celsius: list[float] | tuple[float, float] | None
    do_reduce_labels: bool


class UnipImageProcessor(BaseImageProcessor):
    r"""
    Turns infrared images into `pixel_values`: scales intensities to 0..1, resizes, and normalises.

    How intensities are scaled depends on this configuration and the dtype, never on the values:

    - `"dtype_range"`: 0..1 is the full range of an integer dtype. Float images must lie in 0..1 already.
    - `"percentiles"`: 0..1 lies between two percentiles of each image, like the gain control of a camera. Where both
      are the same, it lies between minimum and maximum.
    - `"fixed_range"`: 0..1 is `intensity_range`, in counts, or in degrees with `counts_to_celsius`. Values outside are
      clipped, with a warning.
    - `None`: `"dtype_range"` for uint8 images and `"percentiles"` for all others, because the counts of a thermal
      camera fill only a small part of 16 bits.

    If an image has more dead pixels than the percentiles leave out, they squeeze the scene into a narrow range.
    Replace them first, by the median rather than by zero.

    Args:
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the output. Grey images are repeated. Colour images are made grey if it is 1.
        do_resize (`bool`, *optional*, defaults to `True`):
            Whether to resize.
        size (`dict` or `int`, *optional*, defaults to `{"shortest_edge": 512, "longest_edge": 2048}`):
            With `shortest_edge` and, optionally, `longest_edge`, the edges are limits and the aspect ratio is kept, as
            in the published evaluation. With `height` and `width`, this is the size. A number stands for both.
        resample (`int`, *optional*, defaults to 2):
            `PIL.Image.Resampling`: 0 nearest, 2 bilinear, 3 bicubic. Masks always use nearest.
        antialias (`bool`, *optional*, defaults to `True`):
            Whether bilinear and bicubic resizing average all pixels that fall into one when an image shrinks. `False`
            resizes as OpenCV and the published code do.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether to scale intensities. With `False`, values stay as they are.
        intensity_scaling (`str`, *optional*):
            `"dtype_range"`, `"percentiles"`, `"fixed_range"` or `None`, as described above.
        intensity_percentiles (`tuple[float, float]`, *optional*, defaults to `(1.0, 99.0)`):
            Percentiles that become 0 and 1, from 0 to 100.
        intensity_range (`tuple[float, float]`, *optional*):
            Lowest and highest value for `"fixed_range"`.
        counts_to_celsius (`tuple[float, float]`, *optional*):
            Factor and offset that turn integer counts into degrees Celsius, e.g. `(0.01, -273.15)` for centikelvin.
            Float images are expected to be in degrees already.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract the mean and divide by the standard deviation.
        image_mean, image_std (`float` or `list[float]`, *optional*, default to `[0.3801]` and `[0.1871]`):
            One value for all channels, or one for each. The defaults are the values of UNIP's pre-training.
        do_reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether label 0 becomes 255 (ignore) and all other labels decrease by one.
    """

    valid_kwargs = UnipImageProcessorKwargs
    model_input_names = ["pixel_values"]

    def __init__(
        self,
        num_channels: int = 3,
        do_resize: bool = True,
        size: dict[str, int] | int | None = None,
        resample: int = 2,
        antialias: bool = True,
        do_rescale: bool = True,
        intensity_scaling: str | None = None,
        intensity_percentiles: Sequence[float] = (1.0, 99.0),
        intensity_range: Sequence[float] | None = None,
        counts_to_celsius: Sequence[float] | None = None,
        do_normalize: bool = True,
        image_mean: Sequence[float] | float = (0.3801,),
        image_std: Sequence[float] | float = (0.1871,),
        do_reduce_labels: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        not_ours = {"auto_map", "image_processor_type", "processor_class", "feature_extractor_type"}
        unknown = sorted(set(kwargs) - not_ours)
        if unknown:
            logger.warning(f"{type(self).__name__} has no settings {unknown}. They are ignored.")
        self.num_channels = num_channels
        self.do_resize = do_resize
        size = {"height": size, "width": size} if isinstance(size, int) else size
        self.size = dict(size or {"shortest_edge": 512, "longest_edge": 2048})
        self.resample = int(resample)
        self.antialias = antialias
        self.do_rescale = do_rescale
        self.intensity_scaling = intensity_scaling
        self.intensity_percentiles = list(intensity_percentiles)
        self.intensity_range = None if intensity_range is None else list(intensity_range)
        self.counts_to_celsius = None if counts_to_celsius is None else list(counts_to_celsius)
        self.do_normalize = do_normalize
        self.image_mean = [image_mean] if isinstance(image_mean, (int, float)) else list(image_mean)
        self.image_std = [image_std] if isinstance(image_std, (int, float)) else list(image_std)
        self.do_reduce_labels = do_reduce_labels
        self._check_settings()

    def _check_settings(self) -> None:
        def check(holds: Any, message: str) -> None:
            if not holds:
                raise ValueError(message)

        check(self.num_channels in (1, 3), f"num_channels must be 1 or 3, got {self.num_channels!r}.")
        check(
            set(self.size) in ({"shortest_edge", "longest_edge"}, {"shortest_edge"}, {"height", "width"}),
            'size must have the keys "shortest_edge" and "longest_edge", or "height" and "width", got '
            f"{sorted(self.size)}.",
        )
        check(min(self.size.values()) > 0, f"size must be at least 1 pixel, got {self.size}.")
        check(self.resample in RESAMPLING_MODES, f"resample must be 0, 2 or 3, got {self.resample}.")
        check(
            self.intensity_scaling in (None, *INTENSITY_SCALINGS),
            f"intensity_scaling must be None or one of {INTENSITY_SCALINGS}, got {self.intensity_scaling!r}.",
        )
        for name in ("intensity_percentiles", "intensity_range", "counts_to_celsius"):
            pair = getattr(self, name)
            check(
                pair is None or (len(pair) == 2 and np.isfinite(pair).all()),
                f"{name} must be a pair of finite numbers, got {pair}.",
            )
        low, high = self.intensity_percentiles
        check(0 <= low < high <= 100, f"intensity_percentiles must rise within 0 to 100, got {low, high}.")
        low, high = self.intensity_range or (0, 1)
        check(low < high, f"intensity_range must go from low to high, got {low, high}.")
        is_fixed = self.intensity_scaling == "fixed_range"
        check(
            is_fixed == (self.intensity_range is not None),
            'intensity_scaling="fixed_range" and intensity_range=(lowest, highest) must be given together.',
        )
        check(is_fixed or self.counts_to_celsius is None, 'counts_to_celsius needs intensity_scaling="fixed_range".')
        factor, _ = self.counts_to_celsius or (1, 0)
        check(factor != 0, "The factor of counts_to_celsius must not be 0.")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            check(
                len(values) in (1, self.num_channels),
                f"{name} has {len(values)} values for {self.num_channels} channel(s). Give one, or one for each.",
            )
        check(min(self.image_std) > 0, f"image_std must be positive, got {self.image_std}.")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels to which an image of this height and width is resized."""
        if not self.do_resize:
            return height, width
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        scale = min(
            self.size["shortest_edge"] / min(height, width),
            self.size.get("longest_edge", math.inf) / max(height, width),
        )
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def intensity_limits(
        self, dtype: np.dtype, percentiles: Callable[[list[float]], Sequence[float] | torch.Tensor]
    ) -> torch.Tensor:
        """
        The intensities that become 0 and 1, as this configuration says.

        Args:
            dtype (`np.dtype`): The dtype of the raw image.
            percentiles (`Callable`): Returns the percentiles of the image for a list of ranks, 0 to 100. It is called
                only where the limits depend on the image, and may return a tensor of shape `(ranks, ...)`.

        Returns:
            Float64 `torch.Tensor` of shape `(2,)`, or `(2, ...)` as `percentiles` returns it.
        """
        is_integer = dtype.kind != "f"
        scaling = self.intensity_scaling or ("dtype_range" if dtype == np.uint8 else "percentiles")
        if scaling == "percentiles":
            found = torch.as_tensor(percentiles([*self.intensity_percentiles, 0, 100]), dtype=torch.float64)
            return torch.where(found[0] == found[1], found[2:], found[:2])  # minimum and maximum of a flat image
        low, high = self.intensity_range or (0.0, 1.0)
        if scaling == "dtype_range" and is_integer:
            low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        elif is_integer and self.counts_to_celsius is not None:
            factor, offset = self.counts_to_celsius
            low, high = (low - offset) / factor, (high - offset) / factor
        return torch.tensor([low, high], dtype=torch.float64)

    def scale_intensities(self, array: np.ndarray) -> np.ndarray:
        """
        Scales intensities to 0..1, as this configuration says.

        Args:
            array (`np.ndarray`): Any shape; integers of 8 to 64 bits, or floats.

        Returns:
            Float32 `np.ndarray` of the same shape.

        Raises:
            ValueError: if the dtype is not a number, values are not finite, or floats for `"dtype_range"` exceed 0..1.
        """
        if array.dtype.kind not in "uif":
            raise ValueError(f"Intensities must be integers or floats, got {array.dtype}.")
        is_float = array.dtype.kind == "f"
        if is_float and not np.isfinite(array).all():
            raise ValueError(
                "The image holds NaN or infinite values. Replace dead pixels first, for example by the median."
            )
        if not self.do_rescale:
            return array.astype(np.float32)
        if array.dtype == np.uint8 and array.size and array.min() == 255:
            logger.warning_once(
                "An 8-bit image is 255 everywhere. Pillow's convert() does that to 16-bit images, and so does the "
                'stock "image-segmentation" pipeline: pass the 16-bit image itself.'
            )
        limits = self.intensity_limits(array.dtype, partial(percentiles, array))
        is_fraction = not is_float or not array.size or (array.min() >= 0 and array.max() <= 1)
        if self.intensity_scaling == "dtype_range" and not is_fraction:
            raise ValueError(
                f'A float image with intensity_scaling="dtype_range" must lie in 0..1, got values from {array.min()} '
                f'to {array.max()}. Use "percentiles" or "fixed_range".'
            )
        if self.intensity_range is not None:
            lowest, highest = sorted(limits.tolist())
            if np.mean((array < lowest) | (array > highest)) > 0.01:
                logger.warning_once(
                    f"More than 1 % of an image lies outside intensity_range={self.intensity_range} and is clipped."
                )
        exact = np.float32 if array.dtype.itemsize <= 2 else np.float64  # no rounded counts
        return scale_between(torch.from_numpy(array.astype(exact, order="C")), limits).numpy()

    def scale_image(self, array: np.ndarray) -> torch.Tensor:
        """
        Scales the intensities of an image to 0..1, and makes it grey if `num_channels` is 1.

        Args:
            array (`np.ndarray` of shape `(height, width, channels)`): As [`scale_intensities`] takes it, with 1 or 3
                channels.

        Returns:
            Float32 `torch.Tensor` of shape `(channels, height, width)` with 3 channels for a colour image if
            `num_channels` is 3, and 1 channel otherwise.
        """
        pixels = torch.from_numpy(self.scale_intensities(array)).permute(2, 0, 1)  # (1 or 3, H, W)
        return luminance(pixels) if pixels.shape[0] > self.num_channels else pixels

    def normalize_channels(self, pixels: torch.Tensor) -> torch.Tensor:
        """
        Normalises as this configuration says, and repeats a grey channel.

        Args:
            pixels (`torch.Tensor` of shape `(..., channels, height, width)`): Float32 with 1 or `num_channels`
                channels, on any device.

        Returns:
            Float32 `torch.Tensor` of shape `(..., num_channels, height, width)`; repeated channels share their memory.
        """
        if self.do_normalize:
            pixels = (pixels - for_channels(self.image_mean, pixels)).div_(for_channels(self.image_std, pixels))
        return pixels.expand(*pixels.shape[:-3], self.num_channels, -1, -1)  # (..., C, H, W)

    def _process_image(self, array: np.ndarray) -> torch.Tensor:
        pixels = self.scale_image(array)  # (1 or 3, H, W)
        size = self.output_size(*pixels.shape[-2:])
        if size != pixels.shape[-2:]:
            mode = RESAMPLING_MODES[self.resample]
            antialias = self.antialias and mode != "nearest-exact"
            pixels = nn.functional.interpolate(pixels[None], size=size, mode=mode, antialias=antialias)[0]
            if self.do_rescale:
                pixels = pixels.clamp_(0.0, 1.0)  # bicubic overshoots
        return self.normalize_channels(pixels).contiguous()  # (C, h, w)

    def _process_mask(self, ids: np.ndarray) -> torch.Tensor:
        labels = torch.from_numpy(ids.astype(np.int64))
        size = self.output_size(*labels.shape)
        if size != labels.shape:
            ids_as_float = labels[None, None].double()  # holds every id exactly, and nearest neighbour keeps it
            labels = nn.functional.interpolate(ids_as_float, size=size, mode="nearest-exact")[0, 0].long()
        if self.do_reduce_labels:
            labels = torch.where((labels == 0) | (labels == 255), 255, labels - 1)
        return labels  # (h, w)

    def preprocess(
        self,
        images: ImageLike | Sequence[ImageLike],
        segmentation_maps: ImageLike | Sequence[ImageLike] | None = None,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """
        Args:
            images: One image or a list of paths, PIL images (modes L, RGB, I;16, I, F, P), arrays or tensors. Arrays
                and tensors have 8, 16 or 32 bits or are float, and are `(height, width)` or have 1 or 3 channels,
                first or last.
            segmentation_maps (*optional*): As many masks of class ids: paths, PIL images (palettes keep their ids), or
                integer arrays `(height, width)`. They are resized with nearest neighbour only.
            return_tensors (`str`, *optional*): `"pt"` or `"np"` for one batch. By default lists of arrays.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, if the shape is ambiguous.
            settings: Any argument of the constructor, for this call only.

        Returns:
            [`BatchFeature`] with `pixel_values`, float32 `(batch_size, num_channels, height, width)`, and `labels`,
            int64 `(batch_size, height, width)`, if masks were given.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if an image or a mask cannot be used. The message says why and what to do.
        """
        if settings:
            known = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
            unknown = sorted(set(settings) - set(known))
            if unknown:
                raise ValueError(f"{type(self).__name__} has no setting {unknown}; it has {sorted(known)}.")
            processor = type(self)(**{**known, **settings})
            return processor.preprocess(images, segmentation_maps, return_tensors, input_data_format)

        arrays = [to_channels_last(read_image(image), input_data_format) for image in as_list(images)]  # (H, W, C)
        data = {"pixel_values": [self._process_image(array) for array in arrays]}
        if segmentation_maps is not None:
            if isinstance(segmentation_maps, (np.ndarray, torch.Tensor)) and len(segmentation_maps) == len(arrays) > 1:
                segmentation_maps = list(segmentation_maps)  # (batch, H, W)
            masks = [read_mask(mask) for mask in as_list(segmentation_maps)]  # (H, W)
            if len(masks) != len(arrays):
                raise ValueError(f"There are {len(arrays)} images but {len(masks)} masks.")
            for index, (array, mask) in enumerate(zip(arrays, masks)):
                if array.shape[:2] != mask.shape:
                    raise ValueError(
                        f"Image and mask number {index} differ in size: the image has {array.shape[:2]} "
                        f"(height, width), the mask {mask.shape}."
                    )
            data["labels"] = [self._process_mask(mask) for mask in masks]
        if return_tensors is None:
            return BatchFeature({name: [tensor.numpy() for tensor in tensors] for name, tensors in data.items()})
        sizes = {tuple(pixels.shape[-2:]) for pixels in data["pixel_values"]}
        if len(sizes) > 1:
            raise ValueError(
                f"The images have different sizes after resizing, {sorted(sizes)}, and do not fit one batch. Process "
                'them one by one, or set size={"height": ..., "width": ...}.'
            )
        return BatchFeature({name: torch.stack(tensors) for name, tensors in data.items()}, tensor_type=return_tensors)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """
        Turns the output of a segmentation model into class ids.

        Args:
            outputs: Model output with `logits` of shape `(batch_size, num_labels, logits_height, logits_width)`.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): Height and width of each original image, to which
                logits are resized (bilinear) before the class is chosen. By default the size of the logits.

        Returns:
            A list of int64 `torch.Tensor`, one `(height, width)` for each image.

        Raises:
            ValueError: if the number of sizes is not that of the images.
        """
        logits = outputs.logits
        if target_sizes is None:
            return list(logits.argmax(dim=1))
        if len(target_sizes) != len(logits):
            raise ValueError(f"The logits hold {len(logits)} images, but there are {len(target_sizes)} target_sizes.")
        return [
            nn.functional.interpolate(
                image_logits[None], size=tuple(int(side) for side in size), mode="bilinear", align_corners=False
            )[0].argmax(dim=0)
            for image_logits, size in zip(logits, target_sizes)
        ]


UnipImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["UnipImageProcessor"]
