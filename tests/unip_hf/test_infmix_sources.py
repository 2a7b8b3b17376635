"""InfMix: which images of which sources, how they become grey, and which of them look alike."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.data.infmix import (
    InfMixSource,
    find_evaluation_sets,
    find_infmix_sources,
    near_duplicates,
    read_sources_file,
)
from unip_hf.data.infmix.candidates import list_candidates
from unip_hf.data.infmix.grey_images import UnusableImage, prepare_grey, read_grey

from .infmix_sources import all_sources, encoded, names_of, picture, write, write_mix


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    return write_mix(tmp_path / "raw")


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
    ("{name: a, path: boat.zip}", "is not a list of sources"),
    ("- {name: a, path: boat.zip, evry: 2}", "source 'a' has the unknown field 'evry'. There are name, path"),
    ("- {name: a, path: boat.zip, every: 0}", "source 'a': every must be a whole number of at least 1, got 0"),
    ("- {name: a, path: boat.zip, limit: true}", "limit must be a whole number"),
    ("- {name: a, path: boat.zip, minimum_brightness: dark}", "minimum_brightness must be at least 0, got 'dark'"),
    ("- {name: a, path: boat.zip, dataset: soda}", "either a path or a dataset"),
    ("- {name: a, dataset: soda, images_per_class: 2}", "images_per_class needs a path"),
    ("- {name: a, path: nowhere}", "source 'a' in .*: there is no .*nowhere'"),
    ("- [", "is not YAML"),
])  # fmt: skip
def test_wrong_entries_of_a_sources_file(entries: str, message: str, mix: Path) -> None:
    (mix / "sources.yaml").write_text(entries)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_sources_file(mix / "sources.yaml")


def climbing_archive(root: Path) -> list[InfMixSource]:
    with zipfile.ZipFile(root / "climbing.zip", "w") as archive:
        archive.writestr("../outside.png", b"")
    return find_infmix_sources([root / "climbing.zip"])


def same_stems(root: Path) -> list[InfMixSource]:
    write(root / "infpre" / "car" / "thermal" / "3.png", picture(0))
    return find_infmix_sources([root / "infpre"])


def same_stems_in_class(root: Path) -> list[InfMixSource]:
    write(root / "imagenet" / "train" / "n01" / "n01_3.png", picture(0))
    return find_infmix_sources(imagenet=root / "imagenet")


def empty_source(root: Path) -> list[InfMixSource]:
    (root / "infpre" / "empty" / "thermal").mkdir(parents=True)
    return find_infmix_sources([root / "infpre"])


@pytest.mark.parametrize(("make", "message"), [
    (climbing_archive, r"member '\.\./outside\.png' of .*climbing\.zip' has a path that leads out"),
    (same_stems, r"3\.jpg' and .*3\.png' have the same stem"),
    (same_stems_in_class, r"n01' has several images 'n01_3'"),
    (empty_source, r"The source 'empty' has no images"),
    (lambda root: find_infmix_sources([root / "infpre", root / "infpre" / "car"]), "sources have the name 'car'"),
    (lambda root: find_infmix_sources([root / "nowhere"]), "There is no folder or zip file"),
    (lambda root: find_infmix_sources(coco=root / "imagenet"), "has neither a folder train2017"),
    (lambda root: find_infmix_sources(imagenet=root / "boat.zip"), "Unpack it first"),
    (lambda root: [], "There are no sources"),
])  # fmt: skip
def test_wrong_sources(make: Callable[[Path], list[InfMixSource]], message: str, mix: Path) -> None:
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
