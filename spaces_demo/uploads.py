# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Uploads, which are checked before they are decoded: images of any depth, TIFF files, videos, archives."""

import html
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import av
import gradio as gr
import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError

from ..data import draw_scene, draw_scene_pair
from ..data.visible import VISIBLE_ENDINGS
from ..files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..inference.sources import Source, describe_source, read_frames
from ..inference.video import describe_video
from ..modeling.image_reading_unip import DAMAGES
from .temporary import temporary_folder


MAX_FILE_SIZE = 200 * 2**20  # bytes of an upload
MAX_UNPACKED_SIZE = 500 * 2**20  # bytes of all files in an archive
MAX_RATIO = 200  # bytes unpacked for each byte in an archive; infrared images have less than 20
MAX_DIRECTORY_SIZE = 2**20  # bytes of an archive's list of files
MAX_PIXELS = 8_000_000  # of an image or a frame
MAX_FRAMES = 200  # of an upload

# Only these decoders see what strangers send: others start programs (EPS) or open further files (playlists).
IMAGE_FORMATS: tuple[str, ...] = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "GIF")
if int(PIL.__version__.split(".")[0]) >= 13:  # older wheels hold an OpenJPEG that writes beyond its memory
    IMAGE_FORMATS += ("JPEG2000",)
VIDEO_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv"
DECODERS = (  # of pictures, sound and text that cameras write; FFmpeg has over 500, and the rare ones have holes
    "ffv1,flv,h263,h264,hevc,libdav1d,mjpeg,mpeg1video,mpeg2video,mpeg4,msmpeg4,msmpeg4v2,png,rawvideo,vc1,vp8,vp9,wmv1,"
    "wmv2,wmv3,aac,ac3,flac,mp2float,mp3float,opus,pcm_alaw,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_u8,vorbis,wmav2,mov_text,"
    "subrip"
)

TILE_WIDTH, TILE_LENGTH = 322, 323  # tags of a TIFF file

EXAMPLE_SEEDS = (500, 511, 523, 540)  # of the scenes' test split


