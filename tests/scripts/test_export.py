"""`unip export`, and what `unip predict` makes of its files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipConfig, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.scripts import export, predict
from unip_hf.scripts.cli import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `model`, and `images` and `data` of 16 bits."""
    monkeypatch.chdir(tmp_path)
    config = UnipConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        num_labels=3,
        decoder_channels=16,
        auxiliary_channels=8,
        id2label={0: "sky", 1: "road", 2: "car"},
    )
    model = UnipForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    model(torch.randn(2, 3, 64, 64))
    model.eval().save_pretrained("model")
    UnipImageProcessor(size={"shortest_edge": 64}).save_pretrained("model")
    generator = np.random.default_rng(0)
    for split in ("train", "validation"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for name in "ab":
            image = generator.integers(6700, 7900, (70, 90)).astype(np.uint16)
            Image.fromarray(image).save(f"data/images/{split}/{name}.png")
            Image.fromarray(generator.integers(0, 3, (70, 90)).astype(np.uint8)).save(f"data/masks/{split}/{name}.png")
    (tmp_path / "data" / "id2label.json").write_text(json.dumps({0: "sky", 1: "road", 2: "car"}))
    return tmp_path


def masks(folder: str) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(Path(folder, "masks").rglob("*.png"))}


@pytest.mark.slow
def test_predictions_of_an_onnx_file_are_those_of_pytorch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(export.main, ["model", "--format", "onnx", "-o", "exported", "--int8", "--data-dir", "data"]) == 0
    output = capsys.readouterr().out
    description = json.loads(Path("exported/export.json").read_text())
    mean_iou = description["int8"]["mean_iou"]
    assert mean_iou["images"] == 2 and mean_iou["loss"] == mean_iou["float32"] - mean_iou["int8"]
    assert f"(2 images): {mean_iou['float32']:.4f}, with int8 {mean_iou['int8']:.4f}" in output
    assert description["file"] == "model_int8.onnx"
    assert description["bytes"]["model_int8.onnx"] < description["bytes"]["model.onnx"]
    assert set(description["speed"]["milliseconds"]) == {"PyTorch", "model.onnx", "model_int8.onnx"}
    assert 1e-3 < description["int8"]["checks"][0]["largest_difference"] < 1

    images = "data/images/validation"
    assert run(predict.main, ["model", images, "-o", "a"]) == 0
    assert run(predict.main, ["exported/model.onnx", images, "-o", "b", "--save_scores"]) == 0
    assert run(predict.main, ["exported", images, "-o", "c", "--device", "cpu"]) == 0
    expected, found = masks("a"), masks("b")
    assert list(expected) == list(found) == ["a.png", "b.png"]
    assert all((expected[name] != found[name]).mean() < 1e-3 for name in expected)
    assert all((expected[name] != mask).mean() < 0.1 for name, mask in masks("c").items())  # int8
    assert len(np.unique(expected["a.png"])) > 1

    assert run(predict.main, ["exported/model_int8.onnx", images, "-o", "b", "--save_scores"]) == 2
    assert "results of another model" in capsys.readouterr().err
    assert run(predict.main, ["exported/model.onnx", images, "-o", "d", "--mixed_precision", "bf16"]) == 2
    assert "without mixed precision" in capsys.readouterr().err
    assert run(predict.main, ["exported/model.onnx", images, "-o", "d", "--compile"]) == 2
    assert "is an exported file: leave it out" in capsys.readouterr().err
    assert run(predict.main, ["exported/model.onnx", images, "-o", "d", "--dtype", "auto"]) == 0
    assert "--dtype auto takes fp32 here." in capsys.readouterr().out


@pytest.mark.slow
def test_an_end_to_end_file_predicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--format", "onnx", "-o", "exported", "--end_to_end", "--frame_size", "70", "90"]
    assert run(export.main, ["model", *options]) == 0
    description = json.loads(Path("exported/export.json").read_text())
    assert description["end_to_end"] == {"frame_size": [70, 90], "frame_dtype": "uint16"}
    assert max(check["different_ids"] for check in description["checks"]) < 1e-3
    images = "data/images/validation"
    assert run(predict.main, ["model", images, "-o", "a", "--whole_image"]) == 0
    assert run(predict.main, ["exported", images, "-o", "b"]) == 0
    assert json.loads(Path("b/predict.json").read_text())["settings"]["window_size"] is None
    expected, found = masks("a"), masks("b")
    assert all((expected[name] != found[name]).mean() < 1e-3 for name in expected)

    capsys.readouterr()
    assert run(predict.main, ["exported", images, "-o", "c", "--save_scores"]) == 2
    assert "gives class ids and no scores" in capsys.readouterr().err
    Image.fromarray(np.zeros((20, 90), np.uint16)).save("small.png")
    assert run(predict.main, ["exported", "small.png", "-o", "c"]) == 2
    assert "takes uint16 frames of 70x90 pixels" in capsys.readouterr().err
    assert not Path("c").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["nowhere", "--format", "onnx"], "There is no checkpoint"),
        (["model", "--format", "onnx", "--frame_size", "64", "64"], "are for --end_to_end"),
        (["model", "--format", "openvino", "--int8"], "int8 is for ONNX files"),
        (["model", "--format", "onnx", "--data_dir", "data"], "only used with int8"),
        (["model", "--format", "onnx", "--end_to_end", "--frame_size", "0", "64"], "at least 1x1 pixel"),
    ],
    ids=str,
)
def test_wrong_input_gets_a_sentence(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(export.main, [*options, "-o", "exported"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("exported").exists()
