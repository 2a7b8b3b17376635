"""Videos that are cut off or damaged give their frames or a sentence that names them."""

import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unip_hf.inference.sources import find_sources, read_frames

from ..nonsense import damaged, result_or_sentence


def video(container: str, codec: str, pixel_format: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as opened:
        stream = opened.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for number in range(5):
            picture = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode())
    return file.getvalue()


VIDEOS = [
    ("mp4", video("mp4", "mpeg4", "yuv420p")),
    ("mkv", video("matroska", "ffv1", "gray16le")),
    ("avi", video("avi", "mjpeg", "yuvj420p")),
]


@given(st.sampled_from(VIDEOS).flatmap(lambda one: st.tuples(st.just(one[0]), damaged(one[1]))))
def test_a_damaged_video_gives_frames_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, video: tuple[str, bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"video.{video[0]}"
    path.write_bytes(video[1])
    result_or_sentence(lambda: list(read_frames(find_sources([path]))), str(path))
