# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Training transforms on `torchvision.transforms.v2`: those of the published fine-tuning, on images of any depth. From
the first transform on, images are float32 in 0..1 and masks int64 with 255 to ignore.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ..modeling.image_processing_unip import LUMINANCE, UnipImageProcessor
from .reading import IGNORE_INDEX, check_ids, ignore_sigterm, read_sample, without_decoding


Transform = Callable[[np.ndarray, np.ndarray], tuple[torch.Tensor, torch.Tensor]]


def uniform(low: float, high: float) -> float:
    """A number between `low` and `high` from torch's random state."""
    return low + (high - low) * torch.rand(()).item()


class RandomResize(v2.Transform):
    """
    Resizes to the evaluation size times a random ratio, keeping the aspect: bilinear with antialiasing for images,
    nearest neighbour for masks.

    Args:
        output_size: Evaluation size for a height and width, such as [`UnipImageProcessor.output_size`].
        ratio_range (`tuple[float, float]`): Lowest and highest ratio.
    """

    def __init__(
        self, output_size: Callable[[int, int], tuple[int, int]], ratio_range: tuple[float, float] = (0.5, 2.0)
    ):
        super().__init__()
        self.output_size = output_size
        self.ratio_range = ratio_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = self.output_size(*flat_inputs[0].shape[-2:])
        ratio = uniform(*self.ratio_range)
        return {"size": [max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):  # torchvision's nearest is half a pixel off
            resized = nn.functional.interpolate(inpt[None, None].double(), size=params["size"], mode="nearest-exact")
            return tv_tensors.wrap(resized[0, 0].long(), like=inpt)
        return functional.resize(inpt, params["size"], antialias=True)


class RandomCategoryCrop(v2.Transform):
    """
    Crops a random square; where one class would fill more than its share of the labelled pixels, another square is
    tried, ten times. A side that is shorter than the square is kept whole.

    Args:
        size (`int`): Side of the square in pixels.
        max_category_ratio (`float`, *optional*, defaults to 0.75): Largest share of one class, 0 to 1.
    """

    def __init__(self, size: int, max_category_ratio: float = 0.75):
        super().__init__()
        self.size = size
        self.max_category_ratio = max_category_ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        mask = next(value for value in flat_inputs if isinstance(value, tv_tensors.Mask))
        height, width = (min(self.size, side) for side in mask.shape[-2:])
        for _ in range(10 if self.max_category_ratio < 1 else 1):
            top = int(torch.randint(mask.shape[-2] - height + 1, ()))
            left = int(torch.randint(mask.shape[-1] - width + 1, ()))
            window = mask[..., top : top + height, left : left + width]
            counts = torch.bincount(window.flatten(), minlength=IGNORE_INDEX + 1)
            counts[IGNORE_INDEX] = 0
            if counts.count_nonzero() > 1 and counts.max() < self.max_category_ratio * counts.sum():
                break
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return functional.crop(inpt, **params)


class PhotometricDistortion(v2.Transform):
    """
    Random brightness, contrast, saturation and hue, each with probability one half, contrast before or after the last
    two. Images of one channel have neither saturation nor hue. What leaves 0..1 is clipped.

    Args:
        brightness (`float`, *optional*, defaults to 32 / 255): Largest value that is added or subtracted.
        contrast, saturation (`tuple[float, float]`, *optional*, default to `(0.5, 1.5)`): Range of the factor.
        hue (`float`, *optional*, defaults to 0.1): Largest shift, as a share of the colour circle.
    """

    def __init__(
        self,
        brightness: float = 32 / 255,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 0.1,
    ):
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        ranges = {
            "brightness": (-self.brightness, self.brightness),
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": (-self.hue, self.hue),
        }
        params: dict[str, Any] = {
            name: uniform(*limits) if torch.rand(()) < 0.5 else None for name, limits in ranges.items()
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
    """Arrays to tensors: intensities as the processor scales them, one channel wherever there is no colour."""

    def __init__(self, processor: UnipImageProcessor):
        super().__init__()
        self.processor = processor

    def forward(self, image: np.ndarray, ids: np.ndarray) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        if image.shape[-1] == 3 and (image[..., :1] == image[..., 1:]).all():
            image = image[..., :1]  # grey stored as RGB; the channels come back at the end
        pixels = torch.from_numpy(self.processor.scale_intensities(image)).permute(2, 0, 1)  # (1 or 3, H, W)
        if pixels.shape[0] > self.processor.num_channels:
            pixels = (pixels * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(0, keepdim=True)
        return tv_tensors.Image(pixels.contiguous()), tv_tensors.Mask(torch.from_numpy(ids.astype(np.int64)))


class Finish(nn.Module):
    """Normalises as the processor does, repeats channels, and pads to a square at the right and the bottom."""

    def __init__(self, processor: UnipImageProcessor, size: int):
        super().__init__()
        self.processor = processor
        self.size = size

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, labels = image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)
        if self.processor.do_normalize:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.processor.image_mean, self.processor.image_std))
            pixels = (pixels - mean) / std
        pixels = pixels.expand(self.processor.num_channels, -1, -1)
        padding = (0, self.size - pixels.shape[-1], 0, self.size - pixels.shape[-2])
        # 0 is the mean of normalised images
        return nn.functional.pad(pixels, padding).contiguous(), nn.functional.pad(labels, padding, value=IGNORE_INDEX)


