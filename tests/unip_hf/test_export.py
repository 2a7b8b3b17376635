"""Exported files compute what PyTorch computes, at every size, and what cannot be used is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from unip_hf import UnipConfig, UnipForLinearSegmentation, UnipForSemanticSegmentation, UnipImageProcessor, UnipModel
from unip_hf.evaluation import evaluate_dataset
from unip_hf.export.end_to_end import EndToEndSegmentation, percentiles
from unip_hf.export.exporting import export_model
from unip_hf.export.formats import quantize, save, trace
from unip_hf.inference import InferenceSettings, load_segmentation_model, segment_image
from unip_hf.inference.exported import EndToEndModel, ExportedModel, is_exported
from unip_hf.modeling import modeling_unip_convolution

from ..conftest import PATIENCE, save_checkpoint


FORMATS = {"onnx": "model.onnx", "openvino": "model.xml"}
SMALL = {"end_to_end": True, "frame_size": (61, 75)}
slow_openvino = pytest.param("openvino", marks=pytest.mark.slow)
WHOLE_IMAGE = InferenceSettings(window_size=None)


def tiny_model(model_class: type = UnipForSemanticSegmentation, **fields: object) -> torch.nn.Module:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "num_labels": 5,
        "decoder_channels": 16,
        "auxiliary_channels": 8,
        "position_embedding_type": "learned",
    }
    torch.manual_seed(0)
    model = model_class(UnipConfig(**{**sizes, **fields}))
    with torch.no_grad():
        model.unip.embeddings.position_embeddings.normal_()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.out_channels == model.config.num_labels:
                module.weight.normal_(std=1.0)  # scores far apart, as of a trained model
    model(torch.randn(2, model.config.num_channels, 64, 64))  # gives the batch norms something to do
    return model.eval()


def rounded_difference(ids: torch.Tensor, scores: torch.Tensor) -> float:
    """By how much the scores `(classes, H, W)` of other ids are lower than the highest."""
    return (scores.amax(0) - scores.gather(0, ids.long()[None])[0]).max().item()


@pytest.fixture(
    scope="module",
    # the graph of UPerNet takes 20 seconds
    params=[UnipForLinearSegmentation, pytest.param(UnipForSemanticSegmentation, marks=pytest.mark.slow)],
    ids=["linear", "upernet"],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / request.param.task
    tiny_model(request.param, num_channels=1).save_pretrained(folder)
    UnipImageProcessor(num_channels=1, size={"shortest_edge": 50, "longest_edge": 80}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["onnx", slow_openvino])
def exported(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_unip_convolution, "LEAST_CHANNELS", 16)  # as if the small network was a wide one
        export_model(checkpoint, folder, request.param)
    graph = (folder / FORMATS[request.param]).read_bytes()
    shuffles = graph.count(b'type="DepthToSpace"' if request.param == "openvino" else b"\x22\x0cDepthToSpace")
    assert shuffles == (2 if checkpoint.name == UnipForSemanticSegmentation.task else 0)
    return folder


@pytest.fixture(scope="module", params=["onnx", slow_openvino])
def end_to_end(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end-to-end") / request.param
    export_model(checkpoint, folder, request.param, end_to_end=True, frame_size=(180, 180))
    return folder


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    """What is exported fastest, with `SMALL`."""
    tiny_model(UnipForLinearSegmentation, num_channels=1, num_hidden_layers=1).save_pretrained(tmp_path / "smallest")
    UnipImageProcessor(num_channels=1).save_pretrained(tmp_path / "smallest")
    return tmp_path / "smallest"


@pytest.mark.parametrize(
    "size", [(1, 512, 512), (1, 480, 640), (1, 261, 333), (3, 64, 64), (2, 16, 48), (1, 31, 97)], ids=str
)
def test_files_agree_with_pytorch_at_any_size_and_batch(
    size: tuple[int, int, int], exported: Path, checkpoint: Path
) -> None:
    expected_model, _ = load_segmentation_model(checkpoint)
    model, _ = load_segmentation_model(exported)
    pixel_values = torch.randn(size[0], 1, *size[1:])
    with torch.inference_mode():
        expected = expected_model(pixel_values).logits
    logits = model(pixel_values).logits
    assert logits.shape == expected.shape and expected.std() > 0.1
    assert (logits - expected).abs().max() < 1e-3


def test_an_exported_folder_is_complete_and_says_what_was_checked(exported: Path) -> None:
    description = json.loads((exported / "export.json").read_text())
    shapes = [check["shape"] for check in description["checks"]]
    assert shapes == [[1, 1, 512, 512], [1, 1, 480, 640], [2, 1, 261, 333], [1, 1, 16, 16]]
    assert all(0 <= check["largest_difference"] < 1e-3 for check in description["checks"])
    assert description["file"] == FORMATS[description["format"]]
    assert description["bytes"][description["file"]] == (exported / description["file"]).stat().st_size
    # The file alone, and the folder, are the same model; windows and other passes work as with any model.
    model, processor = load_segmentation_model(exported / description["file"])
    image = np.random.default_rng(0).integers(6000, 7000, (70, 90)).astype(np.uint16)
    settings = InferenceSettings(window_size=32, stride=20, flip=True, scales=(1.0, 1.5))
    scores = segment_image(model, processor, image, settings)
    assert torch.equal(scores, segment_image(*load_segmentation_model(exported), image, settings))
    assert torch.allclose(scores.sum(0), torch.ones(70, 90), atol=1e-5)


def test_only_products_of_activations_with_weights_are_in_8_bits(tmp_path: Path) -> None:
    class Network(torch.nn.Module):
        """Its weights are too large for exporters to calculate the product of two of them themselves."""

        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterList([torch.randn(128, 128), torch.randn(128, 128), torch.randn(128)])

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": pixel_values @ self.weights[0] + torch.mv(self.weights[1], self.weights[2])}

    network, inputs = Network(), {"pixel_values": torch.randn(2, 3, 128)}
    save(trace(network, inputs, {"pixel_values": {0: torch.export.Dim("batch")}}), tmp_path, "onnx", 0)
    quantize(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model_int8.onnx")
    (logits,) = session.run(None, {"pixel_values": inputs["pixel_values"].numpy()})
    assert (tmp_path / "model_int8.onnx").read_bytes().count(b"\x22\x0dMatMulInteger") == 1
    expected = network(**inputs)["logits"]
    assert (torch.from_numpy(logits) - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.slow
def test_linear_models_of_three_channels_and_other_libraries(tmp_path: Path) -> None:
    save_checkpoint(tiny_model(UnipForLinearSegmentation, feature_layers=[1, 2]), tmp_path / "linear")
    description = export_model(tmp_path / "linear", tmp_path / "exported")
    assert description["architecture"] == "UnipForLinearSegmentation"
    assert description["checks"][2]["shape"] == [2, 3, 261, 333]

    from transformers import DPTConfig, DPTForSemanticSegmentation, SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16, "num_labels": 3}
    config = SegformerConfig(**sizes, num_attention_heads=[1, 1, 2, 2])
    save_checkpoint(SegformerForSemanticSegmentation(config), tmp_path / "segformer")
    description = export_model(tmp_path / "segformer", tmp_path / "other")
    assert description["size_divisor"] == 32 and description["checks"][2]["shape"] == [2, 3, 288, 352]

    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "fusion_hidden_size": 8}
    config = DPTConfig(**sizes, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], num_labels=3)
    save_checkpoint(DPTForSemanticSegmentation(config), tmp_path / "fixed-size")
    with pytest.raises(ValueError, match="DPTForSemanticSegmentation cannot be exported to onnx: "):
        export_model(tmp_path / "fixed-size", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("dtype", ["uint16", "uint8"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"intensity_scaling": "percentiles", "intensity_percentiles": (20, 50.5), "size": {"height": 33, "width": 40}},
        {"intensity_scaling": "fixed_range", "intensity_range": (50, 120), "do_resize": False},
        {"intensity_scaling": "fixed_range", "intensity_range": (-3, 40), "counts_to_celsius": (-0.4, 50)},
        {"intensity_scaling": "dtype_range", "resample": 3, "size": {"shortest_edge": 100}},
        {"antialias": False, "resample": 3, "size": {"height": 33, "width": 40}},
        {"do_rescale": False, "do_normalize": False, "resample": 0},
        {"image_mean": (0.2, 0.3, 0.4), "image_std": (0.1, 0.2, 0.3), "num_channels": 3},
    ],
    ids=str,
)
def test_the_end_to_end_graph_scales_as_the_processor(settings: dict, dtype: str) -> None:
    defaults = {"num_channels": 1, "size": {"shortest_edge": 50, "longest_edge": 80}}
    processor = UnipImageProcessor(**{**defaults, **settings})
    model = tiny_model(num_channels=processor.num_channels)
    generator = np.random.default_rng(0)
    frames = [
        generator.integers(20, 200, (61, 75)),
        np.full((61, 75), 7),
        np.where(np.arange(61 * 75).reshape(61, 75) == 9, 50, 30),  # one hot pixel: percentiles coincide
    ]
    frames = [frame.astype(dtype) for frame in frames]
    graph = EndToEndSegmentation(model, processor, (61, 75), getattr(torch, dtype)).eval()
    with torch.inference_mode():
        ids = graph(torch.from_numpy(np.stack(frames)))["ids"]
    assert ids.dtype == torch.uint8 and ids.shape == (3, 61, 75)
    assert len(ids[0].unique()) > 1
    for frame, frame_ids in zip(frames, ids):
        scores = segment_image(model, processor, frame, WHOLE_IMAGE)
        assert (frame_ids != scores.argmax(0)).float().mean() < 1e-3
        assert rounded_difference(frame_ids, scores) < 1e-3


def test_end_to_end_files_equal_processor_and_model(end_to_end: Path, checkpoint: Path, real_images: Path) -> None:
    frame = np.asarray(Image.open(real_images / "radiometric_16bit" / "thermal_parser__FLIR_B60.tiff"))
    assert frame.shape == (180, 180) and frame.dtype == np.uint16
    model, processor = load_segmentation_model(end_to_end)
    assert isinstance(model, EndToEndModel)
    assert InferenceSettings.for_model(model, window_size=64) == WHOLE_IMAGE
    assert model.to(torch.device("meta")).device.type == next(model.parameters()).device.type == "cpu"
    expected = segment_image(*load_segmentation_model(checkpoint), frame, WHOLE_IMAGE)
    ids = segment_image(model, processor, frame).argmax(0)
    assert torch.equal(ids, model.segment(frame))
    assert len(ids.unique()) > 1 and (ids != expected.argmax(0)).float().mean() < 1e-3
    assert rounded_difference(ids, expected) < 1e-3

    with pytest.raises(ValueError, match=r"uint16 frames of 180x180 pixels .* got uint8 of shape \(180, 180\)"):
        model.segment(frame.astype(np.uint8))
    with pytest.raises(ValueError, match=r"got uint16 of shape \(90, 180\)"):
        segment_image(model, processor, frame[:90])
    with pytest.raises(ValueError, match="leave out flip and scales"):
        segment_image(model, processor, frame, InferenceSettings(flip=True))
    with pytest.raises(ValueError, match="takes raw frames"):
        model(torch.zeros(1, 1, 64, 64))


def test_an_export_that_disagrees_is_not_left_behind(
    smallest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ExportedModel.run
    monkeypatch.setattr(ExportedModel, "run", lambda self, array: (run(self, array) + 1) % 5)
    with pytest.raises(ValueError, match=r"differs from PyTorch by .* at 1x61x75: nothing was written"):
        export_model(smallest, tmp_path / "exported", **SMALL)
    assert list(tmp_path.iterdir()) == [smallest]


@pytest.mark.slow
def test_folders_that_are_not_free(smallest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds other files"):
        export_model(smallest, tmp_path)
    folder = tmp_path / "exported"
    export_model(smallest, folder, **SMALL)
    with pytest.raises(ValueError, match="holds an earlier export"):
        export_model(smallest, folder)
    with pytest.raises(ValueError, match="is an exported model"):
        export_model(folder, tmp_path / "again")
    # What an earlier export of another format left goes away.
    (folder / "model.onnx").rename(folder / "model.xml")
    description = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**description, "bytes": {"model.xml": 1}}))
    export_model(smallest, folder, overwrite=True, **SMALL)
    assert (folder / "model.onnx").is_file() and not (folder / "model.xml").exists()


def test_wrong_arguments(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format must be one of onnx, openvino, got 'tensorrt'"):
        export_model(checkpoint, tmp_path / "out", "tensorrt")
    with pytest.raises(ValueError, match="int8 is for ONNX files"):
        export_model(checkpoint, tmp_path / "out", "openvino", int8=True)
    with pytest.raises(ValueError, match="must be uint8 or uint16"):
        export_model(checkpoint, tmp_path / "out", end_to_end=True, frame_dtype="float32")
    UnipModel(UnipConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path / "e")
    with pytest.raises(ValueError, match="not a trained segmentation model"):
        export_model(tmp_path / "e", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_used(exported: Path, tmp_path: Path) -> None:
    file = FORMATS[exported.name]
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_segmentation_model(tmp_path / "missing.onnx")
    (tmp_path / file).write_bytes((exported / file).read_bytes())
    with pytest.raises(ValueError, match=r"cannot be used alone: there is no config\.json beside it"):
        load_segmentation_model(tmp_path / file)
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_bytes((exported / file).read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{file}' cannot be loaded: "):
        load_segmentation_model(tmp_path / file)
    (tmp_path / "export.json").write_text('{"schema_version": 1, "components": {}}')
    with pytest.raises(ValueError, match="was not written by `unip export`"):
        load_segmentation_model(tmp_path)
    (tmp_path / "export.json").unlink()
    with pytest.raises(ValueError, match=r"there is no export\.json beside it"):
        load_segmentation_model(tmp_path)

    model, _ = load_segmentation_model(exported)
    with pytest.raises(ValueError, match=r"cannot take an input float32 \(1, 2, 64, 64\)"):
        model(torch.zeros(1, 2, 64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="without mixed precision"):
        model(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_may_have_an_export_beside_its_weights(weights: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    assert is_exported(tmp_path)
    (tmp_path / weights).touch()
    assert not is_exported(tmp_path) and is_exported(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").unlink()
    assert not is_exported(tmp_path)


@pytest.mark.slow
def test_openvino_reports_nothing(tmp_path: Path) -> None:
    script = """
