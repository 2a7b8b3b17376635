# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation of whole images of any size with any semantic segmentation model of `transformers`."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..data.resizing import without_copies
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_reading_unip import ImageLike, check_same_sizes, read_image, to_channels_last
from ..modeling.image_settings_unip import OTHER_MODALITY
from .ahead import until_error
from .canvas import Canvas, Output, highest
from .exported import EndToEndModel
from .settings import DEFAULT_SETTINGS, InferenceSettings, reads_pairs
from .window_batches import FinishedRows, WindowBatcher, WindowGrid


Key = TypeVar("Key")


def sliding_window_logits(
    model: nn.Module,
    pixel_values: torch.Tensor,
    window_size: int = 512,
    stride: int = 341,
    batch_size: int = 8,
    output_device: str | torch.device | None = None,
    auxiliary_pixel_values: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Logits of images of any size from overlapping windows, averaged where they overlap.

    Windows are placed as in the published code, and the logits of each are resized (bilinear) to the window before
    they are averaged. An image side that is shorter than the window is taken whole.

    Args:
        model: Semantic segmentation model whose output has `logits`; it runs in evaluation mode.
        pixel_values: Processed images `(batch_size, channels, height, width)` on any device.
        window_size: Side of the window in pixels.
        stride: Pixels from one window to the next, at most `window_size`.
        batch_size: How many windows the model gets at once; they may come from several images.
        output_device: Where logits of full size are added up; by default the model's device.
        auxiliary_pixel_values: For a model of pairs: the processed other images, of the same size.

    Returns:
        float32 `torch.Tensor` of shape `(batch_size, classes, height, width)` on `output_device`.

    Raises:
        ValueError: if window, stride or batch size is out of range, or the images of pairs differ in number or size.
    """
    InferenceSettings(window_size, stride, batch_size=batch_size)  # checks them
    images, _, height, width = pixel_values.shape
    inputs = {"pixel_values": pixel_values}
    if auxiliary_pixel_values is not None:
        inputs["auxiliary_pixel_values"] = auxiliary_pixel_values
        if (sizes := auxiliary_pixel_values.shape[-2:]) != (height, width) or len(auxiliary_pixel_values) != images:
            raise ValueError(
                f"pixel_values holds {images} images of {height}x{width} pixels (height x width), but "
                f"auxiliary_pixel_values {len(auxiliary_pixel_values)} of {sizes[0]}x{sizes[1]}."
            )
    if not images:
        raise ValueError("There are no images: pixel_values is empty.")
    grids = [
        WindowGrid({name: values[image] for name, values in inputs.items()}, window_size, stride)
        for image in range(images)
    ]
    canvases = {grid: Canvas((height, width), [(height, width)], "scores") for grid in grids}
    batcher = WindowBatcher(model, batch_size, output_device)

    def put(finished: Iterable[FinishedRows]) -> None:
        for rows in finished:
            if rows.logits is None:
                raise rows.error or ValueError("The model gives no logits.")
            canvases[rows.grid].add(0, rows.first, rows.logits)

    for grid in grids:
        for number in range(len(grid.tops)):
            put(batcher.add_row(grid, number))
    put(batcher.flush())
    with torch.inference_mode():
        return torch.stack([canvas.scores for canvas in canvases.values() if canvas.scores is not None])


@dataclass(eq=False)
class PreparedImage(Generic[Key]):
    """
    An image that is ready for the model, or, if `grids` is empty, one that the model is not needed for.

    Args:
        key: What its result is to be known by.
        size (`tuple[int, int]`): Height and width of the image.
        grids (`list[WindowGrid]`): One for each pass over it.
        frames (`tuple[np.ndarray, ...]`): The raw image or pair, for an [`EndToEndModel`].
    """

    key: Key
    size: tuple[int, int] = (0, 0)
    grids: list[WindowGrid] = field(default_factory=list)
    frames: tuple[Any, ...] = ()


@dataclass(eq=False)
class SegmentedImage(Generic[Key]):
    """
    Args:
        key: What the image is known by.
        ids, probabilities, scores (`torch.Tensor`, *optional*): As wanted, see [`Canvas`].
        error (`ValueError`, *optional*): Why there are none.
        num_windows (`int`): How much of the model's work it was.
    """

    key: Key
    ids: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    error: ValueError | None = None
    num_windows: int = 0


def prepare_image(
    key: Key,
    model: nn.Module,
    processor: UnipImageProcessor,
    image: ImageLike,
    settings: InferenceSettings = DEFAULT_SETTINGS,
    auxiliary_image: ImageLike | None = None,
    *,
    is_auxiliary_missing: bool = False,
) -> PreparedImage[Key]:
    """
    Reads, scales and resizes an image on the CPU, which another thread may do while the model computes.

    Args:
        key: What the image is known by.
        model, processor, image, settings, auxiliary_image, is_auxiliary_missing: As for [`segment_image`].

    Raises:
        FileNotFoundError, ValueError: if an image cannot be used, or there are not as many as the model reads.
    """
    _check_pair(model, auxiliary_image is not None, is_auxiliary_missing)
    frames = {"pixel_values": to_channels_last(read_image(image))}  # (H, W, C)
    if auxiliary_image is not None:
        frames["auxiliary_pixel_values"] = to_channels_last(read_image(auxiliary_image))
        check_same_sizes([frames["pixel_values"]], [frames["auxiliary_pixel_values"]], "auxiliary image")
    height, width = frames["pixel_values"].shape[:2]
    if isinstance(model, EndToEndModel):
        if is_auxiliary_missing:
            raise ValueError("An end-to-end file takes both raw frames: export without end_to_end to go without one.")
        if settings.flip or settings.scales != (1.0,):
            raise ValueError("An end-to-end file takes the whole frame once: leave out flip and scales.")
        return PreparedImage(key, (height, width), frames=tuple(frames.values()))
    is_for_gpu = next(model.parameters()).is_cuda
    grids = []
    for scale in settings.scales:
        resized = copy.copy(processor)
        if scale != 1:
            sides = (max(1, int(side * scale + 0.5)) for side in processor.output_size(height, width))
            resized.do_resize, resized.size = True, dict(zip(("height", "width"), sides))
        inputs = {
            name: (resized if name == "pixel_values" else resized.auxiliary).process_image(frame)
            for name, frame in frames.items()
        }  # (C, h, w)
        if is_auxiliary_missing:
            shape = (processor.auxiliary_num_channels, *inputs["pixel_values"].shape[-2:])
            inputs["auxiliary_pixel_values"] = torch.zeros(1, 1, 1).expand(shape)
        if is_for_gpu:  # memory that the GPU reads by itself
            inputs = {name: without_copies(image).pin_memory().expand_as(image) for name, image in inputs.items()}
        window_size = settings.window_size or max(inputs["pixel_values"].shape[-2:])
        stride = settings.stride if settings.window_size else window_size
        flips = (False, True) if settings.flip else (False,)
        grids += [WindowGrid(inputs, window_size, stride, is_flipped) for is_flipped in flips]
    return PreparedImage(key, (height, width), grids)


class _Running(Generic[Key]):
    """An image that the model is at work on."""

    def __init__(self, prepared: PreparedImage[Key], output: Output):
        grids = prepared.grids
        self.numbers = {grid: number for number, grid in enumerate(grids)}
        self.canvas = Canvas(prepared.size, [(grid.height, grid.width) for grid in grids], output)
        num_windows = sum(len(grid.tops) * len(grid.lefts) for grid in grids)
        self.result = SegmentedImage(prepared.key, num_windows=num_windows)
        self.is_finished = not grids

    def rows(self) -> Iterator[tuple[WindowGrid, int]]:
        """The rows of windows of all passes, from above to below, so that finished rows of pixels can go."""
        rows = [(grid.tops[row] / grid.height, number, row) for grid, number in self.numbers.items()
                for row in range(len(grid.tops))]  # fmt: skip
        grids = list(self.numbers)
        return ((grids[number], row) for _, number, row in sorted(rows))

    def put(self, rows: FinishedRows) -> None:
        if self.is_finished:  # by an error
            return
        if rows.logits is not None:
            self.canvas.add(self.numbers[rows.grid], rows.first, rows.logits)
        self.result.error = rows.error
        self.is_finished = self.canvas.is_finished or rows.error is not None
        if self.is_finished:
            for name in ("ids", "probabilities", "scores"):
                setattr(self.result, name, getattr(self.canvas, name))


def segment_images(
    model: nn.Module,
    images: Iterable[PreparedImage[Key]],
    settings: InferenceSettings = DEFAULT_SETTINGS,
    output: Output = "ids",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[SegmentedImage[Key]]:
    """
    Segments images, whose windows go through the model in common batches. Of a large image only the rows that later
    windows overlap are held as scores, unless all scores are wanted. Nothing here waits for a GPU.

    Args:
        model: Semantic segmentation model; runs in evaluation mode.
        images: See [`prepare_image`]. If asking for the next one raises an error, those before are finished first.
        settings: As for [`prepare_image`].
        output: What is wanted: `"ids"`, `"ids_and_probabilities"` or `"scores"`, see [`Canvas`].
        autocast: Makes the context that the model runs in.

    Yields:
        [`SegmentedImage`], in the order of the images.
    """
    if isinstance(model, EndToEndModel):
        yield from _segment_end_to_end(model, images, output)
        return
    batcher = WindowBatcher(model, settings.batch_size, settings.output_device, autocast)
    running: deque[_Running[Key]] = deque()
    owners: dict[WindowGrid, _Running[Key]] = {}
    errors: list[BaseException] = []

    def finished(rows: Iterable[FinishedRows] = ()) -> Iterator[SegmentedImage[Key]]:
        for one in rows:
            owners[one.grid].put(one)
        while running and running[0].is_finished:
            done = running.popleft()
            for grid in done.numbers:
                del owners[grid]
                grid.inputs = {}  # however long the rest is kept
            yield done.result

    for prepared in until_error(images, errors):
        image = _Running(prepared, output)
        del prepared
        running.append(image)
        owners.update(dict.fromkeys(image.numbers, image))
        for grid, number in image.rows():
            if image.is_finished:
                break
            for rows in batcher.add_row(grid, number):
                yield from finished([rows])
        yield from finished()
    yield from finished(batcher.flush())
    if errors:
        raise errors[0]


def _segment_end_to_end(
    model: EndToEndModel, images: Iterable[PreparedImage[Key]], output: Output
) -> Iterator[SegmentedImage[Key]]:
    for image in images:
        result = SegmentedImage(image.key, num_windows=1)
        try:
            if image.frames and output == "scores":
                result.scores = model.scores(*image.frames)
            elif image.frames:
                result.ids = model.segment(*image.frames)
        except ValueError as error:
            result.error = error
        yield result


def segment_image(
    model: nn.Module,
    processor: UnipImageProcessor,
    image: ImageLike,
    settings: InferenceSettings = DEFAULT_SETTINGS,
    auxiliary_image: ImageLike | None = None,
    *,
    is_auxiliary_missing: bool = False,
) -> torch.Tensor:
    """
    Scores of every class at every pixel of an image, at its own size.

    The processor scales and resizes the image, and the logits are resized (bilinear) back. With `flip` or several
    `scales`, the softmax probabilities of all passes are averaged, as in the published code.

    Args:
        model: Semantic segmentation model whose output has `logits`; runs in evaluation mode.
        processor: Image processor.
        image: `(height, width)` or `(height, width, channels)` with the depth that the camera gave, or anything else
            that the processor takes.
        settings: Windows, flipping, scales.
        auxiliary_image: For a model of pairs: the other image, of the same size. Which of the two is the infrared one
            says `config.main_modality` of the model.
        is_auxiliary_missing: For a model of pairs: whether to go without the other image. Zeros, which are the mean of
            normalised images, stand in for it.

    Returns:
        float32 `torch.Tensor` of shape `(classes, height, width)` on the model's device, or on
        `settings.output_device`: logits of a single pass, or probabilities of several. An [`EndToEndModel`] takes the
        whole frame and gives 1 for the class of a pixel and 0 for all others.

    Raises:
        FileNotFoundError, ValueError: if an image cannot be used, or there are not as many as the model reads.
    """
    prepared = prepare_image(
        None, model, processor, image, settings, auxiliary_image, is_auxiliary_missing=is_auxiliary_missing
    )
    result = next(segment_images(model, [prepared], settings, "scores"))
    if result.scores is None:
        raise result.error or ValueError("The model gives no scores.")
    return result.scores


def _check_pair(model: nn.Module, is_pair: bool, is_auxiliary_missing: bool) -> None:
    """Raises a `ValueError` if a model does not read what was given."""
    if not reads_pairs(model):
        if is_pair or is_auxiliary_missing:
            raise ValueError("This model reads one image at a time: leave out the auxiliary image.")
    elif is_pair and is_auxiliary_missing:
        raise ValueError("The auxiliary image is given and said to be missing: choose one.")
    elif not is_pair and not is_auxiliary_missing:
        main = getattr(model.config, "main_modality", "infrared")
        raise ValueError(
            f"This model reads pairs: beside the {main} image it needs the {OTHER_MODALITY[main]} image of the same "
            "scene, the auxiliary image."
        )


__all__ = [
    "DEFAULT_SETTINGS",
    "InferenceSettings",
    "PreparedImage",
    "SegmentedImage",
    "highest",
    "prepare_image",
    "reads_pairs",
    "segment_image",
    "segment_images",
    "sliding_window_logits",
]
