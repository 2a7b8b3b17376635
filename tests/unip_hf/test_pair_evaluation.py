"""Models of pairs go over images and data sets; what a failing sensor costs is part of an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.evaluation import SENSOR_FAULTS, evaluate_dataset, format_result, segment_dataset, write_results
from unip_hf.inference import InferenceSettings, load_segmentation_model, segment_image, sliding_window_logits


SETTINGS = InferenceSettings(window_size=32, stride=24)
NAMES = {0: "ground", 1: "car", 2: "person"}


def make_pairs(count: int = 3, height: int = 48, width: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        (
            generator.integers(6743, 7077, (height, width), dtype=np.uint16),
            generator.integers(0, 255, (height, width, 3), dtype=np.uint8),
        )
        for _ in range(count)
    ]


def make_dataset(folder: Path) -> datasets.Dataset:
    rows: dict[str, list[str]] = {"image": [], "rgb": [], "annotation": []}
    for number, (thermal, visible) in enumerate(make_pairs()):
        ids = np.random.default_rng(number).integers(0, 3, thermal.shape, dtype=np.uint8)
        for column, array in (("image", thermal), ("rgb", visible), ("annotation", ids)):
            rows[column].append(str(folder / f"{number}-{column}.png"))
            Image.fromarray(array).save(rows[column][-1])
    return datasets.Dataset.from_dict(rows, features=datasets.Features({name: datasets.Image() for name in rows}))


@pytest.fixture
def make_model(make_config: Callable) -> Callable:
    def make(**fields: Any) -> UnipForSemanticSegmentation:
        torch.manual_seed(0)
        model = UnipForSemanticSegmentation(make_config(**{"fusion": "iv_tuning", "num_labels": 3, **fields})).eval()
        model.decode_head.classifier.weight.data.normal_(std=2.0)
        return model

    return make


def test_windows_of_both_images_are_the_same_places(make_model: Callable) -> None:
    model = make_model()
    main, auxiliary = torch.randn(2, 3, 40, 56), torch.randn(2, 3, 40, 56)
    logits = sliding_window_logits(model, main, 32, 24, auxiliary_pixel_values=auxiliary)
    with torch.inference_mode():
        corner = model(main[:1, :, 8:40, 24:56], auxiliary_pixel_values=auxiliary[:1, :, 8:40, 24:56]).logits
    resized = torch.nn.functional.interpolate(corner, size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(logits[:1, :, -8:, -8:], resized[..., -8:, -8:], atol=1e-4)  # which no other window covers
    with pytest.raises(ValueError, match=r"2 images of 40x56 pixels .* auxiliary_pixel_values 1 of 40x56"):
        sliding_window_logits(model, main, auxiliary_pixel_values=auxiliary[:1])
    with pytest.raises(ValueError, match="auxiliary_pixel_values 2 of 40x48"):
        sliding_window_logits(model, main, auxiliary_pixel_values=auxiliary[..., :48])


@pytest.mark.parametrize("main", ["infrared", "visible"])
def test_one_image_missing_is_zeros_after_normalisation(main: str, make_model: Callable) -> None:
    model, processor = make_model(main_modality=main), UnipImageProcessor(size=48, main_modality=main)
    image, auxiliary = processor.by_role(*make_pairs(1)[0])
    whole = InferenceSettings(window_size=None)
    scores = segment_image(model, processor, image, whole, is_auxiliary_missing=True)
    pixel_values = processor(image, return_tensors="pt").pixel_values
    with torch.inference_mode():
        logits = model(pixel_values, auxiliary_pixel_values=torch.zeros(1, 3, 48, 48)).logits
    for size in ((48, 48), (48, 64)):
        logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.allclose(scores, logits[0], atol=1e-4)
    both = segment_image(model, processor, image, whole, auxiliary)
    assert not torch.allclose(both, scores, atol=1e-2)
    doubled = InferenceSettings(window_size=None, flip=True)
    mirrored = segment_image(model, processor, image[:, ::-1], doubled, auxiliary[:, ::-1])
    assert torch.allclose(mirrored.flip(-1), segment_image(model, processor, image, doubled, auxiliary), atol=1e-4)


def test_a_model_gets_as_many_images_as_it_reads(make_model: Callable) -> None:
    processor, (thermal, visible) = UnipImageProcessor(size=48), make_pairs(1)[0]
    fused, single = make_model(), make_model(fusion=None)
    with pytest.raises(ValueError, match="beside the infrared image it needs the visible image of the same scene"):
        segment_image(fused, processor, thermal)
    with pytest.raises(ValueError, match="given and said to be missing"):
        segment_image(fused, processor, thermal, SETTINGS, visible, is_auxiliary_missing=True)
    with pytest.raises(ValueError, match="reads one image at a time: leave out the auxiliary image"):
        segment_image(single, processor, thermal, SETTINGS, visible)
    with pytest.raises(ValueError, match="Image and auxiliary image number 0 differ in size"):
        segment_image(fused, processor, thermal, SETTINGS, visible[:, :60])


def test_evaluation_tells_what_a_failing_sensor_costs(make_model: Callable, tmp_path: Path) -> None:
    model, processor, dataset = make_model(), UnipImageProcessor(size=48), make_dataset(tmp_path)
    result = evaluate_dataset(model, processor, dataset, NAMES, SETTINGS, num_examples=1, with_sensor_faults=True)
    assert list(result.sensor_faults) == list(SENSOR_FAULTS)
    assert result.best[0].visible is not None and result.best[0].visible.shape == (48, 64, 3)
    scores = [result.metrics["mean_iou"], *(found["mean_iou"] for found in result.sensor_faults.values())]
    assert len(set(scores)) == 4

    shifted = dataset.map(shift_row, load_from_cache_file=False)
    again = evaluate_dataset(model, processor, shifted, NAMES, SETTINGS)
    assert again.metrics["mean_iou"] == scores[2] and again.sensor_faults == {}

    text = format_result(result, NAMES)
    for line in ("both images", "auxiliary image missing", "auxiliary image shifted by 8 pixels", "by 16 pixels"):
        assert line in text
    write_results(tmp_path / "out", result, NAMES, {})
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["sensor_faults"]["auxiliary_missing"]["mean_iou"] == scores[1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "If the auxiliary image fails" in page and "auxiliary image shifted by 16 pixels" in page

    write_results(tmp_path / "single", evaluate_dataset(make_model(fusion=None), processor, dataset, NAMES), NAMES, {})
    assert "sensor_faults" not in json.loads((tmp_path / "single" / "results.json").read_text())
    with pytest.raises(ValueError, match="the dataset has no visible images"):
        evaluate_dataset(model, processor, dataset.remove_columns("rgb"), NAMES)


def shift_row(row: dict) -> dict:
    """The visible image 8 pixels to the right, its left column in the gap."""
    visible = np.asarray(row["rgb"])
    return {"rgb": Image.fromarray(np.concatenate([np.repeat(visible[:, :1], 8, axis=1), visible[:, :-8]], axis=1))}


def test_the_roles_of_the_columns_follow_the_main_modality(make_model: Callable, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    thermal, visible = make_pairs()[0]
    for main, images in (("infrared", (thermal, visible)), ("visible", (visible, thermal))):
        model, processor = make_model(main_modality=main), UnipImageProcessor(size=48, main_modality=main)
        _, _, scores = next(segment_dataset(model, processor, dataset, SETTINGS))
        assert torch.equal(scores, segment_image(model, processor, images[0], SETTINGS, images[1]))


def test_model_and_processor_must_agree_on_the_main_image(make_model: Callable, tmp_path: Path) -> None:
    make_model(main_modality="visible").save_pretrained(tmp_path)
    UnipImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is visible, but its preprocessor_config\.json says infrared"):
        load_segmentation_model(tmp_path)
    UnipImageProcessor(main_modality="visible").save_pretrained(tmp_path)
    _, processor = load_segmentation_model(tmp_path)
    assert processor.main_modality == "visible"


def test_a_fixed_size_is_undone_in_the_scores(make_model: Callable) -> None:
    """As in the published recipe: squashed, segmented whole, and resized back twice."""
    model, processor = make_model(), UnipImageProcessor(size={"height": 32, "width": 32})
    thermal, visible = make_pairs(1)[0]
    scores = segment_image(model, processor, thermal, InferenceSettings(window_size=None), visible)
    batch = processor(thermal, auxiliary_images=visible, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch).logits
    for size in ((32, 32), thermal.shape):
        logits = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.allclose(scores, logits[0], atol=1e-4)
