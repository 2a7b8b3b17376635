"""Infrared images of any depth and form become the same pixel values; nothing saturates; masks keep their ids."""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.modeling.image_reading_unip import read_image
from unip_hf.modeling.intensities_unip import percentiles


PLAIN = {"do_resize": False, "do_normalize": False}


@pytest.fixture
def counts() -> np.ndarray:
    """A 16-bit frame whose counts fill a sliver of the range, as those of real cameras do."""
    rows, columns = np.mgrid[:48, :64]
    return (6743 + 4 * rows + 2 * columns).astype(np.uint16)


def scaled(image: Any, **settings: Any) -> np.ndarray:
    processor = UnipImageProcessor(num_channels=1, **{**PLAIN, **settings})
    return processor(image, return_tensors="np").pixel_values[0, 0]


def test_sixteen_bit_counts_span_the_range_in_every_form_they_come_in(counts: np.ndarray, tmp_path: Path) -> None:
    big_endian = Image.frombytes("I;16B", (64, 48), counts.astype(">u2").tobytes())
    low, high = np.percentile(counts, [1, 99])
    expected = np.clip((counts - low) / (high - low), 0, 1)
    Image.fromarray(counts).save(tmp_path / "frame.png")
    Image.fromarray(counts).save(tmp_path / "frame.tiff")
    assert Image.open(tmp_path / "frame.png").mode == "I;16"
    forms = [
        counts,
        counts[..., None],
        np.repeat(counts[..., None], 3, axis=2),
        counts[None],
        counts.astype(">u2"),
        counts.astype(np.int32),
        counts.astype(np.float32),
        torch.from_numpy(counts),
        torch.from_numpy(counts.astype(np.int32))[None],
        torch.from_numpy(counts.astype(np.float64)),
        np.flipud(np.flipud(counts).copy()),
        Image.fromarray(counts),
        Image.fromarray(counts.astype(np.int32)),
        Image.fromarray(counts.astype(np.float32)),
        tmp_path / "frame.png",
        str(tmp_path / "frame.tiff"),
    ]
    assert [form.mode for form in forms if isinstance(form, Image.Image)] == ["I;16", "I", "F"]
    forms.append(big_endian)
    for form in forms:
        np.testing.assert_allclose(scaled(form), expected, atol=1e-5)
    batch = UnipImageProcessor(**PLAIN)(forms[:2], return_tensors="pt").pixel_values
    assert batch.shape == (2, 3, 48, 64) and batch.dtype == torch.float32
    assert np.unique(scaled(counts)).size > 100  # Pillow's convert() would have left one grey level


def test_eight_bit_images_use_the_full_range_in_every_form_they_come_in(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 200, (40, 56), dtype=np.uint8)
    palette = Image.fromarray(grey, mode="P")
    palette.putpalette([level for level in range(256) for _ in range(3)])
    Image.fromarray(grey).save(tmp_path / "frame.jpg", quality=100)
    forms = [grey, grey[..., None], Image.fromarray(grey), Image.fromarray(grey).convert("RGB"), palette]
    for form in [*forms, torch.from_numpy(grey), torch.from_numpy(np.stack([grey] * 3))]:
        np.testing.assert_allclose(scaled(form), grey / 255, atol=1e-6)
    np.testing.assert_allclose(scaled(tmp_path / "frame.jpg"), grey / 255, atol=2 / 255)


