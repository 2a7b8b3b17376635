# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where frames come from: image files, folders, patterns, multi-page TIFF files and videos."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..data.visible import VISIBLE_ENDINGS
from ..files import IMAGE_SUFFIXES, TIFF_SUFFIXES, VIDEO_SUFFIXES, walk
from ..modeling.image_reading_unip import DAMAGES, read_image
from .video import describe_video, frame_to_array, read_video


class Source(NamedTuple):
    """
    A file with one frame or several.

    Args:
        name (`str`): Name of its results: its path without suffix below the folder that was given, with `/`.
        path (`str`): The file.
        kind (`str`): `"image"`, `"pages"` (TIFF file of several pages) or `"video"`.
        num_frames (`int`): How many frames it has; only an estimate for videos.
        frame_rate (`Fraction`, *optional*): Frames per second of a video.
        visible ([`Source`], *optional*): The file with the visible images, if this one holds the infrared images of
            pairs.
    """

    name: str
    path: str
    kind: Literal["image", "pages", "video"]
    num_frames: int = 1
    frame_rate: Fraction | None = None
    visible: "Source | None" = None

    def frame_name(self, number: int) -> str:
        """Name of a frame, which is numbered from 0."""
        return self.name if self.kind == "image" else f"{self.name}/{number:06d}"

    def frame_names(self, every: int = 1) -> list[str]:
        """Names of all frames; of a video, of every n-th."""
        return [self.frame_name(number) for number in range(0, self.num_frames, every if self.kind == "video" else 1)]


class Frame(NamedTuple):
    """
    One image.

    Args:
        source ([`Source`]): Where it comes from.
        name (`str`): The source's name, followed by the number of the frame if there are several: `"clip/000012"`.
        place (`str`): What a message calls it: the file, and the page or frame.
        image (`np.ndarray`): `(height, width)` or `(height, width, 3)` with the depth of the file.
        visible (`np.ndarray`, *optional*): The visible image of a pair, likewise.
    """

    source: Source
    name: str
    place: str
    image: np.ndarray
    visible: np.ndarray | None = None


class FrameToRead(NamedTuple):
    """
    An image that is still to be read, which any thread may do.

    Args:
        source ([`Source`]), name (`str`), place (`str`): As of its [`Frame`].
        num_pixels (`int`): Height times width, or 0 if that cannot be told yet.
        load (`Callable`): Returns the image.
        visible_place (`str`), load_visible (`Callable`): The same of the visible image, if it is a pair.
    """

    source: Source
    name: str
    place: str
    num_pixels: int
    load: Callable[[], np.ndarray]
    visible_place: str = ""
    load_visible: Callable[[], np.ndarray] | None = None

    def read(self) -> Frame:
        """
        Raises:
            FileNotFoundError: if a file is gone.
            ValueError: if it is damaged.
        """
        with _naming(self.place):
            image = self.load()
        if self.load_visible is None:
            return Frame(self.source, self.name, self.place, image)
        with _naming(self.visible_place):
            visible = self.load_visible()
        return Frame(self.source, self.name, f"{self.place} with {self.visible_place}", image, visible)


@contextmanager
def collecting(unreadable: list[str] | None) -> Iterator[None]:
    """An error in what cannot be read ends the block and adds its message to the list. Without a list it is raised."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if unreadable is None:
            raise
        unreadable.append(str(error))


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Any error in reading becomes a ValueError that names `place`; FileNotFoundError names it already."""
    try:
        yield
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"{place} is neither an image nor a video that can be read.") from error
    except DAMAGES as error:
        if isinstance(error, ValueError) and place in str(error):
            raise
        raise ValueError(f"{place} cannot be read: {error}") from error


def _find_files(given: str) -> tuple[str, list[str]]:
    """The folder that names are relative to, and the files of a file, folder or pattern."""
    if os.path.isfile(given):
        return os.path.dirname(given), [given]
    if os.path.isdir(given):
        root, found = given, []
        for parent, folders, names in walk(given):
            folders[:] = [name for name in folders if name[0] != "."]
            found += [os.path.join(parent, name) for name in names if name[0] != "."]
    elif any(character in given for character in "*?["):
        fixed = itertools.takewhile(lambda part: not any(character in part for character in "*?["), Path(given).parts)
        root, found = os.path.join("", *fixed), glob.glob(given, recursive=True)
    else:
        raise FileNotFoundError(f"There is no file or folder {given!r}.")
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    return root, sorted(path for path in found if path.lower().endswith(suffixes) and os.path.isfile(path))


