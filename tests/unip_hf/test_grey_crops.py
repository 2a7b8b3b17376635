"""Random grey crops against torchvision's, their pixels against the published input, and the order they come in."""

import io
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from unip_hf.data.crop_streams import read_stream
from unip_hf.data.grey_crops import CropSamples, GreyCrop, read_area, read_crops, sample_crops, to_pixel_values
from unip_hf.data.infmix.grey_images import read_grey, to_8_bits
from unip_hf.data.scenes import draw_scene
from unip_hf.data.unlabelled import load_unlabelled

from ..conftest import PATIENCE


ENCODED = datasets.Features({"image": datasets.Image(decode=False)})
slow_param = partial(pytest.param, marks=pytest.mark.slow)  # many workers take long to start


def encode(array: np.ndarray, image_format: str = "PNG", **settings: object) -> dict:
    file = io.BytesIO()
    Image.fromarray(array).save(file, image_format, **settings)
    return {"path": None, "bytes": file.getvalue()}


def scene(height: int = 256, width: int = 320) -> np.ndarray:
    """uint8 of shape (height, width)"""
    return np.array(Image.fromarray(to_8_bits(draw_scene(3)[0])).resize((width, height)))


def published(image: dict, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """What the published input makes of a crop before it becomes a tensor, one channel of it."""
    rgb = Image.open(io.BytesIO(image["bytes"])).convert("RGB").convert("L").convert("RGB")
    return np.asarray(rgb.crop(box).resize((size, size), Image.Resampling.BICUBIC))[..., 0]


def area_of(image: dict, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    return read_area(image, "it", lambda width, height: box, size)


@pytest.mark.parametrize("settings", [{}, {"scale": (0.5, 0.9), "ratio": (0.5, 1.5)}])
@pytest.mark.parametrize("sides", [(640, 512), (31, 500), (500, 31), (90, 100), (7, 9)])
def test_boxes_are_torchvisions(sides: tuple[int, int], settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = sides
    crop = GreyCrop(**settings)
    generator = random.Random(0)
    # torchvision gets the same random numbers, in the same order
    monkeypatch.setattr(
        torch.Tensor,
        "uniform_",
        lambda _, low, high: torch.tensor(generator.uniform(float(low), float(high))).double(),
    )
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.tensor([generator.randint(low, high - 1)]))
    image = torch.zeros(3, height, width)
    theirs = [transforms.RandomResizedCrop.get_params(image, list(crop.scale), list(crop.ratio)) for _ in range(300)]
    generator.seed(0)
    ours = [crop.draw_box(width, height, generator) for _ in range(300)]
    expected = [(left, top, left + w, top + h) for top, left, h, w in theirs]
    # torchvision's logarithms are float32: now and then it rounds to the next pixel, and only that may differ
    assert sum(a != b for a, b in zip(ours, expected)) <= 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("is_rgb", [False, True])
def test_grey_pixels_are_the_published_ones(image_format: str, is_rgb: bool) -> None:
    grey = scene()
    image = encode(np.stack([grey] * 3, axis=-1) if is_rgb else grey, image_format)
    crop = GreyCrop(size=112, scale=(0.2, 0.7))  # at most 223 pixels high or wide, so never scaled decoding
    flips = []
    for seed in range(20):
        ours = crop(image, "it", random.Random(seed))
        assert ours.shape == (1, 112, 112) and ours.dtype == np.uint8
        expected = published(image, crop.draw_box(320, 256, random.Random(seed)), 112)
        flips.append(not np.array_equal(ours[0], expected))
        assert np.array_equal(ours[0], expected[:, ::-1] if flips[-1] else expected)
    assert 3 < sum(flips) < 17


def test_scaled_decoding_is_used_from_twice_the_size_on_and_stays_close() -> None:
    image = encode(scene(512, 641), "JPEG", quality=95)
    for box, size, divisor in (
        ((11, 7, 459, 455), 224, 2),
        ((11, 7, 458, 455), 224, 1),
        ((0, 0, 641, 447), 224, 1),
        ((0, 0, 641, 512), 224, 2),
        ((101, 3, 641, 511), 120, 4),
        ((101, 3, 641, 511), 63, 8),
    ):
        ours, full = area_of(image, box, size).astype(int), published(image, box, size).astype(int)
        assert np.array_equal(ours, full) == (divisor == 1), (box, size)
        assert np.abs(ours - full).mean() < 1, (box, size)
        opened = Image.open(io.BytesIO(image["bytes"]))
        opened.draft("L", (641 // divisor, 512 // divisor))
        assert opened.size == (math.ceil(641 / divisor), 512 // divisor)
        edges = tuple(edge / divisor for edge in box)
        scaled = np.asarray(opened.resize((size, size), Image.Resampling.BICUBIC, box=edges))
        inner = slice(4, -4)  # here the part is not cut out before it is resized
        assert np.array_equal(ours[inner, inner], scaled[inner, inner]), (box, size)


def test_difference_from_the_published_pixels_is_the_documented_one(real_images: Path) -> None:
    differences: dict[int, list[np.ndarray]] = {1: [], 2: [], 4: [], 8: []}
    paths = sorted((real_images / "unlabelled").rglob("*.jpg"))[::12]
    paths += sorted((real_images / "hit_uav/images/train").glob("*.jpg"))[::40]
    for number, path in enumerate(paths):
        image = {"path": None, "bytes": path.read_bytes()}
        for size in (224, 112, 28):
            box = GreyCrop(size).draw_box(*Image.open(path).size, random.Random(number))
            shorter_side = min(box[2] - box[0], box[3] - box[1])
            divisor = max(d for d in differences if d == 1 or shorter_side >= d * size)
            differences[divisor].append(
                np.abs(area_of(image, box, size).astype(int) - published(image, box, size)).ravel()
            )
    means = {divisor: np.concatenate(values).mean() for divisor, values in differences.items()}
    largest = {divisor: np.concatenate(values).max() for divisor, values in differences.items()}
    assert means[1] == largest[1] == 0
    assert 0.2 < means[2] < 0.8 and 0.3 < means[4] < 1.3 and 0.3 < means[8] < 2
    assert max(largest.values()) <= 50


def test_colour_jpeg_gives_the_luminance() -> None:
    height, width = 240, 320
    ramp = np.linspace(0, 1, width)[None].repeat(height, axis=0)
    false_colours = np.stack([ramp, scene(height, width) / 255, 1 - ramp], axis=-1)
    image = encode((false_colours * 255).astype(np.uint8), "JPEG", quality=90)
    difference = np.abs(area_of(image, (0, 0, 320, 240), 224).astype(int) - published(image, (0, 0, 320, 240), 224))
    assert 0 < difference.mean() < 0.1 and difference.max() <= 14


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = scene()
    grey[:40, :60] = 255  # so that no two orientations look alike
    image = encode(grey, "JPEG", quality=95, exif=exif)
    upright = read_grey(image["bytes"], "it")
    height, width = upright.shape
    assert (width < height) == (orientation >= 5)
    box = (10, 20, width - 30, height - 3)
    expected = np.asarray(Image.fromarray(upright).crop(box).resize((150, 150), Image.Resampling.BICUBIC))
    assert np.array_equal(area_of(image, box, 150), expected)
    assert np.abs(area_of(image, box, 90).astype(int) - area_of(encode(upright), box, 90)).mean() < 1  # a half


def test_depth_is_kept_until_the_whole_image_is_scaled() -> None:
    counts = draw_scene(5)[0].astype(np.uint16)
    box = (30, 40, 250, 200)
    expected = np.asarray(Image.fromarray(to_8_bits(counts)).crop(box).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.array_equal(area_of(encode(counts), box, 64), expected)
    assert len(np.unique(expected)) > 50


def test_unusable_files_are_named(tmp_path: Path) -> None:
    jpeg = encode(scene(), "JPEG")
    contents = {"ok.jpg": jpeg["bytes"], "cut.jpg": jpeg["bytes"][:2000], "no.png": b"no image"}
    contents["channels.png"] = encode(np.arange(64, dtype=np.uint8).reshape(4, 4, 4))["bytes"]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    rows = load_unlabelled("folder", tmp_path)
    names = [Path(row["image"]["path"]).name for row in rows]
    (tmp_path / "ok.jpg").unlink()
    samples = CropSamples(rows, GreyCrop(8))
    for name in contents:
        with pytest.raises(ValueError, match=rf"{name}.*cannot be "):
            samples[(0, names.index(name))]
    for num_workers in (0, 1):  # from a worker too the message is the sentence alone
        for source in (rows, rows.to_iterable_dataset()):
            with pytest.raises(ValueError, match=r"^(The image )?'.*cannot be "):
                next(read_crops(source, GreyCrop(8), 4, num_workers=num_workers))
    with pytest.raises(ValueError, match="its scale two rising numbers"):
        GreyCrop(scale=(1.0, 0.2))


def numbered(count: int) -> datasets.Dataset:
    """Row i is an image whose pixels all are i."""
    images = [encode(np.full((12, 14), number, np.uint8)) for number in range(count)]
    return datasets.Dataset.from_dict({"image": images, "name": [str(n) for n in range(count)]}).cast(
        datasets.Features({**ENCODED, "name": datasets.Value("string")})
    )


def numbers(batches: Iterator[dict[str, torch.Tensor]], count: int) -> list[list[int]]:
    return [batch["images"][:, 0, 0, 0].tolist() for batch in islice(batches, count)]


def test_a_crop_depends_on_its_key_alone() -> None:
    rows = datasets.Dataset.from_dict({"image": [encode(scene(60, 80 + n), "JPEG") for n in range(5)]}, ENCODED)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    samples = CropSamples(rows, GreyCrop(32), seed=7)
    first = samples[(0, 3)]["images"]
    assert first.shape == (1, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(samples.__getitems__([(1, 2), (0, 3)])["images"][1], first)
    others = (samples[(1, 3)], samples[(0, 2)], CropSamples(rows, GreyCrop(32), seed=8)[(0, 3)])
    assert not any(torch.equal(first, other["images"]) for other in others)

    def read(count: int, **settings: int) -> list[torch.Tensor]:
        batches = read_crops(rows, GreyCrop(32), seed=3, **settings)
        return [batch["images"] for batch in islice(batches, count)]

    whole = read(6, batch_size=4, num_workers=0)
    assert all(map(torch.equal, read(6, batch_size=4, num_workers=2), whole))
    assert all(map(torch.equal, read(2, batch_size=4, num_workers=1, first_batch=4), whole[4:]))
    halves = [read(6, batch_size=2, num_workers=0, num_processes=2, process_index=index) for index in range(2)]
    assert all(torch.equal(torch.cat(pair), batch) for pair, batch in zip(zip(*halves), whole))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.fixture
def stream(tmp_path: Path) -> datasets.IterableDataset:
    """20 numbered images in four shards, of 2, 7, 5 and 6."""
    rows = numbered(20)
    for index, (start, stop) in enumerate(((0, 2), (2, 9), (9, 14), (14, 20))):
        rows.select(range(start, stop)).to_parquet(tmp_path / f"{index}.parquet")
    files = sorted(map(str, tmp_path.glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, streaming=True, split="train")


# three processes do not divide the shards; nine workers are more than there are shards
@pytest.mark.parametrize(
    ("num_processes", "num_workers"), [(1, 0), (1, 2), (3, 0), slow_param(2, 9), slow_param(3, 2)]
)
def test_a_stream_gives_every_image_once_in_an_epoch(
    stream: datasets.IterableDataset, num_processes: int, num_workers: int
) -> None:
    def read(images: list[dict], names: list[str], keys: list[str]) -> torch.Tensor:
        values = [Image.open(io.BytesIO(image["bytes"])).getpixel((0, 0)) for image in images]
        return torch.tensor([[int(key.split()[1]), value] for key, value in zip(keys, values)])  # epoch and image

    stream = stream.cast_column("image", datasets.Image(decode=False))
    seen: dict[int, list[int]] = {0: [], 1: []}
    for index in range(num_processes):
        batches = read_stream(stream, read, 3, index, num_processes, num_workers=num_workers)
        for epoch, image in torch.cat(list(islice(batches, 16 // num_processes + 2))).tolist():
            if epoch in seen:
                seen[epoch].append(image)
    assert seen[0] != seen[1] and seen[0] != sorted(seen[0])
    assert all(Counter(images) == Counter(range(20)) for images in seen.values())


@pytest.mark.parametrize(("settings", "num_workers"), [
    ({}, 0), ({"num_processes": 2, "process_index": 1}, 0), ({"num_processes": 3}, 0), ({}, 2),
    slow_param({"num_processes": 2, "process_index": 1}, 2), slow_param({"num_processes": 3}, 2),
])  # fmt: skip
def test_a_stream_goes_on_where_it_was(
    stream: datasets.IterableDataset, settings: dict[str, int], num_workers: int
) -> None:
    def read(first_batch: int, count: int) -> list[list[int]]:
        reader = read_crops(stream, GreyCrop(4), 3, num_workers=num_workers, first_batch=first_batch, **settings)
        return numbers(reader, count)

    whole = read(0, 9)
    for first_batch in (2, 7):
        assert read(first_batch, 2) == whole[first_batch : first_batch + 2], first_batch


def test_what_a_stream_skips_is_not_decoded(stream: datasets.IterableDataset) -> None:
    decoded: list[str] = []

    def read(images: list[dict], names: list[str], keys: list[str]) -> torch.Tensor:
        decoded.extend(keys)
        return torch.zeros(len(images))

    stream = stream.cast_column("image", datasets.Image(decode=False))
    next(read_stream(stream, read, 4, first_batch=9, num_workers=0))  # after one epoch and 16 images of the next
    assert decoded == [f"0 1 0 0 4 {place}" for place in range(4)]


def test_streams_that_hold_nothing_are_refused() -> None:
    rows = numbered(1).to_iterable_dataset()
    with pytest.raises(ValueError, match="holds no images for each of the processes"):
        next(read_crops(rows, GreyCrop(4), 2, num_processes=2, process_index=1, num_workers=0))
    with pytest.raises(ValueError, match="no images to take a sample from"):
        sample_crops(rows.skip(1), 3, 4)


def test_a_sample_is_spread_over_the_rows() -> None:
    assert sample_crops(numbered(20), 5, 4)[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 16]
    assert sample_crops(numbered(3), 5, 4).shape == (3, 1, 4, 4)
    assert sample_crops(numbered(20).to_iterable_dataset(), 5, 4)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    bars = np.zeros((20, 60), np.uint8)
    bars[:, 20:40] = 200  # the square in the middle
    rows = datasets.Dataset.from_dict({"image": [encode(bars)]}, ENCODED)
    assert sample_crops(rows, 1, 10).unique().tolist() == [200]


def test_pixel_values_are_the_published_ones() -> None:
    images = torch.randint(256, (2, 1, 5, 7), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for means, stds, num_channels in ((mean, std, 3), (mean[:1] * 3, std[:1] * 3, 3), (mean[:1] * 3, std[:1], 1)):
        ours = to_pixel_values(images, means, stds, num_channels)
        grey = images.float() / 255
        expected = transforms.Normalize(means[:num_channels], stds[:num_channels])(grey.expand(-1, num_channels, 5, 7))
        torch.testing.assert_close(ours, expected)
        assert ours.shape == (2, num_channels, 5, 7) and ours.dtype == torch.float32
    with pytest.raises(ValueError, match="one number or 3 each"):
        to_pixel_values(images, mean[:2], std)


def test_a_folder_gives_its_images_and_no_masks(tmp_path: Path) -> None:
    for path in ("b/images/2.png", "b/images/1.JPG", "b/masks/1.png", "b/Annotations/1.png", "a.tif", ".hidden/a.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "readme.txt").write_text("")

    def names(rows: datasets.Dataset | datasets.IterableDataset) -> list[str]:
        return [Path(row["image"]["path"]).relative_to(tmp_path).as_posix() for row in rows]

    expected = ["a.tif", "b/images/1.JPG", "b/images/2.png"]
    assert names(load_unlabelled("folder", tmp_path)) == expected
    assert sorted(names(load_unlabelled("folder", str(tmp_path), streaming=True))) == expected
    assert names(load_unlabelled("folder", [tmp_path / "b", tmp_path / "b/masks"])) == [*expected[1:], "b/masks/1.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images below '.*empty'"):
        load_unlabelled("folder", [tmp_path, tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere'"):
        load_unlabelled("folder", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Only folders of images can be several"):
        load_unlabelled("msrs", [tmp_path, tmp_path])
    with pytest.raises(ValueError, match="needs data_dir"):
        load_unlabelled("folder")


def test_other_datasets_give_their_images_alone(tmp_path: Path) -> None:
    rows = load_unlabelled("scenes", split="train+validation", streaming=True)
    assert rows.num_shards > 2 and next(iter(rows)).keys() == {"image"}
    assert sample_crops(rows, 2, 16).float().std() > 10
    (tmp_path / "data").mkdir()
    numbered(4).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    for streaming in (False, True):
        rows = load_unlabelled("folder", tmp_path, streaming=streaming)
        assert rows.column_names == ["image"]
        batches = numbers(read_crops(rows, GreyCrop(4), 2, num_workers=0), 2)
        assert sorted(batches[0] + batches[1]) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no split 'test'"):
        load_unlabelled("folder", tmp_path, split="test")


@pytest.mark.slow
def test_python_exits_while_a_reader_is_open(tmp_path: Path) -> None:
    """Its workers ignore SIGTERM, by which Python would end them."""
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encode(scene(64, 64))["bytes"])
    code = "import sys\n" \
           "from unip_hf.data.grey_crops import GreyCrop, read_crops\n" \
           "from unip_hf.data.unlabelled import load_unlabelled\n" \
           "batches = read_crops(load_unlabelled('folder', sys.argv[1]), GreyCrop(16), 2, num_workers=2)\n" \
           "print(next(batches)['images'].shape)\n"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and "[2, 1, 16, 16]" in done.stdout and not done.stderr, done.stderr
