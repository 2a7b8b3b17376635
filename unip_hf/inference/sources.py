# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where frames come from: image files, folders, patterns, multi-page TIFF files and videos."""

import glob
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..files import IMAGE_SUFFIXES, TIFF_SUFFIXES, VIDEO_SUFFIXES
from ..modeling.image_reading_unip import read_image
from .video import describe_video, frame_to_array, read_video


# What Pillow raises for damaged files, depending on their format and on what is damaged.
DAMAGES = (OSError, SyntaxError, TypeError, ValueError, KeyError, IndexError, EOFError, struct.error, zlib.error)


class Source(NamedTuple):
    """
    A file with one frame or several.

    Args:
        name (`str`): Of its results: its path without suffix below the folder that was given, with `/`.
        path (`str`): The file.
        kind (`str`): `"image"`, `"pages"` (TIFF file of several) or `"video"`.
        num_frames (`int`): How many frames it has, of videos about.
        frame_rate (`Fraction`, *optional*): Of a video, frames per second.
    """

    name: str
    path: str
    kind: Literal["image", "pages", "video"]
    num_frames: int = 1
    frame_rate: Fraction | None = None


class Frame(NamedTuple):
    """
    One image.

    Args:
        name (`str`): The source's name; of several frames with the number from 0, `"clip/000012"`.
        source (`str`): What a message calls it: the file, and the page or frame.
        load (`Callable`): Reads it, `(height, width)` or `(height, width, 3)` with the depth of the file. Called
            before the next frame is asked for. Raises what `read_image` raises.
    """

    name: str
    source: str
    load: Callable[[], np.ndarray]


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Whatever goes wrong in reading becomes a ValueError that names `source`; FileNotFoundError names it already."""
    try:
        yield
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{source} is neither an image nor a video that can be read.") from error
    except (*DAMAGES, Image.DecompressionBombError) as error:
        if isinstance(error, ValueError) and source in str(error):
            raise
        raise ValueError(f"{source} cannot be read: {error}") from error


def _find_files(given: str) -> tuple[str, list[str]]:
    """The folder that names are relative to, and the files of a file, folder or pattern."""
    if os.path.isfile(given):
        return os.path.dirname(given), [given]
    if os.path.isdir(given):
        root, pattern = given, os.path.join(glob.escape(given), "**")
    elif any(character in given for character in "*?["):
        fixed = itertools.takewhile(lambda part: not any(character in part for character in "*?["), Path(given).parts)
        root, pattern = os.path.join("", *fixed), given
    else:
        raise FileNotFoundError(f"There is no file or folder {given!r}.")
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    found = sorted(path for path in glob.glob(pattern, recursive=True) if path.lower().endswith(suffixes))
    return root, [path for path in found if os.path.isfile(path)]


def _describe(name: str, path: str) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        return Source(name, path, "video", *describe_video(path))
    if suffix in TIFF_SUFFIXES or suffix not in IMAGE_SUFFIXES:  # no image at all is found out here, too
        with _naming(path), open(path, "rb") as file, Image.open(file) as image:
            pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        return Source(name, path, "pages" if pages > 1 else "image", pages)
    return Source(name, path, "image")


def find_sources(
    paths: Sequence[str | os.PathLike],
    exclude: str | os.PathLike | None = None,
    unreadable: list[str] | None = None,
) -> list[Source]:
    """
    The files with frames that are meant by files, folders and patterns, in the order given and sorted within each.

    Args:
        paths: Files; folders, with all that is below them; patterns with `*`, `?`, `[...]` and `**` for any depth. Of
            folders and patterns, files that are hidden or have no suffix of an image or a video are left out.
        exclude (*optional*): Folder whose files are left out of folders and patterns.
        unreadable (`list[str]`, *optional*): Takes the messages on TIFF files and videos that cannot be opened;
            without it, the first is raised. Other images are not opened yet.

    Raises:
        FileNotFoundError: if a file does not exist, or a folder or pattern has no image and no video.
        ValueError: if a file cannot be opened, or two would have the same name.
    """
    sources: dict[str, Source] = {}
    for given in [os.fspath(path) for path in paths]:
        root, files = _find_files(given)
        if exclude is not None and files != [given]:
            outside = os.path.join(os.path.realpath(exclude), "")
            files = [path for path in files if not os.path.realpath(path).startswith(outside)]
        if not files:
            raise FileNotFoundError(f"There is no image and no video in {given!r}.")
        for path in files:
            relative = os.path.relpath(path, root or ".")
            if relative.startswith(os.pardir):
                raise ValueError(f"The pattern {given!r} goes up (..) after its first wildcard.")
            try:
                source = _describe(Path(relative).with_suffix("").as_posix(), path)
            except ValueError as error:
                if unreadable is None:
                    raise
                unreadable.append(str(error))
                continue
            # A picture beside a video may have its name: only several frames lie in a folder of their own.
            key = source.name if source.kind == "image" else source.name + "/"
            if key in sources and not os.path.samefile(sources[key].path, path):
                raise ValueError(
                    f"{sources[key].path!r} and {path!r} would write the same files, {source.name!r}: give the folder "
                    "or a quoted pattern above both, whose subfolders are kept, or run twice with two output folders."
                )
            sources[key] = source
    for source in sources.values():
        for parent in Path(source.name).parents:
            if (several := sources.get(parent.as_posix() + "/")) is not None:
                raise ValueError(
                    f"{source.path!r} would write into the folder of the frames of {several.path!r}, {several.name!r}."
                )
    return list(sources.values())


def frame_name(source: Source, number: int) -> str:
    """Name of a frame, numbered from 0."""
    return source.name if source.kind == "image" else f"{source.name}/{number:06d}"


def read_frames(source: Source, every: int = 1) -> Iterator[Frame]:
    """
    The frames of a source, one in memory at a time.

    Args:
        source: One of [`find_sources`].
        every: Of a video, take every n-th frame; their numbers stay those of the video.

    Raises:
        FileNotFoundError: if the file is gone.
        ValueError: if it is damaged.
    """

    def frame(number: int, where: str, load: Callable[[], np.ndarray]) -> Frame:
        def load_or_name() -> np.ndarray:
            with _naming(where):
                return load()

        return Frame(frame_name(source, number), where, load_or_name)

    if source.kind == "image":
        yield frame(0, source.path, partial(read_image, source.path))
    elif source.kind == "video":
        for number, decoded in enumerate(read_video(source.path)):
            if number % every == 0:
                yield frame(number, f"{source.path}, frame {number}", partial(frame_to_array, decoded))
    else:
        with _naming(source.path), open(source.path, "rb") as file, Image.open(file) as image:
            for page in range(source.num_frames):

                def load(page: int = page) -> np.ndarray:
                    image.seek(page)
                    return read_image(image)

                yield frame(page, f"{source.path}, page {page}", load)


__all__ = ["Frame", "Source", "find_sources", "frame_name", "read_frames"]
