"""`unip prepare-dataset`: parquet with a card, and back."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from unip_hf.data import draw_scene, load_id2label, load_infrared_dataset
from unip_hf.scripts import check_dataset, prepare_dataset
from unip_hf.scripts.cli import run

from ..unip_hf.benchmark_archives import mfnet_files, write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five drawn 16-bit scenes, two of them for validation."""
    data = tmp_path / "yard"
    for number in range(5):
        counts, ids = draw_scene(number, height=96, width=112)
        for kind, values in (("images", counts), ("masks", (ids > 1).astype(np.uint8))):
            path = data / kind / ("train" if number < 3 else "validation") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    (data / "id2label.json").write_text('{"0": "ground", "1": "thing"}')
    return data


def pixels(rows: datasets.Dataset | datasets.IterableDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(row["image"]), np.asarray(row["annotation"])) for row in rows]


def assert_same_pixels(first: list, second: list) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second):
        for a, b in zip(one, other):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_a_folder_becomes_parquet_that_loads_map_style_and_streamed(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "prepared"
    arguments = ["folder", "--data_dir", str(folder), "--output_dir", str(target), "--images_per_shard", "2"]
    assert run(prepare_dataset.main, arguments) == 0
    names = sorted(path.name for path in (target / "data").iterdir())
    assert names == [
        "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"
    ]  # fmt: skip
    assert load_id2label("folder", target) == {0: "ground", 1: "thing"}
    before, after = load_infrared_dataset("folder", folder), load_infrared_dataset("folder", target)
    assert pixels(before["train"])[0][0].dtype == np.uint16
    streamed = load_infrared_dataset("folder", target, streaming=True)
    stock = datasets.load_dataset(str(target), cache_dir=str(tmp_path / "cache"))  # what the Hub's viewer reads
    for split in ("train", "validation"):
        for other in (after, streamed, stock):
            assert_same_pixels(pixels(before[split]), pixels(other[split]))
    joined = load_infrared_dataset("folder", target, split="validation+train")
    assert_same_pixels(pixels(before["validation"]) + pixels(before["train"]), pixels(joined))
    for path in folder.rglob("*.png"):
        path.unlink()  # the files themselves are in the parquet
    assert run(check_dataset.main, ["--data_dir", str(target)]) == 0

    card = (target / "README.md").read_text()
    assert "pretty_name: yard" in card and "path: data/validation-*.parquet" in card
    assert "| train | 3 |" in card and "| 1 | thing |" in card


def test_what_is_there_is_replaced_only_if_this_command_wrote_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "prepared"
    arguments = ["folder", "--data_dir", str(folder), "--output_dir", str(target)]
    assert run(prepare_dataset.main, arguments) == 0
    assert run(prepare_dataset.main, arguments) == 2
    assert "exists. Choose another" in capsys.readouterr().err
    assert run(prepare_dataset.main, [*arguments, "--overwrite", "--images_per_shard", "1"]) == 0
    assert len(list((target / "data").glob("train-*.parquet"))) == 3
    (target / "download.zip").touch()
    assert run(prepare_dataset.main, [*arguments, "--overwrite"]) == 2
    assert "if it holds only a dataset" in capsys.readouterr().err and (target / "download.zip").exists()
    arguments[-1] = str(folder)
    assert run(prepare_dataset.main, [*arguments, "--overwrite"]) == 2
    assert "exists. Choose another" in capsys.readouterr().err and len(list(folder.rglob("*.png"))) == 10


def test_a_damaged_image_leaves_nothing_behind(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = folder / "images" / "train" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    target = tmp_path / "prepared"
    assert run(prepare_dataset.main, ["folder", "--data_dir", str(folder), "--output_dir", str(target)]) == 2
    assert str(damaged) in capsys.readouterr().err and not target.exists()


def test_what_was_prepared_is_whole(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "prepared"
    arguments = ["folder", "--data_dir", str(folder), "--output_dir", str(target), "--images_per_shard", "1"]
    assert run(prepare_dataset.main, arguments) == 0
    shard = target / "data" / "train-00001-of-00003.parquet"
    content = shard.read_bytes()
    for path, changed, message in (
        (shard, None, "should hold train-00000-of-00003.parquet to train-00002-of-00003.parquet"),
        (shard, content[:500], "train-00001-of-00003.parquet' is damaged"),
        (target / "origin.json", b"[1]", "origin.json' is missing or damaged"),
    ):
        whole = path.read_bytes()
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        with pytest.raises(ValueError, match=message):
            load_infrared_dataset("folder", target)
        path.write_bytes(whole)
    assert load_infrared_dataset("folder", target).num_rows == {"train": 3, "validation": 2}
    for path in (target / "data").glob("validation-*"):
        path.unlink()
    with pytest.raises(ValueError, match="has lost the files of 'validation'"):
        load_infrared_dataset("folder", target, "train")
    again = ["folder", "--data_dir", str(target), "--output_dir", str(tmp_path / "again")]
    assert run(prepare_dataset.main, again) == 2 and "is already prepared" in capsys.readouterr().err


def test_a_damaged_shard_is_an_error_without_a_traceback(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "prepared"
    assert run(prepare_dataset.main, ["folder", "--data_dir", str(folder), "--output_dir", str(target)]) == 0
    shard = target / "data" / "train-00000-of-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:4] + bytes(1000) + content[1004:])  # what its end says is right
    capsys.readouterr()
    assert run(check_dataset.main, ["--data_dir", str(target)]) == 2
    assert re.search(rf"error: The files of '{target}' could not be copied .*: .*page header", capsys.readouterr().err)


def test_push_to_hub_uploads_the_folder_privately(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Recorder:
        def create_repo(self, repo_id: str, **options: object) -> None:
            calls.append(("create_repo", repo_id, options))

        def upload_folder(self, **options: object) -> None:
            calls.append(("upload_folder", sorted(path.name for path in Path(options["folder_path"]).iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Recorder)
    arguments = ["folder", "--data_dir", str(folder), "--output_dir", str(tmp_path / "prepared")]
    wrong = [*arguments, "--push_to_hub", "me/yard", "--data_dir", str(tmp_path / "nowhere")]
    assert run(prepare_dataset.main, wrong) == 2 and not calls
    assert run(prepare_dataset.main, [*arguments, "--push_to_hub", "me/yard"]) == 0
    assert calls == [
        ("create_repo", "me/yard", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("upload_folder", ["README.md", "data", "id2label.json", "origin.json"]),
    ]
    assert json.loads((tmp_path / "prepared" / "id2label.json").read_text()) == {"0": "ground", "1": "thing"}


def test_a_benchmark_by_its_name_and_as_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    archive, target = write_files(tmp_path / "ir_seg_dataset.zip", mfnet_files()), tmp_path / "mfnet"
    arguments = ["mfnet", "--data_dir", str(archive), "--output_dir", str(target), "--dataset_config", "both"]
    assert run(prepare_dataset.main, arguments) == 2
    errors = capsys.readouterr().err
    assert "784 train" in errors and "--allow_partial" in errors and not target.exists()
    assert run(prepare_dataset.main, [*arguments, "--allow_partial"]) == 0
    card = (target / "README.md").read_text()
    for part in ("# MFNet (partial)", "ha2017mfnet", "| 1 | car | #400080 |", "- thermal", "| test | 2 |"):
        assert part in card

    options = {"config_name": "both", "allow_partial": True}
    before, after = (load_infrared_dataset("mfnet", data_dir, **options) for data_dir in (archive, target))
    assert before["test"].column_names == after["test"].column_names == ["image", "rgb", "annotation"]
    assert_same_pixels(pixels(before["train"]), pixels(after["train"]))
    assert len(list(load_infrared_dataset("mfnet", archive, "validation+test", streaming=True, **options))) == 3
    for name, config_name, message in (
        ("soda", None, "from the dataset 'mfnet', not 'soda'"),
        ("mfnet", "rgb", "from the configuration 'both', not 'rgb'"),
        ("mfnet", "both", "from a part of 'mfnet'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_infrared_dataset(name, target, config_name=config_name)
    with pytest.raises(ValueError, match="no configuration 'infrared', only thermal, rgb, both"):
        load_infrared_dataset("mfnet", archive, config_name="infrared")
    # By default the image is thermal: that of another configuration does not pass for it.
    load_infrared_dataset("mfnet", target, allow_partial=True)
    colour = tmp_path / "colour"
    arguments = ["mfnet", "--data_dir", str(archive), "--output_dir", str(colour), "--dataset_config", "rgb"]
    assert run(prepare_dataset.main, [*arguments, "--allow_partial", "--num_workers", "1"]) == 0
    assert "Preparing train 3/3" in capsys.readouterr().err
    card = (colour / "README.md").read_text()
    assert "- rgb\n" in card and "- infrared" not in card and "- thermal" not in card
    with pytest.raises(ValueError, match="from the configuration 'rgb', not 'thermal'"):
        load_infrared_dataset("mfnet", colour, allow_partial=True)
    load_infrared_dataset("mfnet", colour, config_name="rgb", allow_partial=True)
