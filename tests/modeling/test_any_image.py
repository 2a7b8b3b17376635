"""Every image gives what a plain computation gives, or a sentence that says what is wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.modeling.image_reading_unip import read_image, read_mask

from ..nonsense import damaged, result_or_sentence


NUMBERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", ">i4", "f2", "f4", "f8", ">f4", "g"]
OTHERS = ["?", "O", "c8", "M8[s]", "U3"]
SIDE = st.sampled_from([1, 2, 3, 5, 16, 17, 33])
SHAPES = st.one_of(
    st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE, st.sampled_from([1, 3])),
    st.tuples(st.sampled_from([1, 3]), SIDE, SIDE), st.tuples(st.integers(0, 2), SIDE, SIDE, st.sampled_from([1, 3])),
    st.sampled_from([(), (0,), (7,), (0, 4), (4, 0, 3), (2, 2, 2), (1, 2, 3, 4, 5), (1, 10_000), (10_000, 1)]),
)  # fmt: skip


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any dtype and shape: noise, constants, the limits of the dtype, and what is no number."""
    dtype, shape = np.dtype(draw(st.sampled_from(NUMBERS * 3 + OTHERS))), draw(SHAPES)
    noise = np.random.default_rng(draw(st.integers(0, 99))).random(shape)
    if dtype.kind not in "uif":
        return np.zeros(shape, dtype) if dtype.kind in "MU" else np.asarray(noise * 2).astype(dtype)
    limits: Any = np.finfo("f8" if dtype == np.longdouble else dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = draw(st.sampled_from([(0, 1), (-40, 120), (0, 100), (7, 7), (int(limits.min), int(limits.max))]))
    if dtype.kind != "f":
        low, high = max(low, int(limits.min)), min(high, int(limits.max))
    with np.errstate(all="ignore"):
        array = np.asarray(low + noise * (float(high) - float(low)))
        array = (array if dtype.kind == "f" else array.clip(low, high * (1 - 1e-9))).astype(dtype)
    special = [low, high, *([np.nan, np.inf, -np.inf] if dtype.kind == "f" else [])]
    for place in draw(st.lists(st.integers(0, array.size - 1), max_size=2)) if array.size else []:
        with np.errstate(all="ignore"):
            array.flat[place] = draw(st.sampled_from(special))
    return array.T if draw(st.booleans()) and array.ndim == 2 else array


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "num_channels": st.sampled_from([1, 3]),
        "do_resize": st.just(False),
        "size": st.sampled_from([{"shortest_edge": 16}, {"shortest_edge": 32, "longest_edge": 64}, 24]),
        "resample": st.sampled_from([0, 2, 3]),
        "do_rescale": st.just(False),
        "intensity_scaling": st.sampled_from(["dtype_range", "percentiles"]),
        "intensity_percentiles": st.sampled_from([(0, 100), (50, 51)]),
        "main_modality": st.just("visible"),
    },
)
FIXED = st.sampled_from([(-20, 40, None), (-20, 40, (0.04, -273.15)), (0, 65535, (-1, 0)), (-1e9, 1e9, None)]).map(
    lambda one: {
        "intensity_scaling": "fixed_range", "intensity_range": one[:2],
        **({"counts_to_celsius": one[2]} if one[2] else {}),
    }
)  # fmt: skip


def scaled_plainly(array: np.ndarray, processor: UnipImageProcessor) -> np.ndarray:
    """What the documentation of the processor says, in the widest floats, of one image: `(channels, H, W)`."""
    array = array.astype(array.dtype.newbyteorder("="))
    values = array.astype(np.longdouble)
    scaling = processor.intensity_scaling or ("dtype_range" if array.dtype == np.uint8 else "percentiles")
    if processor.main_modality == "visible":
        scaling = "dtype_range"
    if scaling == "percentiles":
        low, high = np.percentile(values, processor.intensity_percentiles)
        low, high = (low, high) if low != high else (values.min(), values.max())
    elif scaling == "dtype_range":
        limits = (0, 1) if array.dtype.kind == "f" else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
        low, high = map(np.longdouble, limits)
    else:
        low, high = map(np.longdouble, processor.intensity_range)
        if array.dtype.kind != "f" and processor.counts_to_celsius:
            factor, offset = processor.counts_to_celsius
            low, high = (low - offset) / factor, (high - offset) / factor
    if processor.do_rescale:
        values = ((values - low) / (high - low if high != low else 1)).clip(0, 1)
    values = values[None] if values.ndim == 2 else values
    values = values if values.shape[0] in (1, 3) else np.moveaxis(values, 2, 0)
    if processor.num_channels == 1 and len(values) == 3:
        values = np.tensordot([0.299, 0.587, 0.114], values.astype(float), 1)[None]
    return np.broadcast_to(values.astype(float), (processor.num_channels, *values.shape[1:]))