def test_colour_images_keep_their_channels_or_become_grey_by_luminance() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    pixels = UnipImageProcessor(**PLAIN)(Image.fromarray(colours), return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(pixels, colours.transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_allclose(scaled(colours), np.asarray(Image.fromarray(colours).convert("L")) / 255, atol=1 / 255)


def test_an_alpha_channel_is_dropped_where_nothing_is_transparent(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for image in (Image.fromarray(colours), Image.fromarray(colours[..., 0])):
        opaque = image.convert({"RGB": "RGBA", "L": "LA"}[image.mode])
        opaque.save(tmp_path / "opaque.png")
        np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), np.asarray(image))
        opaque.putpixel((0, 0), (*opaque.getpixel((0, 0))[:-1], 254))
        opaque.save(tmp_path / "transparent.png")
        with pytest.raises(ValueError, match=f"transparent.png has the mode {opaque.mode}"):
            read_image(tmp_path / "transparent.png")


def test_normalisation_is_that_of_unip_and_accepts_one_value_or_one_for_each_channel(counts: np.ndarray) -> None:
    pixels = UnipImageProcessor(do_resize=False)(counts, return_tensors="np").pixel_values
    np.testing.assert_allclose(pixels[0, 0], (scaled(counts) - 0.3801) / 0.1871, atol=1e-5)
    three = UnipImageProcessor(do_resize=False, image_mean=[0.3801] * 3, image_std=[0.1871] * 3)
    np.testing.assert_array_equal(three(counts, return_tensors="np").pixel_values, pixels)


def test_a_fixed_range_is_in_counts_or_degrees_and_warns_of_what_it_clips(
    counts: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    fixed = {"intensity_scaling": "fixed_range"}
    np.testing.assert_allclose(
        scaled(counts, **fixed, intensity_range=(6000, 8000)), (counts - 6000.0) / 2000, atol=1e-6
    )
    celsius = counts * 0.04 - 273.15
    degrees = scaled(counts, **fixed, intensity_range=(-10, 30), counts_to_celsius=(0.04, -273.15))
    np.testing.assert_allclose(degrees, (celsius + 10) / 40, atol=1e-5)
    for calibration in (None, (0.04, -273.15)):  # floats are degrees already
        degrees = scaled(celsius, **fixed, intensity_range=(-10, 30), counts_to_celsius=calibration)
        np.testing.assert_allclose(degrees, (celsius + 10) / 40, atol=1e-5)

    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        assert scaled(counts, **fixed, intensity_range=(6800, 6900)).max() == 1
        assert "outside intensity_range=[6800, 6900]" in caplog.text
        scaled(np.full((32, 32), 255, np.uint8))
        assert "Pillow's convert()" in caplog.text


def test_dtype_range_and_no_scaling_take_the_values_as_their_dtype_says(counts: np.ndarray) -> None:
    np.testing.assert_allclose(scaled(counts, intensity_scaling="dtype_range"), counts / 65535.0, atol=1e-6)
    fractions = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    np.testing.assert_array_equal(scaled(fractions, intensity_scaling="dtype_range"), fractions)
    np.testing.assert_array_equal(scaled(counts, do_rescale=False), counts)
    signed = np.array([[-32768, 0, 32767]], np.int16).repeat(16, 0)
    np.testing.assert_allclose(scaled(signed, intensity_scaling="dtype_range")[0], [0, 0.5, 1], atol=1e-4)


def test_percentiles_are_those_of_numpy(counts: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (7, 9), dtype=np.uint16)
    for array in (counts, noise, noise.astype(np.uint8), noise[:1, :1], counts.astype(np.float32)):
        for ranks in ((1, 99), (0, 100), (12.5, 66.6)):
            np.testing.assert_allclose(percentiles(array, ranks), np.percentile(array, ranks), rtol=1e-6)


def test_percentiles_ignore_hot_pixels_and_survive_flat_images(counts: np.ndarray) -> None:
    hot = counts.copy()
    hot[0, 0] = 65535
    assert np.abs(scaled(hot) - scaled(counts))[1:].max() < 0.01
    assert not scaled(np.full((32, 32), 7000, np.uint16)).any()
    nearly_flat = np.full((32, 32), 7000, np.uint16)
    nearly_flat[:2, :2] = 7100
    assert scaled(nearly_flat).max() == 1


def test_resizing_keeps_intensities_within_their_range_and_ids_as_they_are() -> None:
    step = np.zeros((60, 80), np.uint8)
    step[:, 40:] = 255
    ids = np.array([0, 1, 3, 7, 255], np.uint8)[np.random.default_rng(0).integers(0, 5, (60, 80))]
    for resample in (0, 2, 3):
        processor = UnipImageProcessor(size={"shortest_edge": 96, "longest_edge": 256}, resample=resample)
        batch = processor(step, segmentation_maps=ids, return_tensors="pt", do_normalize=False)
        assert batch.pixel_values.shape == (1, 3, 96, 128) and batch.labels.shape == (1, 96, 128)
        assert batch.pixel_values.min() >= 0 and batch.pixel_values.max() <= 1
        assert set(batch.labels.unique().tolist()) == {0, 1, 3, 7, 255}
    fixed = UnipImageProcessor(size={"height": 32, "width": 48})(step, segmentation_maps=ids, return_tensors="pt")
    assert fixed.pixel_values.shape == (1, 3, 32, 48) and fixed.labels.shape == (1, 32, 48)


def test_images_and_masks_stay_aligned_when_resized() -> None:
    scene = np.zeros((50, 70), np.uint8)
    scene[20:40, 10:30] = 200
    processor = UnipImageProcessor(size={"shortest_edge": 128, "longest_edge": 512}, do_normalize=False)
    batch = processor(scene, segmentation_maps=(scene > 0).astype(np.uint8), return_tensors="np")
    assert ((batch.pixel_values[0, 0] > 100 / 255) == batch.labels[0]).mean() > 0.999


def test_masks_keep_their_ids_in_every_form_they_come_in(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 20, (32, 40), dtype=np.uint8)
    ids[0] = 255
    palette = Image.fromarray(ids, mode="P")
    palette.putpalette(list(np.random.default_rng(1).integers(0, 256, 768)))
    palette.save(tmp_path / "mask.png")
    wide = ids.astype(np.int32)
    wide[1] = 65000
    processor, image = UnipImageProcessor(**PLAIN), np.zeros((32, 40), np.uint8)
    for mask in (
        ids,
        palette,
        tmp_path / "mask.png",
        Image.fromarray(ids),
        ids[..., None],
        torch.from_numpy(ids)[None],
    ):
        np.testing.assert_array_equal(processor(image, segmentation_maps=mask, return_tensors="np").labels[0], ids)
    np.testing.assert_array_equal(processor(image, segmentation_maps=wide, return_tensors="np").labels[0], wide)
    reduced = processor(image, segmentation_maps=ids, return_tensors="np", do_reduce_labels=True).labels[0]
    np.testing.assert_array_equal(reduced, np.where((ids == 0) | (ids == 255), 255, ids.astype(int) - 1))


def test_what_datasets_keeps_in_sixteen_bits_is_read_in_sixteen_bits(counts: np.ndarray, tmp_path: Path) -> None:
    import datasets

    Image.fromarray(counts).save(tmp_path / "frame.png")
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / "frame.png")]}, features=features)
    assert rows[0]["image"].mode == "I;16"
    np.testing.assert_allclose(scaled(rows[0]["image"]), scaled(counts))


