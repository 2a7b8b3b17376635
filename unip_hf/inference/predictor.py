# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments frames and writes what was found: masks, overlays, scores."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from ..files import write_whole
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_reading_unip import read_mask
from ..pictures import overlay_picture
from .exported import EndToEndModel, ExportedModel
from .sources import Frame, Source, read_frames
from .video import write_video
from .windows import InferenceSettings, segment_image


def read_wanted(
    sources: Sequence[Source],
    every: int,
    is_wanted: Callable[[Source, str], bool],
    unreadable: list[str] | None = None,
) -> Iterator[tuple[Source, Frame, np.ndarray]]:
    """
    Reads the frames of sources that are wanted.

    Args:
        sources: Of [`find_sources`].
        every: Of a video, take every n-th frame.
        is_wanted: Takes a source and the name of one of its frames.
        unreadable (*optional*): Takes the messages on what cannot be read, and the next is read; without it, the
            first is raised.
    """
    for source in sources:
        frames = read_frames(source, every)
        while True:
            try:
                if (frame := next(frames, None)) is None:
                    break
                image = frame.load() if is_wanted(source, frame.name) else None
            except (ValueError, FileNotFoundError) as error:
                if unreadable is None:
                    raise
                unreadable.append(str(error))
                continue
            if image is not None:
                yield source, frame, image


