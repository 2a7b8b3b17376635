"""`unip check-dataset` and `unip show-dataset` as a user runs them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unip_hf import UnipImageProcessor
from unip_hf.data import draw_scene
from unip_hf.data.labelled import BUILDERS
from unip_hf.scripts import check_dataset, finetune, show_dataset
from unip_hf.scripts.cli import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two drawn scenes with masks of two classes, and their names."""
    data = tmp_path / "data"
    for number in range(2):
        counts, ids = draw_scene(number, height=128, width=160)
        for kind, values in (("images", counts), ("masks", (ids > 1).astype(np.uint8))):
            (data / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(data / kind / f"{number}.png")
    (data / "id2label.json").write_text('{"0": "ground", "1": "thing"}')
    return data


def test_an_unknown_name_lists_every_labelled_dataset(capsys: pytest.CaptureFixture) -> None:
    assert run(check_dataset.main, ["--dataset", "sodda"]) == 2
    assert f"There are folder, {', '.join(BUILDERS)}, and" in " ".join(capsys.readouterr().err.split())


def test_check_dataset_prints_a_table_and_writes_reports(folder: Path, capsys: pytest.CaptureFixture) -> None:
    report, numbers = folder / "out" / "report.html", folder / "out" / "report.json"
    arguments = ["--data-dir", str(folder), "--write-report", str(report), "--json", str(numbers)]
    assert run(check_dataset.main, arguments) == 0
    output = capsys.readouterr().out
    assert re.search(r"1  thing +\d+\.\d\d% +2\n", output) and "uint16, 1 channel (2)" in output
    assert "No problems found." in output and f"Wrote {report}" in output
    assert json.loads(numbers.read_text())["splits"]["train"]["num_images"] == 2
    page = report.read_text()
    assert page.count("data:image/") == 4 and "thing" in page  # two plots, two samples


def test_check_dataset_lists_all_problems_and_ends_with_status_2(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "id2label.json").write_text('{"0": "ground", "2": "thing"}')
    for number in range(6):
        Image.fromarray(np.eye(32, dtype=np.uint8)).save(folder / "images" / f"lonely{number}.png")
    (folder / "images" / "1.png").write_bytes(b"no image")
    report = folder / "report.html"
    assert run(check_dataset.main, ["--data_dir", str(folder), "--write_report", str(report)]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == ("error: The dataset cannot be used for training: 9 errors, listed above.")
    assert len(re.findall(r"error: The image '.*lonely\d\.png' has no mask\n", captured.out)) == 6
    assert "without a gap" in captured.out and "The ids 0, 1 occur" in captured.out
    assert re.search(r"Files that cannot be read \(1 file\)\n    .*1\.png", captured.out)
    assert "train: 2 images" in captured.out and report.read_text().count("lonely") == 6


def test_check_dataset_ends_with_the_command_that_helps_rare_classes(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (folder / "masks").iterdir():
        mask = np.zeros((128, 160), np.uint8)
        mask[3, :8] = 255
        Image.fromarray(mask).save(path)
    assert run(check_dataset.main, ["--data_dir", str(folder), "--mask_values", "0=0,255=1"]) == 0
    output = capsys.readouterr().out
    assert "easily ignored: 1 thing (0.04%)" in output
    command = shlex.split(output[output.index("unip finetune") :].replace("\\\n", ""))
    options = finetune.parse_arguments(command[2:])
    assert options.data_dir == folder and options.mask_values == "0=0,255=1" and options.rare_class_sampling == 1


def test_check_dataset_of_warnings_only_ends_with_status_0(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "id2label.json").write_text('{"0": "ground", "1": "thing", "2": "car"}')
    assert run(check_dataset.main, ["--data_dir", str(folder)]) == 0
    assert "warning: train: Classes that never occur: 2 car\n" in capsys.readouterr().out


def test_show_dataset_draws_originals_and_variants(folder: Path, tmp_path: Path) -> None:
    UnipImageProcessor(num_channels=1, size={"shortest_edge": 128}).save_pretrained(tmp_path / "checkpoint")
    target = tmp_path / "show.png"
    arguments = ["--data_dir", str(folder), "--num_samples", "5", "--num_variants", "2", "--crop_size", "64"]
    arguments += ["--checkpoint", str(tmp_path / "checkpoint"), "--output_file", str(target)]
    assert run(show_dataset.main, arguments) == 0
    first = np.asarray(Image.open(target))
    assert first.shape[1] > 128 + 2 * 64 and first.shape[0] > 2 * 128
    assert run(show_dataset.main, arguments) == 2  # the file exists
    assert run(show_dataset.main, [*arguments, "--overwrite"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(target)), first)
    assert run(show_dataset.main, [*arguments, "--overwrite", "--seed", "1"]) == 0
    assert not np.array_equal(np.asarray(Image.open(target)), first)


def test_wrong_input_ends_with_a_sentence_and_nothing_written(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = set(folder.rglob("*"))
    data = ["--data_dir", str(folder)]
    show = [*data, "--output_file", str(folder / "show.png")]
    for main, arguments, message in (
        (check_dataset.main, [], "needs data_dir"),
        (check_dataset.main, ["--dataset", "nothing"], "There is no labelled dataset 'nothing'"),
        (check_dataset.main, [*data, "--num_workers", "0"], "--num_workers must be above 0"),
        (show_dataset.main, [*show, "--split", "test"], "no split 'test', only train"),
        (show_dataset.main, [*show, "--crop_size", "0"], "--crop_size must be above 0"),
        (show_dataset.main, [*data, "--output_file", str(folder / "show.gif")], "must be a .png or .jpg file"),
        (show_dataset.main, [*show, "--checkpoint", str(folder / "nowhere")], "nowhere"),
    ):
        assert run(main, arguments) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: ") and message in errors, errors
    assert set(folder.rglob("*")) == before
