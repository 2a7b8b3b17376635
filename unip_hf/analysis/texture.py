# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Does a network look at texture or at shape? Corruptions that take one of them away, and how far features follow
(paper, table 2; which corruptions it used is not known: these are usual ones).

All take arrays `(height, width)` or `(height, width, channels)`, return new ones of the same dtype and scale, and give
the same result on every run: what is random depends on `seed` and on the `number` of the image alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


def patch_shuffle(array: np.ndarray, tiles: int, seed: int = 0, number: int = 0, undo: bool = False) -> np.ndarray:
    """
    Permutes the tiles of a grid: texture stays, and shapes larger than a tile go. An image and its mask, of equal
    size, are permuted alike.

    Args:
        array: Image, mask or grid of features, `(height, width)` or `(height, width, channels)`, of any dtype.
        tiles: Tiles along each side, each of `height // tiles` by `width // tiles` pixels. What is left over at the
            bottom and on the right stays in its place.
        seed, number: The permutation depends on them and on `tiles`.
        undo: Whether to put the tiles back.

    Raises:
        ValueError: if the array has another shape, or fewer pixels along a side than tiles.
    """
    check_amount("patch_shuffle", tiles)
    _check_shape(array)
    height, width = array.shape[0] // tiles, array.shape[1] // tiles
    if min(height, width) < 1:
        raise ValueError(
            f"An image of {array.shape[0]}x{array.shape[1]} pixels cannot be cut into {tiles}x{tiles} tiles: "
            f"choose at most {min(array.shape[:2])}."
        )
    order = np.random.default_rng((seed, number)).permutation(tiles * tiles)
    if undo:
        order = np.argsort(order)
    grid = array[: tiles * height, : tiles * width].reshape(tiles, height, tiles, width, -1)
    flat = grid.swapaxes(1, 2).reshape(tiles * tiles, height, width, -1)[order]  # (tiles^2, height, width, C)
    shuffled = array.copy()
    grid = flat.reshape(tiles, tiles, height, width, -1).swapaxes(1, 2)
    shuffled[: tiles * height, : tiles * width] = grid.reshape(tiles * height, tiles * width, *array.shape[2:])
    return shuffled


def low_pass(image: np.ndarray, sigma: float) -> np.ndarray:
    """
    Takes fine texture away: Gaussian blur with a standard deviation of `sigma` pixels, 0 or more, mirrored at the
    borders. Integers are rounded.

    Raises:
        ValueError: if the image is not finite numbers of one of the shapes, or sigma is negative.
    """
    check_amount("low_pass", sigma)
    return _as_dtype_of(image, _blurred(image, sigma))


def high_pass(image: np.ndarray, sigma: float) -> np.ndarray:
    """
    Takes brightness of large areas away, which leaves fine texture: the image without its Gaussian blur of `sigma`
    pixels, above 0, plus the mean of each channel. Integers are rounded, and clipped to what their dtype holds.

    Raises:
        ValueError: if the image is not finite numbers of one of the shapes, or sigma is not above 0.
    """
    check_amount("high_pass", sigma)
    blurred = _blurred(image, sigma)
    return _as_dtype_of(image, image - blurred + image.mean(axis=(0, 1), dtype=np.float64))


