# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Two segmentations of an image: their classes beside each other, and where they differ."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..inference import InferenceSettings, segment_image
from ..inference.canvas import highest
from ..inference.windows import reads_pairs
from ..modeling.image_processing_unip import UnipImageProcessor
from ..pictures import overlay_picture
from .components import percent, swatch
from .segmentation import class_shares


@dataclass(frozen=True)
class SegmentedImage:
    """
    Args:
        picture (`PIL.Image.Image`): The image, scaled as for the model, with the classes laid over it.
        ids (`np.ndarray` of shape `(height, width)`): Class of each pixel.
        id2label (`dict[int, str]`): Names of the classes.
    """

    picture: Image.Image
    ids: np.ndarray
    id2label: Mapping[int, str]


def with_scaling(
    processor: UnipImageProcessor, scaling: str, bounds: tuple[float, float] | None = None
) -> UnipImageProcessor:
    """
    A copy of an image processor that scales intensities in another way.

    Args:
        processor: Stays as it is.
        scaling: `intensity_scaling` of [`UnipImageProcessor`].
        bounds: What becomes 0 and 1. For `"percentiles"` these are ranks from 0 to 100, for `"fixed_range"` values in
            the unit of the image.

    Raises:
        ValueError: if the bounds do not fit the scaling, or the processor leaves values as they are.
    """
    if not processor.do_rescale:
        raise ValueError("This model takes values as they are, so their scaling cannot be chosen.")
    settings = {
        **processor.to_dict(),
        "intensity_scaling": scaling,
        "intensity_range": None,
        "counts_to_celsius": None,
    }
    if bounds is not None:
        settings["intensity_range" if scaling == "fixed_range" else "intensity_percentiles"] = list(bounds)
    return type(processor).from_dict(settings)


def segment(
    model: Any,
    processor: UnipImageProcessor,
    image: np.ndarray,
    visible: np.ndarray | None = None,
    is_main_alone: bool = False,
) -> SegmentedImage:
    """
    Segments an image as `unip predict` does by default.

    Args:
        model: Model, see [`load_segmentation_model`].
        processor: Its image processor.
        image: `(height, width)` or `(height, width, 3)`, with the depth that the camera gave.
        visible: For a model of pairs: the visible image; `image` is the infrared one.
        is_main_alone: For a model of pairs: whether it sees its main image only, as if the other camera had failed.

    Raises:
        ValueError: if the processor cannot use an image, or the visible one is missing.
    """
    settings = InferenceSettings.for_model(model)
    if reads_pairs(model):
        if visible is None and not (is_main_alone and processor.main_modality == "infrared"):
            raise ValueError("This model reads pairs: send the visible image of the same scene, too.")
        main, auxiliary = processor.by_role(image, visible)
        auxiliary = None if is_main_alone else auxiliary
        scores = segment_image(model, processor, main, settings, auxiliary, is_auxiliary_missing=is_main_alone)
    else:
        scores = segment_image(model, processor, image, settings)  # (classes, H, W)
    ids = highest(scores).cpu().numpy()  # (H, W)
    id2label = {int(index): name for index, name in model.config.id2label.items()}
    of_infrared, _ = processor.by_role(processor, processor.auxiliary)
    if processor.do_rescale:  # what the network sees
        image = np.rint(of_infrared.scale_intensities(image) * 255).astype(np.uint8)
    return SegmentedImage(overlay_picture(image, ids, id2label, ignore_index=-1), ids, id2label)


def differing_pixels(first: SegmentedImage, second: SegmentedImage) -> np.ndarray | None:
    """
    Where two segmentations of an image name different classes, bool `(height, width)`. The order of the classes does
    not matter. `None` if the two models do not have the same classes.
    """
    if set(first.id2label.values()) != set(second.id2label.values()):
        return None
    numbers = {name: number for number, name in enumerate(first.id2label.values())}
    maps = []
    for segmented in (first, second):
        number_of = np.zeros(max(segmented.id2label) + 1, dtype=np.int64)
        for index, name in segmented.id2label.items():
            number_of[index] = numbers[name]
        maps.append(number_of[segmented.ids])  # (H, W)
    return maps[0] != maps[1]


def difference_picture(image: np.ndarray, is_different: np.ndarray) -> Image.Image:
    """The image with the pixels coloured where `is_different`, bool `(height, width)`."""
    return overlay_picture(image, is_different, {0: "background", 1: "different"}, opacity=0.8)


def share_table(first: SegmentedImage, second: SegmentedImage) -> str:
    """The shares of all classes that occur in either image, beside each other, with their colours, as HTML."""

    def cells(segmented: SegmentedImage) -> dict[str, tuple[float, str]]:
        """Name of each class that occurs: its share, and the content of its cell."""
        labels = segmented.id2label
        return {
            labels[index]: (share, f'<span class="share">{swatch(index, labels)}{percent(share)}</span>')
            for index, share in class_shares(segmented.ids).items()
        }

    columns = [cells(first), cells(second)]
    rows = {name: [column.get(name, (0.0, "")) for column in columns] for column in columns for name in column}
    table = "<tr><th></th><th>First</th><th>Second</th></tr>"
    for name, row in sorted(rows.items(), key=lambda row: -max(share for share, _ in row[1])):
        table += f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for _, cell in row)}</tr>"
    return f"<table>{table}</table>"


def agreement(is_different: np.ndarray | None) -> str:
    """A sentence on what [`differing_pixels`] found."""
    if is_different is None:
        return "The two models have different classes, so it cannot be said on how many pixels they agree."
    if not is_different.any():
        return "Both name the same class at every pixel."
    count = int(is_different.sum())
    share = f"{1 - is_different.mean():.1%}"
    share = "almost 100%" if share == "100.0%" else share
    return f"Both name the same class at {share} of the pixels; {count:,} differ{'s' * (count == 1)}."


__all__ = [
    "SegmentedImage",
    "agreement",
    "difference_picture",
    "differing_pixels",
    "segment",
    "share_table",
    "with_scaling",
]