import socket
def refuse(*arguments): raise SystemExit("something was sent")
socket.socket.connect = socket.getaddrinfo = refuse
from unip_hf.inference.exported import require_package
print(require_package("openvino").Core().available_devices, require_package("openvino").convert_model)
"""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 and "CPU" in done.stdout, done.stderr
    assert not [path for path in tmp_path.rglob("*") if "openvino" in path.name or "intel" in path.name]


@pytest.mark.parametrize("package, format", [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named(
    package: str, format: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'The package {package} is needed .*pip install "\.\[export\]"'
    with pytest.raises(ValueError, match=message):
        export_model(checkpoint, tmp_path / "out", format)
    for name in (FORMATS[format], "model.bin"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        ExportedModel(tmp_path / FORMATS[format], UnipConfig())


def test_percentiles_lie_between_values() -> None:
    frame = np.random.default_rng(0).integers(0, 60_000, (5, 7)).astype(np.uint16)  # few values, far apart
    found = percentiles(torch.from_numpy(frame[None].astype(np.float32)), [0, 12.5, 50, 77.7, 100])
    np.testing.assert_array_equal(found[:, 0], np.percentile(frame, [0, 12.5, 50, 77.7, 100]))


def test_weights_that_are_missing_beside_a_graph_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.xml").touch()
    with pytest.raises(FileNotFoundError, match=r"no file .*model\.bin"):
        ExportedModel(tmp_path / "model.xml", UnipConfig())


def test_exported_models_are_evaluated_as_others(exported: Path, checkpoint: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [
        {
            "image": Image.fromarray(generator.integers(6000, 7000, (40, 56)).astype(np.uint16)),
            "annotation": Image.fromarray(generator.integers(0, 5, (40, 56)).astype(np.uint8)),
        }
        for _ in range(2)
    ]
    dataset = datasets.Dataset.from_list(rows)
    names = {index: str(index) for index in range(5)}
    expected = evaluate_dataset(*load_segmentation_model(checkpoint), dataset, names)
    found = evaluate_dataset(*load_segmentation_model(exported), dataset, names)
    assert np.abs(found.confusion_matrix - expected.confusion_matrix).sum() <= 4  # ties
