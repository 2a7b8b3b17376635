# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor for infrared images of any depth, and for pairs of them and visible images."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from .image_reading_unip import ImageLike, as_list, check_same_sizes, read_image, read_mask, to_channels_last
from .image_settings_unip import (
    OTHER_MODALITY,
    RESAMPLING_MODES,
    UnipImageProcessorKwargs,
    check_settings,
    normalisation,
)
from .intensities_unip import for_channels, luminance, percentiles, scale_between


logger = logging.get_logger(__name__)

LARGEST_INTENSITY = 1e30  # of float images: differences and quotients of larger ones overflow float32
LARGEST_ENLARGEMENT = 2**28  # pixels that an image smaller than that may be enlarged to


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

    A model of pairs reads a main and an auxiliary image, of which one is infrared and one visible. What is said above
    is for infrared images. Visible ones have 8 bits, keep their colours, and are always scaled by `"dtype_range"`.

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
        image_mean, image_std (`float` or `list[float]`, *optional*):
            One value for all channels, or one for each. The defaults are the values of UNIP's pre-training, `[0.3801]`
            and `[0.1871]`, and of ImageNet if `main_modality` is `"visible"`.
        do_reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether label 0 becomes 255 (ignore) and all other labels decrease by one.
        main_modality (`"infrared"` or `"visible"`, *optional*, defaults to `"infrared"`):
            What `images` are, as in [`UnipConfig`]. `auxiliary_images` are the other.
        auxiliary_num_channels (`int`, *optional*, defaults to 3):
            `num_channels` of the auxiliary images.
        auxiliary_image_mean, auxiliary_image_std (`float` or `list[float]`, *optional*):
            `image_mean` and `image_std` of the auxiliary images, with the defaults of their modality.
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
        image_mean: Sequence[float] | float | None = None,
        image_std: Sequence[float] | float | None = None,
        do_reduce_labels: bool = False,
        main_modality: str = "infrared",
        auxiliary_num_channels: int = 3,
        auxiliary_image_mean: Sequence[float] | float | None = None,
        auxiliary_image_std: Sequence[float] | float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        not_ours = {"auto_map", "image_processor_type", "processor_class", "feature_extractor_type"}
        if unknown := sorted(set(kwargs) - not_ours):
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
        self.image_mean, self.image_std = normalisation(main_modality, num_channels, image_mean, image_std)
        self.do_reduce_labels = do_reduce_labels
        self.main_modality = main_modality
        self.auxiliary_num_channels = auxiliary_num_channels
        self.auxiliary_image_mean, self.auxiliary_image_std = normalisation(
            OTHER_MODALITY[main_modality], auxiliary_num_channels, auxiliary_image_mean, auxiliary_image_std
        )
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary. Defaults of pairs are left out, so that files for single images stay as they are."""
        mean, std = normalisation(OTHER_MODALITY[self.main_modality], self.auxiliary_num_channels)
        unused: dict[str, Any] = {
            "main_modality": "infrared",
            "auxiliary_num_channels": 3,
            "auxiliary_image_mean": mean,
            "auxiliary_image_std": std,
        }
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in unused or value != unused[name]}

    @property
    def auxiliary(self) -> "UnipImageProcessor":
        """The same settings with the roles of the two images exchanged: the processor of the auxiliary image alone."""
        settings = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        for name in ("num_channels", "image_mean", "image_std"):
            settings[name], settings[f"auxiliary_{name}"] = settings[f"auxiliary_{name}"], settings[name]
        return type(self)(**{**settings, "main_modality": OTHER_MODALITY[self.main_modality]})

    def by_role(self, infrared: Any, visible: Any) -> tuple[Any, Any]:
        """Two things by modality as main and auxiliary ones, as `main_modality` says."""
        return (infrared, visible) if self.main_modality == "infrared" else (visible, infrared)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """
        Height and width in pixels to which an image of this height and width is resized.

        Raises:
            ValueError: if that would enlarge it to more than 2**28 pixels.
        """
        if not self.do_resize:
            return height, width
        if "height" in self.size:
            rows, columns = self.size["height"], self.size["width"]
        else:
            scale = min(
                self.size["shortest_edge"] / min(height, width),
                self.size.get("longest_edge", math.inf) / max(height, width),
            )
            rows, columns = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        if rows * columns > max(LARGEST_ENLARGEMENT, height * width):
            raise ValueError(
                f"size={self.size} would enlarge an image of {height}x{width} pixels to {rows}x{columns} (height x "
                'width). Limit it by "longest_edge".'
            )
        return rows, columns

    def _scaling(self, dtype: np.dtype) -> str:
        """How intensities of a dtype are scaled."""
        if self.main_modality == "infrared":
            return self.intensity_scaling or ("dtype_range" if dtype == np.uint8 else "percentiles")
        if dtype.kind != "f" and dtype != np.uint8:
            raise ValueError(f"A visible image must have 8 bits, got {dtype}: is it the infrared one?")
        return "dtype_range"

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
        scaling = self._scaling(dtype)
        if scaling == "percentiles":
            found = torch.as_tensor(percentiles([*self.intensity_percentiles, 0, 100]), dtype=torch.float64)
            return torch.where(found[0] == found[1], found[2:], found[:2])  # minimum and maximum of a flat image
        if scaling == "dtype_range":
            low, high = (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)) if is_integer else (0.0, 1.0)
            return torch.tensor([low, high], dtype=torch.float64)
        low, high = self.intensity_range or (0.0, 1.0)
        if is_integer and self.counts_to_celsius is not None:
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
            ValueError: if the dtype is not a number, values are not finite or beyond 1e30, or floats for
                `"dtype_range"` exceed 0..1.
        """
        if array.dtype.kind not in "uif":
            raise ValueError(f"Intensities must be integers or floats, got {array.dtype}.")
        is_float = array.dtype.kind == "f"
        if is_float and not np.isfinite(array).all():
            raise ValueError(
                "The image holds NaN or infinite values. Replace dead pixels first, for example by the median."
            )
        if is_float and array.size and max(-float(array.min()), float(array.max())) > LARGEST_INTENSITY:
            raise ValueError(
                f"The image holds values from {array.min():g} to {array.max():g}, which are no intensities. Replace "
                "those that mark dead pixels first, for example by the median."
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
        scaling = self._scaling(array.dtype)
        if scaling == "dtype_range" and not is_fraction:
            raise ValueError(
                'A float image that is scaled by "dtype_range", as visible ones are, must lie in 0..1, got values '
                f"from {array.min()} to {array.max()}. Divide it by the highest value that it may have, or, if it is "
                'infrared, use "percentiles" or "fixed_range".'
            )
        if scaling == "fixed_range":
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

    def process_image(self, array: np.ndarray) -> torch.Tensor:
        """
        Scales, resizes and normalises one image.

        Args:
            array (`np.ndarray` of shape `(height, width, channels)`): As [`scale_image`] takes it.

        Returns:
            Float32 `torch.Tensor` of shape `(num_channels, height, width)`. The channels of a grey image may share
            their memory, so that a large image needs a third of it.
        """
        pixels = self.scale_image(array)  # (1 or 3, H, W)
        size = self.output_size(*pixels.shape[-2:])
        if size != pixels.shape[-2:]:
            mode = RESAMPLING_MODES[self.resample]
            antialias = self.antialias and mode != "nearest-exact"
            pixels = nn.functional.interpolate(pixels[None], size=size, mode=mode, antialias=antialias)[0]
            if self.do_rescale:
                pixels = pixels.clamp_(0.0, 1.0)  # bicubic overshoots
        return self.normalize_channels(pixels)  # (C, h, w)

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
        auxiliary_images: ImageLike | Sequence[ImageLike] | None = None,
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
            auxiliary_images (*optional*): For a model of pairs: the other image of each pair, of the same size.
            settings: Any argument of the constructor, for this call only.

        Returns:
            [`BatchFeature`] with `pixel_values`, float32 `(batch_size, num_channels, height, width)`;
            `auxiliary_pixel_values`, float32 `(batch_size, auxiliary_num_channels, height, width)`, if auxiliary
            images were given; and `labels`, int64 `(batch_size, height, width)`, if masks were given.

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
            return processor.preprocess(images, segmentation_maps, return_tensors, input_data_format, auxiliary_images)

        arrays = [to_channels_last(read_image(image), input_data_format) for image in as_list(images)]  # (H, W, C)
        data = {"pixel_values": [self.process_image(array).contiguous() for array in arrays]}
        if auxiliary_images is not None:
            others = [to_channels_last(read_image(image), input_data_format) for image in as_list(auxiliary_images)]
            check_same_sizes(arrays, others, "auxiliary image")
            auxiliary = self.auxiliary
            data["auxiliary_pixel_values"] = [auxiliary.process_image(array).contiguous() for array in others]
        if segmentation_maps is not None:
            if isinstance(segmentation_maps, (np.ndarray, torch.Tensor)) and segmentation_maps.ndim:
                is_batch = len(segmentation_maps) == len(arrays) > 1
                segmentation_maps = list(segmentation_maps) if is_batch else segmentation_maps  # (batch, H, W)
            masks = [read_mask(mask) for mask in as_list(segmentation_maps)]  # (H, W)
            check_same_sizes(arrays, masks, "mask")
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
