"""Pairs of images: each is processed as its modality asks, whichever of them is the main one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from unip_hf import UnipImageProcessor


BLACK = np.zeros((48, 64, 3), np.uint8)
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A 16-bit infrared frame in a sliver of its range, and a dark visible one, which stays dark."""
    generator = np.random.default_rng(0)
    thermal = generator.integers(6743, 7077, (48, 64), dtype=np.uint16)
    return thermal, generator.integers(0, 40, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("main", ["infrared", "visible"])
def test_each_image_is_scaled_and_normalised_as_its_modality_asks(main: str, pair: tuple) -> None:
    thermal, visible = pair
    processor = UnipImageProcessor(do_resize=False, main_modality=main)
    images = dict(zip(("images", "auxiliary_images"), processor.by_role(thermal, Image.fromarray(visible))))
    batch = processor(**images, segmentation_maps=np.zeros((48, 64), np.uint8), return_tensors="np")
    assert set(batch) == {"pixel_values", "auxiliary_pixel_values", "labels"}
    found = [batch[name][0] for name in ("pixel_values", "auxiliary_pixel_values")]
    infrared, colour = found if main == "infrared" else found[::-1]
    alone = UnipImageProcessor(do_resize=False)(thermal, return_tensors="np").pixel_values[0]
    np.testing.assert_array_equal(infrared, alone)
    expected = (visible / 255 - IMAGENET[0]) / IMAGENET[1]
    np.testing.assert_allclose(colour.transpose(1, 2, 0), expected, atol=1e-5)


def test_means_of_the_published_recipe_and_a_fixed_size(pair: tuple, tmp_path: Path) -> None:
    mean, std = (56.5, 65.98, 58.66, 100.83), (58.1, 59.05, 60.3, 47.12)
    settings = {
        "main_modality": "visible", "size": {"height": 32, "width": 40}, "intensity_scaling": "dtype_range",
        "image_mean": [value / 255 for value in mean[:3]], "image_std": [value / 255 for value in std[:3]],
        "auxiliary_image_mean": mean[3] / 255, "auxiliary_image_std": std[3] / 255,
    }  # fmt: skip
    processor = UnipImageProcessor(**settings)
    processor.save_pretrained(tmp_path)
    loaded: Any = AutoImageProcessor.from_pretrained(tmp_path)
    thermal = np.full((48, 64), 200, np.uint8)
    for each in (processor, loaded):
        batch = each([pair[1]], auxiliary_images=[thermal], return_tensors="pt")
        assert batch.pixel_values.shape == batch.auxiliary_pixel_values.shape == (1, 3, 32, 40)
        assert torch.allclose(batch.auxiliary_pixel_values, torch.tensor((200 - mean[3]) / std[3]), atol=1e-4)
    black = processor(np.zeros((8, 8, 3), np.uint8), return_tensors="np").pixel_values
    np.testing.assert_allclose(black[0, :, 0, 0], -np.array(mean[:3]) / std[:3], atol=1e-5)


def test_files_of_processors_for_one_image_hold_nothing_new_and_others_come_back(tmp_path: Path) -> None:
    pairs_only = {"main_modality", "auxiliary_num_channels", "auxiliary_image_mean", "auxiliary_image_std"}
    assert not pairs_only & set(UnipImageProcessor().to_dict())
    settings = {"main_modality": "visible", "auxiliary_num_channels": 1, "auxiliary_image_mean": 0.25}
    UnipImageProcessor(**settings).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert {name: written[name] for name in pairs_only & set(written)} == {**settings, "auxiliary_image_mean": [0.25]}
    loaded: Any = AutoImageProcessor.from_pretrained(tmp_path)
    assert loaded.image_mean == [0.485, 0.456, 0.406] and loaded.auxiliary_image_std == [0.1871]


def test_the_auxiliary_processor_has_the_roles_exchanged_and_back_again() -> None:
    processor = UnipImageProcessor(1, image_mean=0.4, intensity_scaling="percentiles", auxiliary_image_std=0.2)
    auxiliary = processor.auxiliary
    assert (auxiliary.main_modality, auxiliary.num_channels, auxiliary.auxiliary_num_channels) == ("visible", 3, 1)
    assert (auxiliary.image_std, auxiliary.auxiliary_image_mean) == ([0.2], [0.4])
    assert auxiliary.auxiliary.to_dict() == processor.to_dict()
    grey = UnipImageProcessor(auxiliary_num_channels=1, do_resize=False)
    colours = np.full((16, 16, 3), (10, 200, 30), np.uint8)
    batch = grey(colours, auxiliary_images=colours, return_tensors="np")
    assert batch.pixel_values.shape[1] == 3 and batch.auxiliary_pixel_values.shape[1] == 1


@pytest.mark.parametrize(
    ("settings", "auxiliary", "message"),
    [
        (
            {"main_modality": "thermal"},
            np.zeros((48, 64, 3), np.uint8),
            'main_modality must be "infrared" or "visible"',
        ),
        (
            {"auxiliary_num_channels": 2},
            np.zeros((48, 64, 3), np.uint8),
            "auxiliary_num_channels must be 1 or 3, got 2",
        ),
        ({"auxiliary_image_mean": [0.1, 0.2]}, BLACK, "auxiliary_image_mean has 2 values"),
        ({"auxiliary_image_std": 0}, BLACK, "auxiliary_image_std must be positive"),
        ({}, np.zeros((48, 60, 3), np.uint8), r"Image and auxiliary image number 0 differ in size: .*\(48, 60\)"),
        ({}, [BLACK] * 2, "There are 1 images but 2 auxiliary images"),
        ({}, np.zeros((48, 64), np.uint16), "must have 8 bits, got uint16: is it the infrared one"),
        ({}, np.full((48, 64, 3), 2.0), "as visible ones are, must lie in 0..1"),
        ({}, "nowhere.png", "There is no file 'nowhere.png'"),
    ],
)
def test_wrong_pairs_are_refused(settings: dict, auxiliary: Any, message: str, pair: tuple) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        UnipImageProcessor(**settings)(pair[0], auxiliary_images=auxiliary)
