# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Whether the images of a pair lie on each other, judged by their edges, which two modalities have in common."""

import numpy as np


LONGEST_SIDE = 320  # pixels that are compared; larger images are reduced
LARGEST_SHIFT = 0.06  # that is looked for, as a share of the longer side
SMALLEST_SHIFT = 3  # pixels of the original image; cameras side by side always differ a little
LOWEST_CORRELATION = 0.25  # below it, the edges say nothing, as at night
HIGHEST_SHARE = 0.8  # of the correlation without a shift in the highest one, or the pair is aligned


def find_shift(infrared: np.ndarray, visible: np.ndarray) -> tuple[int, int] | None:
    """
    By how much the visible image of a pair is visibly shifted against the infrared one.

    Args:
        infrared, visible (`np.ndarray` of shape `(height, width, channels)`): Finite intensities of any depth, of the
            same size.

    Returns:
        Pixels to the right and down, to the precision of an image reduced to 320 pixels. `None` if the images lie on
        each other, or do not have enough edges in common to tell.
    """
    factor = max(1, round(max(infrared.shape[:2]) / LONGEST_SIDE))
    first, second = (_edges(image, factor) for image in (infrared, visible))
    height, width = first.shape
    reach = max(4, round(LARGEST_SHIFT * max(height, width)))
    if min(height, width) < 4 * reach:
        return None
    padded = 2 * height, 2 * width  # so that nothing wraps around
    spectrum = np.fft.rfft2(first, padded).conj() * np.fft.rfft2(second, padded)
    correlation = np.roll(np.fft.irfft2(spectrum, padded), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    right, down = (int(place - reach) * factor for place in (column, row))
    highest = correlation.max()
    is_clear = highest >= LOWEST_CORRELATION and correlation[reach, reach] < HIGHEST_SHARE * highest
    return (right, down) if is_clear and max(abs(right), abs(down)) >= SMALLEST_SHIFT else None


def _edges(image: np.ndarray, factor: int) -> np.ndarray:
    """Strength of the edges, of mean 0 and norm 1, fading at the border: float32 `(height, width)`, reduced."""
    grey = image.astype(np.float32).mean(axis=2)
    low, high = np.percentile(grey, (1, 99))
    height, width = (side // factor for side in grey.shape)
    grey = ((grey - low) / max(high - low, 1e-6)).clip(0, 1)[: height * factor, : width * factor]
    grey = grey.reshape(height, factor, width, factor).mean(axis=(1, 3))
    strength = np.hypot(*np.gradient(grey)) if min(height, width) > 1 else np.zeros_like(grey)
    strength = np.minimum(strength, np.percentile(strength, 97))  # a lamp must not outshine all else
    fade = [np.hanning(side + 2)[1:-1] ** 0.25 for side in (height, width)]
    strength = (strength - strength.mean()) * np.outer(*fade)
    return strength / max(float(np.linalg.norm(strength)), 1e-9)


__all__ = ["find_shift"]
