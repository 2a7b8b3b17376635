"""Corruptions that take texture or shape away, what they leave alone, and what they cost a segmentation model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.analysis import Corruption, feature_change, high_pass, low_pass, patch_shuffle, phase_scramble
from unip_hf.analysis.texture import CORRUPTIONS, DEFAULT_CORRUPTIONS
from unip_hf.evaluation import evaluate_dataset, mean_iou_under_corruptions
from unip_hf.inference import InferenceSettings


def amplitudes(image: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.fft2(image.astype(np.float64), axes=(0, 1)))


@pytest.fixture(params=["grey", "colour"])
def image(request: pytest.FixtureRequest) -> np.ndarray:
    """Counts of 16 bits around 7,000, as of a radiometric camera, with sides that are odd and even."""
    shape = (31, 44) if request.param == "grey" else (31, 44, 3)
    return np.random.default_rng(0).integers(6743, 7077, shape, dtype=np.uint16)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("corruption", DEFAULT_CORRUPTIONS, ids=str)
def test_dtype_shape_scale_and_input_stay(corruption: Corruption, dtype: type, image: np.ndarray) -> None:
    image = (image - 6743 if dtype is np.uint8 else image / 10_000 if dtype is np.float16 else image).astype(dtype)
    before = image.copy()
    found = corruption.apply(image, number=3)
    assert found.dtype == dtype and found.shape == image.shape and not np.shares_memory(found, image)
    assert (image == before).all() and (found != before).any()
    mean, spread = (before.astype(np.float64).mean(), before.astype(np.float64).std())
    assert abs(found.astype(np.float64).mean() - mean) < 0.2 * spread
    assert found.astype(np.float64).std() < 1.1 * spread
    assert (corruption.apply(image, number=3) == found).all()  # on every run
    is_random = corruption.kind in ("patch_shuffle", "phase_scramble")
    assert (corruption.apply(image, number=4) != found).any() == is_random
    assert (Corruption(corruption.kind, corruption.amount, seed=1).apply(image, 3) != found).any() == is_random


@pytest.mark.parametrize("corruption", DEFAULT_CORRUPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_constant_image_stays(corruption: Corruption, dtype: type) -> None:
    constant = np.full((16, 21, 3), (3, 200, 250), dtype)
    np.testing.assert_allclose(corruption.apply(constant, 0), constant, rtol=1e-6)


def test_integers_are_clipped_rather_than_wrapped() -> None:
    edge = np.zeros((16, 16), np.uint8)
    edge[:, 12:] = 255  # its mean is 64, and what was taken from the pixel beside is more
    assert high_pass(edge, sigma=2)[0, 11] == 0 and high_pass(255 - edge, sigma=2)[0, 11] == 255
    assert phase_scramble(edge.astype(float)).min() < 0 and phase_scramble(edge).min() == 0


def test_tiles_by_hand() -> None:
    numbers = np.arange(30).reshape(5, 6)  # tiles of 2 x 3 pixels; the last row is left over
    order = np.random.default_rng((7, 2)).permutation(4)
    assert order.tolist() != [0, 1, 2, 3]
    cut = [numbers[:2, :3], numbers[:2, 3:], numbers[2:4, :3], numbers[2:4, 3:]]
    expected = np.block([[cut[order[0]], cut[order[1]]], [cut[order[2]], cut[order[3]]], [numbers[4:]]])
    assert (patch_shuffle(numbers, 2, seed=7, number=2) == expected).all()


@pytest.mark.parametrize("tiles", [1, 2, 3, 5, 31])
def test_shuffling_is_a_permutation_that_masks_follow(tiles: int, image: np.ndarray) -> None:
    mask = (image if image.ndim == 2 else image[..., 0]) % 7
    shuffled, its_mask = patch_shuffle(image, tiles, 1, 2), patch_shuffle(mask.astype(np.uint8), tiles, 1, 2)
    assert (np.sort(shuffled, axis=None) == np.sort(image, axis=None)).all()
    assert ((shuffled if image.ndim == 2 else shuffled[..., 0]) % 7 == its_mask).all()
    assert (patch_shuffle(shuffled, tiles, 1, 2, undo=True) == image).all()
    assert (shuffled == image).all() == (tiles == 1)


def test_low_pass_is_a_gaussian_and_high_pass_the_rest(image: np.ndarray) -> None:
    impulse = np.zeros((41, 41))
    impulse[20, 20] = 1
    x = np.arange(-20, 21)
    gaussian = np.exp(-(x**2) / (2 * 2.0**2))
    expected = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    np.testing.assert_allclose(low_pass(impulse, sigma=2), expected, atol=1e-5)
    values = image.astype(np.float64)
    np.testing.assert_allclose(
        low_pass(values, 3) + high_pass(values, 3), values + values.mean(axis=(0, 1)), rtol=1e-12
    )
    np.testing.assert_allclose(high_pass(values, 3).mean(axis=(0, 1)), values.mean(axis=(0, 1)), rtol=1e-4)
    assert (low_pass(image, 0) == image).all()
    slices = [image] if image.ndim == 2 else [image[..., channel] for channel in range(3)]
    blurred = low_pass(image, 1.5)
    for channel, one in enumerate(slices):  # each channel for itself
        assert (low_pass(one, 1.5) == (blurred if image.ndim == 2 else blurred[..., channel])).all()


@pytest.mark.parametrize("shape", [(16, 16), (15, 16), (16, 15), (15, 15), (1, 8), (12, 18, 3)])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_scrambled_phase_keeps_every_amplitude(shape: tuple, strength: float) -> None:
    image = np.random.default_rng(0).random(shape)
    found = phase_scramble(image, strength, seed=3, number=1)
    np.testing.assert_allclose(amplitudes(found), amplitudes(image), atol=1e-10)
    assert (found**2).sum() == pytest.approx((image**2).sum(), rel=1e-12)  # Parseval
    np.testing.assert_allclose(found.mean(axis=(0, 1)), image.mean(axis=(0, 1)), rtol=1e-12)
    assert np.abs(found - image).max() > 0.01
    assert (phase_scramble(image, 0.0) == image).all()


def test_scrambled_phase_takes_shape_away_and_more_of_it_with_more_strength() -> None:
    disc = (np.hypot(*np.mgrid[-32:32, -32:32]) < 12).astype(np.float32)
    shares = [np.corrcoef(phase_scramble(disc, s).ravel(), disc.ravel())[0, 1] for s in (0, 0.3, 0.6, 1)]
    assert shares[0] == pytest.approx(1) and sorted(shares, reverse=True) == shares and abs(shares[-1]) < 0.3
    colour = np.stack([disc, 2 * disc, disc + 1], axis=-1)
    scrambled = phase_scramble(colour)
    np.testing.assert_allclose(scrambled[..., 1], 2 * scrambled[..., 0], atol=1e-5)  # colours keep their places
    np.testing.assert_allclose(scrambled[..., 2], scrambled[..., 0] + 1, atol=1e-5)


def test_what_cannot_be_corrupted_is_refused() -> None:
    image = np.ones((8, 9), np.float32)
    for call, message in (
        (lambda: patch_shuffle(image, 9), "8x9 pixels cannot be cut into 9x9 tiles: choose at most 8"),
        (lambda: patch_shuffle(image, 0), "The tiles of patch_shuffle must be a whole number from 1 up, got 0"),
        (lambda: low_pass(image, -1), "The sigma of low_pass must be at least 0, got -1"),
        (lambda: high_pass(image, 0), "The sigma of high_pass must be above 0, got 0"),
        (lambda: low_pass(image, float("nan")), "must be at least 0, got nan"),
        (lambda: phase_scramble(image, 1.1), "The strength of phase_scramble must be from 0 to 1, got 1.1"),
        (lambda: low_pass(image > 0, 1), "must hold integers or floating-point numbers, got bool"),
        (lambda: phase_scramble(image[0]), r"must have the shape .*, got \(9,\)"),
        (lambda: high_pass(np.where(image > 0, np.nan, image), 1), "not finite"),
        (lambda: Corruption("blur", 1), "There is no corruption 'blur': choose one of patch_shuffle, low_pass"),
        (lambda: Corruption("low_pass", 1, seed=-1), "The seed of low_pass must be at least 0, got -1"),
        (lambda: Corruption("patch_shuffle", 2.5), "whole number from 1 up, got 2.5"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert {corruption.kind for corruption in DEFAULT_CORRUPTIONS} == set(CORRUPTIONS)
    assert (str(Corruption("low_pass", 2)), Corruption("low_pass", 0.5).name) == (
        "low-pass, sigma 2 pixels", "low_pass_0.5",
    )  # fmt: skip


def test_change_of_features_by_hand() -> None:
    clean = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, 0.0]]])
    corrupted = torch.tensor([[[5.0, 0.0], [1.0, 0.0]], [[-1.0, -1.0], [1.0, 1.0]]], dtype=torch.float64)
    found = feature_change(clean, corrupted)
    torch.testing.assert_close(found, torch.tensor([0.5, (-1 + 0.5**0.5) / 2]))
    torch.testing.assert_close(feature_change(clean.half(), clean.half()), torch.ones(2))
    with pytest.raises(ValueError, match=r"got \(2, 2, 2\) and \(2, 1, 2\)"):
        feature_change(clean, corrupted[:, :1])


def test_features_of_shuffled_patches_are_put_back() -> None:
    images = np.random.default_rng(0).random((2, 96, 144)).astype(np.float32)  # 6 x 9 patches

    def features(images: np.ndarray) -> torch.Tensor:
        patches = nn.functional.unfold(torch.from_numpy(images).unsqueeze(1), 16, stride=16)  # (B, 256, N)
        return torch.stack([patches.amin(dim=1), patches.amax(dim=1)], dim=-1)  # (B, N, 2), of each patch alone

    corruption = Corruption("patch_shuffle", 3, seed=5)
    shuffled = features(np.stack([corruption.apply(image, number) for number, image in zip((8, 9), images)]))
    clean = features(images)
    assert not torch.equal(shuffled, clean)
    assert torch.equal(corruption.undo_in_features(shuffled, (6, 9), [8, 9]), clean)
    assert not torch.equal(corruption.undo_in_features(shuffled, (6, 9), [9, 8]), clean)
    assert DEFAULT_CORRUPTIONS[1].undo_in_features(clean, (6, 9), [8, 9]) is clean
    with pytest.raises(ValueError, match="6x9 patches has no 4x4 tiles of whole patches"):
        DEFAULT_CORRUPTIONS[0].undo_in_features(clean, (6, 9), [8, 9])


def warm_and_cold(folder: Path, visible: np.ndarray) -> datasets.Dataset:
    """Three images of 16 bits, of which the warm pixels are one class; all have the same visible image."""
    rows: dict[str, list[str]] = {"image": [], "annotation": [], "rgb": []}
    for number in range(3):
        ids = np.zeros((64, 64), np.uint8)
        ids[8 * number : 8 * number + 24, 16:40] = 1
        arrays = {"image": np.uint16(6900) + 100 * ids.astype(np.uint16), "annotation": ids, "rgb": visible}
        for column in rows:
            rows[column].append(str(folder / f"{number}-{column}.png"))
            Image.fromarray(arrays[column]).save(rows[column][-1])
    return datasets.Dataset.from_dict(rows, features=datasets.Features({name: datasets.Image() for name in rows}))


class Warm(nn.Module):
    """Segments by temperature, pixel by pixel: a network that sees nothing but texture."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 2, kernel_size=1, bias=False)
        self.scores.weight.data = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1).clone()

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(logits=self.scores(pixel_values))