@given(arrays(), st.one_of(SETTINGS, SETTINGS, FIXED), st.booleans())
@example(np.array([[-65504, 65504]], np.float16), {}, False)
@example(np.array([[-40, 112]], np.int8), {}, False)
@example(np.array([[-3e38, 3e38]], np.float32), {"do_rescale": False}, False)
@example(np.zeros((0, 4, 4, 3), np.uint8), {}, False)
def test_any_array_is_scaled_as_a_plain_computation_scales_it(
    array: np.ndarray, settings: dict, as_tensor: bool
) -> None:
    processor = UnipImageProcessor(**settings)
    image: Any = array
    if as_tensor and array.dtype.isnative and array.dtype.kind in "uif" and array.dtype.itemsize <= 8:
        image = torch.from_numpy(np.ascontiguousarray(array))
    found = result_or_sentence(lambda: processor(image)["pixel_values"])
    if found is None:
        return
    plain = UnipImageProcessor(**{**settings, "do_resize": False, "do_normalize": False})
    for one, pixels in zip(list(array) if array.ndim == 4 else [array], found, strict=True):
        assert pixels.dtype == np.float32 and np.isfinite(pixels).all()
        expected = scaled_plainly(one, plain)
        tolerance = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(plain(one)["pixel_values"][0], expected, atol=tolerance, rtol=0)
        np.testing.assert_array_equal(processor(one)["pixel_values"][0], pixels)  # alone as in a batch


@given(arrays())
def test_any_mask_keeps_its_ids_or_is_refused(array: np.ndarray) -> None:
    processor = UnipImageProcessor(size=16)
    image = np.zeros(array.shape[:2] if array.ndim > 1 else (4, 4), np.uint8)
    if not image.size:
        return
    labels = result_or_sentence(lambda: processor(image, array, return_tensors="np")["labels"])
    if labels is not None:
        assert set(np.unique(labels).tolist()) <= set(np.unique(read_mask(array)).tolist())


def test_an_image_is_not_enlarged_beyond_all_memory() -> None:
    with pytest.raises(ValueError, match=r"would enlarge an image of 1x1000000 pixels to .* Limit it by"):
        UnipImageProcessor(size={"shortest_edge": 512})(np.zeros((1, 10**6), np.uint8))


def image_files() -> list[tuple[str, bytes]]:
    """Small files of every format and mode that Pillow writes, some turned by EXIF."""
    generator = np.random.default_rng(0)
    files = []
    modes = {
        "png": "1 L P LA RGB RGBA I;16", "jpeg": "L RGB CMYK", "bmp": "1 L P RGB", "webp": "RGB RGBA", "gif": "L P",
        "ppm": "L RGB I;16 1", "jp2": "L RGB RGBA I;16", "tiff": "1 L P LA RGB RGBA CMYK YCbCr LAB I;16 I;16B I F",
    }  # fmt: skip
    for ending, names in modes.items():
        for mode in names.split():
            image = Image.frombytes(mode, (24, 16), generator.bytes(bytes_of(mode)))
            for settings in (
                ({}, {"exif": turned()}, {"compression": "tiff_lzw"}) if ending in ("png", "tiff") else ({},)
            ):
                file = io.BytesIO()
                image.save(file, format={"jp2": "jpeg2000"}.get(ending, ending), **settings)
                files.append((ending, file.getvalue()))
    return files


def bytes_of(mode: str) -> int:
    if mode == "1":
        return 3 * 16
    per_pixel = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2}.get(mode) or len(Image.new(mode, (1, 1)).getbands())
    return 24 * 16 * per_pixel


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[Image.ExifTags.Base.Orientation] = 6
    return exif


FILES = image_files()


@given(st.sampled_from(FILES).flatmap(lambda file: st.tuples(st.just(file), damaged(file[1]), st.booleans())))
def test_a_damaged_image_file_is_read_or_refused_by_its_name(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[tuple[str, bytes], bytes, bool]
) -> None:
    (ending, content), changed, is_mask = case
    path = tmp_path_factory.getbasetemp() / f"damaged.{ending}"
    path.write_bytes(changed)
    found = result_or_sentence(lambda: read_image(path, keep_palette_ids=is_mask), str(path))
    if found is not None and ending == "png":  # whose checksums tell
        path.write_bytes(content)
        np.testing.assert_array_equal(found, read_image(path, keep_palette_ids=is_mask))


def test_a_changed_bit_of_a_png_mask_never_gives_other_ids(tmp_path: Path) -> None:
    ids = (np.indices((64, 80)).sum(0) // 16).astype(np.uint8)
    path = tmp_path / "mask.png"
    Image.fromarray(ids).save(path)
    content = path.read_bytes()
    for place in range(60, len(content) - 12, 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"mask\.png"):
            read_mask(path)


def test_a_file_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (2**30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bomb\.bmp' is too large"):
        read_image(path)
