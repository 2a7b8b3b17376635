# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments frames and writes the results: masks, overlays, scores."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.utils import logging

from ..files import write_whole
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_reading_unip import read_mask
from ..pictures import legend_picture, overlay_picture, stacked
from ..progress import Progress
from .exported import EndToEndModel, ExportedModel
from .results import ResultFolder
from .sources import Frame, Source, collecting, read_frames
from .video import write_video
from .windows import InferenceSettings, reads_pairs, segment_image


logger = logging.get_logger(__name__)

Item = TypeVar("Item")


class SegmentedFrame(NamedTuple):
    """
    Args:
        frame ([`Frame`]): What was segmented.
        ids (`np.ndarray`): Class ids `(height, width)`, uint8, or uint16 above 256 classes.
        probabilities (`np.ndarray`, *optional*): float16 `(classes, height, width)`, if scores are to be written.
    """

    frame: Frame
    ids: np.ndarray
    probabilities: np.ndarray | None


class Predictor:
    """
    Segments frames and writes the results into a folder: `masks/NAME.png` (ids, uint8, uint16 above 256 classes),
    `overlays/NAME.png` or for a video `overlays/NAME.mp4`, and `scores/NAME.npz`. Each file appears whole.

    Args:
        model: Semantic segmentation model, of single images or of pairs.
        processor: Its image processor.
        results: Folder for the results.
        settings: How to go over an image.
        opacity: Opacity of the overlays' colours, 0 to 1.
        with_overlays: Whether to write overlays.
        with_scores: Whether to write the probabilities of all classes: array `probabilities`, float16
            `(classes, height, width)`.
        dtype (*optional*): Data type of automatic mixed precision, `torch.bfloat16` or `torch.float16`.

    Raises:
        ValueError: for `with_scores` with an end-to-end file, which only gives ids.
    """

    def __init__(
        self,
        model: PreTrainedModel | ExportedModel,
        processor: UnipImageProcessor,
        results: ResultFolder,
        settings: InferenceSettings,
        opacity: float = 0.5,
        with_overlays: bool = True,
        with_scores: bool = False,
        dtype: torch.dtype | None = None,
    ):
        if with_scores and isinstance(model, EndToEndModel):
            raise ValueError(f"{model.name!r} gives class ids and no scores. Export it without --end_to_end for them.")
        self.model = model
        self.processor = processor
        self.results = results
        self.settings = settings
        self.opacity = opacity
        self.with_overlays = with_overlays
        self.with_scores = with_scores
        self.dtype = dtype
        self.id2label = {int(index): name for index, name in (model.config.id2label or {}).items()}

    def run(self, sources: Sequence[Source], every: int = 1, unreadable: list[str] | None = None) -> tuple[int, int]:
        """
        Segments all frames that have no results yet, and writes theirs, with progress on stderr. One thread reads the
        frames to come and one segments, while this one writes what is finished.

        Args:
            sources: See [`find_sources`]; for a model of pairs [`find_pairs`].
            every: Take every n-th frame of a video.
            unreadable (`list[str]`, *optional*): Takes the messages on frames that cannot be read or used; without
                it, the first is raised.

        Returns:
            How many frames were segmented, and how many had results before.

        Raises:
            FileNotFoundError, ValueError: if a frame cannot be read or used, unless `unreadable` takes the message.
            OSError: if a result cannot be written.
        """
        names = [(source, name) for source in sources for name in source.frame_names(every)]
        already = len(names) - sum(self._lacks_results(*name) for name in names)
        progress = Progress("frame", len(names), done=len(names) - sum(self._is_wanted(*name) for name in names))
        frames = _ahead(read_frames(sources, every, self._is_wanted, unreadable))
        finished = _ahead(self.segment_frames(frames, unreadable))
        segmented = 0
        try:
            for source, of_source in itertools.groupby(finished, key=lambda result: result.frame.source):
                self.results.begin()
                with self._overlay_video(source, every) as append:
                    for result in of_source:
                        if self._lacks_results(source, result.frame.name):
                            self.write(result)
                            segmented += 1
                        append(result)
                        if progress.done < progress.total:  # the number of frames of a video is only an estimate
                            progress.update()
        finally:
            finished.close()
            progress.close()
        return segmented, already

    def segment_frames(self, frames: Iterable[Frame], unreadable: list[str] | None = None) -> Iterator[SegmentedFrame]:
        """
        Segments frames one by one. The mask of a frame that has all of its results is read instead.

        Args:
            frames: See [`read_frames`].
            unreadable (`list[str]`, *optional*): Takes the messages on frames that cannot be used; without it, the
                first is raised.

        Raises:
            ValueError: if a frame cannot be used; the message names it.
        """
        for frame in frames:
            with collecting(unreadable):
                if not self._lacks_results(frame.source, frame.name):
                    ids, probabilities = read_mask(self.mask_path(frame.name)), None
                else:
                    try:
                        images = (frame.image,) if frame.visible is None else (frame.image, frame.visible)
                        ids, probabilities = self.segment(*images)
                    except ValueError as error:
                        raise ValueError(f"{frame.place} cannot be used: {error}") from error
                yield SegmentedFrame(frame, ids, probabilities)

    def segment(self, image: np.ndarray, visible: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """
        Args:
            image: `(height, width)` or `(height, width, channels)` with the depth of the file.
            visible: For a model of pairs: the visible image. `image` is then the infrared one, whichever of the two is
                the main image of the model.

        Returns:
            Ids and probabilities, see [`SegmentedFrame`].

        Raises:
            ValueError: if the processor cannot use an image, or there are not as many as the model reads.
        """
        main, auxiliary = image, visible
        if visible is not None and reads_pairs(self.model):
            main, auxiliary = self.processor.by_role(image, visible)
            if _is_in_colour(image) and not _is_in_colour(visible):
                logger.warning_once("An infrared image is in colour, and its visible one is grey. Are they exchanged?")
        with torch.autocast(self.model.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            scores = segment_image(self.model, self.processor, main, self.settings, auxiliary)  # (classes, H, W)
        ids = scores.argmax(dim=0).cpu().numpy().astype(np.uint8 if len(scores) <= 256 else np.uint16)  # (H, W)
        if not self.with_scores:
            return ids, None
        is_average = self.settings.flip or len(self.settings.scales) > 1  # of probabilities, not logits
        return ids, (scores if is_average else scores.softmax(dim=0)).half().cpu().numpy()

    def write(self, result: SegmentedFrame) -> None:
        """
        Writes the results of a frame; of a video all but the overlay.

        Raises:
            OSError: if they cannot be written, for example because the disk is full.
        """
        for kind, path in self._paths(result.frame.source, result.frame.name).items():
            with write_whole(path) as staged:
                if kind == "masks":
                    Image.fromarray(result.ids).save(staged)
                elif kind == "overlays":
                    self._overlay(result, with_legend=True).save(staged)
                elif result.probabilities is not None:
                    np.savez_compressed(staged, probabilities=result.probabilities)

    def mask_path(self, name: str) -> Path:
        return self.results.path / "masks" / f"{name}.png"

    def _paths(self, source: Source, name: str) -> dict[str, Path]:
        """Where the results of a frame lie, by their kind."""
        paths = {"masks": self.mask_path(name)}
        if self.with_overlays and source.kind != "video":
            paths["overlays"] = self.results.path / "overlays" / f"{name}.png"
        if self.with_scores:
            paths["scores"] = self.results.path / "scores" / f"{name}.npz"
        return paths

    def _lacks_results(self, source: Source, name: str) -> bool:
        return not all(self.results.has(path) for path in self._paths(source, name).values())

    def _overlay_video_path(self, source: Source) -> Path | None:
        """Where the overlay of a video is still to be written; `None` for other sources."""
        path = self.results.path / "overlays" / f"{source.name}.mp4"
        return path if source.kind == "video" and self.with_overlays and not self.results.has(path) else None

    def _is_wanted(self, source: Source, name: str) -> bool:
        """Whether a frame is to be read. For its overlay, all frames of a video are."""
        return self._overlay_video_path(source) is not None or self._lacks_results(source, name)

    def _overlay(self, result: SegmentedFrame, with_legend: bool = False) -> Image.Image:
        image, ids = result.frame.image, result.ids
        return overlay_picture(image, ids, self.id2label, self.opacity, ignore_index=-1, with_legend=with_legend)

    @contextmanager
    def _overlay_video(self, source: Source, every: int) -> Iterator[Callable[[SegmentedFrame], None]]:
        """
        Gives a function that appends a frame to the overlay of a video, above a legend of all classes; it does nothing
        where there is no such overlay to write.
        """
        path = self._overlay_video_path(source)
        if path is None:
            yield lambda result: None
            return
        assert source.frame_rate is not None
        with write_whole(path) as staged, write_video(staged, source.frame_rate / every) as append:

            def append_overlay(result: SegmentedFrame) -> None:
                overlay = self._overlay(result)
                append(stacked([overlay, legend_picture(self.id2label, overlay.width)]))

            yield append_overlay


def _is_in_colour(image: np.ndarray) -> bool:
    return image.ndim == 3 and image.shape[2] == 3 and bool((image[..., :1] != image[..., 1:]).any())


def _ahead(items: Iterator[Item], count: int = 2) -> Generator[Item, None, None]:
    """The same items, made by a thread before they are asked for."""
    end: Any = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


__all__ = ["Predictor", "SegmentedFrame"]