def training_transforms(
    processor: UnipImageProcessor,
    crop_size: int = 512,
    ratio_range: tuple[float, float] = (0.5, 2.0),
    max_category_ratio: float = 0.75,
    flip_probability: float = 0.5,
    photometric_distortion: bool = True,
) -> Transform:
    """
    The published augmentation: resize by a random ratio, crop with at most 75 % of one class, flip, photometric
    distortion, normalise, pad.

    Args:
        processor ([`UnipImageProcessor`]): Scales intensities, gives the size before the ratio, mean and deviation.
        crop_size (`int`, *optional*, defaults to 512): Side of the output in pixels.
        ratio_range (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`): Of the resize.
        max_category_ratio (`float`, *optional*, defaults to 0.75): Largest share of one class in a crop, 0 to 1.
        flip_probability (`float`, *optional*, defaults to 0.5): Of a horizontal flip.
        photometric_distortion (`bool`, *optional*, defaults to `True`): Whether brightness and contrast vary.

    Returns:
        A callable from an image, `(height, width, channels)` of any depth, and ids, `(height, width)`, to
        `pixel_values`, float32 `(num_channels, crop_size, crop_size)`, and `labels`, int64 `(crop_size, crop_size)`.
        It draws from torch's random state.

    Raises:
        ValueError: if a number cannot be meant.
    """
    low, high = ratio_range
    if crop_size < 1 or not 0 < low <= high or not 0 < max_category_ratio <= 1 or not 0 <= flip_probability <= 1:
        raise ValueError(
            f"crop_size is at least 1, ratio_range positive and rising, max_category_ratio within 0..1 and "
            f"flip_probability a probability, unlike {crop_size}, {ratio_range}, {max_category_ratio}, "
            f"{flip_probability}."
        )
    return v2.Compose(
        [
            Prepare(processor),
            RandomResize(processor.output_size, ratio_range),
            RandomCategoryCrop(crop_size, max_category_ratio),
            v2.RandomHorizontalFlip(flip_probability),
            PhotometricDistortion() if photometric_distortion else v2.Identity(),
            Finish(processor, crop_size),
        ]
    )