class Predictor:
    """
    Segments frames and writes the results into a folder: `masks/NAME.png` (ids, uint8, uint16 above 256 classes),
    `overlays/NAME.png` or for a video `overlays/NAME.mp4`, and `scores/NAME.npz`. Each file appears whole.

    Args:
        model: Semantic segmentation model.
        processor: Its image processor.
        output_dir: Folder for the results.
        settings: How to go over an image.
        opacity: Of the overlays' colours, 0 to 1.
        with_overlays: Whether to write overlays.
        with_scores: Whether to write the probabilities of all classes: array `probabilities`, float16
            `(classes, height, width)`.
        dtype (*optional*): Of automatic mixed precision, `torch.bfloat16` or `torch.float16`.
        since: Results in the folder that are older do not count, in nanoseconds as `st_mtime_ns`.

    Raises:
        ValueError: for `with_scores` with an end-to-end file, which gives ids alone.
    """

    def __init__(
        self,
        model: PreTrainedModel | ExportedModel,
        processor: UnipImageProcessor,
        output_dir: Path,
        settings: InferenceSettings,
        opacity: float = 0.5,
        with_overlays: bool = True,
        with_scores: bool = False,
        dtype: torch.dtype | None = None,
        since: int = 0,
    ):
        if with_scores and isinstance(model, EndToEndModel):
            raise ValueError(f"{model.name!r} gives class ids and no scores: export without --end_to_end for them.")
        self.model = model
        self.processor = processor
        self.output_dir = output_dir
        self.settings = settings
        self.opacity = opacity
        self.with_overlays = with_overlays
        self.with_scores = with_scores
        self.dtype = dtype
        self.since = since
        self.id2label = {int(index): name for index, name in (model.config.id2label or {}).items()}

    def mask_path(self, name: str) -> Path:
        return self.output_dir / "masks" / f"{name}.png"

    def paths(self, source: Source, name: str) -> dict[str, Path]:
        """Where the results of a frame of a source lie, by their kind: masks, overlays, scores."""
        paths = {"masks": self.mask_path(name)}
        if self.with_overlays and source.kind != "video":
            paths["overlays"] = self.output_dir / "overlays" / f"{name}.png"
        if self.with_scores:
            paths["scores"] = self.output_dir / "scores" / f"{name}.npz"
        return paths

    def exists(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_mtime_ns >= self.since

    def is_missing(self, source: Source, name: str) -> bool:
        """Whether a frame has not all of its results yet."""
        return not all(self.exists(path) for path in self.paths(source, name).values())

    def segment(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """
        Args:
            image: `(height, width)` or `(height, width, channels)` with the depth of the file.

        Returns:
            Class ids `(height, width)`, uint8 or uint16, and probabilities, float16 `(classes, height, width)`, if
            scores are to be written.

        Raises:
            ValueError: if the processor cannot use the image.
        """
        with torch.autocast(self.model.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            scores = segment_image(self.model, self.processor, image, self.settings)  # (classes, H, W)
        ids = scores.argmax(dim=0).cpu().numpy().astype(np.uint8 if len(scores) <= 256 else np.uint16)  # (H, W)
        if not self.with_scores:
            return ids, None
        is_average = self.settings.flip or len(self.settings.scales) > 1  # of probabilities, not logits
        return ids, (scores if is_average else scores.softmax(dim=0)).half().cpu().numpy()

    def write(
        self, source: Source, name: str, image: np.ndarray, ids: np.ndarray, probabilities: np.ndarray | None
    ) -> None:
        """
        Writes the results of a frame.

        Raises:
            OSError: if the disk is full, say.
        """
        for kind, path in self.paths(source, name).items():
            with write_whole(path) as staged:
                if kind == "masks":
                    Image.fromarray(ids).save(staged)
                elif kind == "overlays":
                    self._overlay(image, ids, with_legend=True).save(staged)
                elif probabilities is not None:
                    np.savez_compressed(staged, probabilities=probabilities)

    def _overlay(self, image: np.ndarray, ids: np.ndarray, with_legend: bool) -> Image.Image:
        return overlay_picture(image, ids, self.id2label, self.opacity, ignore_index=-1, with_legend=with_legend)

    def _legend(self, ids: Sequence[int], width: int) -> Image.Image:
        """What [`overlay_picture`] writes below a picture of this width."""
        row = np.resize(ids, (1, max(width, len(ids))))
        picture = self._overlay(np.zeros(row.shape, np.uint8), row, with_legend=True)
        return picture.crop((0, 1, *picture.size))

    def masks_without_overlay(self, source: Source) -> list[Path]:
        """The masks of a video whose overlay is still to be written; none for other sources."""
        masks = self.output_dir / "masks" / source.name
        if source.kind != "video" or not self.with_overlays or self.exists(self.overlay_video_path(source)):
            return []
        return [path for path in sorted(masks.glob("*.png")) if self.exists(path)]

    def overlay_video_path(self, source: Source) -> Path:
        return self.output_dir / "overlays" / f"{source.name}.mp4"

    def write_overlay_video(
        self,
        source: Source,
        masks: Sequence[Path],
        every: int = 1,
        is_damaged: bool = False,
        on_frame: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Writes the overlay of a video from its frames and their masks, above a legend of all classes that occur in it.

        Args:
            source: A video.
            masks: Of [`masks_without_overlay`].
            every: As the masks were made.
            is_damaged: Whether the video may end early.
            on_frame: Called after each frame.
        """
        assert source.frame_rate is not None
        present = sorted(set().union(*(np.unique(read_mask(path)).tolist() for path in masks)))
        wanted = {f"{source.name}/{path.stem}" for path in masks}
        unreadable: list[str] | None = [] if is_damaged else None
        legend = None
        with (
            write_whole(self.overlay_video_path(source)) as staged,
            write_video(staged, source.frame_rate / every) as append,
        ):
            for _, frame, image in read_wanted([source], every, lambda _, name: name in wanted, unreadable):
                picture = self._overlay(image, read_mask(self.mask_path(frame.name)), with_legend=False)
                if legend is None:
                    legend = self._legend(present, picture.width)
                size = (max(picture.width, legend.width), picture.height + legend.height)
                canvas = Image.new("RGB", size, "white")
                canvas.paste(picture, (0, 0))
                canvas.paste(legend, (0, picture.height))
                append(canvas)
                on_frame()


__all__ = ["Predictor", "read_wanted"]
