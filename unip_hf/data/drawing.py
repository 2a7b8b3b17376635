# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What both cameras of the drawn scenes share: smooth noise, and the blur of a lens."""

import numpy as np
from PIL import Image


def smooth_noise(generator: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise with a standard deviation of about 1 that varies over `cell` pixels, `(height, width)`."""
    coarse = generator.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `(height, width)` over at most three pixels to each side."""
    offsets = np.arange(-3, 4)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(3, 3) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        image = sum(w * padded.take(range(3 + o, 3 + o + image.shape[axis]), axis) for w, o in zip(kernel, offsets))
    return image


__all__ = ["blur", "smooth_noise"]