NAMES = {0: "cold", 1: "warm"}
SETTINGS = InferenceSettings(window_size=64, stride=64)


def test_mean_iou_falls_with_what_a_network_looks_at(tmp_path: Path) -> None:
    processor = UnipImageProcessor(do_resize=False, image_mean=0.5, image_std=0.5)
    rows = warm_and_cold(tmp_path, np.full((64, 64, 3), 90, np.uint8))  # the visible images show nothing
    found = mean_iou_under_corruptions(Warm(), processor, rows, NAMES, settings=SETTINGS, num_workers=0)
    assert list(found) == [
        "clean", "patch_shuffle_4", "low_pass_2", "high_pass_2", "phase_scramble_1", "visible"
    ]  # fmt: skip
    scores = {name: one["mean_iou"] for name, one in found.items()}
    assert scores["clean"] == scores["patch_shuffle_4"] == 1  # masks move with the tiles
    assert 0.8 < scores["low_pass_2"] < 1 and scores["phase_scramble_1"] < 0.6
    counts = (3 * 24 * 24, 3 * 64 * 64)  # the visible images show one temperature: all is one class
    assert scores["visible"] in (
        pytest.approx(counts[0] / counts[1] / 2),
        pytest.approx((1 - counts[0] / counts[1]) / 2),
    )
    assert all(one["drop"] == pytest.approx(1 - one["mean_iou"]) for one in found.values())
    plain = evaluate_dataset(Warm(), processor, rows, NAMES, SETTINGS)
    assert plain.metrics["mean_iou"] == 1
    infrared = rows.remove_columns("rgb")
    again = mean_iou_under_corruptions(
        Warm(), processor, infrared, NAMES, [Corruption("low_pass", 2)], SETTINGS, num_workers=0
    )
    assert again == {name: found[name] for name in ("clean", "low_pass_2")}
    with pytest.raises(ValueError, match=r"0-image.png: An image of 64x64 pixels cannot be cut into 65x65 tiles"):
        mean_iou_under_corruptions(Warm(), processor, infrared, NAMES, [Corruption("patch_shuffle", 65)], SETTINGS)


def test_of_pairs_both_images_are_corrupted(make_config: Callable, tmp_path: Path) -> None:
    model = UnipForSemanticSegmentation(make_config(fusion="iv_tuning", num_labels=2))
    processor = UnipImageProcessor(do_resize=False)
    visible = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    rows, tiles = warm_and_cold(tmp_path, visible), Corruption("patch_shuffle", 2)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.register_forward_pre_hook(
        lambda _, inputs, options: seen.append((inputs[0], options["auxiliary_pixel_values"])), with_kwargs=True
    )
    found = mean_iou_under_corruptions(model, processor, rows, NAMES, [tiles], replace(SETTINGS, batch_size=1))
    assert list(found) == ["clean", "patch_shuffle_2"]
    for number in range(3):
        for clean, shuffled in zip(seen[number], seen[3 + number], strict=True):
            expected = tiles.apply(clean[0].permute(1, 2, 0).numpy(), number)
            torch.testing.assert_close(shuffled[0].permute(1, 2, 0), torch.from_numpy(expected))