class TrainingSamples(Dataset):
    """
    The training samples of a dataset. A key is `(epoch, row)`, and the random numbers of its augmentation depend on
    `seed` and that key alone: not on the worker, the process, or where a run was resumed.

    Args:
        dataset: Rows with the columns `image` and `annotation`.
        transform: Such as [`training_transforms`] returns.
        num_labels (`int`): Ids from there on, but for 255, raise an error that names the file.
        seed (`int`, *optional*, defaults to 0): Any number.
    """

    def __init__(self, dataset: Any, transform: Transform, num_labels: int, seed: int = 0):
        self.dataset = without_decoding(dataset)
        self.transform = transform
        self.num_labels = num_labels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, number = key
        sample = read_sample(self.dataset[number], number)
        if sample.ids is None:
            raise ValueError(f"{sample.name} has no mask.")
        check_ids(sample.ids, range(self.num_labels), sample.name)
        with torch.random.fork_rng(devices=[]):
            # the CPU's alone: manual_seed() of torch would seed the GPU, whose numbers are the model's
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence((self.seed, epoch, number)).generate_state(1)[0])
            )
            pixel_values, labels = self.transform(sample.image, sample.ids)
        return {"pixel_values": pixel_values, "labels": labels}

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]] | Exception:
        try:
            return [self[key] for key in keys]
        except (OSError, ValueError) as error:
            return error  # handed on, since a worker that raises would bury the message in a traceback


def read_batches(samples: TrainingSamples, order: Iterable[list[tuple[int, int]]], **settings: Any) -> Iterator[Any]:
    """
    Batches of samples, read by the worker processes of a `DataLoader`.

    Args:
        samples ([`TrainingSamples`]): What to read.
        order: Lists of keys, such as [`ShuffledBatches`].
        settings: Of the `DataLoader`: `num_workers`, `pin_memory`.

    Yields:
        `pixel_values`, float32 `(batch_size, num_channels, height, width)`, `labels`, int64
        `(batch_size, height, width)`, and the `int` `num_labelled`, how many pixels have a class.

    Raises:
        OSError, ValueError: if a file cannot be used; the message names it.
    """
    generator = torch.Generator()  # one of its own: torch's random state is the model's alone
    for batch in DataLoader(
        samples,
        batch_sampler=order,
        collate_fn=_collate_or_hand_on,
        generator=generator,
        worker_init_fn=ignore_sigterm,
        **settings,
    ):
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _collate_or_hand_on(samples: Any) -> Any:
    if isinstance(samples, Exception):
        return samples
    batch = default_collate(samples)
    return {**batch, "num_labelled": int((batch["labels"] != IGNORE_INDEX).sum())}


class ShuffledBatches(Sampler[list[tuple[int, int]]]):
    """
    Endless batches of keys `(epoch, row)` for one of several processes. All processes together walk through one
    shuffled sequence, epoch after epoch without a gap, so that the batch of a step is the same however many processes
    share it, and a step can be found again without reading what was before it.

    Args:
        num_rows (`int`): Rows of the dataset.
        batch_size (`int`): Rows for this process.
        process_index, num_processes (`int`): Which process this is, of how many.
        seed (`int`, *optional*, defaults to 0): Of the order.
        first_batch (`int`, *optional*, defaults to 0): Number of batches of each process to leave out.

    Raises:
        ValueError: if there are no rows.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
        seed: int = 0,
        first_batch: int = 0,
    ):
        if num_rows < 1:
            raise ValueError("There is nothing to train on: the dataset is empty.")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.process_index = process_index
        self.num_processes = num_processes
        self.seed = seed
        self.first_batch = first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        position = (self.first_batch * self.num_processes + self.process_index) * self.batch_size
        while True:
            keys = []
            for place in range(position, position + self.batch_size):
                if place // self.num_rows != epoch:
                    epoch = place // self.num_rows
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
                keys.append((epoch, int(order[place % self.num_rows])))
            yield keys
            position += self.num_processes * self.batch_size


__all__ = [
    "PhotometricDistortion",
    "RandomCategoryCrop",
    "RandomResize",
    "ShuffledBatches",
    "TrainingSamples",
    "read_batches",
    "training_transforms",
]