def test_saves_and_loads_its_settings(tmp_path: Path) -> None:
    settings = {
        "num_channels": 1,
        "antialias": False,
        "intensity_scaling": "fixed_range",
        "intensity_range": [20.0, 40.0],
        "counts_to_celsius": [0.04, -273.15],
        "size": {"height": 64, "width": 96},
        "do_reduce_labels": True,
    }
    UnipImageProcessor(**settings).save_pretrained(tmp_path)
    loaded = UnipImageProcessor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert UnipImageProcessor.from_pretrained(tmp_path, intensity_range=[0.0, 9.0]).intensity_range == [0.0, 9.0]
    assert UnipImageProcessor.from_pretrained(tmp_path, size=48).size == {"height": 48, "width": 48}
    with pytest.raises(ValueError, match="num_channels must be 1 or 3"):
        UnipImageProcessor.from_pretrained(tmp_path, num_channels=2)


def test_post_processing_resizes_scores_before_it_chooses_classes() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    logits[:, 0, :, :2] = logits[:, 1, :, 2:] = 5
    outputs = type("Outputs", (), {"logits": logits})
    ramp = type("Outputs", (), {"logits": torch.tensor([[[[0.0, 1, 2, 3]], [[0.9, 0.9, 0.9, 0.9]]]])})
    ids = UnipImageProcessor().post_process_semantic_segmentation(ramp, target_sizes=[(1, 16)])[0]
    assert ids.tolist() == [[1] * 6 + [0] * 10]  # corners not aligned: scores rise from pixel 1.5, not from pixel 0
    maps = UnipImageProcessor().post_process_semantic_segmentation(outputs, target_sizes=[(16, 20), (7, 5)])
    assert [tuple(ids.shape) for ids in maps] == [(16, 20), (7, 5)]
    assert maps[0].dtype == torch.int64 and not maps[0][:, :9].any() and (maps[0][:, 11:] == 1).all()
    assert [tuple(m.shape) for m in UnipImageProcessor().post_process_semantic_segmentation(outputs)] == [(4, 4)] * 2
    with pytest.raises(ValueError, match="logits hold 2 images, but there are 1 target_sizes"):
        UnipImageProcessor().post_process_semantic_segmentation(outputs, target_sizes=[(16, 20)])


