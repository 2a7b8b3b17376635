"""`unip evaluate` as a user types it, alone and in two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.inference import precision
from unip_hf.scripts import cli, evaluate

from ..conftest import PATIENCE, save_checkpoint


ID2LABEL = {0: "ground", 1: "car", 2: "person", 3: "never there"}


@pytest.fixture
def folder(make_config: Callable, tmp_path: Path) -> Path:
    """A checkpoint `model` and a data set `data` with five 16-bit images of different sizes."""
    model = UnipForSemanticSegmentation(make_config(id2label=ID2LABEL, num_labels=4, num_channels=1))
    model.decode_head.classifier.bias.data[3] = -1e3  # never predicted
    model.save_pretrained(tmp_path / "model")
    UnipImageProcessor(num_channels=1, size={"shortest_edge": 64}).save_pretrained(tmp_path / "model")
    random = np.random.default_rng(0)
    for number, size in enumerate([(40, 50), (64, 64), (33, 91), (50, 40), (70, 48)]):
        counts, ids = random.integers(7000, 7300, size, dtype=np.uint16), random.integers(0, 3, size).astype(np.uint8)
        for name, array in (("images", counts), ("masks", ids)):
            (tmp_path / "data" / name / "validation").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "data" / name / "validation" / f"{number}.png")
    (tmp_path / "data" / "id2label.json").write_text(json.dumps(ID2LABEL))
    return tmp_path


def options(folder: Path, *more: str) -> list[str]:
    return [
        str(folder / "model"), "--data-dir", str(folder / "data"), "--window_size", "48", "--stride", "32",
        "--num_workers", "0", *more,
    ]  # fmt: skip


def test_numbers_are_found_and_written_down(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert cli.run(evaluate.main, options(folder, "--num_examples", "1")) == 0
    printed = capsys.readouterr().out
    results = json.loads((folder / "model" / "evaluation" / "results.json").read_text())
    assert f"mean IoU {results['mean_iou']:.4f}" in printed and "not in the means: never there" in printed
    assert results["num_images"] == 5 and np.sum(results["confusion_matrix"]) == 2000 + 4096 + 3003 + 2000 + 3360
    assert [found["name"] for found in results["classes"]] == list(ID2LABEL.values())
    assert results["classes"][3]["iou"] is None and results["settings"]["window_size"] == 48
    assert results["mean_iou"] == pytest.approx(np.mean([found["iou"] for found in results["classes"][:3]]))
    page = (folder / "model" / "evaluation" / "report.html").read_text()
    assert page.count("<img") == 3 and "Worst images" in page and "never there" in page

    monkeypatch.chdir(folder)
    assert cli.run(evaluate.main, options(folder, "--output_dir", str(folder / "again"))) == 0
    assert json.loads((folder / "again" / "results.json").read_text()) == results
    assert {path.name for path in folder.iterdir()} == {"model", "data", "again"}
    card = ModelCard.load(folder / "model" / "README.md")  # written by the one and replaced by the other
    found = {result.metric_name: result for result in card.data.eval_results}
    assert len(found) == len(card.data.eval_results) == 6  # three means, three classes that occur
    assert found["Mean IoU"].metric_value == results["mean_iou"]
    assert found["IoU of car"].metric_value == results["classes"][1]["iou"]
    assert (found["Mean IoU"].dataset_name, found["Mean IoU"].dataset_split) == ("data", "validation")


@pytest.mark.slow
def test_one_process_and_two_find_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert cli.run(evaluate.main, options(folder)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "unip_hf.scripts.evaluate", *options(folder, "--output_dir", str(folder / "two"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote the numbers into") == 1
    one, two = (folder / name / "results.json" for name in ("model/evaluation", "two"))
    assert json.loads(one.read_text()) == json.loads(two.read_text())
    assert {path.name for path in folder.iterdir()} == {"model", "data", "two"}


def test_card_keeps_what_others_wrote(folder: Path, capsys: pytest.CaptureFixture) -> None:
    readme = folder / "model" / "README.md"
    readme.write_text(
        "---\nlicense: mit\nmodel-index:\n- name: mine\n  results:\n  - task: {type: image-segmentation}\n"
        "    dataset: {type: soda, name: SODA, split: test}\n    metrics:\n    - {type: mean_iou, value: 0.5}\n"
        "---\n\n# Words of mine\n"
    )
    assert cli.run(evaluate.main, options(folder, "--no_update_card")) == 0
    assert "model-index" in readme.read_text() and "IoU of car" not in readme.read_text()
    changed = ["--overwrite", "--whole_image", "--flip", "--scales", "1", "0.5", "--resize_masks"]
    assert cli.run(evaluate.main, options(folder, *changed)) == 0
    record = json.loads((folder / "model" / "evaluation" / "results.json").read_text())
    assert record["settings"]["flip"] and record["settings"]["scales"] == [1.0, 0.5] and record["resize_masks"]
    assert (record["mask_values"], record["allow_partial"], record["compile"]) == (None, False, False)
    card = ModelCard.load(readme)
    assert card.data.license == "mit" and card.data.model_name == "mine" and "# Words of mine" in card.text
    assert [r.metric_value for r in card.data.eval_results if r.dataset_type == "soda"] == [0.5]
    assert len(card.data.eval_results) == 7
    readme.write_text("---\nmodel-index: wrong\n---\n")
    assert cli.run(evaluate.main, options(folder, "--overwrite")) == 2
    assert f"The metadata at the top of '{readme}' is not valid" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_model_finds_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CompiledModel", partial(precision.CompiledModel, backend="eager"))
    found = []
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        assert cli.run(evaluate.main, options(folder, "--output_dir", str(folder / name), *more)) == 0
        results = json.loads((folder / name / "results.json").read_text())
        found.append(np.array(results["confusion_matrix"]))
    assert np.abs(found[1] - found[0]).sum() <= 0.001 * found[0].sum()  # rounding


def test_a_folder_that_cannot_be_written_is_said_at_once(
    folder: Path, refuses: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    message = "Nothing can be written to 'model/evaluation': choose another --output_dir"
    refuses(["evaluate", "model", "--data_dir", "data"], message)


@pytest.mark.parametrize(("arguments", "message"), [
    (["nowhere"], "There is no folder 'nowhere': for a model on the Hub give --output_dir"),
    (["data"], "'data' is not a checkpoint folder"),
    (["student"], "trained segmentation model"),
    (["model", "--split", "test"], "no split 'test'"),
    (["model", "--data_dir", "nowhere"], "nowhere"),
    (["model", "--output_dir", "done"], "'done' holds results: choose another --output_dir or add --overwrite"),
    (["model", "--stride", "600"], "from 1 to window_size"),
    (["model", "--num_examples", "-1"], "--num_examples must be 0 or above"),
    (["other"], "  model:   {0: 'ground', 1: 'lorry'}\n  dataset: {0: 'ground', 1: 'car'"),
])  # fmt: skip
def test_wrong_input_is_said_and_nothing_is_written(
    arguments: list[str], message: str, folder: Path, make_config: Callable, refuses: Callable
) -> None:
    UnipForPreTraining(make_config()).save_pretrained("student")
    other = UnipForSemanticSegmentation(make_config(id2label={0: "ground", 1: "lorry"}, num_labels=2))
    save_checkpoint(other, "other")
    (folder / "done").mkdir()
    (folder / "done" / "results.json").write_text("{}")
    refuses(["evaluate", "--data_dir", "data", *arguments], message)
