"""Crops that are computed alone, beside crops of whole resized images."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.training import plain_crop
from unip_hf import UnipImageProcessor
from unip_hf.data.reading import count_ids
from unip_hf.data.resizing import Window, nearest_pixels, resized_window
from unip_hf.data.transforms import training_transforms


SIZES = [
    ((64, 80), (128, 160)),
    ((64, 80), (45, 56)),
    ((61, 83), (61, 83)),
    ((61, 83), (20, 200)),
    ((250, 7), (33, 120)),
    ((1, 1), (70, 90)),
    ((3, 2), (129, 2)),
    ((200, 300), (2, 2)),
    ((128, 160), (127, 161)),
]


def resize(pixels: torch.Tensor, size: tuple[int, int], mode: str, antialias: bool = False) -> torch.Tensor:
    return nn.functional.interpolate(pixels[None], size=size, mode=mode, antialias=antialias)[0]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("size", "resized"), SIZES)
def test_a_window_is_part_of_the_whole_resized_image(
    size: tuple[int, int], resized: tuple[int, int], antialias: bool
) -> None:
    random = np.random.default_rng(0)
    for channels in (1, 3):
        image = torch.from_numpy(random.random((*size, channels), dtype=np.float32)).permute(2, 0, 1)
        whole = resize(image, resized, "bilinear", antialias)
        for _ in range(4):
            (top, bottom), (left, right) = (sorted(random.choice(side + 1, 2, replace=False)) for side in resized)
            part = resized_window(image, resized, Window(top, left, bottom - top, right - left), antialias)
            torch.testing.assert_close(part, whole[:, top:bottom, left:right], rtol=0, atol=2e-5)
            assert part.is_contiguous()


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize(("size", "resized"), SIZES)
def test_masks_keep_the_pixels_that_interpolate_keeps(
    size: tuple[int, int], resized: tuple[int, int], mode: str
) -> None:
    ids = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    rows, columns = (nearest_pixels(*lengths, mode) for lengths in zip(size, resized))
    whole = resize(torch.from_numpy(ids)[None].double(), resized, mode)[0]
    np.testing.assert_array_equal(ids[rows][:, columns], whole)


def test_ids_are_counted() -> None:
    for ids in (np.array([[0, 255, 7], [7, 7, 0]], np.uint8)[:, ::2], np.array([[300, 2], [2, 0]], np.int32)):
        counts = count_ids(ids)
        assert len(counts) >= 256 and {int(id): int(counts[id]) for id in np.flatnonzero(counts)} == {
            int(id): int(count) for id, count in zip(*np.unique(ids, return_counts=True))
        }


KINDS = "grey", "mostly one class", "grey as colour", "colour", "16 bits", "300 classes", "pair", "of a class"


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("kind", KINDS)
def test_crops_are_those_of_whole_images_with_the_same_random_numbers(kind: str, mode: str, antialias: bool) -> None:
    random = np.random.default_rng(3)
    blocks = random.integers(0, 280 if kind == "300 classes" else 4, (8, 10))
    blocks[0, :3] = 255
    if kind == "mostly one class":
        blocks[2:, 1:] = 1
    ids = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint16 if kind == "300 classes" else np.uint8)
    depth = np.uint16 if kind == "16 bits" else np.uint8
    noise = random.integers(0, 90, (*ids.shape, 3 if kind == "colour" else 1))
    image = (20 * (ids[..., None] % 7) + noise).astype(depth)
    if kind == "grey as colour":
        image = image.repeat(3, axis=2)
    visible = [random.integers(0, 256, (*ids.shape, 3), dtype=np.uint8)] if kind == "pair" else []
    others = [*visible, *([2] if kind == "of a class" else [])]
    processor = UnipImageProcessor(size={"shortest_edge": 120}, antialias=antialias)
    for size in ((64, 64), (100, 230)):
        transform = training_transforms(processor, size, mask_interpolation=mode)
        for seed in range(6):
            torch.manual_seed(seed)
            found = transform(image, ids, *others)
            drawn = torch.rand(())
            torch.manual_seed(seed)
            expected = plain_crop(processor, size, mode, image, ids, *others)
            assert torch.rand(()) == drawn
            assert torch.equal(found[1], expected[1]) and found[1].dtype == torch.int64
            for pixels, plain in zip(found[::2], expected[::2], strict=True):
                torch.testing.assert_close(pixels, plain, rtol=0, atol=5e-4)