RGBA, GREY = Image.new("RGBA", (32, 32)), np.zeros((32, 32), np.uint8)


@pytest.mark.parametrize(("image", "mask", "settings", "message"), [
    ("nowhere.png", None, {}, r"no file 'nowhere.png'"),
    (RGBA, None, {}, r"np.asarray\(image\)\[..., 3\]"),
    (np.zeros((32, 32, 4), np.uint8), None, {}, r"MFNet: image\[..., 3\] is thermal"),
    (np.zeros((3, 32, 3), np.uint8), None, {}, 'Pass input_data_format="channels_first"'),
    (np.zeros(9, np.uint8), None, {}, "2 or 3 dimensions"),
    (np.zeros((32, 32), bool), None, {}, "integers or floats, got bool"),
    (np.full((32, 32), np.nan), None, {}, "NaN"),
    (np.full((32, 32), 300.0), None, {"intensity_scaling": "dtype_range"}, "must lie in 0..1"),
    (3.5, None, {}, "got float"),
    ([], None, {}, "list is empty"),
    ([GREY, GREY[:16]], None, {}, "do not fit one batch"),
    (GREY, None, {"num_channels": 2}, "num_channels must be 1 or 3, got 2"),
    (GREY, None, {"size": {"edge": 3}}, '"shortest_edge" and "longest_edge"'),
    (GREY, None, {"resample": 9}, "resample must be 0, 2 or 3, got 9"),
    (GREY, None, {"intensity_scaling": "guess"}, "one of .*percentiles"),
    (GREY, None, {"intensity_scaling": "fixed_range"}, "must be given together"),
    (GREY, None, {"intensity_range": (5, 6)}, "must be given together"),
    (GREY, None, {"intensity_scaling": "fixed_range", "intensity_range": (5, 5)}, "from low to high"),
    (GREY, None, {"intensity_scaling": "fixed_range", "intensity_range": (0, np.inf)}, "a pair of finite numbers"),
    (GREY, None, {"counts_to_celsius": (0.04, 0)}, 'counts_to_celsius needs intensity_scaling="fixed_range"'),
    (GREY, None, {"image_std": 0.0}, "image_std must be positive"),
    (GREY, None, {"size": 0}, "at least 1 pixel"),
    (GREY[:, :0], None, {}, "2 or 3 dimensions"),
    (np.zeros((3, 32, 40), np.uint8), None, {"input_data_format": "channels_last"}, "neither 1 nor 3 channels_last"),
    (np.full((32, 32), np.inf), None, {}, "infinite"),
    (np.full((32, 32), -0.5), None, {"intensity_scaling": "dtype_range"}, "must lie in 0..1"),
    (Image.new("LA", (32, 32)), None, {}, "has the mode LA"),
    (GREY, None, {"intensity_percentiles": (99, 1)}, "must rise within 0 to 100"),
    (GREY, None, {"image_mean": [0.1, 0.2]}, "image_mean has 2 values"),
    (GREY, None, {"intensity": 3}, r"no setting \['intensity'\]"),
    (GREY, GREY[:16], {}, r"Image and mask number 0 differ in size.*\(32, 32\).*\(16, 32\)"),
    (GREY, GREY[:16, :16], {"do_resize": True, "size": 32}, "differ in size"),
    (GREY, [GREY, GREY], {}, "1 images but 2 masks"),
    (GREY, np.zeros((32, 32, 3), np.uint8), {}, "Turn colours into ids first"),
    (GREY, np.zeros((32, 32), np.float32), {}, "one integer id for each pixel"),
])  # fmt: skip
def test_wrong_input_says_what_to_do(image: Any, mask: Any, settings: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        UnipImageProcessor(do_resize=False)(image, segmentation_maps=mask, return_tensors="pt", **settings)


def test_files_that_are_no_images_or_would_lose_depth_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    processor = UnipImageProcessor(**PLAIN)
    with pytest.raises(ValueError, match=r"text.png' is not an image"):
        processor(tmp_path / "text.png")
    with pytest.raises(ValueError, match=r"cut.png' is damaged"):
        processor(tmp_path / "cut.png")
    (tmp_path / "deep.png").write_bytes(sixteen_bit_colour_png())
    with pytest.raises(ValueError, match=r"deep.png has 16 bits in each of several channels"):
        processor(tmp_path / "deep.png")


def sixteen_bit_colour_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_files_are_turned_upright_as_their_orientation_says(counts: np.ndarray, tmp_path: Path) -> None:
    turned = {1: counts, 3: counts[::-1, ::-1], 6: np.rot90(counts, -1), 8: np.rot90(counts)}
    for orientation, expected in turned.items():
        for ending in ("tiff", "png"):
            exif = Image.Exif()
            exif[274] = orientation
            Image.fromarray(counts).save(tmp_path / f"turned.{ending}", exif=exif)
            np.testing.assert_allclose(scaled(tmp_path / f"turned.{ending}"), scaled(expected.copy()))


def test_thirty_two_bit_counts_are_not_rounded(tmp_path: Path) -> None:
    counts = 2**30 + np.arange(1024, dtype=np.int32).reshape(32, 32)
    expected = np.linspace(0, 1, 1024).reshape(32, 32)
    np.testing.assert_allclose(scaled(counts, intensity_percentiles=(0, 100)), expected, atol=1e-6)
    high = (2**31 + np.arange(1024)).astype(np.uint32).reshape(32, 32)
    Image.fromarray(high.view(np.int32)).save(tmp_path / "high.tiff")
    signed, unsigned = (struct.pack("<HHIH", 339, 3, 1, sample_format) for sample_format in (2, 1))
    content = (tmp_path / "high.tiff").read_bytes()
    assert content.count(signed) == 1
    (tmp_path / "high.tiff").write_bytes(content.replace(signed, unsigned))
    assert np.asarray(Image.open(tmp_path / "high.tiff")).max() < 0  # Pillow alone reads negative counts
    np.testing.assert_array_equal(read_image(tmp_path / "high.tiff"), high)


def test_half_precision_tensors_batches_and_channel_orders_are_understood() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
    fractions = torch.from_numpy(grey / 255).to(torch.bfloat16)
    np.testing.assert_allclose(scaled(fractions, do_rescale=False), grey / 255, atol=4e-3)
    colours = np.random.default_rng(1).integers(0, 256, (2, 3, 24, 3), dtype=np.uint8)
    processor = UnipImageProcessor(**PLAIN)
    first = processor(colours, return_tensors="np", input_data_format="channels_first").pixel_values
    last = processor(colours, return_tensors="np", input_data_format="channels_last").pixel_values
    assert first.shape == (2, 3, 24, 3) and last.shape == (2, 3, 3, 24)
    np.testing.assert_allclose(last.transpose(0, 2, 3, 1), colours / 255, atol=1e-6)
    batch = processor(tuple(colours[:, 0]), segmentation_maps=colours[:, 0], return_tensors="np")
    assert batch.pixel_values.shape == (2, 3, 24, 3) and batch.labels.shape == (2, 24, 3)
    three = UnipImageProcessor(do_resize=False, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 4.0])
    pixels = three(grey, return_tensors="np").pixel_values[0]
    for channel, (mean, std) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.3, 4.0)]):
        np.testing.assert_allclose(pixels[channel], (grey / 255 - mean) / std, atol=1e-6)


def test_shrinking_does_not_alias_and_thin_images_keep_a_pixel() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    processor = UnipImageProcessor(num_channels=1, size=16, do_normalize=False)
    assert processor(stripes, return_tensors="np").pixel_values[0, 0, 4:-4, 4:-4].min() > 0.3
    thin = UnipImageProcessor(size={"shortest_edge": 512, "longest_edge": 100})
    assert thin.output_size(1, 5000) == (1, 100)


def test_real_frames_show_the_scene(real_images: Path) -> None:
    frames = (
        sorted((real_images / "radiometric_16bit").glob("*.tiff"))
        + sorted((real_images / "hit_uav").rglob("*.jpg"))[:20]
    )
    assert len(frames) == 30
    for frame in frames:
        pixels = scaled(frame)
        dark, bright = (pixels < 0.02).mean(), (pixels > 0.98).mean()
        assert dark < 0.7 and bright < 0.5 and pixels.std() > 0.03, f"{frame}: {dark:.2f} black, {bright:.2f} white"
