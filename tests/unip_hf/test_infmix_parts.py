"""Parts of InfMix (paper, table 9): without some sources, and in colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf.data.grey_crops import GreyCrop, read_crops, sample_crops, to_pixel_values
from unip_hf.data.infmix import InfMixSettings, prepare_infmix
from unip_hf.data.infmix.loading import source_names
from unip_hf.data.unlabelled import load_unlabelled

from .infmix_sources import all_sources, encoded, write_mix


@pytest.fixture(scope="module")
def infmix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources car and drone (8 images each), boat (4), imagenet (4 of 2 classes) and coco (6)."""
    root = tmp_path_factory.mktemp("mix")
    prepare_infmix(all_sources(write_mix(root)), root / "infmix", InfMixSettings(images_per_shard=5))
    return root / "infmix"


@pytest.mark.parametrize(("left_out", "number"), [
    ([], 30), (["coco"], 24), (["imagenet", "boat"], 22), (["infrared"], 10), (["infrared", "coco"], 4)
])  # fmt: skip
def test_sources_are_left_out(left_out: list[str], number: int, infmix: Path) -> None:
    rows = load_unlabelled("infmix", infmix, leave_out=left_out)
    stream = load_unlabelled("infmix", infmix, streaming=True, leave_out=left_out)
    assert len(rows) == number and rows.column_names == ["image"]
    images = {row["image"]["bytes"] for row in stream}
    assert len(images) == number and images == {row["image"]["bytes"] for row in rows}
    reader = read_crops(stream, GreyCrop(16), batch_size=2, num_workers=0)
    assert next(iter(reader))["images"].shape == (2, 1, 16, 16)


@pytest.mark.parametrize("streaming", [False, True])
def test_sources_that_cannot_be_left_out(streaming: bool, infmix: Path) -> None:
    assert sorted(source_names(infmix)) == ["boat", "car", "coco", "drone", "imagenet"]
    with pytest.raises(ValueError, match=r"no source 'COCO' to leave out. It has boat, car, coco, drone, imagenet"):
        load_unlabelled("infmix", infmix, streaming=streaming, leave_out=["COCO"])
    with pytest.raises(ValueError, match="Nothing is left of InfMix without infrared, imagenet, coco"):
        load_unlabelled("infmix", infmix, streaming=streaming, leave_out=["infrared", "imagenet", "coco"])
    with pytest.raises(ValueError, match="is for the dataset \"infmix\", got 'scenes'"):
        load_unlabelled("scenes", streaming=streaming, leave_out=["coco"])


def test_a_prepared_mix_has_no_colours(infmix: Path) -> None:
    for name in ("infmix", "folder"):
        with pytest.raises(ValueError, match=r"is grey. To keep colours, give the folders"):
            load_unlabelled(name, infmix, keep_colour=True)
    coco = load_unlabelled("folder", infmix.parent / "coco", keep_colour=True)
    sample = sample_crops(coco, 2, 16, keep_colour=True)
    assert sample.shape == (2, 3, 16, 16) and (sample[:, 0] != sample[:, 1]).float().mean() > 0.5


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_colours_are_kept_and_grey_images_repeat(kind: str) -> None:
    colours = np.zeros((40, 60, 3), dtype=np.uint8)
    colours[:, :30] = (200, 10, 90)
    files = [Image.fromarray(colours), Image.fromarray(colours[..., 0])]
    images = [
        {"path": None, "bytes": encoded(file, kind, **({"quality": 100} if kind == "JPEG" else {}))} for file in files
    ]
    crop = GreyCrop(16, scale=(1, 1), ratio=(1.5, 1.5), flip_probability=1, keep_colour=True)
    found = crop.batch(images, ["a", "b"], ["0", "1"])
    assert found.shape == (2, 3, 16, 16) and found.dtype == torch.uint8
    assert (found[0, :, 8, 13].int() - torch.tensor([200, 10, 90])).abs().max() < 4 and found[0, :, 8, 2].max() < 4
    assert torch.equal(found[1, 0], found[1, 1]) and torch.equal(found[1, 0], found[1, 2])
    grey = GreyCrop(16, scale=(1, 1), ratio=(1.5, 1.5), flip_probability=1).batch(images[1:], ["b"], ["1"])
    assert torch.equal(grey[0, 0], found[1, 0])  # the same part, with the same random numbers


def test_deep_images_repeat_too() -> None:
    counts = Image.fromarray(np.arange(7000, 7000 + 400, dtype=np.uint16).reshape(20, 20))
    image = [{"path": None, "bytes": encoded(counts, "PNG")}]
    found = GreyCrop(16, keep_colour=True).batch(image, ["a"], ["0"])
    assert (
        torch.equal(found, GreyCrop(16).batch(image, ["a"], ["0"]).expand(-1, 3, -1, -1)) and found.float().std() > 5
    )


def test_each_channel_is_normalised_with_its_own_statistics() -> None:
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(to_pixel_values(images, mean, std), expected)
    torch.testing.assert_close(to_pixel_values(images, [0.5], [0.25]), (images / 255 - 0.5) / 0.25)
    with pytest.raises(ValueError, match="network of 1 channels cannot see images of 3"):
        to_pixel_values(images, [0.5], [0.25], num_channels=1)