@contextmanager
def readable_errors(path: Path) -> Iterator[None]:
    """Turns what goes wrong with an upload into a sentence that names the file, but not its folder on this server."""
    try:
        yield
    except gr.Error:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "too many") from error
    except (*DAMAGES, av.FFmpegError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        message = str(getattr(error, "strerror", None) or error).replace(f"{path.parent}/", "")
        message = message if path.name in message else f"{path.name!r} cannot be read: {message}"
        raise error_message(message) from error


@contextmanager
def visible_errors() -> Iterator[None]:
    """Turns what goes wrong while a model computes into a message on the page."""
    try:
        yield
    except gr.Error:  # which is a ValueError
        raise
    except ValueError as error:
        raise error_message(str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise error_message("This image is too large for the memory here. Send a part of it.") from error


def error_message(message: str) -> gr.Error:
    """An error for the page alone, without a traceback on the server. The page takes its `message` for HTML."""
    return gr.Error(html.escape(message, quote=False), print_exception=False)


def _too_large(path: Path, size: str) -> gr.Error:
    return error_message(
        f"{path.name!r} has {size} pixels. At most {MAX_PIXELS // 10**6} million are allowed here. Use `unip predict` "
        "on your own machine, or send a part of the image."
    )


def _check_pixels(path: Path, width: int, height: int, what: str = "") -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{what}{width}x{height}")


def _check_page(path: Path, image: Image.Image) -> None:
    _check_pixels(path, *image.size)
    tags = getattr(image, "tag_v2", {})  # of a TIFF file, whose tiles may be larger than its image
    _check_pixels(path, tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0), "tiles of ")


def _count_pages(path: Path) -> int:
    """Counts the pages of an image file, up to one more than [`MAX_FRAMES`], by their headers. Decodes no pixels."""
    with open(path, "rb") as file, Image.open(file, formats=IMAGE_FORMATS) as image:
        _check_page(path, image)
        if image.format != "TIFF":
            return 1
        for page in range(1, MAX_FRAMES + 1):
            try:
                image.seek(page)
            except EOFError:
                return page
            _check_page(path, image)
        return MAX_FRAMES + 1


def _describe_video(path: Path) -> Source:
    with av.open(str(path), options={"format_whitelist": VIDEO_FORMATS, "codec_whitelist": DECODERS}) as container:
        for stream in container.streams:
            codec_context = getattr(stream, "codec_context", None)  # which data and attachments lack
            if codec_context is not None and codec_context.codec.name not in DECODERS.split(","):
                raise error_message(
                    f"{path.name!r} holds {codec_context.codec.name}, which is not decoded here. Make it H.264 first, "
                    "e.g. ffmpeg -i VIDEO -an -c:v libx264 VIDEO.mp4."
                )
        for stream in container.streams.video[:1]:
            _check_pixels(path, stream.codec_context.width, stream.codec_context.height)
    return Source(path.stem, str(path), "video", *describe_video(str(path)))


def describe_upload(path: str | Path) -> Source:
    """
    Says what a file is and how many frames it has, from its header. Pages are counted up to one more than
    [`MAX_FRAMES`].

    Raises:
        gr.Error: if the file is neither an image nor a video, has more than [`MAX_PIXELS`], or is damaged.
    """
    path = Path(path)
    with readable_errors(path):
        try:
            pages = _count_pages(path)
        except UnidentifiedImageError:
            if path.suffix.lower() not in VIDEO_SUFFIXES:
                raise error_message(f"{path.name!r} is neither an image nor a video that can be read.") from None
            return _describe_video(path)
        return Source(path.stem, str(path), "pages" if pages > 1 else "image", pages)


def read_upload(path: str | Path) -> np.ndarray:
    """
    The first frame of an upload.

    Args:
        path: Image, TIFF file, or video.

    Returns:
        `np.ndarray` of shape `(height, width)` or `(height, width, 3)`, with the values and the depth of the file.

    Raises:
        gr.Error: as [`describe_upload`] says, or if the frame is damaged.
    """
    path = Path(path)
    source = describe_upload(path)
    with readable_errors(path):
        return next(read_frames([source], max_pixels=MAX_PIXELS)).image


def _check_archive(path: Path) -> None:
    """Looks at the end of the file before its list of files is read, because that list may itself be huge."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    size = struct.unpack("<L", tail[at + 12 : at + 16])[0] if at >= 0 and len(tail) >= at + 22 else 0
    if size > MAX_DIRECTORY_SIZE or b"PK\6\7" in tail[max(0, at - 20) : max(0, at)]:  # or sizes of 64 bits
        raise error_message(f"{path.name!r} holds too many files, or files that are too large, to be unpacked here.")


def unpack_images(path: Path, folder: Path) -> list[Path]:
    """
    Unpacks the images and videos in a zip archive into a folder. Other files, such as further archives, stay packed.

    Raises:
        gr.Error: if the files would take more than [`MAX_UNPACKED_SIZE`] or [`MAX_RATIO`] times the size of the
            archive, or if the archive has a password or is damaged.
    """
    with readable_errors(path):
        _check_archive(path)
        with zipfile.ZipFile(path) as archive:
            wanted = [entry for entry in archive.infolist() if _may_have_frames(Path(entry.filename))]
            unpacked = sum(entry.file_size for entry in wanted)
            packed = sum(entry.compress_size for entry in wanted)
            if unpacked > MAX_UNPACKED_SIZE or unpacked > MAX_RATIO * max(packed, 2**16):
                raise error_message(
                    f"{path.name!r} is not unpacked: {unpacked / 2**20:,.0f} MB would come out of "
                    f"{packed / 2**20:,.1f} MB. At most {MAX_UNPACKED_SIZE // 2**20} MB and {MAX_RATIO} times the "
                    "size of the archive are allowed here."
                )
            # zipfile reads no more of a file than its entry says, and removes ".." and the like from its name.
            return [Path(archive.extract(entry, folder)) for entry in wanted]


def _may_have_frames(path: Path) -> bool:
    """Judges a file by its name, as `unip predict` does in folders."""
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not is_hidden


def describe_uploads(paths: Sequence[str | Path], folder: Path) -> tuple[list[Source], list[str]]:
    """
    Finds the files with frames in an upload: images, TIFF files, videos, archives of these, or the files of a folder.

    Args:
        paths: The upload.
        folder: Where archives are unpacked.

    Returns:
        Sources with different names, until they have more than [`MAX_FRAMES`], and sentences on what cannot be read.

    Raises:
        gr.Error: if there is no such file. For a single file also as [`describe_upload`] and [`unpack_images`] say.
    """
    files: list[Path] = []
    is_single = len(paths) == 1
    for path in map(Path, paths):
        if zipfile.is_zipfile(path):
            files += unpack_images(path, folder / f"archive-{len(files)}")
            is_single = False
        elif is_single or _may_have_frames(path):
            files.append(path)
    if not files:
        raise error_message("There is no image and no video in this upload.")
    sources: dict[str, Source] = {}
    notes: list[str] = []
    frames = 0
    for path in files:
        if frames > MAX_FRAMES:
            break
        try:
            source = describe_upload(path)
        except gr.Error as error:
            if is_single:
                raise
            notes.append(html.unescape(error.message))
            continue
        count = 1
        while source.name in sources:  # files of the same name from several folders
            count += 1
            source = source._replace(name=f"{path.stem}-{count}")
        sources[source.name] = source
        frames += source.num_frames
    if not sources:
        raise error_message(notes[0])
    return list(sources.values()), notes


def pair_sources(sources: Sequence[Source], visible: Sequence[Source]) -> list[Source]:
    """
    Sources with infrared frames, each with the one of its visible frames. One and one are a pair; of several, the
    names are the same, apart from an ending such as `_visible`.

    Raises:
        gr.Error: if a visible source is missing, or is of another kind, number of pages or frame rate.
    """
    by_name = {source.name: source for source in visible}
    pairs = []
    for source in sources:
        names = [source.name + ending for ending in VISIBLE_ENDINGS]
        found = next((by_name[name] for name in names if name in by_name), None)
        found = visible[0] if len(sources) == len(visible) == 1 else found
        if found is None:
            raise error_message(f"{source.name!r} has no visible image: send one of this name.")
        if describe_source(found) != describe_source(source):
            raise error_message(
                f"{source.name!r} and {found.name!r} are no pair: one is {describe_source(source)}, the other "
                f"{describe_source(found)}."
            )
        pairs.append(source._replace(visible=found))
    return pairs


@lru_cache(maxsize=1)
def examples() -> list[str]:
    """Paths of drawn scenes, 16-bit PNG files of 256x320 pixels. They are made at the first call, for this process."""
    folder = temporary_folder() / "examples"
    folder.mkdir()
    paths = [folder / f"scene-{number}.png" for number in range(1, len(EXAMPLE_SEEDS) + 1)]
    for path, seed in zip(paths, EXAMPLE_SEEDS):
        Image.fromarray(draw_scene(seed)[0]).save(path)
    return [str(path) for path in paths]


@lru_cache(maxsize=1)
def example_pairs() -> list[tuple[str, str]]:
    """
    Paths of drawn scenes, by day and by night, and of their visible images, 8-bit PNG files in colour. They are made
    as those of [`examples`].
    """
    folder = temporary_folder() / "example-pairs"
    folder.mkdir()
    pairs = []
    for number, seed in enumerate(EXAMPLE_SEEDS, start=1):
        paths = folder / f"scene-{number}.png", folder / f"scene-{number}_visible.png"
        for path, array in zip(paths, draw_scene_pair(seed)):
            Image.fromarray(array).save(path)
        pairs.append((str(paths[0]), str(paths[1])))
    return pairs


__all__ = [
    "describe_upload",
    "describe_uploads",
    "error_message",
    "example_pairs",
    "examples",
    "pair_sources",
    "read_upload",
    "readable_errors",
    "unpack_images",
]
