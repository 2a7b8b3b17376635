"""`unip predict` on real files of every kind, made here."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.inference import precision, sources
from unip_hf.inference.loading import load_segmentation_model
from unip_hf.inference.precision import CompiledModel
from unip_hf.inference.predictor import Predictor
from unip_hf.inference.sources import Frame, find_sources, read_frames
from unip_hf.inference.video import describe_video, frame_to_array, read_video
from unip_hf.inference.windows import InferenceSettings, segment_image
from unip_hf.scripts import predict
from unip_hf.scripts.cli import run


NAMES = {0: "sky", 1: "road", 2: "car", 3: "person", 4: "tree"}


def draw(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """16-bit counts in a narrow range, as radiometric cameras write them."""
    return np.random.default_rng(seed).integers(6700, 7900, (height, width)).astype(np.uint16)


def write_frames(path: Path, codec: str, pixel_format: str, frames: list[np.ndarray], **options: str) -> None:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for frame in frames:
            array_format = "rgb24" if frame.ndim == 3 else pixel_format
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=array_format)))
        container.mux(stream.encode())


def find_frames(paths: list[str], every: int = 1) -> Iterator[Frame]:
    return read_frames(find_sources(paths), every)


@pytest.fixture
def folder(make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: `model`, and `data` with every kind of file."""
    monkeypatch.chdir(tmp_path)
    model = UnipForSemanticSegmentation(make_config(decoder_channels=16, id2label=NAMES)).eval()
    model(torch.randn(2, 3, 64, 64))  # gives the batch norms something to do
    model.save_pretrained("model")
    UnipImageProcessor(do_resize=False).save_pretrained("model")
    data = tmp_path / "data"
    (data / "night").mkdir(parents=True)
    Image.fromarray(draw(0)).save(data / "one.png")
    Image.fromarray((draw(1, 33, 70) // 40).astype(np.uint8)).save(data / "night" / "one.v2.jpg")
    pages = [Image.fromarray(draw(seed, 40 + seed, 48)) for seed in range(3)]
    pages[0].save(data / "stack.tif", save_all=True, append_images=pages[1:])
    write_frames(data / "counts.mkv", "ffv1", "gray16le", [draw(seed) for seed in range(4)])
    colour = [np.repeat((draw(seed, 34, 50) // 40).astype(np.uint8)[..., None], 3, axis=2) for seed in range(4)]
    write_frames(data / "night" / "clip.mp4", "mpeg4", "yuv420p", colour)
    (data / "notes.txt").write_text("no image")
    (data / ".hidden.png").write_text("no image")
    return tmp_path


def unip_predict(*arguments: object) -> int:
    return run(predict.main, [*map(str, arguments), "--device", "cpu", "--window-size=48", "--stride", "32"])


def contents(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def expected_ids(image: np.ndarray) -> np.ndarray:
    model, processor = load_segmentation_model("model")
    return segment_image(model, processor, image, InferenceSettings(window_size=48, stride=32)).argmax(0).numpy()


def test_every_kind_of_file_is_segmented_as_it_is(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert unip_predict("model", "data", "-o", "out", "--save-scores") == 0
    assert "13 frames" in capsys.readouterr().out
    names = {"one", "night/one.v2"}
    names |= {f"{several}/{number:06d}" for several in ("counts", "night/clip") for number in range(4)}
    names |= {f"stack/{number:06d}" for number in range(3)}
    written = contents("out")
    stills = {name for name in names if not name.startswith(("counts", "night/clip"))}
    assert set(written) == {
        "predict.json",
        "overlays/counts.mp4",
        "overlays/night/clip.mp4",
        *(f"overlays/{name}.png" for name in stills),
        *(f"masks/{name}.png" for name in names),
        *(f"scores/{name}.npz" for name in names),
    }
    images = {"one": draw(0), **{f"stack/{page:06d}": draw(page, 40 + page, 48) for page in range(3)}}
    images |= {f"counts/{number:06d}": draw(number) for number in range(4)}
    images["night/one.v2"] = np.asarray(Image.open("data/night/one.v2.jpg"))
    for name, image in images.items():
        mask = np.asarray(Image.open(f"out/masks/{name}.png"))
        assert mask.dtype == np.uint8 and np.array_equal(mask, expected_ids(image)), name
        probabilities = np.load(f"out/scores/{name}.npz")["probabilities"]
        assert probabilities.dtype == np.float16 and probabilities.shape == (5, *image.shape)
        assert np.allclose(probabilities.astype(np.float32).sum(0), 1, atol=5e-3)
        picked = np.take_along_axis(probabilities, mask[None].astype(np.int64), axis=0)[0]
        assert (picked >= probabilities.max(0) - 1e-3).all()
    overlay = Image.open("out/overlays/one.png")
    assert overlay.mode == "RGB" and overlay.height > 40  # the legend stands below
    record = json.loads(written["predict.json"])
    assert [entry["name"] for entry in record["classes"]] == list(NAMES.values())
    assert record["settings"]["window_size"] == 48 and record["versions"]["torch"] == torch.__version__

    for name in ("counts", "night/clip"):
        assert describe_video(f"out/overlays/{name}.mp4") == (4, Fraction(10))
    frame = frame_to_array(next(read_video("out/overlays/counts.mp4")))
    assert frame.shape[0] > 40 and frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    color = np.array([entry["color"] for entry in record["classes"]])[
        np.asarray(Image.open("out/masks/counts/000000.png"))
    ]
    difference = frame[:40, :56].astype(float).mean((0, 1)) - color.mean((0, 1)) / 2
    assert np.ptp(difference) < 12  # half of the colours and half of a grey image


def test_each_frame_is_decoded_once_in_a_fresh_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def recording(function: Callable, name: str) -> None:
        def record(argument: object) -> np.ndarray:
            decoded.append(name)
            return function(argument)

        monkeypatch.setattr(sources, name, record)

    recording(sources.frame_to_array, "frame_to_array")
    recording(sources.read_image, "read_image")
    assert unip_predict("model", "data", "-o", "out") == 0
    assert decoded.count("frame_to_array") == 2 * 4 and decoded.count("read_image") == 2 + 3
    palette = np.array([entry["color"] for entry in json.loads(Path("out/predict.json").read_text())["classes"]])
    legend = frame_to_array(next(read_video("out/overlays/counts.mp4")))[40:].reshape(-1, 3).astype(int)
    for color in palette:  # all classes, whichever occur
        assert (np.abs(legend - color).max(1) < 60).any()


def test_a_mask_is_what_processor_and_model_give_also_with_many_classes(make_config: Callable, folder: Path) -> None:
    model = UnipForSemanticSegmentation(make_config(num_labels=300, decoder_channels=16)).eval()
    model.save_pretrained("many")
    processor = UnipImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained("many")
    assert unip_predict("many", "data/one.png", "-o", "out", "--whole_image", "--no_overlay") == 0
    assert set(contents("out")) == {"predict.json", "masks/one.png"}
    with torch.no_grad():
        outputs = model(**processor(draw(0), return_tensors="pt"))
        outputs.logits = torch.nn.functional.interpolate(outputs.logits, (64, 64), mode="bilinear")
    ids = processor.post_process_semantic_segmentation(outputs, [(40, 56)])[0].numpy()
    mask = np.asarray(Image.open("out/masks/one.png"))
    assert mask.dtype == np.uint16 and mask.max() > 255 and np.array_equal(mask, ids)


def test_flip_and_scales_average_probabilities(folder: Path) -> None:
    options = ["--flip", "--scales", "0.75", "1", "--mixed_precision", "bf16", "--save_scores", "--no_overlay"]
    assert unip_predict("model", "data/one.png", "-o", "out", *options) == 0
    probabilities = np.load("out/scores/one.npz")["probabilities"].astype(np.float32)
    model, processor = load_segmentation_model("model")
    settings = InferenceSettings(window_size=48, stride=32, flip=True, scales=(0.75, 1.0))
    assert np.allclose(probabilities, segment_image(model, processor, draw(0), settings), atol=0.03)


def test_precision(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert unip_predict("model", "data/night", "-o", "auto", "--dtype", "auto") == 0
    assert "--dtype auto takes bf16 here." in capsys.readouterr().out
    assert unip_predict("model", "data/night", "-o", "plain") == 0
    record, plain = (json.loads(Path(name, "predict.json").read_text()) for name in ("auto", "plain"))
    assert (record["dtype"], plain["dtype"]) == ("bf16", "fp32")
    assert record["settings"] == {**plain["settings"], "mixed_precision": "bf16"}
    mask, other = (np.asarray(Image.open(f"{name}/masks/one.v2.png")) for name in ("auto", "plain"))
    assert (mask == other).mean() > 0.9
    # As earlier versions wrote and were called.
    del record["dtype"]
    written = Path("auto/predict.json").stat()
    Path("auto/predict.json").write_text(json.dumps(record))
    os.utime("auto/predict.json", ns=(written.st_atime_ns, written.st_mtime_ns))  # results are newer than it
    assert unip_predict("model", "data/night", "-o", "auto", "--mixed_precision", "bf16") == 0
    assert unip_predict("model", "data/night", "-o", "plain", "--mixed-precision", "no", "--batch_size", "1") == 0
    assert capsys.readouterr().out.count("0 frames (5 more were there already)") == 2
    assert unip_predict("model", "data/night", "-o", "plain", "--dtype", "bf16") == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_compilation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CompiledModel", partial(CompiledModel, backend="eager"))
    for name, options in (("plain", ()), ("compiled", ("--compile",))):
        assert unip_predict("model", "data/night", "-o", name, *options) == 0
    found, expected = (np.asarray(Image.open(f"{name}/masks/one.v2.png")) for name in ("compiled", "plain"))
    assert (found == expected).mean() > 0.99


def test_a_run_goes_on_where_it_was_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ("model", "data", "-o")
    assert unip_predict(*command, "whole") == 0
    whole = contents("whole")

    prepare, prepared = Predictor.prepare, []

    def recorded(self: Predictor, frame: Frame) -> object:
        prepared.append(frame.name)
        return prepare(self, frame)

    def interrupted(self: Predictor, frame: Frame) -> object:
        if frame.name == "night/clip/000001":  # the sixth
            raise KeyboardInterrupt
        return prepare(self, frame)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "prepare", interrupted)
        assert unip_predict(*command, "out") == 130
    half = contents("out")
    assert set(half) < set(whole) and sum(name.startswith("masks") for name in half) == 5
    leftover = Path("out/masks/.incomplete-0")  # of a process that was killed
    leftover.mkdir()
    (leftover / "one.png").write_bytes(b"half")
    assert unip_predict(*command, "out") == 0
    assert "8 frames (5 more were there already)" in capsys.readouterr().out
    assert contents("out") == whole

    for name in ("masks/one.png", "overlays/stack/000001.png", "overlays/counts.mp4", "masks/night/clip/000002.png"):
        (Path("out") / name).unlink()
    monkeypatch.setattr(Predictor, "prepare", recorded)
    assert unip_predict(*command, "out") == 0
    assert len(prepared) == 3 and contents("out") == whole
    assert unip_predict(*command, "out", "--save_scores", "--batch_size", "1") == 0  # more of the same
    assert set(contents("out")) > set(whole)


def test_results_of_different_runs_are_not_mixed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ("model", "data/stack.tif", "-o", "out")
    assert unip_predict(*command) == 0
    Path("out/masks/other.png").write_text("a file of the user")
    before = contents("out")
    for changed, message in (
        ((*command, "--opacity", "0.2"), "other settings"),
        (("model", "data/one.png", "-o", "out"), "other inputs"),
    ):
        assert unip_predict(*changed) == 2
        assert f"holds results of {message}" in capsys.readouterr().err
    processor = UnipImageProcessor(do_resize=False, intensity_percentiles=(5, 95))
    processor.save_pretrained("model")
    assert unip_predict(*command) == 2
    assert "another model" in capsys.readouterr().err and contents("out") == before

    # What an interrupted --overwrite has not replaced yet is not taken for a result of it.
    assert unip_predict("model", "data/stack.tif", "-o", "fresh") == 0
    prepare = Predictor.prepare

    def interrupted(self: Predictor, frame: Frame) -> object:
        if frame.name == "stack/000001":
            raise KeyboardInterrupt
        return prepare(self, frame)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "prepare", interrupted)
        assert unip_predict(*command, "--overwrite") == 130
    assert unip_predict(*command) == 0
    assert contents("out") == {**contents("fresh"), "masks/other.png": b"a file of the user"}


def damage(name: str) -> None:
    path = Path("data") / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 10])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", ["one.png", "night/one.v2.jpg", "counts.mkv", "stack.tif"])
def test_a_damaged_file_is_named_and_what_was_finished_stays(
    name: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    damage(name)
    assert unip_predict("model", "data", "-o", "out") == 2
    error = capsys.readouterr().err
    assert f"data/{name}" in error and "Traceback" not in error
    masks = len(list(Path("out/masks").rglob("*.png")))
    assert not list(Path("out").rglob(".incomplete*"))
    assert unip_predict("model", "data", "-o", "out", "--skip_unreadable") == 0
    output = capsys.readouterr()
    assert "1 could not be read:" in output.err and f"data/{name}" in output.err
    assert masks == 0 or f"({masks} more were there already)" in output.out
    overlays = {"one.png", "night/one.v2.png", "stack/000002.png", "counts.mp4", "night/clip.mp4"}
    missing = {overlay for overlay in overlays if not (Path("out/overlays") / overlay).is_file()}
    # Of a damaged video there is what could be read.
    assert missing == {"counts.mkv": set(), "stack.tif": {"stack/000002.png"}}.get(name, {name.replace("jpg", "png")})


def test_frames_have_names_order_and_the_depth_of_the_file(folder: Path) -> None:
    names = ["counts/000000", "counts/000003", "night/clip/000000", "night/clip/000003", "night/one.v2", "one"]
    loaded = [(frame.name, frame.image) for frame in find_frames(["data"], every=3)]
    assert [name for name, _ in loaded] == [*names, *(f"stack/{page:06d}" for page in range(3))]
    assert loaded[2][1].shape == (34, 50, 3) and loaded[2][1].dtype == np.uint8
    assert np.array_equal(loaded[1][1], draw(3)) and np.array_equal(loaded[-1][1], draw(2, 42, 48))
    assert [f.name for f in find_frames(["data/**/*.p?g", "data/night/*.jpg", "data/one.png"])] == ["one", "one.v2"]
    assert [f.name for f in find_frames(["data/**/o*"])] == ["night/one.v2", "one"]

    assert [source.name for source in find_sources(["."], exclude="data/night")] == [
        "data/counts",
        "data/one",
        "data/stack",
    ]

    write_frames(folder / "ten.mkv", "ffv1", "gray10le", [draw(0) & 1023])
    assert np.array_equal(next(find_frames(["ten.mkv"])).image, draw(0) & 1023)
    # A display matrix that turns the picture by 90 degrees clockwise, as phones write it.
    video = bytearray(Path("data/night/clip.mp4").read_bytes())
    position = video.index(struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000), video.index(b"tkhd"))
    video[position : position + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 34 << 16, 0, 0x40000000)
    Path("turned.mp4").write_bytes(video)
    assert np.array_equal(next(find_frames(["turned.mp4"])).image, np.rot90(loaded[2][1], -1))


def make_wrong_input() -> None:
    Path("empty").mkdir()
    Image.fromarray(draw(0)).save("data/one.tif")
    Image.new("RGBA", (32, 32)).save("four.png")
    with av.open("sound.mkv", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    colour = [np.zeros((32, 32, 3), np.uint8)]
    write_frames(Path("alpha.mkv"), "ffv1", "yuva420p", colour)
    write_frames(Path("deep.mkv"), "ffv1", "yuv420p10le", colour)
    write_frames(Path("start.mp4"), "mpeg4", "yuv420p", colour * 20, movflags="frag_keyframe+empty_moov")
    start = Path("start.mp4").read_bytes()
    Path("start.mp4").write_bytes(start[: start.index(b"moof") - 4])
    stack = Path("data/stack.tif").read_bytes()
    Path("cut.tif").write_bytes(stack[: len(stack) // 2])
    Path("user").mkdir()
    Path("user/thesis.txt").write_text("precious")
    Path("nomodel").mkdir()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(("arguments", "message"), [
    (["model", "nowhere.png"], "There is no file or folder 'nowhere.png'"),
    (["model", "data/night", "nowhere/*.png"], "There is no image and no video in 'nowhere/*.png'"),
    (["model", "empty"], "There is no image and no video in 'empty'"),
    (["model", "data"], "would write the same files, 'one'"),
    (["model", "data/night", "data/one.png", "empty"], "in 'empty'"),
    (["model", "data/notes.txt"], "data/notes.txt is neither an image nor a video"),
    (["model", "four.png"], "four.png has the mode RGBA"),
    (["model", "four.png", "--skip_unreadable"], "No frame could be read: "),
    (["model", "cut.tif"], "cut.tif"),
    (["model", "sound.mkv"], "'sound.mkv' holds no video"),
    (["model", "alpha.mkv"], "'alpha.mkv' (yuva420p) have a channel of transparency"),
    (["model", "deep.mkv"], "'deep.mkv' (yuv420p10le) have 10 bits"),
    (["model", "start.mp4"], "'start.mp4' has no frames"),
    (["nomodel", "data/one.png"], "it has no config.json"),
    (["model", "data/one.png", "-o", "user"], "holds other files"),
    (["model", "data/one.png", "-o", "user", "--overwrite"], "holds other files"),
    (["model", "data/one.png", "-o", "four.png"], "is a file"),
    (["model", "data/one.png", "--stride", "500"], "stride=500"),
    (["model", "data/one.png", "--scales", "0"], "scales"),
    (["model", "data/one.png", "--opacity", "2"], "--opacity must be between 0 and 1"),
    (["model", "data/one.png", "--every", "0"], "--every must be at least 1"),
    (["model", "data/one.png", "--device", "abacus"], "--device 'abacus' cannot be used"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_status_2_and_nothing_written(
    arguments: list[str], message: str, folder: Path, refuses: Callable
) -> None:
    make_wrong_input()
    output = [] if "-o" in arguments else ["-o", "out"]
    refuses(["predict", "--window_size", "48", "--stride", "32", *arguments, *output], message)


def test_real_radiometric_images(real_images: Path, folder: Path) -> None:
    files = sorted((real_images / "radiometric_16bit").glob("*.tif*"))[:2]
    assert unip_predict("model", *files, "-o", "out") == 0
    for file in files:
        with Image.open(file) as image, Image.open(f"out/masks/{file.stem}.png") as mask:
            assert mask.size == image.size
