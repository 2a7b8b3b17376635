"""Training samples of pairs: what moves pixels moves both images and the mask, what changes values each alone."""

from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.data.samples import ShuffledBatches, TrainingSamples, read_batches
from unip_hf.data.transforms import training_transforms


def ramps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A thermal ramp to the right, a visible one down, and a mask that follows the first."""
    rows, columns = np.mgrid[:60, :80]
    thermal = (6000 + 10 * columns).astype(np.uint16)[..., None]
    visible = np.stack([4 * rows, 2 * rows, 255 - 4 * rows], axis=-1).astype(np.uint8)
    return thermal, visible, (columns // 20).astype(np.uint8)


def write_pairs(folder: Path, count: int = 4) -> datasets.Dataset:
    rows: dict[str, list[str]] = {"image": [], "rgb": [], "annotation": []}
    thermal, visible, ids = ramps()
    for number in range(count):
        for column, array in (("image", thermal[..., 0]), ("rgb", visible), ("annotation", ids)):
            rows[column].append(str(folder / f"{column}-{number}.png"))
            Image.fromarray(array).save(rows[column][-1])
    return datasets.Dataset.from_dict(rows, features=datasets.Features({name: datasets.Image() for name in rows}))


def processor_of(main: str) -> UnipImageProcessor:
    return UnipImageProcessor(size={"shortest_edge": 60}, main_modality=main, do_normalize=False)


@pytest.mark.parametrize("main", ["infrared", "visible"])
def test_both_images_and_the_mask_move_together(main: str) -> None:
    """The thermal ramp tells where a pixel came from in x, and the visible one in y."""
    thermal, visible, ids = ramps()
    transform = training_transforms(processor_of(main), 48, (0.8, 1.5), photometric_distortion=False)
    flips = 0
    for seed in range(12):
        torch.manual_seed(seed)
        pixel_values, labels, auxiliary = transform(thermal, ids, visible)
        infrared, colour = (pixel_values, auxiliary) if main == "infrared" else (auxiliary, pixel_values)
        inside = labels != 255
        assert infrared.shape == colour.shape == (3, 48, 48)
        assert torch.equal(infrared[0], infrared[2]) and not torch.equal(colour[0], colour[2])
        assert torch.equal(inside, (colour[2] > 0) & inside) and (colour[:, ~inside] == 0).all()
        columns = (infrared[0] * 79)[inside]  # percentiles stretch it a little
        assert ((columns / 20).long().clamp(max=3) == labels[inside]).float().mean() > 0.9
        rows = (colour[0] * 255 / 4)[:, : int(inside[0].sum())]
        assert (rows.std(dim=1) < 0.01).all() and (rows[: int(inside[:, 0].sum())].diff(dim=0) >= 0).all()
        flips += bool(infrared[0, 0, 0] > infrared[0, 0, 20])
    assert 2 < flips < 10


def test_values_change_in_each_image_by_itself_and_single_images_stay_as_they_were() -> None:
    thermal, visible, ids = ramps()
    flat = {"ratio_range": (1.0, 1.0), "flip_probability": 0.0}
    transform = training_transforms(processor_of("infrared"), 80, **flat)  # type: ignore[arg-type]
    means = []
    for seed in range(40):
        torch.manual_seed(seed)
        infrared, _, colour = transform(thermal, ids, visible)
        means.append([float(infrared.mean()), float(colour.mean())])
        torch.manual_seed(seed)
        alone, _ = transform(thermal, ids)
        assert torch.equal(alone, infrared)  # the first draws are those of a single image
    assert abs(np.corrcoef(np.array(means).T)[0, 1]) < 0.4 and np.std(means, axis=0).min() > 0.01


def test_a_class_can_be_asked_for_in_pairs_too() -> None:
    thermal, visible, ids = ramps()
    transform = training_transforms(processor_of("infrared"), 16, (1.0, 1.0), max_category_ratio=1.0)
    for seed in range(10):
        torch.manual_seed(seed)
        _, labels, auxiliary = transform(thermal, ids, visible, 3)
        assert (labels == 3).any() and auxiliary.shape == (3, 16, 16)


def test_a_fixed_size_squashes_both_images_and_the_mask() -> None:
    thermal, visible, ids = ramps()
    processor = UnipImageProcessor(size={"height": 48, "width": 32}, do_normalize=False)
    transform = training_transforms(
        processor, (48, 32), (1.0, 1.0), flip_probability=0.0, photometric_distortion=False
    )
    pixel_values, labels, auxiliary = transform(thermal, ids, visible)
    batch = processor(thermal, ids, return_tensors="pt", auxiliary_images=visible, input_data_format="channels_last")
    assert torch.allclose(pixel_values, batch.pixel_values[0], atol=1e-5) and torch.equal(labels, batch.labels[0])
    assert torch.allclose(auxiliary, batch.auxiliary_pixel_values[0], atol=1e-5)


def test_batches_hold_pairs_where_they_are_wanted(tmp_path: Path) -> None:
    dataset = write_pairs(tmp_path)
    transform = training_transforms(UnipImageProcessor(size={"shortest_edge": 60}), 32)
    single = TrainingSamples(dataset, transform, 4, seed=3)
    assert set(single[(0, 0)]) == {"pixel_values", "labels"}
    pairs = TrainingSamples(dataset, transform, 4, seed=3, with_pairs=True)

    def read(num_workers: int) -> list[dict]:
        order = ShuffledBatches(len(pairs), 2, seed=1)
        return list(islice(read_batches(pairs, order, num_workers=num_workers), 3))

    for here, elsewhere in zip(read(0), read(2)):
        assert here["auxiliary_pixel_values"].shape == (2, 3, 32, 32) and set(here) == set(elsewhere)
        assert torch.equal(here["auxiliary_pixel_values"], elsewhere["auxiliary_pixel_values"])
        assert torch.equal(here["labels"], elsewhere["labels"])


def test_what_is_wrong_with_a_pair_is_said_by_name(tmp_path: Path) -> None:
    dataset = write_pairs(tmp_path)
    transform = training_transforms(UnipImageProcessor(size={"shortest_edge": 60}), 32)
    with pytest.raises(ValueError, match=r"the dataset has no visible images\. Choose the configuration both"):
        TrainingSamples(dataset.remove_columns("rgb"), transform, 4, with_pairs=True)
    samples = TrainingSamples(dataset, transform, 4, with_pairs=True)
    Image.new("RGB", (79, 60)).save(tmp_path / "rgb-1.png")
    with pytest.raises(ValueError, match=r"differ in size .*image-1\.png has \(60, 80\), .*rgb-1\.png \(60, 79\)"):
        samples[(0, 1)]
    (tmp_path / "rgb-2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"rgb-2\.png' is not an image"):
        samples[(0, 2)]
    (tmp_path / "rgb-3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"rgb-3\.png"):
        samples[(0, 3)]
