# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of infrared images and of their segmentation."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .modeling.image_processing_unip import UnipImageProcessor
from .modeling.image_reading_unip import ImageLike, read_image, to_channels_last


def _to_oklab(colours: np.ndarray) -> np.ndarray:
    """sRGB 0..1, `(..., 3)`, to lightness and two opponent axes in which distance is what the eye sees (Ottosson)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [[0.4122214708, 0.2119034982, 0.0883024619],
         [0.5363325363, 0.6806995451, 0.2817188376],
         [0.0514459929, 0.1073969566, 0.6299787005]]
    )  # fmt: skip
    return np.cbrt(cones) @ np.array(
        [[0.2104542553, 1.9779984951, 0.0259040371],
         [0.7936177850, -2.4285922050, 0.7827717662],
         [-0.0040720468, 0.4505937099, -0.8086757660]]
    )  # fmt: skip


@lru_cache(maxsize=8)
def _palette(num_labels: int) -> np.ndarray:
    levels = np.linspace(0, 1, 16)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = _to_oklab(candidates)
    # Colours that stand out from a grey image, neither black nor white.
    lightness, colourfulness = positions[:, 0], np.hypot(positions[:, 1], positions[:, 2])
    legible = (lightness > 0.45) & (lightness < 0.9) & (colourfulness > 0.09)
    candidates, positions = candidates[legible], positions[legible]
    chosen = [int(np.linalg.norm(positions - _to_oklab(np.array([0.2, 0.4, 0.8])), axis=1).argmin())]  # blue
    distances = np.full(len(positions), np.inf)
    while len(chosen) < num_labels:  # each colour is the one farthest from all before it
        distances = np.minimum(distances, np.linalg.norm(positions - positions[chosen[-1]], axis=1))
        chosen.append(int(distances.argmax()) if distances.any() else chosen[len(chosen) % len(positions)])
    return np.rint(candidates[chosen] * 255).astype(np.uint8)


def segmentation_palette(num_labels: int) -> np.ndarray:
    """
    Colours of classes: always the same, as different from one another as possible, and none of them grey. They only
    repeat after more than a thousand classes.

    Returns:
        uint8 `np.ndarray` of shape `(num_labels, 3)`.
    """
    if num_labels < 1:
        raise ValueError(f"num_labels must be at least 1, got {num_labels}.")
    return _palette(num_labels).copy()


def grey_picture(image: ImageLike, processor: UnipImageProcessor | None = None) -> np.ndarray:
    """
    An infrared image for the eye: 8 bits stay as they are, deeper images are scaled as the processor scales them.

    Args:
        image: `(height, width)` or `(height, width, 1 or 3)`, or anything else [`UnipImageProcessor`] takes.
        processor: By default one that scales between the percentiles 1 and 99.

    Returns:
        uint8 `np.ndarray` of shape `(height, width, 3)`.
    """
    array = to_channels_last(read_image(image))  # (H, W, 1 or 3)
    if array.dtype != np.uint8:
        if processor is None or not processor.do_rescale:
            processor = UnipImageProcessor()
        elif processor.main_modality == "visible":
            processor = processor.auxiliary  # the one for infrared images
        array = np.rint(processor.scale_intensities(array) * 255).astype(np.uint8)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array.copy()


def legend_picture(names: Mapping[int, str], width: int) -> Image.Image:
    """
    The names of classes beside their colours, on white. A class named "background" is left out, as it has no colour.

    Args:
        names: Names by class id.
        width: Width in pixels of the picture that the legend stands below.

    Returns:
        `PIL.Image.Image` of mode RGB, wider only if a name does not fit, and of height 0 without classes.
    """
    names = {index: name for index, name in names.items() if name.lower() != "background"}
    if not names:
        return Image.new("RGB", (width, 0))
    palette = segmentation_palette(max(names) + 1)
    size = max(13, width // 32)
    font, gap = ImageFont.load_default(size), size // 2
    widths = [int(font.getlength(name)) + size + 3 * gap for name in names.values()]
    width = max(width, max(widths) + gap)
    positions: list[tuple[int, int]] = []
    x = y = gap
    for entry in widths:
        if x + entry > width and x > gap:  # next line
            x, y = gap, y + size + gap
        positions.append((x, y))
        x += entry
    legend = Image.new("RGB", (width, y + size + gap), "white")
    pen = ImageDraw.Draw(legend)
    for (index, name), (x, y) in zip(names.items(), positions):
        colour = tuple(palette[index].tolist())
        pen.rectangle([(x, y), (x + size - 1, y + size - 1)], fill=colour, outline=(90, 90, 90))
        pen.text((x + size + gap, y + size // 2), name, fill=(20, 20, 20), font=font, anchor="lm")
    return legend


def overlay_picture(
    image: ImageLike,
    ids: np.ndarray,
    id2label: Mapping[int, str],
    opacity: float = 0.5,
    ignore_index: int = 255,
    with_legend: bool = False,
) -> Image.Image:
    """
    An image with its segmentation laid over it.

    Args:
        image: As for [`grey_picture`].
        ids: Integer class ids, `(height, width)`. Ignored pixels and a class named "background" get no colour.
        id2label: Names of the classes.
        opacity: Opacity of the colours, 0 to 1.
        ignore_index: Id of the pixels that have no class.
        with_legend: Whether names and colours of the classes that occur stand below the picture.

    Returns:
        `PIL.Image.Image` of mode RGB; without a legend it has the size of the image.

    Raises:
        ValueError: if image and ids differ in size, or an id has no name.
    """
    array, ids = to_channels_last(read_image(image)), np.asarray(ids)  # (H, W, 1 or 3), (H, W)
    if array.dtype != np.uint8:
        array = grey_picture(array)
    if array.shape[:2] != ids.shape:
        raise ValueError(f"Image and ids differ in size (height, width): {array.shape[:2]} and {ids.shape}.")
    # By rows of pixels: intermediate results of a large image would take many times its memory.
    step = max(1, 2**20 // ids.shape[1])
    parts = [slice(start, start + step) for start in range(0, len(ids), step)]
    present = sorted(set().union(*(_present(ids[part]) for part in parts)) - {ignore_index})
    unknown = sorted(set(present) - set(id2label))
    if unknown:
        raise ValueError(f"The ids {unknown} are in the segmentation but not in id2label, {dict(id2label)}.")
    shades = _shades(present, id2label, opacity)  # (classes + 1, 256, 3), the last for what has no colour
    picture = np.empty((*ids.shape, 3), np.uint8)
    for part in parts:
        classes = np.where(ids[part] == ignore_index, len(shades) - 1, ids[part]).astype(np.intp) << 8
        for channel in range(3):
            if channel < array.shape[2]:
                places = classes | array[part][..., channel]
            picture[part][..., channel] = shades[..., channel].ravel().take(places)
    overlay = Image.fromarray(picture)
    if not with_legend:
        return overlay
    return stacked([overlay, legend_picture({index: id2label[index] for index in present}, overlay.width)])


def _present(ids: np.ndarray) -> list[int]:
    """The ids that occur, in any order."""
    found = np.flatnonzero(np.bincount(ids.ravel())) if ids.dtype == np.uint8 else np.unique(ids)
    return found.astype(np.int64).tolist()


def _shades(present: Sequence[int], id2label: Mapping[int, str], opacity: float) -> np.ndarray:
    """What becomes of each value of a channel under each class up to the highest that is present, and under none."""
    values = np.arange(256, dtype=np.uint8)
    grey = np.repeat(values[:, None], 3, axis=1)  # (256, 3)
    shades = np.repeat(grey[None], max(present, default=-1) + 2, axis=0)
    palette = segmentation_palette(max(id2label) + 1)
    for index in present:
        if id2label[index].lower() != "background":
            colour = np.broadcast_to(palette[index], grey.shape)
            blended = Image.blend(Image.fromarray(grey[None]), Image.fromarray(colour[None].copy()), opacity)
            shades[index] = np.asarray(blended)[0]
    return shades


def side_by_side(panels: Sequence[tuple[str, Image.Image | np.ndarray]]) -> Image.Image:
    """
    Pictures in a row on white, aligned at the top, each with its title above.

    Args:
        panels: Titles and pictures. A picture is a PIL image, or an array as for [`grey_picture`].

    Returns:
        `PIL.Image.Image` of mode RGB.
    """
    pictures = [Image.fromarray(grey_picture(panel)) for _, panel in panels]
    size = max(14, max(picture.width for picture in pictures) // 28)
    font, gap = ImageFont.load_default(size), max(6, size // 2)
    widths = [max(picture.width, int(font.getlength(title)) + 1) for (title, _), picture in zip(panels, pictures)]
    top = size + 2 * gap
    height = top + max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (sum(widths) + gap * (len(panels) - 1), height), "white")
    pen, x = ImageDraw.Draw(canvas), 0
    for (title, _), picture, width in zip(panels, pictures, widths):
        pen.text((x, gap + size // 2), title, fill=(20, 20, 20), font=font, anchor="lm")
        canvas.paste(picture, (x, top))
        x += width + gap
    return canvas


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of mode RGB one below the other on white, aligned at the left."""
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    canvas, top = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


__all__ = ["grey_picture", "legend_picture", "overlay_picture", "segmentation_palette", "side_by_side", "stacked"]