def _describe(name: str, path: str) -> Source:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in VIDEO_SUFFIXES:
        return Source(name, path, "video", *describe_video(path))
    if suffix in TIFF_SUFFIXES or suffix not in IMAGE_SUFFIXES:  # this also finds files that are not images
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
    Finds the files with frames in files, folders and patterns, in the given order and sorted within each.

    Args:
        paths: Files; folders, with everything below them; patterns with `*`, `?`, `[...]` and `**` for any depth.
            Folders and patterns leave out hidden files and files without a suffix of an image or a video.
        exclude (*optional*): Folder whose files are left out of folders and patterns.
        unreadable (`list[str]`, *optional*): Takes the messages on TIFF files and videos that cannot be opened;
            without it, the first is raised. Other images are not opened yet.

    Raises:
        FileNotFoundError: if a file does not exist, or a folder or pattern has no image and no video.
        ValueError: if a file cannot be opened, or two would have the same name.
    """
    return _without_repetition(_find_all(paths, exclude, unreadable))


def find_pairs(
    paths: Sequence[str | os.PathLike],
    visible_paths: Sequence[str | os.PathLike],
    exclude: str | os.PathLike | None = None,
    unreadable: list[str] | None = None,
) -> list[Source]:
    """
    Finds files with infrared images as [`find_sources`], each with the file of its visible images in `visible`.

    One file and one file are a pair. Of several, the path of the visible file below the folder that was given is that
    of the infrared one, apart from the suffix and an ending `_visible` or `_rgb`. Further visible files are left out.

    Args:
        paths, visible_paths: Files, folders and patterns with infrared images, and with visible ones.
        exclude: As for [`find_sources`].
        unreadable (`list[str]`, *optional*): As for [`find_sources`]; also takes the messages on pairs that are none.

    Raises:
        FileNotFoundError, ValueError: see [`find_sources`]; also if a visible file is missing, there are several, or
            it has another number of frames. The message names the infrared file.
    """
    sources, visible = find_sources(paths, exclude, unreadable), _find_all(visible_paths, exclude, unreadable)
    by_name: dict[str, dict[str, Source]] = {}
    for source in visible:
        by_name.setdefault(source.name, {})[os.path.realpath(source.path)] = source
    are_alone = len(paths) == len(visible_paths) == 1 and os.path.isfile(paths[0]) and os.path.isfile(visible_paths[0])
    pairs = []
    for source in sources:
        with collecting(unreadable):
            found = [one for ending in VISIBLE_ENDINGS for one in by_name.get(source.name + ending, {}).values()]
            found = visible if are_alone else found
            if not found:
                given = ", ".join(repr(os.fspath(path)) for path in visible_paths)
                raise ValueError(
                    f"{source.path!r} has no visible image in {given}: there is none with the name {source.name!r}."
                )
            if len(found) > 1:
                names = " and ".join(repr(one.path) for one in found)
                raise ValueError(f"{source.path!r} has several visible images, {names}: give one of them.")
            if describe_source(found[0]) != describe_source(source):
                raise ValueError(
                    f"{source.path!r} and {found[0].path!r} are no pair: one is {describe_source(source)}, the other "
                    f"{describe_source(found[0])}."
                )
            pairs.append(source._replace(visible=found[0]))
    return pairs


def describe_source(source: Source) -> str:
    """What two files must have in common to be a pair. The number of frames of a video is only an estimate."""
    if source.kind == "video":
        return f"a video with {float(source.frame_rate or 0):.6g} frames per second"
    return "an image" if source.kind == "image" else f"a file of {source.num_frames} pages"


def _find_all(
    paths: Sequence[str | os.PathLike], exclude: str | os.PathLike | None, unreadable: list[str] | None
) -> list[Source]:
    found: list[Source] = []
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
            with collecting(unreadable):
                found.append(_describe(Path(relative).with_suffix("").as_posix(), path))
    return found


def _without_repetition(found: Sequence[Source]) -> list[Source]:
    """Each file once. Different files must not write the same results."""
    sources: dict[str, Source] = {}
    for source in found:
        # A picture beside a video may have its name: only several frames lie in a folder of their own.
        key = source.name if source.kind == "image" else source.name + "/"
        other = sources.setdefault(key, source)
        if not os.path.samefile(other.path, source.path):
            raise ValueError(
                f"{other.path!r} and {source.path!r} would write the same files, {source.name!r}. Give the folder or "
                "a quoted pattern above both, whose subfolders are kept, or run twice with two output folders."
            )
    for source in sources.values():
        for parent in Path(source.name).parents:
            if (several := sources.get(parent.as_posix() + "/")) is not None:
                raise ValueError(
                    f"{source.path!r} would write into the folder of the frames of {several.path!r}, {several.name!r}."
                )
    return list(sources.values())


def list_frames(
    sources: Iterable[Source],
    every: int = 1,
    is_wanted: Callable[[Source, str], bool] = lambda source, name: True,
    unreadable: list[str] | None = None,
    max_pixels: int | None = None,
) -> Iterator[FrameToRead]:
    """
    Lists the frames of sources. Those of a video are decoded, and the pages of a TIFF file are read, as they are
    asked for; image files are not.

    Args:
        sources: See [`find_sources`].
        every: Take every n-th frame of a video; their numbers stay those of the video.
        is_wanted: Takes a source and the name of one of its frames, and says whether to list it.
        unreadable (`list[str]`, *optional*): Takes the messages on files that cannot be read, and the next one is
            listed; without it, the first is raised.
        max_pixels (`int`, *optional*): Pixels above which a frame of a video is an error; see [`read_video`].

    Raises:
        FileNotFoundError: if a file is gone.
        ValueError: if a file is damaged.
    """
    for source in sources:
        with collecting(unreadable):
            partners = iter(()) if source.visible is None else _list_frames(source.visible, every, max_pixels)
            for name, place, num_pixels, load in _list_frames(source, every, max_pixels):
                partner = next(partners, None)
                if partner is None and source.visible is not None:
                    raise ValueError(f"{place} has no visible image: {source.visible.path} ends before it.")
                if is_wanted(source, name):
                    frame = FrameToRead(source, name, place, num_pixels, _in_order(source, load))
                    if partner is not None:
                        _, visible_place, _, load = partner
                        frame = frame._replace(visible_place=visible_place, load_visible=_in_order(source, load))
                    yield frame


def read_frames(
    sources: Iterable[Source],
    every: int = 1,
    is_wanted: Callable[[Source, str], bool] = lambda source, name: True,
    unreadable: list[str] | None = None,
    max_pixels: int | None = None,
) -> Iterator[Frame]:
    """Reads and decodes the frames of sources, one at a time, each once. Arguments and errors: see [`list_frames`]."""
    for frame in list_frames(sources, every, is_wanted, unreadable, max_pixels):
        with collecting(unreadable):
            yield frame.read()


def _list_frames(
    source: Source, every: int, max_pixels: int | None
) -> Iterator[tuple[str, str, int, Callable[[], np.ndarray]]]:
    """Name of each frame, what a message calls it, its pixels, and a function that reads it (see [`_in_order`])."""
    if source.kind == "image":
        yield source.name, source.path, _count_pixels(source.path), partial(read_image, source.path)
    elif source.kind == "video":
        for number, decoded in enumerate(read_video(source.path, max_pixels)):
            if number % every == 0:
                place, num_pixels = f"{source.path}, frame {number}", decoded.width * decoded.height
                yield source.frame_name(number), place, num_pixels, partial(frame_to_array, decoded)
    else:
        with _naming(source.path), open(source.path, "rb") as file, Image.open(file) as pages:

            def read_page(number: int) -> np.ndarray:
                pages.seek(number)
                return read_image(pages)

            for number in range(source.num_frames):
                place, num_pixels = f"{source.path}, page {number}", pages.width * pages.height
                yield source.frame_name(number), place, num_pixels, partial(read_page, number)


def _count_pixels(path: str) -> int:
    """Pixels of an image by its header; 0 if it cannot be read, which reading will say."""
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Exception:  # of many kinds
        return 0


def _in_order(source: Source, load: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    """Reads a page now, before the next one is asked for. What goes wrong is raised when the page is wanted."""
    if source.kind != "pages":
        return load
    read: Future[np.ndarray] = Future()
    try:
        read.set_result(load())
    except Exception as error:
        read.set_exception(error)
    return read.result


__all__ = [
    "Frame",
    "FrameToRead",
    "Source",
    "collecting",
    "describe_source",
    "find_pairs",
    "find_sources",
    "list_frames",
    "read_frames",
]
