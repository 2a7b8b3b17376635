"""Exported models of pairs take two images, and compute what PyTorch computes."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipForSegformerSegmentation, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.evaluation import SENSOR_FAULTS, evaluate_dataset
from unip_hf.export.checks import sample_pairs
from unip_hf.export.exporting import export_model
from unip_hf.inference import InferenceSettings, load_segmentation_model, segment_image, sliding_window_logits

from ..conftest import tiny_config


pytestmark = pytest.mark.slow


def save_pair_model(folder: Path, fusion: str, main_modality: str = "infrared", **settings: object) -> None:
    torch.manual_seed(0)
    channels = {"num_channels": 1, "auxiliary_num_channels": 3}
    if main_modality == "visible":
        channels = {"num_channels": 3, "auxiliary_num_channels": 1}
    config = tiny_config(
        fusion=fusion,
        main_modality=main_modality,
        num_hidden_layers=2 if fusion == "iv_tuning" else 4,
        decoder_channels=16,
        **channels,
    )
    # one has the head of the smallest graph, the other the paper's
    model = (UnipForSegformerSegmentation if fusion == "iv_tuning" else UnipForSemanticSegmentation)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):  # of UniRGB-IR: else the other image has no part yet
                parameter.normal_()
        model.decode_head.classifier.weight.normal_()
        inputs = {"pixel_values": torch.randn(2, config.num_channels, 64, 64)}
        inputs["auxiliary_pixel_values"] = torch.randn(2, config.auxiliary_num_channels, 64, 64)
        model(**inputs)  # gives the batch norms something to do
    model.eval().save_pretrained(folder)
    UnipImageProcessor(main_modality=main_modality, **channels, **settings).save_pretrained(folder)


@pytest.mark.parametrize("fusion", ["iv_tuning", "unirgb_ir"])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_files_of_pairs_agree_with_pytorch(fusion: str, format: str, tmp_path: Path) -> None:
    save_pair_model(tmp_path / "checkpoint", fusion)
    export_model(tmp_path / "checkpoint", tmp_path / "exported", format)
    description = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert description["reads_pairs"] and all(check["largest_difference"] < 1e-3 for check in description["checks"])
    expected_model, _ = load_segmentation_model(tmp_path / "checkpoint")
    model, processor = load_segmentation_model(tmp_path / "exported")
    for batch_size, *size in [(1, 261, 333), (3, 64, 64), (2, 16, 48)]:
        images, others = torch.randn(batch_size, 1, *size), torch.randn(batch_size, 3, *size)
        with torch.inference_mode():
            expected = expected_model(images, auxiliary_pixel_values=others).logits
        logits = model(images, auxiliary_pixel_values=others).logits
        assert logits.shape == expected.shape and (logits - expected).abs().max() < 1e-3
        assert (logits - model(images, auxiliary_pixel_values=torch.zeros_like(others)).logits).abs().max() > 1e-3

    windows = sliding_window_logits(model, images, 32, 20, auxiliary_pixel_values=others)
    assert (
        windows - sliding_window_logits(expected_model, images, 32, 20, auxiliary_pixel_values=others)
    ).abs().max() < 1e-3
    infrared, visible = sample_pairs((50, 70), "uint16", "infrared")[1]
    scores = segment_image(model, processor, infrared, auxiliary_image=visible)
    torch.testing.assert_close(
        scores, segment_image(expected_model, processor, infrared, auxiliary_image=visible), atol=1e-3, rtol=0
    )
    with pytest.raises(ValueError, match="visible image of the same scene, is missing"):
        model(images)
    with pytest.raises(ValueError, match="needs the visible image"):
        segment_image(model, processor, infrared)


@pytest.mark.parametrize(
    ("main_modality", "format"), [("infrared", "onnx"), ("visible", "onnx"), ("infrared", "openvino")]
)
def test_raw_frames_of_both_cameras_in_one_file(main_modality: str, format: str, tmp_path: Path) -> None:
    size = {"shortest_edge": 50, "longest_edge": 80}
    save_pair_model(tmp_path / "checkpoint", "iv_tuning", main_modality, size=size)
    export_model(tmp_path / "checkpoint", tmp_path / "exported", format, end_to_end=True, frame_size=(61, 75))
    model, _ = load_segmentation_model(tmp_path / "exported")
    checkpoint, processor = load_segmentation_model(tmp_path / "checkpoint")
    main, other = sample_pairs((61, 75), "uint16", main_modality)[1]
    settings = InferenceSettings(window_size=None)
    expected = segment_image(checkpoint, processor, main, settings, other)
    ids = model.segment(main, other)
    assert ids.shape == (61, 75) and (expected.amax(0) - expected.gather(0, ids.long()[None])[0]).max() < 1e-3
    assert torch.equal(segment_image(model, processor, main, settings, other).argmax(0), ids.long())
    infrared, visible = processor.by_role(main, other)  # the roles of two are exchanged in the same way
    rows: dict[str, list[str]] = {}
    for column, array in (("image", infrared), ("rgb", visible), ("annotation", ids.numpy())):
        rows[column] = [str(tmp_path / f"{column}.png")]
        Image.fromarray(array).save(rows[column][0])
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(dict.fromkeys(rows, datasets.Image())))
    result = evaluate_dataset(
        model, processor, dataset, {n: str(n) for n in range(5)}, settings, with_sensor_faults=True
    )
    assert result.metrics["mean_iou"] == 1.0
    assert list(result.sensor_faults) == [name for name, fault in SENSOR_FAULTS.items() if not fault.is_missing]
    with pytest.raises(ValueError, match="takes both raw frames"):
        segment_image(model, processor, main, settings, is_auxiliary_missing=True)
    with pytest.raises(ValueError, match="the auxiliary one is missing"):
        model.segment(main)
    with pytest.raises(ValueError, match=r"uint8 frames of 61x75 pixels \(height x width\) with three channels"):
        model.segment(*((main, main) if main_modality == "infrared" else (other, other)))
    with pytest.raises(ValueError, match="uint16 frames of 61x75 pixels"):
        model.segment(
            *((main.astype(np.uint8), other) if main_modality == "infrared" else (main, other.astype(np.uint8)))
        )
