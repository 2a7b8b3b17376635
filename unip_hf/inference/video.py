# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Videos: reads their frames without losing depth, and writes pictures as a video."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image


DEFAULT_FRAME_RATE = Fraction(25)


@contextmanager
def _open_video(path: str, max_pixels: int | None = None) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; FFmpeg's error for a damaged file becomes a ValueError."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    import av

    # Titles that are not UTF-8 are no error. Since version 19 of PyAV there is no such setting.
    tolerant: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:
        with av.open(path, **tolerant) as container:
            if not container.streams.video:
                raise ValueError(f"{path!r} holds no video.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if max_pixels is not None:  # a frame may be larger than the header says
                stream.codec_context.options = {"max_pixels": str(max_pixels)}
            yield container, stream
    except Exception as error:  # PyAV has its own kinds, and lacks attributes of streams that it does not know
        if isinstance(error, ValueError) and repr(path) in str(error):
            raise
        reason = getattr(error, "strerror", None) or error
        limit = "" if max_pixels is None else f" Frames of more than {max_pixels:,} pixels are not read."
        raise ValueError(f"The video {path!r} is damaged, or FFmpeg cannot read it: {reason}.{limit}") from error


def _is_grey(pixel_format: Any) -> bool:
    return len(pixel_format.components) == 1 and not pixel_format.has_palette


def _check_format(pixel_format: Any, path: str) -> None:
    if any(component.is_alpha for component in pixel_format.components):
        raise ValueError(
            f"The frames of {path!r} ({pixel_format.name}) have a channel of transparency, which may be another "
            "image: write the channels you mean to a video of their own."
        )
    bits = max(component.bits for component in pixel_format.components)
    if bits > 8 and not _is_grey(pixel_format):
        raise ValueError(
            f"The frames of {path!r} ({pixel_format.name}) have {bits} bits in each of several channels, which would "
            "be cut to 8: make them grey first, e.g. ffmpeg -i VIDEO -pix_fmt gray16le -c:v ffv1 VIDEO.mkv."
        )


def describe_video(path: str) -> tuple[int, Fraction]:
    """
    Reads the header of a video.

    Returns:
        An estimate of the number of frames, and frames per second.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a video, or its frames have transparency, or more than 8 bits in each of
            several channels.
    """
    with _open_video(path) as (container, stream):
        if stream.format is not None:
            _check_format(stream.format, path)
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
        seconds = container.duration / 1_000_000 if container.duration else 0.0
        # If the file does not say, its packets are counted, which reads all of it but decodes nothing.
        count = stream.frames or round(seconds * rate) or sum(packet.size > 0 for packet in container.demux(stream))
        return count, rate


def frame_to_array(frame: Any) -> np.ndarray:
    """
    The values of a decoded frame.

    Args:
        frame (`av.VideoFrame`): See [`read_video`].

    Returns:
        `np.ndarray`, turned upright: for grey, `(height, width)` with the counts of the frame (uint8; uint16 for 9 to
        16 bits; float32); for colour, `(height, width, 3)` uint8.
    """
    if _is_grey(frame.format):
        array = frame.to_ndarray(format=frame.format.name if frame.format.components[0].bits > 8 else "gray")  # (H, W)
    else:
        array = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    return np.rot90(array, round(frame.rotation / 90))


def read_video(path: str, max_pixels: int | None = None) -> Iterator[Any]:
    """
    Decodes a video from its beginning to its end.

    Args:
        path: The video.
        max_pixels (`int`, *optional*): Pixels above which a frame is an error, before memory is taken for it.

    Yields:
        `av.VideoFrame`, for [`frame_to_array`].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, ends before its duration, has no frames, or has frames that [`describe_video`]
            refuses; the message names it.
    """
    count, first, last = 0, float("inf"), 0.0
    with _open_video(path, max_pixels) as (container, stream):
        for packet in container.demux():
            if packet.pts is not None:  # of any stream: sound may go on where the picture ends
                first = min(first, float(packet.pts * packet.time_base))
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            for frame in packet.decode() if packet.stream is stream else ():
                if frame.is_corrupt:
                    raise ValueError(f"The video {path!r} is damaged at its frame {count}.")
                _check_format(frame.format, path)
                count += 1
                yield frame
        if count == 0:
            raise ValueError(f"The video {path!r} has no frames.")
        seconds = container.duration / 1_000_000 if container.duration else 0.0
        allowed = max(1.5 / float(stream.average_rate or DEFAULT_FRAME_RATE), 0.01 * seconds)
        if last - first < seconds - allowed:  # FFmpeg takes a cut for the end
            raise ValueError(
                f"The video {path!r} is truncated: it ends after {last - first:.2f} of {seconds:.2f} seconds, "
                f"with frame {count - 1}."
            )


@contextmanager
def write_video(path: str | os.PathLike, rate: Fraction) -> Iterator[Callable[[Image.Image], None]]:
    """
    Gives a function that appends a picture to a new MP4 file (H.264, or MPEG-4 if PyAV has no encoder for it).

    Pictures are of mode RGB. The first one sets the size, which is made even. A smaller picture gets black on its
    right and below, and a larger one is cut off.

    Args:
        path: File to write, with the suffix `.mp4`.
        rate: Frames per second.
    """
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # With its rate control by macroblock trees, x264 does not always write the same bytes for the same pictures.
    options = {"x264-params": "mbtree=0"} if codec == "libx264" else {}
    with av.open(os.fspath(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate.limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p"

        def append(picture: Image.Image) -> None:
            if not stream.codec_context.is_open:
                stream.width, stream.height = (side + side % 2 for side in picture.size)
            picture = picture.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))

        yield append
        container.mux(stream.encode())


__all__ = ["describe_video", "frame_to_array", "read_video", "write_video"]
