"""InfMix: which images of which sources, how they become grey, near-duplicates, shards, and loading them."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.data.infmix import (
    InfMix,
    InfMixSettings,
    Source,
    find_evaluation_sets,
    find_sources,
    load_infmix,
    near_duplicates,
    prepare_infmix,
    read_sources_file,
    shards,
)
from unip_hf.data.infmix.candidates import list_candidates
from unip_hf.data.infmix.grey_images import UnusableImage, prepare_grey, read_grey

from .benchmark_archives import mfnet_files, write_files


def picture(seed: int, height: int = 40, width: int = 56, noise: float = 0.0) -> np.ndarray:
    """Smooth uint8 image; another noise is nearly the same image, another seed a different one."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    image = np.asarray(Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return np.clip(image + np.random.default_rng(99).normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    """Two infrared sources beside colour images, a zip file, two classes of photos, and COCO: 30 images."""
    root = tmp_path / "raw"
    for number in range(8):
        write(root / "infpre" / "drone" / "thermal" / f"{number}.png", picture(number))
        write(root / "infpre" / "drone" / "rgb" / f"{number}.png", picture(50))
        write(root / "infpre" / "car" / "thermal" / f"{number}.jpg", picture(10 + number))
    (root / "infpre" / "notes").mkdir()
    (root / "infpre" / ".trash" / "thermal").mkdir(parents=True)
    with zipfile.ZipFile(root / "boat.zip", "w") as archive:
        for number in range(4):
            archive.writestr(f"boat/{number}.png", encoded(Image.fromarray(picture(20 + number)), "PNG"))
    for number in range(5):
        write(root / "imagenet" / "train" / "n01" / f"n01_{number}.JPEG", picture(30 + number))
    write(root / "imagenet" / "train" / "n02" / "n02_9.JPEG", picture(40))
    colours = np.stack([picture(41 + channel) for channel in range(3)], axis=-1)
    for number in range(6):
        write(root / "coco" / "train2017" / f"{number:012d}.jpg", np.roll(colours, 7 * number, axis=1))
    write(root / "coco" / "val2017" / "000000000000.jpg", colours)
    return root


def all_sources(mix: Path) -> list[Source]:
    return find_sources([mix / "infpre", mix / "boat.zip"], mix / "imagenet", mix / "coco", images_per_class=3)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_grey_images_are_those_of_the_published_training_and_keep_their_depth() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    image, grey = Image.fromarray(colours), np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(read_grey(encoded(image, "PNG"), "a"), grey)
    np.testing.assert_array_equal(read_grey(encoded(Image.fromarray(grey), "PNG"), "a", 4), grey[4:-4, 4:-4])
    opaque = image.convert("RGBA")
    np.testing.assert_array_equal(read_grey(encoded(opaque, "PNG"), "a"), grey)
    print_colours = encoded(image.convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(print_colours)).convert("RGB").convert("L"))
    np.testing.assert_array_equal(read_grey(print_colours, "a"), expected)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for upright in (Image.fromarray(grey), opaque):
        turned = read_grey(encoded(upright, "PNG", exif=exif), "a")
        np.testing.assert_array_equal(turned, np.rot90(grey, -1))

    counts = np.random.default_rng(0).integers(6743, 7077, (30, 20)).astype(np.uint16)
    deep = read_grey(encoded(Image.fromarray(counts), "TIFF"), "a")
    np.testing.assert_array_equal(deep, counts)
    scaled = UnipImageProcessor().scale_intensities(counts) * 255
    assert np.abs(prepare_grey(deep, None, "jpeg") - scaled).max() <= 0.5
    np.testing.assert_array_equal(prepare_grey(deep, None, "png"), counts)
    small = prepare_grey(deep, 10, "png")
    assert small.shape == (15, 10) and small.dtype == np.uint16 and small.min() >= 6743 and small.max() <= 7077
    assert prepare_grey(grey, 20, "jpeg") is grey  # never enlarged


def test_images_whose_channels_or_depth_would_be_lost_are_named() -> None:
    four_channels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA")
    dead_pixel = np.full((8, 8), 20.0, dtype=np.float32)
    dead_pixel[3, 3] = np.nan
    unknown_type = bytearray(encoded(four_channels.convert("RGB"), "PNG"))
    unknown_type[25] = 7  # of colours
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 1.5
    bad_exif = encoded(four_channels.convert("L"), "JPEG", exif=exif).replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")
    files = [encoded(four_channels, "PNG"), b"no image", encoded(four_channels, "PNG")[:150], bytes(unknown_type)]
    for data in (*files, bad_exif, encoded(Image.fromarray(dead_pixel), "TIFF")):
        with pytest.raises(UnusableImage, match=r"The image 'mfnet/1\.png' cannot be used"):
            read_grey(data, "mfnet/1.png")
    with pytest.raises(ValueError, match=r"crop_border 4 leaves nothing of the image 'a' of 8x8") as raised:
        read_grey(encoded(four_channels.convert("L"), "PNG"), "a", 4)
    assert not isinstance(raised.value, UnusableImage)


def names_of(sources: list[Source]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for candidate in list_candidates(sources)[0]:
        names.setdefault(candidate.source.name, []).append(candidate.name)
    return names


def test_which_images_of_which_sources(mix: Path) -> None:
    candidates, counts = list_candidates(all_sources(mix))
    names = names_of(all_sources(mix))
    assert names == {
        "car": [f"{n}.jpg" for n in range(8)],
        "drone": [f"{n}.png" for n in range(8)],
        "boat": [f"boat/{n}.png" for n in range(4)],
        "imagenet": ["n01/n01_0.JPEG", "n01/n01_1.JPEG", "n01/n01_2.JPEG", "n02/n02_9.JPEG"],
        "coco": [f"{n:012d}.jpg" for n in range(6)],
    }
    assert [(c.found, c.taken) for c in counts] == [(8, 8), (8, 8), (4, 4), (6, 4), (6, 6)]
    assert (counts[3].classes, counts[3].small_classes) == (2, 1)
    picked = candidates.take(np.array([16, 0]))
    assert [(c.source.name, c.name) for c in picked] == [("boat", "boat/0.png"), ("car", "0.jpg")]
    assert next(iter(picked)).read() == zipfile.ZipFile(mix / "boat.zip").read("boat/0.png")

    path = mix / "sources.yaml"
    path.write_text(
        "- {path: infpre/drone, every: 3, crop_border: 2}\n"
        "- {name: few, path: boat.zip, every: 2, limit: 2}\n"
        "- {name: photos, path: imagenet/train, images_per_class: 1}\n"
        "- {name: streets, dataset: folder, data_dir: labelled, split: validation}\n"
    )
    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "a.png", picture(0))
        write(mix / "labelled" / kind / "val" / "b.png", picture(1))
    sources = read_sources_file(path)
    assert names_of(sources) == {
        "drone": ["0.png", "3.png", "6.png"],
        "few": ["boat/0.png", "boat/2.png"],
        "photos": ["n01/n01_0.JPEG", "n02/n02_9.JPEG"],
        "streets": ["0000000"],
    }
    assert list(list_candidates(sources)[0])[-1].read() == (mix / "labelled" / "images" / "val" / "b.png").read_bytes()
    assert len(list_candidates(find_evaluation_sets([f"folder={mix / 'labelled'}"]))[0]) == 2  # all splits


@pytest.mark.parametrize(("entries", "message"), [
    ("{name: a, path: boat.zip}", "is no list of sources"),
    ("- {name: a, path: boat.zip, evry: 2}", "source 'a' has the unknown field 'evry'; there are name, path"),
    ("- {name: a, path: boat.zip, every: 0}", "source 'a': every is a whole number from 1, not 0"),
    ("- {name: a, path: boat.zip, limit: true}", "limit is a whole number"),
    ("- {name: a, path: boat.zip, minimum_brightness: dark}", "minimum_brightness is a number from 0, not 'dark'"),
    ("- {name: a, path: boat.zip, dataset: soda}", "either a path or a dataset"),
    ("- {name: a, dataset: soda, images_per_class: 2}", "images_per_class needs a path"),
    ("- {name: a, path: nowhere}", "source 'a' in .*: there is no .*nowhere'"),
    ("- [", "is not YAML"),
])  # fmt: skip
def test_wrong_entries_of_a_sources_file(entries: str, message: str, mix: Path) -> None:
    (mix / "sources.yaml").write_text(entries)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_sources_file(mix / "sources.yaml")


def climbing_archive(root: Path) -> list[Source]:
    with zipfile.ZipFile(root / "climbing.zip", "w") as archive:
        archive.writestr("../outside.png", b"")
    return find_sources([root / "climbing.zip"])


def same_stems(root: Path) -> list[Source]:
    write(root / "infpre" / "car" / "thermal" / "3.png", picture(0))
    return find_sources([root / "infpre"])


def same_stems_in_class(root: Path) -> list[Source]:
    write(root / "imagenet" / "train" / "n01" / "n01_3.png", picture(0))
    return find_sources(imagenet=root / "imagenet")


def empty_source(root: Path) -> list[Source]:
    (root / "infpre" / "empty" / "thermal").mkdir(parents=True)
    return find_sources([root / "infpre"])


@pytest.mark.parametrize(("make", "message"), [
    (climbing_archive, r"member '\.\./outside\.png' of .*climbing\.zip' has a path that leads out"),
    (same_stems, r"3\.jpg' and .*3\.png' have the same stem"),
    (same_stems_in_class, r"n01' has several images 'n01_3'"),
    (empty_source, r"The source 'empty' has no images"),
    (lambda root: find_sources([root / "infpre", root / "infpre" / "car"]), "Several sources have the name 'car'"),
    (lambda root: find_sources([root / "nowhere"]), "There is no folder or zip file"),
    (lambda root: find_sources(coco=root / "imagenet"), "has no train2017"),
    (lambda root: find_sources(imagenet=root / "boat.zip"), "unpack it first"),
    (lambda root: [], "There are no sources"),
])  # fmt: skip
def test_wrong_sources(make: Callable[[Path], list[Source]], message: str, mix: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list_candidates(make(mix))


@pytest.mark.parametrize("distance", [0, 3, 4, 10, 15])
def test_near_duplicates_are_those_of_comparing_all_pairs(distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    hashes = np.tile(generator.integers(0, 2**64, 40, dtype=np.uint64), 8)
    for number in range(len(hashes)):
        for bit in generator.integers(0, 64, generator.integers(0, 9)):
            hashes[number] ^= np.uint64(1) << np.uint64(bit)
    kept: list[np.uint64] = []
    expected = []
    for value in hashes:
        expected.append(bool(kept) and int(np.bitwise_count(np.array(kept) ^ value).min()) <= distance)
        kept += [] if expected[-1] else [value]
    assert 0 < sum(expected) < len(hashes)
    monkeypatch.setattr(near_duplicates, "BLOCK", 120)
    monkeypatch.setattr(near_duplicates, "MAX_CANDIDATES", 30)
    np.testing.assert_array_equal(near_duplicates.find_near_duplicates(hashes, distance), expected)


def test_near_duplicates_of_real_frames(real_images: Path) -> None:
    def marked(folder: Path) -> list[str]:
        paths = sorted(folder.iterdir())
        hashes = [near_duplicates.perceptual_hash(np.asarray(Image.open(path).convert("L"))) for path in paths]
        found = near_duplicates.find_near_duplicates(np.array(hashes, dtype=np.uint64), 4)
        return [path.stem for path, is_duplicate in zip(paths, found) if is_duplicate]

    fixed_camera = marked(real_images / "unlabelled" / "llvip")
    assert len(fixed_camera) == 5 and "200003" in fixed_camera and "200002" not in fixed_camera
    assert marked(real_images / "massmind" / "images") == []


def test_shards_hold_each_image_once_in_mixed_order_with_the_numbers_that_are_reported(
    mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = InfMixSettings(shortest_edge=32, image_format="png", images_per_shard=3, seed=5)
    report = prepare_infmix(all_sources(mix), tmp_path / "out", settings)
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{n:05d}-of-00016.parquet" for n in range(16)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "infmix.json", "data"}
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    named = [(row["source"], row["name"]) for row in rows]
    expected = [(source, name) for source, names in names_of(all_sources(mix)).items() for name in names]
    assert sorted(named) == sorted(expected) and named != expected and len(rows) == 30
    assert {"car/3.png", "boat/boat/3.png"} < {row["image"]["path"] for row in rows}  # as they are encoded now
    images = {name: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for name, row in zip(named, rows)}
    assert all(image.ndim == 2 and min(image.shape) == 32 for image in images.values())
    unlimited = Image.fromarray(picture(4))
    np.testing.assert_array_equal(images["drone", "4.png"], np.asarray(unlimited.resize((45, 32), Image.BICUBIC)))
    pixels = np.concatenate([image.ravel() for image in images.values()]) / 255
    assert report.mean == pytest.approx(pixels.mean(), abs=1e-12) and report.std == pytest.approx(pixels.std())
    assert report.num_images == 30 and [row["kept"] for row in report.sources] == [8, 8, 4, 4, 6]
    assert "imagenet: 1 of 2 classes have fewer images" in str(report)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| total | 32 | 30 | 0 | 0 | 0 | 0 | 30 |" in card and "keeps its own licence" in card
    written = json.loads((tmp_path / "out" / "infmix.json").read_text())
    assert written["mean"] == report.mean and str(mix) not in json.dumps(written) + card

    again = prepare_infmix(all_sources(mix), tmp_path / "again", settings, num_workers=2)
    assert again == report and content(tmp_path / "again") == content(tmp_path / "out")
    monkeypatch.setattr(shards, "ROWS_OF_GROUP", 3)
    other = prepare_infmix(all_sources(mix), tmp_path / "other", InfMixSettings(shortest_edge=32, image_format="png"))
    assert other.mean == report.mean and list(other.shards.values()) == [4, 4, 4, 4, 4, 4, 3, 3]
    files = sorted((tmp_path / "other" / "data").iterdir())
    assert [pq.read_metadata(file).num_row_groups for file in files] == [2, 2, 2, 2, 2, 2, 1, 1]
    reordered = [(row["source"], row["name"]) for file in files for row in pq.read_table(file).to_pylist()]
    assert sorted(reordered) == sorted(named) and reordered != named


def test_dark_damaged_and_repeated_images_and_those_of_evaluation_sets(mix: Path, tmp_path: Path) -> None:
    drone = mix / "infpre" / "drone" / "thermal"
    write(drone / "dark.png", np.full((40, 56), 20, dtype=np.uint8))
    write(drone / "repeated.png", picture(12, noise=1))  # of the car, which comes first
    write(mix / "test-set" / "5.jpg", picture(5, noise=1))
    (mix / "test-set" / "broken.jpg").write_bytes(b"")
    (drone / "broken.png").write_bytes((drone / "1.png").read_bytes()[:200])
    (mix / "sources.yaml").write_text("- {path: infpre/car}\n- {path: infpre/drone, minimum_brightness: 20}\n")
    sources = read_sources_file(mix / "sources.yaml")
    evaluation_sets = find_evaluation_sets([str(mix / "test-set")])
    with pytest.raises(ValueError, match=r"The image '.*broken\.jpg' cannot be used: .* add --skip_damaged"):
        prepare_infmix(sources, tmp_path / "out", InfMixSettings(remove_near_duplicates=True), evaluation_sets)
    settings = InfMixSettings(remove_near_duplicates=True, skip_damaged=True)
    report = prepare_infmix(sources, tmp_path / "out", settings, evaluation_sets)  # goes on
    car, second = report.sources
    assert (car["kept"], car["duplicate"]) == (8, 0)
    counts = {"found": 11, "taken": 11, "kept": 7, "too_dark": 1, "damaged": 1, "duplicate": 1, "in_evaluation_set": 1}
    assert second == {"name": "drone", **counts}
    assert report.evaluation_sets == [{"name": "test-set", "images": 2, "matches": 1, "damaged": 1}]
    assert "1 images of the evaluation set test-set cannot be read" in str(report)
    names = {
        row["name"] for row in datasets.Dataset.from_parquet(list(map(str, (tmp_path / "out").rglob("*.parquet"))))
    }
    assert names == {f"{n}.jpg" for n in range(8)} | {f"{n}.png" for n in range(8) if n != 5}
    with pytest.raises(ValueError, match="skip_damaged was True, is False"):
        prepare_infmix(sources, tmp_path / "out", InfMixSettings(remove_near_duplicates=True), evaluation_sets)
    # Without looking at the images first, the shards find what is dark or damaged.
    plain = prepare_infmix(sources, tmp_path / "plain", InfMixSettings(skip_damaged=True))
    assert {name: plain.sources[1][name] for name in counts} == {
        **counts, "kept": 9, "duplicate": 0, "in_evaluation_set": 0
    }  # fmt: skip


def test_evaluation_sets_by_name(mix: Path, tmp_path: Path) -> None:
    write(mix / "a" / "test" / "1.png", picture(1))
    for number in (1, 2):
        write(mix / "b" / "test" / f"{number}.png", picture(number))
    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "a.png", picture(60))
    write_files(mix / "mfnet.zip", mfnet_files())
    sources, settings = find_sources([mix / "infpre"]), InfMixSettings(skip_damaged=True)
    places = [str(mix / "a" / "test"), str(mix / "b" / "test"), f"mfnet={mix / 'mfnet.zip'}"]
    places.append(f"folder={mix / 'labelled'}")
    with pytest.raises(ValueError, match="--allow_partial"):
        prepare_infmix(sources, tmp_path / "out", settings, find_evaluation_sets(places))
    report = prepare_infmix(sources, tmp_path / "out", settings, find_evaluation_sets(places, allow_partial=True))
    found = [(row["name"], row["images"], row["matches"]) for row in report.evaluation_sets]
    assert found == [("test", 1, 1), ("test (2)", 2, 2), ("mfnet", 6, 0), ("folder", 1, 0)]
    # Four channels: read as plain images, none of them could be compared.
    images = write_files(mix / "mfnet", mfnet_files()) / "ir_seg_dataset" / "images"
    with pytest.raises(ValueError, match="No image of the evaluation set 'images' can be used"):
        prepare_infmix(sources, tmp_path / "b", settings, find_evaluation_sets([str(images)]))


def test_changed_files_of_a_dataset_are_noticed_wherever_it_lies(mix: Path, tmp_path: Path) -> None:
    def prepare() -> None:
        prepare_infmix([Source("streets", dataset="folder", data_dir=str(mix / "labelled"))], tmp_path / "out")

    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "a.png", picture(0))
    prepare()
    (mix / "labelled").rename(mix / "elsewhere")
    (mix / "labelled").symlink_to(mix / "elsewhere")
    prepare()
    os.utime(mix / "labelled" / "images" / "train" / "a.png", (0, 0))
    with pytest.raises(ValueError, match="the files of streets have changed"):
        prepare()
    for kind in ("images", "masks"):
        write(mix / "labelled" / kind / "train" / "b.png", picture(1))
    source = Source("streets", dataset="folder", data_dir=str(mix / "labelled"))
    assert len(list_candidates([source])[0]) == 2


def test_a_damaged_member_of_an_archive_is_named(mix: Path, tmp_path: Path) -> None:
    data = bytearray((mix / "boat.zip").read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    (mix / "boat.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"The member 'boat/0\.png' of .*boat\.zip' cannot be read"):
        prepare_infmix(find_sources([mix / "boat.zip"]), tmp_path / "out")
    assert (
        prepare_infmix(find_sources([mix / "boat.zip"]), tmp_path / "b", InfMixSettings(skip_damaged=True)).num_images
        == 3
    )
    (mix / "infpre" / "car" / "thermal" / "0.jpg").unlink()
    (mix / "infpre" / "car" / "thermal" / "0.jpg").symlink_to(mix / "nowhere.jpg")
    with pytest.raises((ValueError, OSError), match=r"0\.jpg"):  # not damaged: gone, and never skipped
        prepare_infmix(find_sources([mix / "infpre"]), tmp_path / "c", InfMixSettings(skip_damaged=True))


def test_other_settings_and_other_files_are_refused(mix: Path, tmp_path: Path) -> None:
    out, sources = tmp_path / "out", find_sources([mix / "boat.zip"])
    first = prepare_infmix(sources, out)
    before = content(out)
    assert prepare_infmix(sources, out) == first and content(out) == before
    with pytest.raises(ValueError, match=r"holds another InfMix: quality was 90, is 80\. Choose another --output_dir"):
        prepare_infmix(sources, out, InfMixSettings(quality=80))
    with pytest.raises(ValueError, match="the sources were boat, are car, drone"):
        prepare_infmix(find_sources([mix / "infpre"]), out)
    with pytest.raises(ValueError, match="every of boat was 1, is 2"):
        prepare_infmix([Source("boat", str(mix / "boat.zip"), every=2)], out)
    time_of_archive = (mix / "boat.zip").stat().st_mtime_ns
    os.utime(mix / "boat.zip", (0, 0))
    with pytest.raises(ValueError, match="the files of boat have changed"):
        prepare_infmix(sources, out)
    assert content(out) == before
    (out / "data" / "train-00002-of-00004.parquet").unlink()
    os.utime(mix / "boat.zip", ns=(time_of_archive, time_of_archive))
    assert prepare_infmix(sources, out) == first and content(out) == before  # written again
    (out / "mine.txt").write_text("stays")
    report = prepare_infmix(sources, out, InfMixSettings(quality=80), overwrite=True)
    assert report.num_images == 4 and (out / "mine.txt").is_file() and len(content(out)) == 4 + 3
    with pytest.raises(ValueError, match="holds something else than InfMix"):
        prepare_infmix(sources, mix, overwrite=True)
    (tmp_path / "new" / "data" / ".incomplete-a").mkdir(parents=True)
    (tmp_path / "new" / "data" / ".incomplete-a" / "shard.parquet").touch()  # of a run that was killed
    prepare_infmix(sources, tmp_path / "new")
    assert content(tmp_path / "new") == before


def test_a_killed_run_goes_on_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(96):
        write(tmp_path / "raw" / f"{number:03d}.jpg", picture(number, 500, 500))
    arguments = ["--infrared", str(tmp_path / "raw"), "--output_dir", str(tmp_path / "out"), "--num_workers", "2"]
    arguments += ["--images_per_shard", "6", "--remove_near_duplicates"]
    command = [sys.executable, "-m", "unip_hf.scripts.prepare_infmix", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    data = tmp_path / "out" / "data"
    while not list(data.glob("*.parquet")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)  # until its workers have ended as well
    assert not (tmp_path / "out" / "infmix.json").exists() and 0 < len(list(data.glob("*.parquet"))) < 16
    with pytest.raises(ValueError, match="unfinished: start `unip prepare-infmix` again"):
        load_infmix(tmp_path / "out")
    whole = {path: path.stat().st_mtime_ns for path in data.glob("*.parquet")}
    sources, settings = (
        find_sources([tmp_path / "raw"]),
        InfMixSettings(images_per_shard=6, remove_near_duplicates=True),
    )
    with monkeypatch.context() as patched:
        patched.delattr(shards, "perceptual_hash")  # all images were looked at before
        report = prepare_infmix(sources, tmp_path / "out", settings)
    assert all(path.stat().st_mtime_ns == time for path, time in whole.items())
    assert report == prepare_infmix(sources, tmp_path / "fresh", settings)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_prepared_streamed_and_raw_images_are_the_same(mix: Path, tmp_path: Path) -> None:
    write(mix / "infpre" / "car" / "thermal" / "deep.tif", np.arange(2000, 3920, dtype=np.uint16).reshape(40, 48))
    (mix / "sources.yaml").write_text("- {path: infpre/car}\n- {path: boat.zip}\n")
    settings = {"image_format": "png", "seed": 3, "shortest_edge": 36}
    prepare_infmix(read_sources_file(mix / "sources.yaml"), tmp_path / "out", InfMixSettings(**settings))
    prepared = load_infmix(tmp_path / "out")["train"]
    assert prepared.column_names == ["image", "source", "name"] and len(prepared) == 13
    deep = next(row for row in prepared if row["name"] == "deep.tif")["image"]
    assert deep.mode == "I;16" and deep.size == (43, 36) and abs(np.asarray(deep, dtype=int)[0, 0] - 2000) < 50
    raw = InfMix(sources_file=str(mix / "sources.yaml"), cache_dir=str(tmp_path / "cache"), **settings)
    raw.download_and_prepare()
    others = [
        load_infmix(tmp_path / "out", split="train", streaming=True),
        raw.as_dataset("train"),
        raw.as_streaming_dataset("train"),
    ]
    for rows in others:
        for expected, row in zip(prepared, rows, strict=True):
            assert (row["source"], row["name"]) == (expected["source"], expected["name"])
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(expected["image"]))
    by_name = load_infmix(mix / "sources.yaml", split="train", streaming=True)
    assert {row["name"] for row in by_name} == set(prepared["name"])
    os.utime(mix / "boat.zip", (0, 0))
    changed = InfMix(sources_file=str(mix / "sources.yaml"), cache_dir=str(tmp_path / "cache"), **settings)
    assert changed.cache_dir != raw.cache_dir
    next((tmp_path / "out" / "data").iterdir()).unlink()
    with pytest.raises(ValueError, match="1 of 8 files of InfMix are missing"):
        load_infmix(tmp_path / "out")
    with pytest.raises(ValueError, match="is no InfMix"):
        load_infmix(mix)


def names_of_batch(rows: list[dict]) -> list[str]:
    return [row["source"] + row["name"] for row in rows]


def test_two_processes_of_two_workers_see_each_image_once(mix: Path, tmp_path: Path) -> None:
    prepare_infmix(all_sources(mix), tmp_path / "out")
    raw = InfMix(infrared=[str(mix / "infpre")], coco=str(mix / "coco")).as_streaming_dataset("train")
    for rows, count in ((load_infmix(tmp_path / "out", split="train", streaming=True), 30), (raw, 22)):
        seen = []
        for rank in range(2):
            mine = split_dataset_by_node(rows, rank=rank, world_size=2)
            loader = torch.utils.data.DataLoader(mine, batch_size=4, num_workers=2, collate_fn=names_of_batch)
            seen.append([name for names in loader for name in names])
        assert len(seen[0]) == len(seen[1]) == count // 2 and len({*seen[0], *seen[1]}) == count


def test_the_published_set_has_its_image_column_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    columns = {"jpg": datasets.Image(), "__key__": datasets.Value("string")}
    rows = datasets.Dataset.from_dict(
        {"jpg": [Image.new("L", (4, 4), 7)], "__key__": ["a"]}, datasets.Features(columns)
    )

    def load_dataset(path: str, split: str | None = None, streaming: bool = False, **options: object) -> object:
        asked.append(path)
        found = datasets.DatasetDict({"train": rows})
        if streaming:
            found = datasets.IterableDatasetDict({"train": rows.to_iterable_dataset()})
        return found if split is None else found[split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_infmix()["train"][0]["image"].getpixel((0, 0)) == 7
    assert next(iter(load_infmix(split="train", streaming=True)))["image"].size == (4, 4)
    assert asked == ["casiatao/InfMix"] * 2
    second = rows.rename_columns({"jpg": "png", "__key__": "key"})
    rows = datasets.concatenate_datasets([rows, second], axis=1)
    with pytest.raises(ValueError, match="has 2 columns of images among jpg, __key__, png"):
        load_infmix()


def test_the_published_set_without_network() -> None:
    with pytest.raises(OSError, match=r"The published InfMix, 'casiatao/InfMix' .* cannot be reached: go online"):
        load_infmix()
