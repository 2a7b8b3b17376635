# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Batches of random grey crops of unlabelled images, for pre-training.

The published code decodes an image as RGB, makes it grey and RGB again, crops it with torchvision's
`RandomResizedCrop` (bicubic), flips it, and converts it to normalised floats, all of it on the CPU. Here the CPU makes
uint8 crops of one channel, and the device does the rest in [`to_pixel_values`]. The distribution of the crops is the
same. The pixels of a crop are the same for grey 8-bit images, and for colour images that are not JPEG. In two cases
they differ:

- Of a colour JPEG, only the luminance is decoded. The published detour over RGB clips. The difference is 0 on thermal
  images stored as colour. It is 0.01 grey levels in the mean and 4 at most on photographs, 0.1 and 14 on false
  colours.
- If the crop of a JPEG has at least twice the output's width and height, only the lower half of the frequencies is
  decoded (a quarter from four times, an eighth from eight times on), which is all that the output can show. The mean
  difference from the crop at full scale was 0.2 to 0.8 grey levels for a half, 0.3 to 1.3 for a quarter and 0.3 to 2
  for an eighth on four sets of images with a standard deviation of 40 to 50. The largest was 50, at sharp edges.
"""

import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch.utils.data import Dataset

from ..files import could_not_read
from .crop_streams import read_stream
from .infmix.grey_images import read_grey, to_8_bits
from .reading import encoded_bytes, without_decoding
from .samples import ShuffledBatches, read_batches


Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class GreyCrop:
    """
    A random part of an image, resized (bicubic, antialiased) to a square and flipped at random. Its distribution is
    that of torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.

    Args:
        size (`int`, *optional*, defaults to 224): Side of the output in pixels.
        scale (`tuple[float, float]`, *optional*, defaults to `(0.2, 1.0)`): Smallest and largest share of the area.
        ratio (`tuple[float, float]`, *optional*, defaults to `(3 / 4, 4 / 3)`): Smallest and largest ratio of width to
            height.
        flip_probability (`float`, *optional*, defaults to 0.5): Probability of a horizontal flip.
        keep_colour (`bool`, *optional*, defaults to `False`): Whether colour images keep their three channels, and
            grey ones repeat theirs.

    Raises:
        ValueError: if a number is invalid.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    keep_colour: bool = False

    @property
    def num_channels(self) -> int:
        """Of the crops."""
        return 3 if self.keep_colour else 1

    def __post_init__(self) -> None:
        (smallest, largest), (narrowest, widest) = self.scale, self.ratio
        sizes_make_sense = self.size >= 1 and 0 < smallest <= largest <= 1 and 0 < narrowest <= widest
        if not (sizes_make_sense and 0 <= self.flip_probability <= 1):
            raise ValueError(
                "The size of a crop must be at least 1, its scale two rising numbers above 0 and up to 1, its ratio "
                f"two rising numbers above 0, and the probability of a flip from 0 to 1, got {self}."
            )

    def draw_box(self, width: int, height: int, generator: random.Random) -> Box:
        """
        Draws a part of an image of `width` x `height` pixels: the first of ten tries that fits, or the largest part in
        the middle whose ratio is allowed.
        """
        area = width * height
        log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            target_area = area * generator.uniform(*self.scale)
            aspect_ratio = math.exp(generator.uniform(*log_ratio))
            w = round(math.sqrt(target_area * aspect_ratio))
            h = round(math.sqrt(target_area / aspect_ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = generator.randint(0, height - h), generator.randint(0, width - w)
                return left, top, left + w, top + h
        w, h = min(width, round(height * self.ratio[1])), min(height, round(width / self.ratio[0]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __call__(self, image: dict[str, Any], name: str, generator: random.Random) -> np.ndarray:
        """
        Args:
            image (`dict`): An encoded file, `{"path": ..., "bytes": ...}`, whose bytes may be `None`.
            name (`str`): What messages call it.
            generator (`random.Random`): Source of the random numbers.

        Returns:
            uint8 `np.ndarray` of shape `(num_channels, size, size)`.

        Raises:
            ValueError: if the file cannot be read, is damaged, or has channels or a depth that would be lost.
        """
        area = read_area(
            image, name, lambda width, height: self.draw_box(width, height, generator), self.size, self.keep_colour
        )
        area = area[:, ::-1] if generator.random() < self.flip_probability else area
        return np.moveaxis(area.reshape(self.size, self.size, -1), 2, 0)  # (C, S, S)

    def batch(self, images: Sequence[dict[str, Any]], names: Sequence[str], keys: Sequence[str]) -> torch.Tensor:
        """
        Crops several images. The random numbers of each depend only on its key.

        Returns:
            uint8 `torch.Tensor` of shape `(len(images), num_channels, size, size)`.
        """
        crops = np.empty((len(images), self.num_channels, self.size, self.size), dtype=np.uint8)  # (B, C, S, S)
        for crop, image, name, key in zip(crops, images, names, keys):
            crop[:] = self(image, name, random.Random(key))
        return torch.from_numpy(crops)


def read_area(
    image: dict[str, Any], name: str, choose_box: Callable[[int, int], Box], size: int, keep_colour: bool = False
) -> np.ndarray:
    """
    Reads a part of an encoded image, upright, grey and in 8 bits, resized to a square.

    Args:
        image (`dict`): An encoded file, `{"path": ..., "bytes": ...}`, whose bytes may be `None`.
        name (`str`): What messages call it.
        choose_box (`Callable`): Returns the part, in pixels, for a width and height.
        size (`int`): Side of the square in pixels.
        keep_colour (`bool`, *optional*, defaults to `False`): Whether to give three channels, which are equal where
            the image is grey.

    Returns:
        uint8 `np.ndarray` of shape `(size, size)`, or `(size, size, 3)` with `keep_colour`. Images of more bits are
        scaled between percentiles of the whole image, as [`to_8_bits`] does.

    Raises:
        ValueError: if the file cannot be read, is damaged, or has channels or a depth that would be lost.
    """
    try:
        encoded = encoded_bytes(image)
    except OSError as error:
        raise could_not_read(image["path"], error) from error
    try:
        area = _read_area_of_jpeg(encoded, choose_box, size, keep_colour)
    except MemoryError:
        raise
    except Exception:  # damaged files can lead Pillow to any exception, and read_grey says what is wrong
        area = None
    if area is None:
        whole = Image.fromarray(to_8_bits(read_grey(encoded, name, keep_colour=keep_colour)))
        area = whole.crop(choose_box(*whole.size)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(area.convert("RGB") if keep_colour else area)


def _read_area_of_jpeg(
    encoded: bytes, choose_box: Callable[[int, int], Box], size: int, keep_colour: bool
) -> Image.Image | None:
    """A faster way of [`read_area`] for grey and colour JPEG. `None` for other files."""
    with Image.open(io.BytesIO(encoded)) as opened:
        if opened.format not in ("JPEG", "MPO") or opened.mode not in ("L", "RGB"):
            return None
        width, height = opened.size
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        box = choose_box(*((height, width) if orientation in range(5, 9) else (width, height)))
        shorter_side = min(box[2] - box[0], box[3] - box[1])
        divisor = next(divisor for divisor in (8, 4, 2, 1) if shorter_side >= divisor * size or divisor == 1)
        opened.draft(opened.mode if keep_colour else "L", (width // divisor, height // divisor))
        decoded = opened if orientation == 1 else ImageOps.exif_transpose(opened)
        left, top, right, bottom = (edge / divisor for edge in box)
        whole = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
        within = left - whole[0], top - whole[1], right - whole[0], bottom - whole[1]
        return decoded.crop(whole).resize((size, size), Image.Resampling.BICUBIC, box=within)


class CropSamples(Dataset):
    """
    Random grey crops of the rows of a dataset. A key is `(epoch, row)`, and the random numbers of a crop depend only
    on `seed` and that key, as in [`TrainingSamples`].

    Args:
        rows (`datasets.Dataset`): Has the column `image`.
        crop ([`GreyCrop`]): Makes a crop of each image.
        seed (`int`, *optional*, defaults to 0): Any number.
    """

    def __init__(self, rows: datasets.Dataset, crop: GreyCrop, seed: int = 0):
        self.rows = without_decoding(rows.select_columns(["image"]))
        self.crop = crop
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        """uint8 `images` of shape `(num_channels, size, size)`"""
        return {"images": self._read([key])[0]}

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, torch.Tensor] | Exception:
        """uint8 `images` of shape `(len(keys), num_channels, size, size)`, or an error, as in [`TrainingSamples`]"""
        try:
            return {"images": self._read(keys)}
        except (OSError, ValueError) as error:
            return error

    def _read(self, keys: list[tuple[int, int]]) -> torch.Tensor:
        numbers = [number for _, number in keys]
        images = self.rows[numbers]["image"]  # all at once, which is much faster than row by row
        names = [image["path"] or f"image {number}" for image, number in zip(images, numbers)]
        return self.crop.batch(images, names, [f"{self.seed} {epoch} {number}" for epoch, number in keys])


def read_crops(
    rows: datasets.Dataset | datasets.IterableDataset,
    crop: GreyCrop,
    batch_size: int,
    *,
    process_index: int = 0,
    num_processes: int = 1,
    seed: int = 0,
    first_batch: int = 0,
    num_workers: int = 2,
    pin_memory: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """
    Endless batches of random grey crops for one of several processes, epoch after epoch.

    Through a dataset with a length, all processes together walk in one shuffled sequence, which depends only on `seed`
    (see [`ShuffledBatches`]). A stream gives the same batches for the same `seed`, `num_processes` and `num_workers`
    (see [`read_stream`]).

    Args:
        rows: As [`load_unlabelled`] returns them.
        crop ([`GreyCrop`]): Makes a crop of each image.
        batch_size (`int`): Images for this process.
        process_index, num_processes (`int`): Index of this process, and number of processes.
        seed (`int`, *optional*, defaults to 0): Seed of the order and of the crops, the same in all processes.
        first_batch (`int`, *optional*, defaults to 0): Number of batches to skip in each process.
        num_workers (`int`, *optional*, defaults to 2): Processes that read, 0 to read in this one. A stream uses at
            most one for each of its shards.
        pin_memory (`bool`, *optional*, defaults to `False`): Whether to put batches into pinned memory, from which a
            GPU copies them faster.

    Yields:
        `images`, uint8 `(batch_size, num_channels, size, size)`.

    Raises:
        ValueError: if there are no images, or a file cannot be used. The message names it.
    """
    place = process_index, num_processes, seed, first_batch
    if isinstance(rows, datasets.IterableDataset):
        encoded = without_decoding(rows.select_columns(["image"]))
        for images in read_stream(encoded, crop.batch, batch_size, *place, num_workers):
            yield {"images": images.pin_memory() if pin_memory else images}
    else:
        samples = CropSamples(rows, crop, seed)
        order = ShuffledBatches(len(samples), batch_size, *place)
        yield from read_batches(samples, order, num_workers=num_workers, pin_memory=pin_memory)


def sample_crops(
    rows: datasets.Dataset | datasets.IterableDataset, count: int, size: int, keep_colour: bool = False
) -> torch.Tensor:
    """
    A fixed sample of images: evenly spaced ones of a dataset with a length, the first ones of a stream. The square in
    the middle of each is resized (bicubic, antialiased).

    Args:
        rows: As [`load_unlabelled`] returns them.
        count (`int`): Number of images, if there are as many.
        size (`int`): Side in pixels.
        keep_colour (`bool`, *optional*, defaults to `False`): As in [`GreyCrop`].

    Returns:
        uint8 `torch.Tensor` of shape `(count, 1, size, size)`, or `(count, 3, size, size)` with `keep_colour`.

    Raises:
        ValueError: if there are no images, or a file cannot be used. The message names it.
    """
    rows = without_decoding(rows.select_columns(["image"]))
    if isinstance(rows, datasets.IterableDataset):
        images = [row["image"] for row in rows.take(count)]
    else:
        count = min(count, len(rows))
        images = rows[[number * len(rows) // count for number in range(count)]]["image"]
    if not images:
        raise ValueError("There are no images to take a sample from.")

    def square_in_the_middle(width: int, height: int) -> Box:
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side

    areas = [
        read_area(image, image["path"] or f"image {number} of the sample", square_in_the_middle, size, keep_colour)
        for number, image in enumerate(images)
    ]
    return torch.from_numpy(np.stack(areas).reshape(len(areas), size, size, -1)).permute(0, 3, 1, 2)  # (N, C, S, S)


def to_pixel_values(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], num_channels: int = 3
) -> torch.Tensor:
    """
    Turns images into the input of a network: intensities 0..1, minus the mean, divided by the standard deviation.

    Args:
        images (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, num_channels, H, W)`): uint8, on any device.
        mean, std (`Sequence[float]`): One number, or one for each channel, for intensities 0..1.
        num_channels (`int`, *optional*, defaults to 3): Channels of the network.

    Returns:
        float32 `torch.Tensor` of shape `(B, num_channels, H, W)` on the same device. If all channels are the same,
        they share their memory.

    Raises:
        ValueError: if there are neither one nor `num_channels` means, deviations and channels of the images.
    """
    means, stds = ([values[0]] * num_channels if len(set(values)) == 1 else list(values) for values in (mean, std))
    if len(means) != num_channels or len(stds) != num_channels:
        raise ValueError(
            f"Mean and standard deviation must be one number or {num_channels} each, got {mean} and {std}."
        )
    if images.shape[1] not in (1, num_channels):
        raise ValueError(
            f"A network of {num_channels} channels cannot see images of {images.shape[1]}: make them grey."
        )
    intensities = images.float() / 255  # (B, 1 or C, H, W)
    # numbers instead of tensors, so that the device does not wait for a copy
    if len(set(zip(means, stds))) == 1:
        return ((intensities - means[0]) / stds[0]).expand(-1, num_channels, -1, -1)  # (B, C, H, W)
    channels = intensities.expand(-1, num_channels, -1, -1).split(1, dim=1)
    return torch.cat([(c - m) / s for c, m, s in zip(channels, means, stds)], dim=1)  # (B, C, H, W)


__all__ = [
    "CropSamples",
    "GreyCrop",
    "read_area",
    "read_crops",
    "sample_crops",
    "to_pixel_values",
]
