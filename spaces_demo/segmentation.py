# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segments uploads, and keeps the frames and their masks in a folder, from which the page shows them."""

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import PreTrainedModel

from ..inference import InferenceSettings
from ..inference.exported import ExportedModel
from ..inference.predictor import Predictor
from ..inference.results import ResultFolder
from ..inference.sources import Frame, Source, read_frames
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.image_reading_unip import read_mask
from ..pictures import overlay_picture
from .uploads import MAX_FRAMES, MAX_PIXELS, error_message


MAX_SECONDS = 45.0  # of computing for an upload of several frames
MAX_KEPT_PIXELS = MAX_FRAMES * 640 * 512  # of all frames of an upload
ENLARGED_SIDE, REDUCED_SIDE = 720, 2048  # pixels up to which the page's picture is enlarged, and reduced


def segment_sources(
    model: PreTrainedModel | ExportedModel,
    processor: UnipImageProcessor,
    sources: Sequence[Source],
    folder: Path,
    on_frame: Callable[[int, int], object] = lambda done, total: None,
    max_seconds: float = MAX_SECONDS,
) -> list[str]:
    """
    Segments the frames of sources as `unip predict` does by default, and writes what [`Segmentation`] reads:
    `frames/000000.npy`, ... with their raw values, and the masks of `unip predict`.

    Args:
        model, processor: Segmentation model and its processor.
        sources: See `describe_uploads`.
        folder: Empty, or to be made.
        on_frame: Called with the number of frames that are done, and with about how many there are.
        max_seconds: Time after which no further frame is begun.

    Returns:
        Sentences on frames that cannot be used, and on a limit that was reached: [`MAX_FRAMES`],
        [`MAX_KEPT_PIXELS`] or the time.

    Raises:
        gr.Error: if no frame could be segmented.
    """
    settings = InferenceSettings.for_model(model)
    predictor = Predictor(model, processor, ResultFolder(folder), settings, with_overlays=False)
    total = sum(max(1, source.num_frames) for source in sources)
    names: list[str] = []
    notes: list[str] = []
    (folder / "frames").mkdir(parents=True)
    frames = _within_limits(read_frames(sources, unreadable=notes, max_pixels=MAX_PIXELS), notes, max_seconds)
    for result in predictor.segment_frames(frames, notes):
        predictor.write(result)
        np.save(folder / "frames" / f"{len(names):06d}.npy", result.frame.image)
        names.append(result.frame.name)
        on_frame(len(names), max(len(names), min(total, MAX_FRAMES)))
    for source in [*sources, *(source.visible for source in sources if source.visible is not None)]:
        # A visitor knows the names of files, not where they lie here.
        notes = [note.replace(source.path, Path(source.path).name) for note in notes]
    if not names:
        raise error_message(notes[0])
    described = {"names": names, "labels": predictor.id2label, "counts_to_celsius": processor.counts_to_celsius}
    (folder / "segmentation.json").write_text(json.dumps(described), encoding="utf-8")
    return notes


def _within_limits(frames: Iterable[Frame], notes: list[str], max_seconds: float) -> Iterator[Frame]:
    """The frames that an upload may have; `notes` takes sentences on what is left out."""
    count, pixels, deadline = 0, 0, time.monotonic() + max_seconds
    for frame in frames:
        limits = {
            f"{MAX_FRAMES} frames": count >= MAX_FRAMES,
            f"{MAX_KEPT_PIXELS // 10**6} million pixels": pixels >= MAX_KEPT_PIXELS,
            f"{max_seconds:.0f} seconds": time.monotonic() > deadline and count > 0,
        }
        if reached := [limit for limit, is_reached in limits.items() if is_reached]:
            notes.append(f"Only the first {count} frames are shown: an upload may take {reached[0]} here.")
            return
        count, pixels = count + 1, pixels + frame.image.shape[0] * frame.image.shape[1]
        yield frame


