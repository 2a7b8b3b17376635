"""The commands on pairs of images: check, show, evaluate, predict, with real files and wrong ones."""

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data import SCENE_CLASSES, draw_scene_pair
from unip_hf.data.alignment import find_shift
from unip_hf.inference import InferenceSettings, load_segmentation_model, segment_image
from unip_hf.inference.sources import find_pairs, read_frames
from unip_hf.inference.video import write_video
from unip_hf.scripts import check_dataset, evaluate, predict, show_dataset
from unip_hf.scripts.cli import run

from ..conftest import REAL_IMAGES


DAYS, NIGHT = (0, 2), 1  # seeds of scenes


def write_pair(folder: Path, name: str, seed: int, shift: int = 0) -> None:
    counts, visible, ids = draw_scene_pair(seed, 128, 160)
    visible = np.roll(visible, shift, axis=1)
    for kind, array, suffix in (("images", counts, "png"), ("visible", visible, "jpg"), ("masks", ids, "png")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.{suffix}", quality=95)


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, seed in enumerate((*DAYS, NIGHT)):
        write_pair(tmp_path / "street", f"frame-{number}", seed)
    (tmp_path / "street" / "id2label.json").write_text(json.dumps(dict(enumerate(SCENE_CLASSES))))
    return tmp_path / "street"


@pytest.fixture
def save_model(make_config: Callable, tmp_path: Path) -> Callable:
    def save(name: str = "fused", **fields: object) -> str:
        names = dict(enumerate(SCENE_CLASSES))
        config = make_config(**{"num_labels": len(names), "id2label": names, "fusion": "iv_tuning", **fields})
        model = UnipForSemanticSegmentation(config).eval()
        model.decode_head.classifier.weight.data.normal_(std=2.0)
        model.save_pretrained(tmp_path / name)
        processor = UnipImageProcessor(size={"shortest_edge": 64}, main_modality=config.main_modality)
        processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def test_shifted_edges_are_found_by_day_and_nothing_is_said_at_night() -> None:
    for seed in DAYS:
        counts, visible, _ = draw_scene_pair(seed)
        images = counts[..., None], visible
        assert find_shift(*images) is None
        for right, down in ((6, 0), (0, -5), (-14, 9)):
            found = find_shift(images[0], np.roll(visible, (down, right), (0, 1)))
            assert found is not None and np.abs(np.subtract(found, (right, down))).max() <= 1
    counts, visible, _ = draw_scene_pair(NIGHT)
    assert find_shift(counts[..., None], np.roll(visible, 10, axis=1)) is None
    assert find_shift(np.zeros((64, 64, 1)), np.zeros((64, 64, 3))) is None
    assert find_shift(np.zeros((1, 40, 1)), np.zeros((1, 40, 3))) is None


def test_sound_pairs_pass_the_check_and_both_intensities_are_shown(
    street: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--data_dir", str(street), "--json", "report.json", "--write_report", "report.html"]
    assert run(check_dataset.main, options) == 0
    text = capsys.readouterr().out
    assert "visible   uint8, 3 channels (3)" in text and "do not lie on each other" not in text
    assert "--fusion iv_tuning" in text  # in the recommended command
    found = json.loads(Path("report.json").read_text())["splits"]["train"]
    assert list(found["intensities"]) == ["uint16"] and list(found["visible_intensities"]) == ["uint8"]
    assert "Raw intensities of the visible images" in Path("report.html").read_text()


def test_what_is_wrong_with_pairs_is_listed(street: Path, capsys: pytest.CaptureFixture) -> None:
    write_pair(street, "moved", DAYS[0], shift=6)
    Image.new("RGB", (150, 128)).save(street / "visible" / "frame-1.jpg")
    (street / "visible" / "frame-2.jpg").unlink()
    write_pair(street, "deep", NIGHT)
    shutil.copy(street / "images" / "deep.png", street / "visible" / "deep.png")
    (street / "visible" / "deep.jpg").unlink()
    assert run(check_dataset.main, ["--data_dir", str(street)]) == 2
    text = capsys.readouterr().out
    assert text.count("frame-2.png' has no visible image") == 1 and "without a visible one" not in text
    assert "Infrared and visible images of different sizes" in text and "frame-1.jpg: 150x128" in text
    assert "moved.png: the visible image lies +6 pixels to the right, +0 down" in text
    assert "frame-0.png: the visible" not in text
    assert "Visible images of more than 8 bits" in text and "deep.png: uint16" in text
    assert run(check_dataset.main, ["--data_dir", str(street), "--dataset_config", "both"]) == 2
    assert 'It holds pairs if a folder "visible" lies beside "images"' in capsys.readouterr().err


def test_samples_of_pairs_are_drawn_side_by_side(street: Path) -> None:
    options = ["--data_dir", str(street), "--num_samples", "2", "--num_variants", "1", "--crop_size", "64"]
    assert run(show_dataset.main, options) == 0
    with Image.open("show.png") as picture:
        assert picture.width > 2 * 128 + 2 * 64
    squashed = [*options[:4], "--resize_to", "48", "64", "--ratio_range", "1", "1", "--crop_size", "64"]
    assert run(show_dataset.main, [*squashed, "--output_file", "squashed.png"]) == 0
    assert run(show_dataset.main, [*squashed, "--shortest_edge", "64", "--output_file", "x.png"]) == 2


def test_evaluate_writes_what_a_failing_sensor_costs(
    street: Path, save_model: Callable, capsys: pytest.CaptureFixture
) -> None:
    options = [save_model(), "--data_dir", str(street), "--split", "train", "--whole_image", "--num_workers", "0"]
    assert run(evaluate.main, [*options, "--output_dir", "all"]) == 0
    assert "auxiliary image shifted by 16 pixels" in capsys.readouterr().out
    assert len(json.loads(Path("all/results.json").read_text())["sensor_faults"]) == 3
    assert run(evaluate.main, [*options, "--output_dir", "both", "--no_sensor_faults"]) == 0
    assert "sensor_faults" not in json.loads(Path("both/results.json").read_text())
    (street / "visible").rename(street / "colour")
    assert run(evaluate.main, [*options, "--output_dir", "none"]) == 2
    assert 'put the visible images into "visible" beside "images"' in capsys.readouterr().err


@pytest.mark.parametrize("main", ["infrared", "visible"])
def test_predict_takes_infrared_images_and_their_visible_ones(
    main: str, street: Path, save_model: Callable, capsys: pytest.CaptureFixture
) -> None:
    name = save_model(main_modality=main)
    inputs = [name, str(street / "images"), "--auxiliary", str(street / "visible"), "--whole_image"]
    assert run(predict.main, [*inputs, "-o", "out", "--device", "cpu"]) == 0
    model, processor = load_segmentation_model(name)
    for number in range(3):
        thermal, visible = street / "images" / f"frame-{number}.png", street / "visible" / f"frame-{number}.jpg"
        image, other = processor.by_role(thermal, visible)
        expected = segment_image(model, processor, image, InferenceSettings(window_size=None), other).argmax(0)
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/masks/frame-{number}.png")), expected.numpy())
    assert json.loads(Path("out/predict.json").read_text())["settings"]["auxiliary"] == [str(street / "visible")]
    assert "3 frames" in capsys.readouterr().out
    assert run(predict.main, [*inputs, "-o", "out"]) == 0
    assert "0 frames (3 more were there already)" in capsys.readouterr().out

    street.joinpath("visible", "frame-0.jpg").rename("other.jpg")
    single = [name, str(street / "images" / "frame-0.png"), "--auxiliary", "other.jpg", "-o", "one", "--whole_image"]
    assert run(predict.main, single) == 0  # one file and one file
    first, again = (np.asarray(Image.open(f"{folder}/masks/frame-0.png")) for folder in ("out", "one"))
    np.testing.assert_array_equal(first, again)


def test_pages_belong_together_by_number(street: Path, save_model: Callable, capsys: pytest.CaptureFixture) -> None:
    name, pairs = save_model(), [draw_scene_pair(seed, 96, 112) for seed in range(2)]
    for file, column in (("thermal.tif", 0), ("visible.tif", 1)):
        first, second = (Image.fromarray(pair[column]) for pair in pairs)
        first.save(file, save_all=True, append_images=[second])
    arguments = [name, "thermal.tif", "--auxiliary", "visible.tif", "-o", "out", "--whole_image"]
    assert run(predict.main, arguments) == 0
    model, processor = load_segmentation_model(name)
    expected = segment_image(model, processor, pairs[1][0], InferenceSettings(window_size=None), pairs[1][1])
    mask = np.asarray(Image.open("out/masks/thermal/000001.png"))
    np.testing.assert_array_equal(mask, expected.argmax(0).numpy())
    Image.fromarray(pairs[0][1]).save("visible.tif")
    assert run(predict.main, [*arguments, "--overwrite"]) == 2
    assert "are no pair: one is a file of 2 pages, the other an image" in capsys.readouterr().err


def test_wrong_pairs_end_in_a_sentence(street: Path, save_model: Callable, capsys: pytest.CaptureFixture) -> None:
    fused, single = save_model(), save_model("single", fusion=None)
    images, visible = str(street / "images"), street / "visible"

    def error(*arguments: object) -> str:
        assert run(predict.main, [*map(str, arguments), "-o", "out", "--whole_image"]) == 2
        return capsys.readouterr().err

    assert "reads pairs: give infrared images as inputs" in error(fused, images)
    assert "reads one image at a time: leave out --auxiliary" in error(single, images, "--auxiliary", visible)
    assert "There is no file or folder 'nowhere'" in error(fused, images, "--auxiliary", "nowhere")
    assert "A visible image must have 8 bits, got uint16" in error(fused, visible, "--auxiliary", images)
    Image.new("RGB", (9, 9)).save(visible / "frame-0_rgb.png")
    assert "frame-0.png' has several visible images" in error(fused, images, "--auxiliary", visible)
    (visible / "frame-0.jpg").unlink()
    message = error(fused, images, "--auxiliary", visible)
    assert "frame-0_rgb.png cannot be used: Image and auxiliary image number 0 differ in size" in message
    (visible / "frame-0_rgb.png").unlink()
    assert "there is none with the name 'frame-0'" in error(fused, images, "--auxiliary", visible)
    arguments = [fused, images, "--auxiliary", str(visible), "-o", "out", "--whole_image", "--skip_unreadable"]
    assert run(predict.main, arguments) == 0
    printed = capsys.readouterr()
    assert "2 frames, " in printed.out and "there is none with the name 'frame-0'" in printed.err


def test_a_visible_video_that_ends_early_is_named(tmp_path: Path) -> None:
    for name, count in (("thermal.mp4", 3), ("visible.mp4", 2)):
        with write_video(tmp_path / name, Fraction(10)) as append:
            for _ in range(count):
                append(Image.new("RGB", (64, 48)))
    pairs = find_pairs([tmp_path / "thermal.mp4"], [tmp_path / "visible.mp4"])
    frames = read_frames(pairs)
    assert [next(frames).name for _ in range(2)] == ["thermal/000000", "thermal/000001"]
    with pytest.raises(ValueError, match=r"thermal\.mp4, frame 2 has no visible image: .*visible\.mp4 ends before it"):
        next(frames)


@pytest.mark.skipif(not REAL_IMAGES.is_dir(), reason="real images are not at hand")
def test_real_frames_of_four_channels_are_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unip_hf.data import load_infrared_dataset

    folder = str(REAL_IMAGES / "mfnet_raw")
    loaded = load_infrared_dataset("mfnet", folder, config_name="both", allow_partial=True, streaming=True)
    for rows in loaded.values():
        for row in rows:
            assert find_shift(np.asarray(row["image"])[..., None], np.asarray(row["rgb"])) in (None, (4, -2))
            assert row["image"].mode == "L" and row["rgb"].mode == "RGB"
