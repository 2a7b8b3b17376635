"""Every kind of mask goes from a folder to a trained model with the commands alone, and wrong ones to a sentence."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf.data import load_infrared_dataset
from unip_hf.scripts import cli

from ..unip_hf.mask_folders import KINDS, NAMES, SPLITS, as_arguments, in_colour, save_masks, save_names, truth
from .conftest import metrics


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

QUICK = ["--crop_size", "32", "--shortest_edge", "32", "--batch_size", "4", "--window_size", "32", "--stride", "21",
         "--num_workers", "0", "--report_to", "none", "--log_every", "1", "--num_steps", "1"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_checked_and_trained_on(
    kind: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    options = as_arguments(KINDS[kind](data))
    assert cli.main(["check-dataset", "--data_dir", str(data), *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"1  person +\d+\.\d\d% +3\n", printed)
    if (data / "annotations").exists() or kind in ("roboflow", "label_studio"):
        assert printed.startswith("Masks are drawn from COCO JSON (") and "classes are 0 background, 1 pers" in printed
    elif kind in ("values_in_a_file", "values_in_an_option", "cvat", "cvat_palette", "colours_in_a_file"):
        assert printed.startswith("Masks become ids as ")
    command = ["finetune", "--model", str(student), "--data_dir", str(data), "--output_dir", str(out), *QUICK]
    assert cli.main([*command, *options]) == 0
    assert "mean_iou" in metrics(out)[-1]
    assert json.loads((out / "last" / "config.json").read_text())["id2label"] == {
        str(id): n for id, n in NAMES.items()
    }


def test_the_other_commands_take_them_too(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    options = ["--data_dir", str(data), *as_arguments(KINDS["values_in_an_option"](data))]
    command = ["finetune", "--model", str(student), "--output_dir", str(out), *QUICK]
    assert cli.main([*command, *options]) == 0
    assert json.loads((out / "run.json").read_text())["options"]["mask_values"] == "0=0,128=1,250=2"
    changed = ["--data_dir", str(data), "--mask_values", "0=0,128=2,250=1", "--resume_from_checkpoint", "latest"]
    assert cli.main([*command, *changed]) == 2
    assert "--mask_values was '0=0,128=1,250=2', is '0=0,128=2,250=1'" in capsys.readouterr().err
    assert cli.main(["evaluate", str(out / "last"), *options, "--window_size", "32", "--num_workers", "0"]) == 0
    show = ["--crop_size", "32", "--output_file", str(tmp_path / "show.png")]
    assert cli.main(["show-dataset", *options, *show]) == 0 and (tmp_path / "show.png").exists()


@pytest.mark.parametrize("kind", ["values_in_a_file", "coco", "other_sizes", "cvat", "other_names"])
def test_prepared_masks_are_files_of_ids(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, target = tmp_path / "data", tmp_path / "prepared"
    options = as_arguments(KINDS[kind](data))
    arguments = ["prepare-dataset", "folder", "--data_dir", str(data), "--output_dir", str(target), *options]
    assert cli.main(arguments) == 0
    for split, numbers in SPLITS.items():
        rows = load_infrared_dataset("folder", target, split)
        assert type(rows.features["annotation"]).__name__ == "Image"  # others can read it
        for row, number in zip(rows, numbers, strict=True):
            np.testing.assert_array_equal(row["annotation"], truth(number))
            assert row["annotation"].format == "PNG" and row["image"].size == row["annotation"].size
            assert np.asarray(row["image"]).dtype == (np.uint16 if kind == "coco" else np.uint8)
    assert cli.main(["check-dataset", "--data_dir", str(target), "--resize_masks"]) == 2
    assert "is already prepared, and its masks hold ids. Leave these options out" in capsys.readouterr().err


def test_a_worker_hands_on_what_is_wrong(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    KINDS["roboflow"](tmp_path / "data")
    path = tmp_path / "data" / "train" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = []
    path.write_text(json.dumps(content))
    command = ["finetune", "--model", str(student), "--data_dir", str(tmp_path / "data"), "--skip_check"]
    assert cli.main([*command, "--output_dir", str(tmp_path / "out"), *QUICK, "--num_workers", "1"]) == 2
    assert "error: Annotation 1 of " in capsys.readouterr().err


def in_zero_and_255(folder: Path) -> None:
    save_masks(folder, lambda ids: Image.fromarray(np.uint8(255) * (ids == 1)))


def in_unlisted_values(folder: Path) -> None:
    KINDS["values_in_an_option"](folder)


def in_unlisted_colours(folder: Path) -> None:
    save_masks(folder, in_colour)


def of_another_size(folder: Path) -> None:
    KINDS["other_sizes"](folder)


def named_differently(folder: Path) -> None:
    save_masks(folder, Image.fromarray, "{}_labelIds.png")
    save_names(folder)


def without_a_category(folder: Path) -> None:
    KINDS["label_studio"](folder)
    content = json.loads((folder / "result.json").read_text())
    content["categories"].pop()
    (folder / "result.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("make", "checked", "trained"), [
    (in_zero_and_255, "add --mask_values 0=0,255=1, or write", "There is no file .*id2label.json"),
    (in_unlisted_values, "add --mask_values 0=0,128=1,250=2, or write", "ids 128, 250"),
    (in_unlisted_colours, r'mask_colours\.json beside the images, {"#000000": "class 0", ', "There is no file"),
    (of_another_size, "add --resize_masks", "of different sizes.*add --resize_masks"),
    (named_differently, "They fit with --mask_suffix=_labelIds", "They fit with --mask_suffix=_labelIds"),
    (without_a_category, "has the category_id 1, which 'categories' lacks", "has the category_id 1"),
])  # fmt: skip
def test_the_check_names_the_option_or_file_that_fits(
    make: Callable, checked: str, trained: str, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / "data"
    make(data)
    assert cli.main(["check-dataset", "--data_dir", str(data)]) == 2
    assert re.search(checked, capsys.readouterr().out)
    command = ["finetune", "--model", str(student), "--data_dir", str(data), "--output_dir", str(tmp_path / "out")]
    assert cli.main([*command, *QUICK]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: ") and re.search(trained, errors[-1]), errors[-1]
    assert not (tmp_path / "out").exists()
