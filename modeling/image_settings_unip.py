# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The settings of the image processor: their types, their defaults by modality, and their checks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.processing_utils import ImagesKwargs


INTENSITY_SCALINGS = ("dtype_range", "fixed_range", "percentiles")
RESAMPLING_MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling: mode of interpolate
OTHER_MODALITY = {"infrared": "visible", "visible": "infrared"}

# Mean and standard deviation of InfMix, on which UNIP is pre-trained, and of ImageNet in colour and in grey.
INFRARED_STATISTICS = ([0.3801], [0.1871])
VISIBLE_STATISTICS = {3: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), 1: ([0.459], [0.226])}


class UnipImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings that only [`UnipImageProcessor`] has, and which are documented there."""

    num_channels: int
    antialias: bool
    intensity_scaling: str | None
    intensity_percentiles: list[float] | tuple[float, float]
    intensity_range: list[float] | tuple[float, float] | None
    counts_to_celsius: list[float] | tuple[float, float] | None
    do_reduce_labels: bool
    main_modality: str
    auxiliary_num_channels: int
    auxiliary_image_mean: float | list[float] | None
    auxiliary_image_std: float | list[float] | None


def normalisation(
    modality: str,
    num_channels: int,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> tuple[list[float], list[float]]:
    """
    Mean and standard deviation as lists: one value for all channels, or one for each. Where they are `None`, they are
    those of the modality.
    """
    if modality not in OTHER_MODALITY:
        raise ValueError(f'main_modality must be "infrared" or "visible", got {modality!r}.')
    visible = VISIBLE_STATISTICS.get(num_channels, VISIBLE_STATISTICS[3])
    defaults = INFRARED_STATISTICS if modality == "infrared" else visible

    def as_list(given: Sequence[float] | float | None, default: list[float]) -> list[float]:
        given = default if given is None else given
        return [given] if isinstance(given, (int, float)) else list(given)

    return as_list(mean, defaults[0]), as_list(std, defaults[1])


def check_settings(processor: Any) -> None:
    """Raises a `ValueError` for settings of a [`UnipImageProcessor`] that cannot be meant."""

    def check(holds: Any, message: str) -> None:
        if not holds:
            raise ValueError(message)

    for name in ("num_channels", "auxiliary_num_channels"):
        check(getattr(processor, name) in (1, 3), f"{name} must be 1 or 3, got {getattr(processor, name)!r}.")
    check(
        set(processor.size) in ({"shortest_edge", "longest_edge"}, {"shortest_edge"}, {"height", "width"}),
        'size must have the keys "shortest_edge" and "longest_edge", or "height" and "width", got '
        f"{sorted(processor.size)}.",
    )
    check(min(processor.size.values()) > 0, f"size must be at least 1 pixel, got {processor.size}.")
    check(processor.resample in RESAMPLING_MODES, f"resample must be 0, 2 or 3, got {processor.resample}.")
    check(
        processor.intensity_scaling in (None, *INTENSITY_SCALINGS),
        f"intensity_scaling must be None or one of {INTENSITY_SCALINGS}, got {processor.intensity_scaling!r}.",
    )
    for name in ("intensity_percentiles", "intensity_range", "counts_to_celsius"):
        pair = getattr(processor, name)
        check(
            pair is None or (len(pair) == 2 and np.isfinite(pair).all()),
            f"{name} must be a pair of finite numbers, got {pair}.",
        )
    low, high = processor.intensity_percentiles
    check(0 <= low < high <= 100, f"intensity_percentiles must rise within 0 to 100, got {low, high}.")
    low, high = processor.intensity_range or (0, 1)
    check(low < high, f"intensity_range must go from low to high, got {low, high}.")
    is_fixed = processor.intensity_scaling == "fixed_range"
    check(
        is_fixed == (processor.intensity_range is not None),
        'intensity_scaling="fixed_range" and intensity_range=(lowest, highest) must be given together.',
    )
    check(is_fixed or processor.counts_to_celsius is None, 'counts_to_celsius needs intensity_scaling="fixed_range".')
    factor, _ = processor.counts_to_celsius or (1, 0)
    check(factor != 0, "The factor of counts_to_celsius must not be 0.")
    for role in ("", "auxiliary_"):
        num_channels, std = getattr(processor, f"{role}num_channels"), getattr(processor, f"{role}image_std")
        for name in (f"{role}image_mean", f"{role}image_std"):
            values = getattr(processor, name)
            check(
                len(values) in (1, num_channels),
                f"{name} has {len(values)} values for {num_channels} channel(s). Give one, or one for each.",
            )
        check(min(std) > 0, f"{role}image_std must be positive, got {std}.")


__all__ = [
    "INTENSITY_SCALINGS",
    "OTHER_MODALITY",
    "RESAMPLING_MODES",
    "UnipImageProcessorKwargs",
    "check_settings",
    "normalisation",
]