def phase_scramble(image: np.ndarray, strength: float = 1.0, seed: int = 0, number: int = 0) -> np.ndarray:
    """
    Takes shape away and keeps the power of every frequency: a random phase, that of white noise, is added to the
    image's Fourier transform, the same for all channels. The mean stays. Integers are rounded, and clipped to what
    their dtype holds, which changes the amplitudes a little.

    Args:
        image: `(height, width)` or `(height, width, channels)`.
        strength: Factor of the added phase, 0 (nothing changes) to 1.
        seed, number: The noise depends on them and on the image's size.

    Raises:
        ValueError: if the image is not finite numbers of one of the shapes, or the strength is out of range.
    """
    check_amount("phase_scramble", strength)
    _check_numbers(image)
    if strength == 0:
        return image.copy()
    height, width = image.shape[:2]
    noise = np.random.default_rng((seed, number)).standard_normal((height, width))
    phase = np.angle(np.fft.rfft2(noise))  # (H, W // 2 + 1)
    # These frequencies are their own opposites and have real coefficients: half a phase would make them complex.
    for row in {0, height // 2} if height % 2 == 0 else {0}:
        for column in {0, width // 2} if width % 2 == 0 else {0}:
            phase[row, column] = 0
    turned = np.exp(1j * strength * phase).reshape(*phase.shape, *[1] * (image.ndim - 2))
    spectrum = np.fft.rfft2(image.astype(np.float64), axes=(0, 1))
    return _as_dtype_of(image, np.fft.irfft2(spectrum * turned, s=(height, width), axes=(0, 1)))


# What each is in words, and its amount.
CORRUPTIONS = {
    "patch_shuffle": ("{0:g}x{0:g} tiles shuffled", "tiles", "a whole number from 1 up"),
    "low_pass": ("low-pass, sigma {0:g} pixels", "sigma", "at least 0"),
    "high_pass": ("high-pass, sigma {0:g} pixels", "sigma", "above 0"),
    "phase_scramble": ("phase scrambled, strength {0:g}", "strength", "from 0 to 1"),
}


def check_amount(kind: str, amount: float) -> None:
    """
    Raises:
        ValueError: if there is no such corruption, or not of this strength.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"There is no corruption {kind!r}: choose one of {', '.join(CORRUPTIONS)}.")
    is_possible = {
        "patch_shuffle": amount >= 1 and amount % 1 == 0,
        "low_pass": 0 <= amount < math.inf,
        "high_pass": 0 < amount < math.inf,
        "phase_scramble": 0 <= amount <= 1,
    }
    if not is_possible[kind]:
        _, name, limits = CORRUPTIONS[kind]
        raise ValueError(f"The {name} of {kind} must be {limits}, got {amount}.")


@dataclass(frozen=True)
class Corruption:
    """
    A corruption with its strength.

    Args:
        kind (`str`): `"patch_shuffle"`, `"low_pass"`, `"high_pass"` or `"phase_scramble"`.
        amount (`float`): Its tiles, sigma or strength.
        seed (`int`, *optional*, defaults to 0): Of what is random.

    Raises:
        ValueError: if there is no such corruption, or not of this strength.
    """

    kind: str
    amount: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_amount(self.kind, self.amount)
        if self.seed < 0:
            raise ValueError(f"The seed of {self.kind} must be at least 0, got {self.seed}.")

    def __str__(self) -> str:
        return CORRUPTIONS[self.kind][0].format(self.amount)

    @property
    def name(self) -> str:
        """Such as `"low_pass_2"`, for files and columns."""
        return f"{self.kind}_{self.amount:g}"

    def apply(self, image: np.ndarray, number: int) -> np.ndarray:
        """The corrupted image; `number` tells the images of a data set apart."""
        if self.kind == "patch_shuffle":
            return patch_shuffle(image, int(self.amount), self.seed, number)
        if self.kind == "phase_scramble":
            return phase_scramble(image, self.amount, self.seed, number)
        return low_pass(image, self.amount) if self.kind == "low_pass" else high_pass(image, self.amount)

    def apply_to_mask(self, mask: np.ndarray, number: int) -> np.ndarray:
        """The mask, `(height, width)`, of the corrupted image: tiles move, everything else leaves it as it is."""
        return self.apply(mask, number) if self.kind == "patch_shuffle" else mask

    def undo_in_features(
        self, features: torch.Tensor, grid_size: tuple[int, int], numbers: Sequence[int]
    ) -> torch.Tensor:
        """
        Puts the features of shuffled patches back, so that they can be compared with those of the clean images. Of
        other corruptions they stay as they are.

        Args:
            features (`torch.Tensor` of shape `(batch_size, rows * columns, hidden_size)`): Without CLS.
            grid_size: Rows and columns of patches.
            numbers: Of the images, as they were given to [`~Corruption.apply`].

        Raises:
            ValueError: if the tiles are not whole patches.
        """
        if self.kind != "patch_shuffle":
            return features
        tiles, (rows, columns) = int(self.amount), grid_size
        if rows % tiles or columns % tiles:
            raise ValueError(
                f"A grid of {rows}x{columns} patches has no {tiles}x{tiles} tiles of whole patches: choose tiles that "
                "divide both."
            )
        positions = np.arange(rows * columns).reshape(rows, columns)
        orders = [patch_shuffle(positions, tiles, self.seed, number, undo=True).ravel() for number in numbers]
        index = torch.from_numpy(np.stack(orders)).to(features.device)  # (B, N)
        return features.take_along_dim(index.unsqueeze(-1), dim=1)  # (B, N, D)


DEFAULT_CORRUPTIONS = (
    Corruption("patch_shuffle", 4),
    Corruption("low_pass", 2),
    Corruption("high_pass", 2),
    Corruption("phase_scramble", 1),
)


def feature_change(clean: torch.Tensor, corrupted: torch.Tensor) -> torch.Tensor:
    """
    How similar the features of each patch still are: 1 if the corruption changes nothing, near 0 if they have become
    unrelated. A network that looks at shape loses more under shuffling and scrambled phase than under a blur.

    Args:
        clean, corrupted (`torch.Tensor` of shape `(batch_size, num_patches, hidden_size)`): Features of the same
            patches, without CLS; see [`~Corruption.undo_in_features`] for shuffled ones.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size,)`: cosine similarity, -1 to 1, the mean over patches.

    Raises:
        ValueError: if the shapes differ or are others.
    """
    if clean.shape != corrupted.shape or clean.ndim != 3:
        raise ValueError(
            "Features must have the same shape (batch, patches, width) before and after, got "
            f"{tuple(clean.shape)} and {tuple(corrupted.shape)}."
        )
    return nn.functional.cosine_similarity(clean.float(), corrupted.float(), dim=-1).mean(dim=-1)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """In float64."""
    from scipy.ndimage import gaussian_filter

    _check_numbers(image)
    return gaussian_filter(image.astype(np.float64), sigma, axes=(0, 1))


def _as_dtype_of(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        values = values.round().clip(limits.min, limits.max)
    return values.astype(image.dtype)


def _check_shape(array: np.ndarray) -> None:
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"An image must have the shape (height, width) or (height, width, channels), got {array.shape}."
        )


def _check_numbers(image: np.ndarray) -> None:
    _check_shape(image)
    if not np.issubdtype(image.dtype, np.integer) and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"An image must hold integers or floating-point numbers, got {image.dtype}.")
    if not np.isfinite(image).all():
        raise ValueError("The image holds values that are not finite: replace them first.")


__all__ = [
    "CORRUPTIONS",
    "DEFAULT_CORRUPTIONS",
    "Corruption",
    "check_amount",
    "feature_change",
    "high_pass",
    "low_pass",
    "patch_shuffle",
    "phase_scramble",
]
