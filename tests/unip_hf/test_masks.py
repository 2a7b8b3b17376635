"""Masks as people have them are read as class ids, whatever form they have."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from unip_hf.data import check_dataset, load_id2label, load_infrared_dataset, scan_folder
from unip_hf.data.reading import read_sample, without_decoding

from .mask_folders import HEIGHT, KINDS, NAMES, SPLITS, WIDTH, in_colour, save_image, save_masks, save_names, truth


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def first(rows: list) -> dict:
    return rows[0]


def assert_is_truth(rows: list, numbers: range) -> None:
    assert len(rows) == len(numbers)
    for row, number in zip(rows, numbers):
        assert isinstance(row["annotation"], Image.Image)
        np.testing.assert_array_equal(row["annotation"], truth(number))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_ids(kind: str, tmp_path: Path) -> None:
    options = KINDS[kind](tmp_path)
    assert load_id2label("folder", tmp_path) == NAMES
    loaded = load_infrared_dataset("folder", tmp_path, **options)
    streamed = load_infrared_dataset("folder", tmp_path, streaming=True, **options)
    files = set(tmp_path.rglob("*"))
    for split, numbers in SPLITS.items():
        assert_is_truth(list(loaded[split]), numbers)
        assert_is_truth(list(streamed[split]), numbers)
        for rows in (without_decoding(loaded[split]), without_decoding(streamed[split])):
            for row, number in zip(rows, numbers, strict=True):
                sample = read_sample(row)
                np.testing.assert_array_equal(sample.ids, truth(number))
                assert sample.image.dtype == (np.uint16 if kind == "coco" else np.uint8)
    joined = load_infrared_dataset("folder", tmp_path, "validation+train", **options)
    assert_is_truth(list(joined), [*SPLITS["validation"], *SPLITS["train"]])
    assert not check_dataset(loaded, NAMES).has_errors
    assert set(tmp_path.rglob("*")) == files


@pytest.mark.parametrize("kind", ["colours_in_a_file", "coco", "other_sizes"])
def test_workers_copies_and_parquet_read_the_same(kind: str, tmp_path: Path) -> None:
    options = KINDS[kind](tmp_path / "data")
    rows = load_infrared_dataset("folder", tmp_path / "data", "train", **options)
    assert_is_truth(list(pickle.loads(pickle.dumps(rows))), SPLITS["train"])
    encoded = without_decoding(rows)
    loader = DataLoader(encoded, batch_size=1, num_workers=1, collate_fn=first)
    for row, number in zip(loader, SPLITS["train"], strict=True):
        np.testing.assert_array_equal(read_sample(row).ids, truth(number))
    rows.save_to_disk(tmp_path / "saved")
    assert_is_truth(list(datasets.load_from_disk(tmp_path / "saved")), SPLITS["train"])
    rows.to_parquet(tmp_path / "rows.parquet")
    assert_is_truth(list(datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"))), SPLITS["train"])


def test_listed_values_may_be_deep_and_255_may_be_a_class(tmp_path: Path) -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[:9], values[9:12] = 1000, 255
    save_image(tmp_path / "images" / "a.png", 0)
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "a.png")
    for mask_values, of_255 in (({0: 0, 1000: 1}, 255), ({0: 0, 1000: 1, 255: 2}, 2), ("0=255, 1000=1", 255)):
        (row,) = load_infrared_dataset("folder", tmp_path, "train", mask_values=mask_values)
        ids = np.asarray(row["annotation"])
        assert ids.dtype == np.uint8 and ids[0, 0] == 1 and ids[10, 0] == of_255 and ids[20, 0] in (0, 255)


def test_names_of_colours_take_the_ids_of_id2label(tmp_path: Path) -> None:
    KINDS["colours_in_a_file"](tmp_path)
    (tmp_path / "id2label.json").write_text('{"0": "car", "1": "sky", "2": "person", "3": "background"}')
    row = load_infrared_dataset("folder", tmp_path, "train")[0]
    np.testing.assert_array_equal(row["annotation"], np.array([3, 2, 0] + [255] * 253, np.uint8)[truth(0)])
    assert load_id2label("folder", tmp_path)[1] == "sky"


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def both(folder: Path) -> None:
    (folder / "mask_values.json").write_text('{"0": 0}')
    (folder / "labelmap.txt").write_text("person:1,2,3::\n")


@pytest.mark.parametrize(("spoil", "options", "message"), [
    (None, {"mask_values": {0: 0, 128: 1}},
     r"0\.png holds the value 250, which --mask_values does not list\. Its first pixel is in row 8, column 5"),
    (None, {"mask_values": {}}, "names no value"),
    (None, {"mask_values": "0:0"}, r"must be such as 0=0,255=1 \(value=id\), got '0:0'"),
    (None, {"mask_values": "0=0,128=x"}, "a whole number for each value, such as 255=1, got 128=x"),
    (None, {"mask_values": "0=0,128=256"}, "ids of 0 to 255, got 128=256"),
    (None, {"mask_values": "0=0,00=1"}, "names the value 0 twice"),
    (None, {"mask_values": [0, 1]}, "must be a dictionary"),
    (write("mask_values.json", "[0]"), {}, r"mask_values\.json' must be of the form"),
    (write("mask_values.json", "{0: 0}"), {}, r"mask_values\.json' is not JSON such as"),
    (write("mask_values.json", '{"0": true}'), {}, "a whole number for each value"),
    (write("mask_values.json", '{"0": 0}'), {}, r"holds the value 250 \(and 1 other\), which mask_values.json does"),
    (write("mask_colours.json", '{"#12": "a"}'), {}, "must be of the form .* got '#12': 'a'"),
    (write("mask_colours.json", '{"#AAAAAA": "a", "#aaaaaa": "b"}'), {}, "names the colour #aaaaaa twice"),
    (write("mask_colours.json", '{"#000000": "sky"}'), {}, "names 'sky', but .*json' names only 'background'"),
    (write("labelmap.txt", "# label:color_rgb:parts:actions\nperson:1,2::\n"), {}, r"Line 2 of .*labelmap\.txt'"),
    (write("labelmap.txt", "person:1,2,300::\n"), {}, "has a colour above 255"),
    (write("labelmap.txt", "person:1,2,3::\ncar:1,2,3::\n"), {}, "gives #010203 .* to 'person' and 'car'"),
    (write("labelmap.txt", "# nothing\n"), {}, "names no class"),
    (write("labelmap.txt", "car:1,2,3::\n"), {"mask_values": "0=0"}, "remove it, or leave out --mask_values"),
    (both, {}, "both say what masks mean: keep one"),
])  # fmt: skip
def test_wrong_listings_end_with_a_sentence(
    spoil: Callable | None, options: dict, message: str, tmp_path: Path
) -> None:
    KINDS["values_in_an_option"](tmp_path)
    if spoil is not None:
        spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        for row in without_decoding(load_infrared_dataset("folder", tmp_path, **options)["train"]):
            read_sample(row)


def test_unlisted_colours_and_other_sizes_are_named(tmp_path: Path) -> None:
    save_masks(tmp_path, in_colour)
    (tmp_path / "mask_colours.json").write_text('{"#000000": "background", "#e0e0c0": "ignore", "#c08080": "person"}')
    message = r"train/0\.png holds the colour #800040, which mask_colours\.json does not list.*row 8, column 5"
    with pytest.raises(ValueError, match=message):
        load_infrared_dataset("folder", tmp_path)["train"][0]["annotation"]
    (tmp_path / "mask_colours.json").unlink()
    with pytest.raises(ValueError, match=r"train/0\.png is in colour \(#000000, #800040, #c08080, \.\.\.\)"):
        load_infrared_dataset("folder", tmp_path)["train"][0]["annotation"]
    options = KINDS["other_sizes"](tmp_path / "sizes")
    with pytest.raises(ValueError, match=r"differ in size .*\(48, 64\), .*0\.png \(96, 192\)\. Add --resize_masks"):
        read_sample(without_decoding(load_infrared_dataset("folder", tmp_path / "sizes"))["train"][0])
    assert options == {"resize_masks": True}


@pytest.mark.parametrize(("image", "mask", "proposal"), [
    ("{}", "{}_gt", "--mask_suffix=_gt"),
    ("{}_img", "{}_mask", "--image_suffix=_img"),
    ("frame-{}.ir", "frame-{}.ids", "--image_suffix=.ir --mask_suffix=.ids"),
    ("a{}", "b{}", None),
    ("{}1", "{}2", None),
])  # fmt: skip
def test_names_that_fit_with_another_suffix_are_proposed(
    image: str, mask: str, proposal: str | None, tmp_path: Path
) -> None:
    for number in range(10, 13):
        save_image(tmp_path / "images" / f"{image.format(number)}.png", number)
        save_image(tmp_path / "masks" / f"{mask.format(number)}.png", number)
    problems = scan_folder(tmp_path).problems
    if proposal is None:
        assert not any("They fit" in problem for problem in problems)
        return
    assert problems[0] == f"No image has a mask of the same name. They fit with {proposal}."
    given = dict(word.removeprefix("--").split("=") for word in proposal.split())
    assert scan_folder(tmp_path, **given).problems == []
    assert "holds no images whose names end in" in scan_folder(tmp_path, image_suffix="_x").problems[0]
    assert "has no masks whose names end in" in scan_folder(tmp_path, mask_suffix="_x").problems[0]
    assert "without file type" in scan_folder(tmp_path, mask_suffix="_gt.png").problems[0]


def test_json_of_an_unknown_name_is_pointed_out(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png", 0)
    (tmp_path / "export.json").write_text("{}")
    assert any("export.json' is COCO JSON, give it a name" in problem for problem in scan_folder(tmp_path).problems)


def test_a_label_map_beside_masks_of_ids(tmp_path: Path) -> None:
    KINDS["cvat"](tmp_path)
    for path in (tmp_path / "SegmentationClass").iterdir():
        Image.fromarray(truth(int(path.stem))).save(path)
    with pytest.raises(ValueError, match=r"the colour #ffffff .*If the mask holds ids, remove labelmap\.txt"):
        load_infrared_dataset("folder", tmp_path)["train"][0]["annotation"]


def test_lists_name_images_with_or_without_their_suffix(tmp_path: Path) -> None:
    for number in range(2):
        save_image(tmp_path / "images" / f"{number}_img.png", number)
        save_image(tmp_path / "masks" / f"{number}_gt.png", number)
    (tmp_path / "train.txt").write_text("0_img.png\n1\n")
    scan = scan_folder(tmp_path, "_gt", "_img")
    assert scan.problems == [] and [mask.name for _, mask in scan.splits["train"]] == ["0_gt.png", "1_gt.png"]


def test_the_check_proposes_what_fits(tmp_path: Path) -> None:
    def messages(folder: Path) -> str:
        found = check_dataset(load_infrared_dataset("folder", folder), None)
        named = check_dataset(load_infrared_dataset("folder", folder), NAMES)
        return " ".join(str(problem) for problem in found.errors + named.errors)

    save_masks(tmp_path / "binary", lambda ids: Image.fromarray(np.uint8(255) * (ids > 0)))
    assert "add --mask_values 0=0,255=1, or write " in messages(tmp_path / "binary")
    KINDS["values_in_an_option"](tmp_path / "values")
    found = messages(tmp_path / "values")
    assert found.count("add --mask_values 0=0,128=1,250=2, or write mask_values.json") == 3  # unnamed; in two splits
    KINDS["other_sizes"](tmp_path / "sizes")
    assert "add --resize_masks" in messages(tmp_path / "sizes")
    save_masks(tmp_path / "colours", in_colour)
    found = messages(tmp_path / "colours")
    proposal = json.loads(found[found.index("{") : found.index("}") + 1])
    assert list(proposal) == ["#000000", "#800040", "#c08080", "#e0e0c0"]  # also of the mask that is all black
    assert "have no names" not in " ".join(
        map(str, check_dataset(load_infrared_dataset("folder", tmp_path / "colours"), None).errors)
    )
    (tmp_path / "colours" / "mask_colours.json").write_text(json.dumps(proposal))
    assert not check_dataset(
        load_infrared_dataset("folder", tmp_path / "colours"), load_id2label("folder", tmp_path / "colours")
    ).has_errors


def test_options_of_masks_are_for_folders_only(tmp_path: Path) -> None:
    for name, options in (("scenes", {"resize_masks": True}), ("soda", {"mask_suffix": "_gt"})):
        with pytest.raises(ValueError, match=r"are for folders of images and masks, but '.*' is none"):
            load_infrared_dataset(name, tmp_path, **options)
    with pytest.raises(ValueError, match="no configurations and no masks"):
        load_infrared_dataset("infmix", tmp_path, mask_values={0: 0})
    save_masks(tmp_path / "transparent", lambda ids: Image.fromarray(np.dstack([ids] * 4)))
    save_names(tmp_path / "transparent")
    with pytest.raises(ValueError, match=r"0\.png.* has the mode RGBA"):
        read_sample(without_decoding(load_infrared_dataset("folder", tmp_path / "transparent"))["train"][0])
