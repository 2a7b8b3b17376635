# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments frames and writes the results: masks, overlays, scores."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from transformers import PreTrainedModel
from transformers.utils import logging

from ..files import write_whole
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_reading_unip import read_mask
from ..pictures import legend_picture, overlay_picture, stacked
from ..progress import Progress
from .ahead import Task, ahead, worker_threads
from .canvas import Output
from .copying import copied_late
from .exported import EndToEndModel, ExportedModel
from .precision import CompiledModel, autocast
from .results import ResultFolder
from .sources import Frame, Source, list_frames
from .windows import InferenceSettings, PreparedImage, prepare_image, reads_pairs, segment_images


logger = logging.get_logger(__name__)


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


class WrittenFrame(NamedTuple):
    """
    Args:
        source ([`Source`]): Where it comes from.
        is_new (`bool`): Whether its results were not there before.
        overlay (`PIL.Image.Image`, *optional*): The next picture of a video that shows the segmentation.
    """

    source: Source
    is_new: bool
    overlay: Image.Image | None


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
        dtype: Precision of the computation, `"fp32"`, `"bf16"` or `"fp16"`.

    Raises:
        ValueError: for `with_scores` with an end-to-end file, which only gives ids.
    """

    def __init__(
        self,
        model: PreTrainedModel | ExportedModel | CompiledModel,
        processor: UnipImageProcessor,
        results: ResultFolder,
        settings: InferenceSettings,
        opacity: float = 0.5,
        with_overlays: bool = True,
        with_scores: bool = False,
        dtype: str = "fp32",
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
        Segments all frames that have no results yet, and writes theirs, with progress on stderr. Threads read the
        frames to come and write what is finished, while this one segments.

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
        segmented = 0
        # Autocast keeps weights that it cast.
        with closing(self.results), worker_threads() as threads, closing(progress), self._autocast():
            listed = list_frames(sources, every, self._is_wanted, unreadable)
            frames = ((frame.read, frame.num_pixels) for frame in listed)
            finished = ahead(threads, self._writing(self._segmented(threads, frames, unreadable)))
            for source, of_source in itertools.groupby(finished, key=lambda one: one.source):
                with self._overlay_video(source, every) as append:
                    for written in of_source:
                        segmented += written.is_new
                        if written.overlay is not None:
                            append(written.overlay)
                        if progress.done < progress.total:  # the number of frames of a video is only an estimate
                            progress.update()
        return segmented, already

    def segment_frames(self, frames: Iterable[Frame], unreadable: list[str] | None = None) -> Iterator[SegmentedFrame]:
        """
        Segments frames, in their order. The mask of a frame that has all of its results is read instead.

        Args:
            frames: See [`read_frames`].
            unreadable (`list[str]`, *optional*): Takes the messages on frames that cannot be used; without it, the
                first is raised.

        Raises:
            ValueError: if a frame cannot be used; the message names it.
        """
        with worker_threads() as threads:
            given = ((partial(_given, frame), frame.image.size) for frame in frames)
            yield from self._segmented(threads, given, unreadable)

    def _segmented(
        self, threads: Executor, frames: Iterable[Task[Frame]], unreadable: list[str] | None
    ) -> Iterator[SegmentedFrame]:
        """What [`segment_frames`] gives, of frames that threads read and prepare."""

        def readable() -> Iterator[PreparedImage[tuple[Frame, np.ndarray | None]]]:
            for prepared in ahead(threads, ((partial(self._prepare, read), pixels) for read, pixels in frames)):
                if isinstance(prepared, Exception):
                    _report(prepared, unreadable)
                else:
                    yield prepared

        output: Output = "ids_and_probabilities" if self.with_scores else "ids"
        segmented = segment_images(self.model, readable(), self.settings, output, self._autocast)
        for result, ids, probabilities in copied_late(segmented, self.settings.batch_size):
            frame, known_ids = result.key
            if result.error is not None:
                _report(_cannot_be_used(frame, result.error), unreadable)
            elif known_ids is not None:
                yield SegmentedFrame(frame, known_ids, None)
            elif ids is not None:
                yield SegmentedFrame(frame, ids if ids.dtype == np.uint8 else ids.astype(np.uint16), probabilities)

    def _prepare(self, read: Callable[[], Frame]) -> PreparedImage[tuple[Frame, np.ndarray | None]] | Exception:
        """Reads a frame, and prepares it for the model unless its mask is there. Errors are for later."""
        try:
            frame = read()
            if not self._lacks_results(frame.source, frame.name):
                return PreparedImage((frame, read_mask(self.mask_path(frame.name))))
        except (ValueError, FileNotFoundError) as error:
            return error
        try:
            return self.prepare(frame)
        except ValueError as error:
            return _cannot_be_used(frame, error)

    def prepare(self, frame: Frame) -> PreparedImage[tuple[Frame, np.ndarray | None]]:
        """
        Prepares a frame for the model.

        Raises:
            ValueError: if the processor cannot use an image, or there are not as many as the model reads.
        """
        main, auxiliary = frame.image, frame.visible
        if frame.visible is not None and reads_pairs(self.model):
            main, auxiliary = self.processor.by_role(frame.image, frame.visible)
            if _is_in_colour(frame.image) and not _is_in_colour(frame.visible):
                logger.warning_once("An infrared image is in colour, and its visible one is grey. Are they exchanged?")
        return prepare_image((frame, None), self.model, self.processor, main, self.settings, auxiliary)

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.dtype, self.model.device)

    def _writing(self, results: Iterable[SegmentedFrame]) -> Iterator[Task["WrittenFrame"]]:
        for result in results:
            self.results.begin()
            yield partial(self._write, result), result.ids.size
            del result

    def _write(self, result: SegmentedFrame) -> "WrittenFrame":
        source = result.frame.source
        if is_new := self._lacks_results(source, result.frame.name):
            self.write(result)
        is_for_video = self._overlay_video_path(source) is not None
        return WrittenFrame(source, is_new, self._overlay_for_video(result) if is_for_video else None)

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
                    # Level 1 takes a third of the time of the default, and a third more space.
                    self._overlay(result, with_legend=True).save(staged, compress_level=1)
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

    def _overlay_for_video(self, result: SegmentedFrame) -> Image.Image:
        """The overlay above a legend of all classes."""
        overlay = self._overlay(result)
        return stacked([overlay, legend_picture(self.id2label, overlay.width)])

    @contextmanager
    def _overlay_video(self, source: Source, every: int) -> Iterator[Callable[[Image.Image], None]]:
        """
        Gives a function that appends a picture to the overlay of a video; it does nothing where there is no such
        overlay to write.
        """
        path = self._overlay_video_path(source)
        if path is None:
            yield lambda picture: None
            return
        from .video import write_video

        assert source.frame_rate is not None
        with write_whole(path) as staged, write_video(staged, source.frame_rate / every) as append:
            yield append


def _is_in_colour(image: np.ndarray) -> bool:
    return image.ndim == 3 and image.shape[2] == 3 and bool((image[..., :1] != image[..., 1:]).any())


def _given(frame: Frame) -> Frame:
    return frame


def _cannot_be_used(frame: Frame, error: ValueError) -> ValueError:
    described = ValueError(f"{frame.place} cannot be used: {error}")
    described.__cause__ = error
    return described


def _report(error: Exception, unreadable: list[str] | None) -> None:
    if unreadable is None:
        raise error
    unreadable.append(str(error))


__all__ = ["Predictor", "SegmentedFrame"]
