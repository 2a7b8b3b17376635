"""Training transforms and the order of samples, on small generated images."""

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.data.class_pixels import count_class_pixels
from unip_hf.data.samples import RareClassBatches, ShuffledBatches, TrainingSamples, read_batches
from unip_hf.data.transforms import PhotometricDistortion, RandomCategoryCrop, training_transforms


def scene(height: int = 40, width: int = 60, dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """An image whose grey values tell the class: 10 times the id, with a border of ignored pixels."""
    ids = np.zeros((height, width), np.uint8)
    ids[:, width // 3 :] = 1
    ids[height // 2 :, width // 2 :] = 2
    ids[:, :2] = 255
    image = (np.where(ids == 255, 3, ids).astype(dtype) * 10 + 5)[..., None]
    return image, ids


def plain(processor: UnipImageProcessor, crop_size: int, **settings: object) -> Callable:
    return training_transforms(processor, crop_size, photometric_distortion=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_pixels_and_labels_stay_together(num_channels: int) -> None:
    """Through resize, crop, flip and padding, each label still stands where its grey value is."""
    processor = UnipImageProcessor(
        num_channels=num_channels, size={"shortest_edge": 40}, resample=0, do_normalize=False, image_mean=0.5
    )
    transform = plain(processor, 48)
    for seed in range(20):
        torch.manual_seed(seed)
        pixel_values, labels = transform(*scene())
        assert pixel_values.shape == (num_channels, 48, 48) and pixel_values.dtype == torch.float32
        assert labels.shape == (48, 48) and labels.dtype == torch.int64
        grey = (pixel_values[0] * 255 - 5) / 10
        inside = pixel_values[0] != 0
        assert (labels[~inside] == 255).all()
        # Bilinear edges and nearest-neighbour edges differ by a pixel: compare where the picture is flat.
        flat = inside & ((grey - grey.round()).abs() < 1e-3)
        expected = grey.round().long()
        expected[expected == 3] = 255
        assert flat.float().mean() > 0.2
        agree = (labels == expected)[flat].float().mean()
        assert agree > 0.97, agree


def test_sixteen_bits_go_through_the_processor_s_scaling_alone() -> None:
    image, ids = scene(dtype=np.uint16)
    processor = UnipImageProcessor(
        num_channels=1, size={"shortest_edge": 40}, intensity_scaling="fixed_range", intensity_range=(0, 100),
        do_normalize=False,
    )  # fmt: skip
    pixel_values, _ = plain(processor, 64, ratio_range=(1.0, 1.0), flip_probability=0.0)(image * 2, ids)
    assert torch.allclose(pixel_values[0, :40, :60], torch.from_numpy(image[..., 0].astype(np.float32)) / 50)


def test_evaluation_and_training_see_the_same_pixels_where_nothing_is_random() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (33, 57, 3), dtype=np.uint8)
    processor = UnipImageProcessor(size={"shortest_edge": 48, "longest_edge": 96})
    transform = plain(processor, 83, ratio_range=(1.0, 1.0), flip_probability=0.0)
    pixel_values, labels = transform(image, np.zeros((33, 57), np.uint8))
    expected = processor(image, return_tensors="pt").pixel_values[0]
    assert torch.allclose(pixel_values[:, :48, :83], expected, atol=1e-5) and (pixel_values[:, 48:] == 0).all()
    assert (labels[:48] == 0).all() and (labels[48:] == 255).all()


@pytest.mark.parametrize("case", range(6))
def test_published_resizing_gives_the_pixels_of_opencv(case: int, golden: Path) -> None:
    with np.load(golden / "resize_pixels.npz") as arrays:
        image, mask, expected, expected_mask = (
            arrays[f"{case}.{name}"] for name in ("image", "mask", "image_resized", "mask_resized")
        )
    height, width = expected.shape
    processor = UnipImageProcessor(
        num_channels=1, size={"height": height, "width": width}, antialias=False, do_normalize=False
    )
    settings = {"ratio_range": (1.0, 1.0), "flip_probability": 0.0, "mask_interpolation": "nearest"}
    cropped, labels = plain(processor, max(height, width), **settings)(image[..., None], mask)
    for pixel_values in (cropped, processor(image, return_tensors="pt").pixel_values[0]):
        difference = 255 * pixel_values[0, :height, :width].numpy() - expected
        assert np.abs(difference).max() <= 0.8  # grey levels: OpenCV rounds to integers
    np.testing.assert_array_equal(labels[:height, :width], expected_mask)


def test_crops_keep_one_class_below_its_share() -> None:
    """A corner with other classes is small; a crop without the rule would mostly be all background."""
    mask = torch.zeros(64, 64, dtype=torch.int64)
    mask[:32, :32] = 1
    mask[40:] = 255
    from torchvision import tv_tensors

    def largest_share(max_category_ratio: float, seed: int) -> float:
        torch.manual_seed(seed)
        crop = RandomCategoryCrop(24, max_category_ratio)(tv_tensors.Mask(mask))
        labelled = crop[crop != 255]
        return torch.bincount(labelled).max().item() / max(1, labelled.numel()) if labelled.numel() else 1.0

    with_rule = [largest_share(0.75, seed) for seed in range(100)]
    without = [largest_share(1.0, seed) for seed in range(100)]
    assert np.mean([share < 0.75 for share in with_rule]) > 0.9
    assert np.mean([share < 0.75 for share in without]) < 0.6


def test_photometric_distortion_leaves_grey_grey_and_colour_within_range() -> None:
    from torchvision import tv_tensors

    grey = tv_tensors.Image(torch.rand(1, 8, 8))
    colour = tv_tensors.Image(torch.rand(3, 8, 8))
    mask = tv_tensors.Mask(torch.ones(8, 8, dtype=torch.int64))
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        out, same = PhotometricDistortion()(grey, mask)
        assert out.shape == (1, 8, 8) and out.min() >= 0 and out.max() <= 1 and torch.equal(same, mask)
        changed += not torch.equal(out, grey)
        torch.manual_seed(seed)
        as_colour, _ = PhotometricDistortion()(tv_tensors.Image(grey.repeat(3, 1, 1)), mask)
        assert torch.allclose(as_colour, out.expand(3, -1, -1), atol=1e-4)  # hue and saturation do nothing to grey
        torch.manual_seed(seed)
        out, _ = PhotometricDistortion()(colour, mask)
        assert out.min() >= 0 and out.max() <= 1
    assert changed > 8


def test_distortions_have_the_published_strength_and_the_pipeline_has_all_parts() -> None:
    from torchvision import tv_tensors

    image = tv_tensors.Image(torch.full((3, 1, 1), 0.4))
    drawn = []
    for seed in range(400):
        torch.manual_seed(seed)
        drawn.append(PhotometricDistortion().make_params([image]))
    limits = {
        "brightness": (-32 / 255, 32 / 255),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in limits.items():
        values = [params[name] for params in drawn if params[name] is not None]
        assert 150 < len(values) < 250
        margin = 0.05 * (high - low)
        assert low <= min(values) < low + margin and high - margin < max(values) <= high
    brighter = {"brightness": 0.1, "contrast": 2.0, "saturation": None, "hue": None, "contrast_comes_first": True}
    assert torch.allclose(PhotometricDistortion().transform(image, brighter), torch.tensor(1.0))

    # Through the whole pipeline, with nothing else at random: flipped half of the time, distorted, cropped anywhere.
    ramp = np.linspace(50, 200, 64, dtype=np.uint8)[None, :, None].repeat(64, axis=0)
    processor = UnipImageProcessor(num_channels=1, size={"shortest_edge": 64}, do_normalize=False)
    transform = training_transforms(processor, 32, ratio_range=(1.0, 1.0))
    outcomes = []
    for seed in range(60):
        torch.manual_seed(seed)
        pixels, _ = transform(ramp, np.arange(64, dtype=np.uint8)[:, None].repeat(64, axis=1) // 8)
        outcomes.append(pixels[0, 0])
    slopes = torch.stack([(row[-1] - row[0]).sign() for row in outcomes])
    assert 15 < (slopes < 0).sum() < 45
    assert torch.stack([row.max() for row in outcomes]).std() > 0.1


@pytest.mark.parametrize(
    "settings",
    [{"crop_size": 0}, {"ratio_range": (2.0, 1.0)}, {"max_category_ratio": 0}, {"mask_interpolation": "bilinear"}],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"crop_size must be at least 1, ratio_range|mask_interpolation must be"):
        training_transforms(UnipImageProcessor(), **settings)


@pytest.fixture
def samples(tmp_path: Path) -> TrainingSamples:
    rows = {"image": [], "annotation": []}
    for number in range(5):
        image, ids = scene(40 + number, 60)
        for column, array in (("image", image[..., 0]), ("annotation", ids)):
            rows[column].append(str(tmp_path / f"{column}-{number}.png"))
            Image.fromarray(array).save(rows[column][-1])
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    return TrainingSamples(dataset, training_transforms(UnipImageProcessor(size={"shortest_edge": 40}), 32), 3, seed=7)


def test_a_sample_depends_on_its_key_alone(samples: TrainingSamples) -> None:
    torch.manual_seed(1)
    first, other_epoch = samples[(0, 3)], samples[(1, 3)]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    torch.rand(5)
    again = samples[(0, 3)]
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], other_epoch["pixel_values"])
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # reading draws nothing from torch's random state


def test_workers_and_resuming_change_nothing(samples: TrainingSamples) -> None:
    def read(first_batch: int, num_workers: int) -> list[dict]:
        order = ShuffledBatches(len(samples), 2, seed=3, first_batch=first_batch)
        return list(islice(read_batches(samples, order, num_workers=num_workers), 6 - first_batch))

    whole = read(0, num_workers=0)
    for batches in (read(0, num_workers=2), whole[:4] + read(4, num_workers=0)):
        assert all(torch.equal(a[n], b[n]) for a, b in zip(whole, batches) for n in ("pixel_values", "labels"))


def test_grey_batches_hold_one_channel_and_bytes(samples: TrainingSamples) -> None:
    for num_workers in (0, 1):
        batch = next(read_batches(samples, [[(0, 1), (0, 2)]], num_workers=num_workers))
        assert batch["pixel_values"].shape == (2, 3, 32, 32) and batch["labels"].dtype == torch.uint8
        assert batch["pixel_values"].untyped_storage().nbytes() == 2 * 32 * 32 * 4
        assert torch.equal(batch["pixel_values"][1], samples[(0, 2)]["pixel_values"])


def test_every_epoch_has_every_row_once_and_processes_share_each_batch() -> None:
    whole = list(islice(ShuffledBatches(10, 4, seed=1), 5))  # two epochs
    assert Counter(key for batch in whole for key in batch) == Counter((e, r) for e in range(2) for r in range(10))
    rows = [row for batch in whole for _, row in batch]
    assert rows[:10] != rows[10:] and rows[:10] != sorted(rows[:10])
    halves = [list(islice(ShuffledBatches(10, 2, index, 2, seed=1), 5)) for index in range(2)]
    assert [a + b for a, b in zip(*halves)] == whole
    with pytest.raises(ValueError, match="the dataset is empty"):
        ShuffledBatches(0, 4)


def test_a_crop_for_a_class_holds_some_of_it_wherever_it_is() -> None:
    image, ids = np.zeros((90, 70, 1), np.uint8), np.zeros((90, 70), np.uint8)
    for row, column in ((0, 0), (89, 69), (44, 3)):
        ids[row, column] = 1
    transform = training_transforms(UnipImageProcessor(size={"shortest_edge": 70}), 32, (1.0, 1.0))
    found = Counter()
    for _ in range(60):
        _, labels = transform(image, ids, 1)
        assert labels.shape == (32, 32) and (labels == 1).any()
        found.update((labels == 1).nonzero().flatten().tolist())
    assert len(found) > 10  # not always at the same place of the crop
    for _ in range(5):  # a class that resizing removed, or that is not there
        _, labels = transform(image, ids, 2)
        assert labels.shape == (32, 32)


def test_rare_classes_are_drawn_as_daformer_says_and_depend_on_the_place_alone() -> None:
    class_pixels = np.array([[900, 0, 0], [860, 40, 0], [800, 100, 0], [790, 10, 0]])
    settings = {"class_pixels": class_pixels, "temperature": 0.5, "seed": 3}
    order = RareClassBatches(4, 8, **settings)
    shares = class_pixels.sum(0) / class_pixels.sum()
    expected = np.exp((1 - shares) / 0.5) * [1, 1, 0]  # the third class never occurs
    assert order.probabilities == pytest.approx(expected / expected.sum())
    keys = [key for batch in islice(order, 500) for key in batch]
    assert [place for place, _, _ in keys] == list(range(4000))
    drawn = Counter(class_id for _, _, class_id in keys)
    assert drawn[1] / 4000 == pytest.approx(order.probabilities[1], abs=0.03) and drawn[2] == 0
    rows_of_1 = Counter(row for _, row, class_id in keys if class_id == 1)
    assert set(rows_of_1) == {1, 2, 3} and min(rows_of_1.values()) > 0.28 * drawn[1]
    halves = [list(islice(RareClassBatches(4, 4, index, 2, **settings), 3)) for index in range(2)]
    assert [a + b for a, b in zip(*halves)] == list(islice(RareClassBatches(4, 8, **settings), 3))
    assert list(islice(RareClassBatches(4, 8, first_batch=2, **settings), 1)) == [keys[16:24]]
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        RareClassBatches(4, 8, class_pixels=class_pixels, temperature=0)
    with pytest.raises(ValueError, match="no pixel of the masks has a class"):
        RareClassBatches(4, 8, class_pixels=0 * class_pixels, temperature=1)


def test_masks_are_counted_and_samples_are_drawn_by_the_counts(samples: TrainingSamples, tmp_path: Path) -> None:
    counts = count_class_pixels(samples.dataset, 3)
    for row, of_image in enumerate(counts):
        ids = np.asarray(Image.open(tmp_path / f"annotation-{row}.png"))
        assert of_image.tolist() == [(ids == id).sum() for id in range(3)]
    order = RareClassBatches(5, 4, class_pixels=counts, temperature=0.1)
    first, again = (next(iter(read_batches(samples, order, num_workers=n))) for n in (0, 2))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    for labels, (_, _, class_id) in zip(first["labels"], next(iter(order))):
        assert (labels == class_id).any()


def test_what_is_wrong_with_a_file_is_said_by_name(samples: TrainingSamples, tmp_path: Path) -> None:
    Image.fromarray(np.full((41, 60), 9, np.uint8)).save(tmp_path / "annotation-1.png")
    with pytest.raises(ValueError, match=r"image-1.png holds the ids \[9\], but the classes are 0 to 2"):
        samples[(0, 1)]
    (tmp_path / "image-1.png").write_bytes((tmp_path / "image-1.png").read_bytes()[:60])
    for num_workers in (0, 1):  # from a worker too the message is the sentence alone
        with pytest.raises(ValueError, match=r"^The image '.*image-1.png' is damaged"):
            next(read_batches(samples, [[(0, 1)]], num_workers=num_workers))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "image-1.png")
    with pytest.raises(ValueError, match=r"differ in size .*image-1.png has \(4, 4\), .*annotation-1.png \(41, 60\)"):
        samples[(0, 1)]
