"""The `unip` command: once in a process of its own, as a user types it, then in this one."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForPreTraining, AutoModelForSemanticSegmentation

import unip_hf
from unip_hf import UnipForLinearSegmentation, UnipForPreTraining, UnipForSemanticSegmentation
from unip_hf.hub import to_published_state_dict
from unip_hf.scripts import cli, evaluate, finetune, predict

from ..conftest import PATIENCE
from .conftest import UNIP


def test_convert_writes_a_folder_and_back_the_same_file(make_config: Callable, tmp_path: Path) -> None:
    config = make_config(last_layer_num_attention_heads=None, num_attention_heads=4)
    published = to_published_state_dict(UnipForSemanticSegmentation(config))
    content = {"state_dict": published, "meta": {"CLASSES": tuple("abcde")}}
    torch.save(content, tmp_path / "iter_1.pth")
    command = [UNIP, "convert", tmp_path / "iter_1.pth", tmp_path / "model", "--num-attention-heads", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {tmp_path / 'model'}" in done.stdout and "Not used: final norm" in done.stderr
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert model.config.id2label[2] == "c"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert processor.image_std == [47.8976 / 255] and processor.antialias is False

    assert cli.main(["convert", "--to-published", str(tmp_path / "model"), str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back["meta"] == {"CLASSES": tuple("abcde"), "config": "out_indices=[2, 2, 2, 2]"}
    assert back["state_dict"].keys() == published.keys()
    assert all(torch.equal(back["state_dict"][name], tensor) for name, tensor in published.items())


def test_convert_tells_kinds_apart_and_replaces_only_when_told(
    make_config: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    student = UnipForPreTraining(make_config(layer_scale_init_value=None, position_embedding_type="sincos"))
    student.save_pretrained(tmp_path / "student")
    convert = ["convert", str(tmp_path / "student.pth"), str(tmp_path / "again"), "--num_attention_heads", "2"]
    assert cli.main(["convert", "--to-published", str(tmp_path / "student"), str(tmp_path / "student.pth")]) == 0
    assert cli.main(convert) == 0
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "again")
    assert type(again) is UnipForPreTraining and again.config.last_layer_num_attention_heads == 4
    assert cli.main(convert) == 2
    assert "exists: choose another target or add --overwrite" in capsys.readouterr().err
    options = ["--num-channels", "1", "--image-size=128", "--last-layer-num-attention-heads", "2"]
    assert cli.main([*convert, "--overwrite", *options]) == 0
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "again")
    assert (again.config.num_channels, again.config.image_size) == (1, 128)
    assert again.config.last_layer_num_attention_heads == 2
    processor = AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert processor.num_channels == 1 and processor.image_std == [0.1871] and processor.antialias is True

    probe = UnipForLinearSegmentation(make_config(feature_layers=[2], last_layer_num_attention_heads=None))
    probe.save_pretrained(tmp_path / "probe")
    assert cli.main(["convert", "--to-published", str(tmp_path / "probe"), str(tmp_path / "probe.pth")]) == 0
    convert = ["convert", str(tmp_path / "probe.pth"), str(tmp_path / "probe-again"), "--num_attention_heads", "2"]
    assert cli.main(convert) == 0
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "probe-again")
    assert type(again) is UnipForLinearSegmentation and again.config.feature_layers == [2]


def test_a_full_disk_is_said_and_leaves_nothing(
    make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    torch.save(to_published_state_dict(UnipForPreTraining(make_config())), tmp_path / "vit.pth")
    monkeypatch.setattr(UnipForPreTraining, "save_pretrained", full)
    arguments = ["convert", str(tmp_path / "vit.pth"), str(tmp_path / "out"), "--num-attention-heads", "4"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert re.search(rf"Could not write '{tmp_path / 'out'}', where [\d,]+ MB are free: No space left", said)
    assert {path.name for path in tmp_path.iterdir()} == {"vit.pth"}


@pytest.mark.parametrize(("arguments", "message"), [
    (["convert", "nowhere.pth", "out"], "There is no 'nowhere.pth'"),
    (["convert", "--to-published", "empty", "out.pth"], "is not a checkpoint folder"),
    (["convert", "vit.pth", "out", "--num-attention-heads", "5"], "num_attention_heads=5 does not divide"),
    (["convert", "vit.pth", "out", "--num-attention-heads=4", "--image-size", "8"], "smaller than one patch"),
    (["convert", "a--file-name.pth", "out"], "There is no 'a--file-name.pth'"),
    (["convert", "text.pth", "out"], "Only tensors, plain values and argparse.Namespace"),
    (["convert", "vit.pth", "out", "--model", "dance"], "--model must be one of auto, encoder, pre-training"),
    (["quickstart", "--steps", "0"], "--steps must be at least 1"),
    (["dance"], "there is no job 'dance'"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_status_2_and_nothing_written(
    arguments: list[str], message: str, make_config: Callable, tmp_path: Path, refuses: Callable
) -> None:
    torch.save(to_published_state_dict(UnipForPreTraining(make_config())), tmp_path / "vit.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("no checkpoint")
    refuses(arguments, message)


def test_help_names_every_job(capsys: pytest.CaptureFixture) -> None:
    assert cli.main([]) == cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"\n  {job} ") == 2 for job in cli.JOBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == unip_hf.__version__


@pytest.mark.parametrize("job", cli.JOBS)
def test_every_job_has_help(job: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([job, "--help"])
    assert not end.value.code and capsys.readouterr().out.startswith(f"usage: unip {job} ")


def test_quickstart_leaves_a_page_and_a_model(
    few_scenes: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with few_scenes():
        assert cli.main(["quickstart", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    page = "outputs/quickstart/evaluation/report.html"
    assert printed.splitlines()[-1] == f"The page with numbers and pictures: {page}"
    assert "mean IoU" in printed and "[y/N]" not in printed
    html = (tmp_path / page).read_text()
    assert "data:image/png;base64" in html and "person" in html
    folder = tmp_path / "outputs" / "quickstart"
    assert Image.open(folder / "prediction" / "overlays" / "scene.png").width == 320
    assert np.asarray(Image.open(folder / "scene.png")).dtype == np.uint16

    # In a folder that holds the first, each part takes the place of the one before; in any other nothing is touched.
    started: list[list[str]] = []
    for part in (finetune, predict, evaluate):
        monkeypatch.setattr(part, "main", started.append)
    assert cli.main(["quickstart"]) == 0
    assert len(started) == 3 and all("--overwrite" in arguments for arguments in started)
    assert cli.main(["quickstart", "--output_dir", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err and len(started) == 3
