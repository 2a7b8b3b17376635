"""What is sent to the demo: how much of it is taken, what is refused, and what is kept."""

import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import gradio as gr
import numpy as np
import pytest
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.spaces_demo import segmentation, uploads
from unip_hf.spaces_demo.segmentation import Segmentation, segment_sources
from unip_hf.spaces_demo.temporary import delete_old_files
from unip_hf.spaces_demo.uploads import describe_uploads, examples, read_upload

from ..conftest import wait_until


def draw(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(seed).integers(6700, 7900, (height, width)).astype(np.uint16)


def save(path: Path, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(0) if array is None else array).save(path)
    return path


def write_video(
    path: Path, height: int, width: int, frames: int = 3, codec: str = "mpeg4", pixel_format: str = "yuv420p"
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        for number in range(frames):
            grey = np.full((height, width, 3), 60 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def huge_png(path: Path, width: int, height: int) -> Path:
    """A PNG file of black pixels that is small until it is decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    compressor, rows = zlib.compressobj(), b"\0" * (1 + 2 * width) * 100
    data = b"".join(compressor.compress(rows) for _ in range(height // 100)) + compressor.flush()
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def refused(function: Callable, *arguments: object) -> str:
    with pytest.raises(gr.Error) as raised:
        function(*arguments)
    return raised.value.message


def test_images_keep_their_depth(tmp_path: Path) -> None:
    for array in (draw(1), (draw(1) // 40).astype(np.uint8), draw(1).astype(np.float32) / 3):
        path = save(tmp_path / f"{array.dtype}.tif", array)
        read = read_upload(path)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    assert [read_upload(path).dtype for path in examples()] == [np.uint16] * 4
    video = read_upload(write_video(tmp_path / "clip.mp4", 48, 64))
    assert video.shape == (48, 64, 3) and video.dtype == np.uint8


def test_of_several_pages_the_first_is_read(tmp_path: Path) -> None:
    pages = [draw(seed) for seed in range(2)]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "pages.tif", save_all=True, append_images=images[1:])
    np.testing.assert_array_equal(read_upload(tmp_path / "pages.tif"), pages[0])


def test_what_is_too_large_is_known_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "read_frames", None)  # nothing is decoded
    for width, height in ((20_000, 10_000), (10_000, 10_000)):
        path = huge_png(tmp_path / "huge.png", width, height)
        assert path.stat().st_size < 500_000
        assert "'huge.png' has" in refused(read_upload, path) and "8 million" in refused(read_upload, path)
    assert "10000x10000 pixels" in refused(read_upload, path)
    small, large = Image.fromarray(draw(0)), Image.new("L", (4000, 2100))
    small.save(tmp_path / "pages.tif", save_all=True, append_images=[large], compression="tiff_deflate")
    assert "'pages.tif' has 4000x2100 pixels" in refused(read_upload, tmp_path / "pages.tif")
    assert "4000x2100 pixels" in refused(read_upload, write_video(tmp_path / "large.mp4", 2100, 4000, 1))
    tiles = tiff_with_a_tile(tmp_path / "tiles.tif", 40, 32768)
    assert tiles.stat().st_size < 1000  # Pillow would unpack a whole tile into a GB
    assert "'tiles.tif' has tiles of 32768x32768 pixels" in refused(read_upload, tiles)


def tiff_with_a_tile(path: Path, side: int, tile: int) -> Path:
    """A TIFF file of `side` x `side` pixels in one tile, of which it holds a few."""
    data = zlib.compress(bytes(10_000))
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile)]
    tags += [(324, 200), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head.ljust(200, b"\0") + data)
    return path


def test_frames_larger_than_a_video_says_are_not_decoded(model: UnipForSemanticSegmentation, tmp_path: Path) -> None:
    parts = [
        write_video(tmp_path / f"{side}.ts", side, side, frames).read_bytes() for side, frames in ((64, 40), (3000, 1))
    ]
    (tmp_path / "grows.ts").write_bytes(b"".join(parts))
    sources, _ = describe_uploads([tmp_path / "grows.ts"], tmp_path)
    notes = segment_sources(model, PROCESSOR, sources, tmp_path / "result")
    result = Segmentation(tmp_path / "result")
    assert 0 < len(result.names) <= 40, "FFmpeg, which decodes several frames at once, may lose the last ones"
    assert all(result.raw(frame).shape == (64, 64, 3) for frame in range(len(result.names)))
    assert len(notes) == 1 and "more than 8,000,000 pixels are not read" in notes[0]


@pytest.mark.parametrize(("codec", "pixel_format", "suffix"), [
    ("libx264", "yuv420p", ".mp4"), ("libx265", "yuv420p", ".mp4"), ("libsvtav1", "yuv420p", ".mp4"),
    ("libvpx-vp9", "yuv420p", ".webm"), ("mjpeg", "yuvj420p", ".avi"), ("rawvideo", "gray", ".avi"),
    ("ffv1", "gray16le", ".mkv"), ("wmv2", "yuv420p", ".wmv"), ("flv", "yuv420p", ".flv"),
])  # fmt: skip
def test_codecs_of_cameras_are_read(codec: str, pixel_format: str, suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"clip{suffix}", 64, 96, codec=codec, pixel_format=pixel_format)
    assert read_upload(path).shape[:2] == (64, 96)


@pytest.mark.parametrize(("codec", "pixel_format"), [("magicyuv", "gbrp"), ("zlib", "bgr24"), ("huffyuv", "rgb24")])
def test_rare_codecs_are_not_decoded(codec: str, pixel_format: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 64, 96, codec=codec, pixel_format=pixel_format)
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logged:
            assert f"'clip.avi' holds {codec}, which is not decoded here" in refused(read_upload, path)
    finally:
        av.logging.set_level(before)
    assert any(f"Codec ({codec}) not on whitelist" in message for _, _, message in logged)  # nor while FFmpeg looks


def test_other_streams_of_a_video_may_not_be_of_a_rare_codec(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "two.avi"), "w") as container:
        streams = [container.add_stream(codec, rate=10) for codec in ("mpeg4", "magicyuv")]
        for stream, pixel_format in zip(streams, ("yuv420p", "gbrp"), strict=True):
            stream.height, stream.width, stream.pix_fmt = 64, 96, pixel_format
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode()])
    assert "holds magicyuv" in refused(read_upload, tmp_path / "two.avi")


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{0}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 33\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{0}</BaseURL></MPD>\n',
        '<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{0}"/></svg>',
        "subfile,,start,0,end,99,,:{0}",
    ],
)
def test_files_that_name_others_do_not_open_them(text: str, tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.ts", 48, 64)
    for name in ("list.mp4", "list.png", "list.ts", "list.mkv"):
        (tmp_path / name).write_text(text.format(secret))
        message = refused(read_upload, tmp_path / name)
        assert name in message and str(tmp_path) not in message, message


def test_what_cannot_be_read_is_named_without_its_folder(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.png", draw(0, 300, 300))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "words.png").write_text("no image")
    (tmp_path / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    (tmp_path / "other.mp4").write_bytes(b"YUV4MPEG2 W16 H16 F25:1\nFRAME\n" + bytes(384))  # read by FFmpeg if it may
    Image.new("RGBA", (20, 20)).save(tmp_path / "transparent.png")
    reasons = {
        "cut.png": "damaged",
        "words.png": "neither an image nor a video",
        "program.png": "neither an image nor a video",
        "other.mp4": "cannot be read",
        "transparent.png": "mode RGBA",
        "gone.png": "no file|No such file",
    }
    for name, reason in reasons.items():
        message = refused(read_upload, tmp_path / name)
        assert name in message and str(tmp_path) not in message, message
        assert any(part in message for part in reason.split("|")), message


def test_archives_and_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.write(save(tmp_path / "inner.png"), "inner.png")
    with zipfile.ZipFile(tmp_path / "flight.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("day/a.png", "night/a.png", "/b.png", "../../c.png", "__MACOSX/day/._a.png"):
            archive.write(save(tmp_path / "a.png"), name)
        archive.writestr("day/notes.txt", "no image")
        archive.writestr("day/broken.png", "no image")
        archive.write(tmp_path / "inner.zip", "inner.zip")
    sources, notes = describe_uploads([tmp_path / "flight.zip", save(tmp_path / "d.png")], tmp_path / "unpacked")
    assert [source.name for source in sources] == ["a", "a-2", "b", "d"]
    assert all(Path(source.path).resolve().is_relative_to(tmp_path / "unpacked") for source in sources[:3])
    assert len(notes) == 1 and "broken.png" in notes[0]
    assert sorted(path.name for path in (tmp_path / "unpacked").rglob("*.*")) == [
        "a.png",
        "a.png",
        "b.png",
        "broken.png",
    ]

    (tmp_path / "labels.json").write_text("{}")
    sources, notes = describe_uploads([tmp_path / "d.png", tmp_path / "labels.json"], tmp_path)
    assert [source.name for source in sources] == ["d"] and not notes
    assert "no image and no video" in refused(describe_uploads, [tmp_path / "labels.json"] * 2, tmp_path)


def test_archives_that_would_fill_the_disk_are_refused(tmp_path: Path) -> None:
    def unpack(name: str) -> str:
        message = refused(describe_uploads, [tmp_path / name], tmp_path / "unpacked")
        assert name in message
        assert sum(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*") if path.is_file()) < 2**20
        return message

    zeros = b"\0" * 2**20
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"{number}.png", "w") as file:
                for _ in range(200):
                    file.write(zeros)
    assert "600 MB would come out of 0.6 MB" in unpack("bomb.zip")

    with zipfile.ZipFile(tmp_path / "liar.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", zeros * 100)
    content = (tmp_path / "liar.zip").read_bytes()
    small = content.replace(struct.pack("<L", 100 * 2**20), struct.pack("<L", 1000))
    (tmp_path / "liar.zip").write_bytes(small)
    assert "cannot be read" in unpack("liar.zip")

    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.png", "")
    assert "too many files" in unpack("many.zip")
    (tmp_path / "cut.zip").write_bytes(content[:50] + content[-22:])
    assert "cannot be read" in unpack("cut.zip")


@pytest.fixture
def model(make_config: Callable) -> UnipForSemanticSegmentation:
    model = UnipForSemanticSegmentation(make_config(id2label={0: "sky", 1: "road", 2: "car"})).eval()
    model.decode_head.classifier.weight.data.normal_(std=2.0)
    return model


PROCESSOR = UnipImageProcessor(do_resize=False)


def test_an_upload_gets_so_many_frames_and_so_much_time(
    model: UnipForSemanticSegmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / "images" / f"{number}.png", draw(number)) for number in range(5)]
    (tmp_path / "images" / "3.png").write_bytes(paths[3].read_bytes()[:1000])
    sources, _ = describe_uploads(paths, tmp_path)
    done: list[tuple[int, int]] = []
    notes = segment_sources(model, PROCESSOR, sources, tmp_path / "all", lambda *counts: done.append(counts))
    assert done == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert len(notes) == 1 and "'3.png' is damaged" in notes[0] and str(tmp_path) not in notes[0]
    result = Segmentation(tmp_path / "all")
    assert result.names == ["0", "1", "2", "4"]
    np.testing.assert_array_equal(result.raw(3), draw(4))
    with zipfile.ZipFile(result.write_overlays(0.5)) as archive:
        assert archive.namelist() == [f"overlays/{name}.png" for name in result.names]

    notes = segment_sources(model, PROCESSOR, sources, tmp_path / "hurry", max_seconds=0)
    assert Segmentation(tmp_path / "hurry").names == ["0"]
    assert "first 1 frames are shown: an upload may take 0 seconds" in notes[0]
    monkeypatch.setattr(uploads, "MAX_FRAMES", 2)
    monkeypatch.setattr(segmentation, "MAX_FRAMES", 2)
    sources, _ = describe_uploads(paths, tmp_path)
    assert len(sources) == 3
    notes = segment_sources(model, PROCESSOR, sources, tmp_path / "two")
    assert Segmentation(tmp_path / "two").names == ["0", "1"] and "may take 2 frames" in notes[0]
    monkeypatch.setattr(segmentation, "MAX_FRAMES", 200)
    monkeypatch.setattr(segmentation, "MAX_KEPT_PIXELS", 40 * 56)
    segment_sources(model, PROCESSOR, sources, tmp_path / "one")
    assert Segmentation(tmp_path / "one").names == ["0"]

    damaged = [sources[0]._replace(path=str(paths[3]))]
    assert "'3.png' is damaged" in refused(segment_sources, model, PROCESSOR, damaged, tmp_path / "none")
    assert "Upload the image once more" in refused(Segmentation, tmp_path / "never")


def test_pixels_are_described_by_class_and_value(model: UnipForSemanticSegmentation, tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (30, 4000, 3), dtype=np.uint8)
    images = {
        "16": (draw(0), "{} counts"),
        "8": ((draw(0) // 40).astype(np.uint8), "grey value {}"),
        "float": (draw(0).astype(np.float32), "value {:g}"),
        "wide": (colour, "RGB {0[0]}, {0[1]}, {0[2]}"),
    }
    sources, _ = describe_uploads(
        [save(tmp_path / f"{name}.tif", image) for name, (image, _) in images.items()], tmp_path
    )
    segment_sources(model, PROCESSOR, sources, tmp_path / "result")
    result = Segmentation(tmp_path / "result")
    for frame, (image, words) in enumerate(images.values()):
        height, width = image.shape[:2]
        shown = result.picture(frame, 0.5)
        factor = shown.width / width
        assert factor == (12 if width == 56 else 2048 / 4000)
        x, y = width - 9, height - 10
        text = result.describe_pixel(frame, int((x + 0.5) * factor), int((y + 0.5) * factor))
        name = result.labels[int(result.ids(frame)[y, x])]
        assert text == f"x {x}, y {y}: {name}, " + words.format(image[y, x])
        assert sum(result.shares(frame).values()) == pytest.approx(1)
        assert f"x {width - 1}, y {height - 1}:" in result.describe_pixel(frame, shown.width, shown.height)


def test_old_files_are_deleted_and_the_pages_own_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, old, new = (save(tmp_path / folder / "a.png") for folder in ("own", "old", "new"))
    (tmp_path / "empty").mkdir()
    kept = frozenset([own, own.parent])
    delete_old_files(tmp_path, 1000, kept)
    assert all(path.exists() for path in (own, old, new, tmp_path / "empty"))
    wait_until(lambda: time.time() > old.lstat().st_ctime + 0.1, "the clock")
    os.utime(new)  # as when a file is uploaded once more
    monkeypatch.setattr("unip_hf.spaces_demo.temporary.time.time", lambda: new.lstat().st_ctime)
    delete_old_files(tmp_path, 0.05, kept)
    assert own.exists() and new.exists() and not old.exists() and not (tmp_path / "empty").exists()


def test_a_folder_that_vanishes_does_not_end_the_deletion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vanishing, old = (save(tmp_path / folder / "a.png") for folder in ("vanishing", "old"))
    scandir = os.scandir

    def scandir_late(path: str | int) -> object:
        if os.fspath(vanishing.parent) == str(path) and vanishing.exists():
            vanishing.unlink()
            vanishing.parent.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_late)
    delete_old_files(tmp_path, 0)
    assert not old.exists() and not vanishing.parent.exists()