def class_shares(ids: np.ndarray) -> dict[int, float]:
    """The class ids in a map of any shape, by their share of its pixels, 0 to 1, the largest first."""
    present, counts = np.unique(ids, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {int(present[index]): float(counts[index] / ids.size) for index in order}


def _display_factor(size: tuple[int, int]) -> float:
    """How much a frame of this size is enlarged for the page, because the browser does not enlarge it."""
    longest = max(size)
    return max(1, ENLARGED_SIDE // longest) if longest <= REDUCED_SIDE else REDUCED_SIDE / longest


class Segmentation:
    """
    Reads what [`segment_sources`] wrote. Frames are numbered from 0, and read from their files when they are needed.

    Args:
        folder: Where it was written.

    Raises:
        gr.Error: if the files have been deleted.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            described = json.loads((folder / "segmentation.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise error_message("This result is no longer kept here. Upload the image once more.") from None
        self.names: list[str] = described["names"]
        self.labels = {int(index): name for index, name in described["labels"].items()}
        self.counts_to_celsius: list[float] | None = described["counts_to_celsius"]

    def raw(self, frame: int) -> np.ndarray:
        """Values of a frame, `(height, width)` or `(height, width, 3)`, with the depth of its file."""
        return np.load(self.folder / "frames" / f"{frame:06d}.npy", mmap_mode="r")

    def mask_path(self, frame: int) -> Path:
        return self.folder / "masks" / f"{self.names[frame]}.png"

    def ids(self, frame: int) -> np.ndarray:
        """Class ids `(height, width)` of a frame."""
        return read_mask(self.mask_path(frame))

    def overlay(self, frame: int, opacity: float, with_legend: bool = False) -> Image.Image:
        """The frame under the colours of its classes, RGB. The legend is that of `unip predict`."""
        ids = self.ids(frame)
        return overlay_picture(self.raw(frame), ids, self.labels, opacity, ignore_index=-1, with_legend=with_legend)

    def picture(self, frame: int, opacity: float) -> Image.Image:
        """The overlay in a size for the page: small frames enlarged by a whole factor, large ones reduced."""
        overlay = self.overlay(frame, opacity)
        factor = _display_factor(overlay.size)
        return overlay.resize(
            (round(overlay.width * factor), round(overlay.height * factor)), Image.Resampling.NEAREST
        )

    def shares(self, frame: int) -> dict[int, float]:
        """The classes of a frame by their share of its pixels, see [`class_shares`]."""
        return class_shares(self.ids(frame))

    def describe_pixel(self, frame: int, x: int, y: int) -> str:
        """The class and the raw value at a pixel of [`picture`], in words."""
        ids, raw = self.ids(frame), self.raw(frame)
        height, width = ids.shape
        factor = _display_factor((width, height))
        x, y = (min(max(int((place + 0.5) / factor), 0), side - 1) for place, side in ((x, width), (y, height)))
        return f"x {x}, y {y}: {self.labels[int(ids[y, x])]}, {self._describe_value(raw[y, x])}"

    def _describe_value(self, value: np.ndarray) -> str:
        if value.ndim:
            return f"RGB {', '.join(str(channel) for channel in value)}"
        if value.dtype == np.uint8:
            return f"grey value {value}"
        if value.dtype.kind == "f":
            return f"{value:.2f} °C" if self.counts_to_celsius else f"value {value:.6g}"
        counts = f"{value} counts"
        if self.counts_to_celsius is None:
            return counts
        factor, offset = self.counts_to_celsius
        return f"{counts}, {factor * float(value) + offset:.1f} °C"

    def write_masks(self) -> Path:
        """The mask as a file to download, as `unip predict` writes it; an archive of them if there are several."""
        return self._write("mask", lambda frame: self.mask_path(frame).read_bytes(), self.folder)

    def write_overlays(self, opacity: float, folder: Path | None = None) -> Path:
        """
        The overlay with its legend as a file to download; an archive of them if there are several. By default it is
        written into the folder of the segmentation.
        """

        def encode(frame: int) -> bytes:
            encoded = io.BytesIO()
            self.overlay(frame, opacity, with_legend=True).save(encoded, "PNG", compress_level=1)
            return encoded.getvalue()

        return self._write("overlay", encode, folder or self.folder)

    def _write(self, kind: str, encode: Callable[[int], bytes], folder: Path) -> Path:
        if len(self.names) == 1:
            path = folder / f"{Path(self.names[0]).name}-{kind}.png"
            path.write_bytes(encode(0))
            return path
        path = folder / f"{kind}s.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for frame, name in enumerate(self.names):
                archive.writestr(f"{kind}s/{name}.png", encode(frame))
        return path


__all__ = ["Segmentation", "class_shares", "segment_sources"]
