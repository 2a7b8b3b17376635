"""`unip publish`: what is written, that it loads elsewhere, and that nothing wrong is published."""

import contextlib
import io
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation, ViTConfig, ViTModel

from unip_hf import UnipModel, modeling
from unip_hf.evaluation import CLASS_METRICS, METRICS
from unip_hf.evaluation.results import headline_scores
from unip_hf.hub.loading import load_publishable
from unip_hf.inference import load_segmentation_model
from unip_hf.inference.loading import fingerprint
from unip_hf.scripts import distill, evaluate, finetune, publish
from unip_hf.scripts.cli import run
from unip_hf.scripts.runs import FREE_OPTIONS

from ..conftest import PATIENCE, save_checkpoint, tiny_config
from ..nonsense import damaged, json_files


ID2LABEL = {0: "cold", 1: "mild", 2: "warm"}
CODE = {f"{module.name}.py" for module in pkgutil.iter_modules(modeling.__path__)}
MODEL = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
OF_RUN = {"recipe.yaml", "environment.json", "training_curve.png"}
QUICK = ["--batch_size", "3", "--num_workers", "0", "--report_to", "none", "--log_every", "1", "--crop_size", "32"]


def job(main: object, *arguments: object) -> int:
    """A command in this process, which forgets the devices of the one before."""
    try:
        return run(main, list(map(str, arguments)))  # type: ignore[arg-type]
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A user's folder: `yard` with 16-bit images and masks; in `runs` a distilled student, the network fine-tuned from it
    and evaluated, and a fine-tuned SegFormer.
    """
    home = tmp_path_factory.mktemp("home-of-anna")
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("validation", 2)):
        for number in range(count):
            ids = np.kron(generator.integers(0, 3, (3, 4), dtype=np.uint8), np.ones((16, 16), np.uint8))
            counts = (7000 + 100.0 * ids + generator.integers(0, 30, ids.shape)).astype(np.uint16)
            for kind, values in (("images", counts), ("masks", ids)):
                path = home / "yard" / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    (home / "yard" / "id2label.json").write_text(json.dumps(ID2LABEL))
    torch.manual_seed(0)
    vit = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32)
    ViTModel(vit).save_pretrained(home / "teacher")
    save_checkpoint(UnipModel(tiny_config(num_channels=1, layer_scale_init_value=None)), home / "start")
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 3, 4]}
    segformer = SegformerConfig(**sizes, decoder_hidden_size=16, id2label=ID2LABEL)
    save_checkpoint(SegformerForSemanticSegmentation(segformer), home / "mit-tiny")
    data, runs = ["--data_dir", home / "yard", *QUICK], home / "runs"
    taught = ["--teacher", home / "teacher", "--students", home / "start", "--num_steps", 2, "--num_sample_images", 2]
    assert job(distill.main, *data, *taught, "--output_dir", runs / "student") == 0
    few = [*data, "--num_steps", 2, "--evaluate_every", 1, "--shortest_edge", 32, "--learning_rate", "3e-2"]
    assert job(finetune.main, *few, "--model", runs / "student" / "last", "--output_dir", runs / "yard") == 0
    assert job(finetune.main, *few, "--model", home / "mit-tiny", "--output_dir", runs / "segformer") == 0
    assert job(evaluate.main, runs / "yard" / "best", *data[:2], "--num_workers", 0) == 0
    return home


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory of somebody who is not logged in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return tmp_path


def dry_run(checkpoint: Path, repo_id: str, *options: str, with_speed: bool = False) -> Path:
    speed = [] if with_speed else ["--no_speed"]
    assert job(publish.main, checkpoint, repo_id, "--dry_run", repo_id, *speed, *options) == 0
    return Path(repo_id)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fine_tuned_checkpoint_with_its_run_and_numbers(
    home: Path, work: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = home / "runs" / "yard" / "best"
    (work / "notes.md").write_text("## From me\n\nRecorded in May.\n")
    folder = dry_run(checkpoint, "me/yard", "--notes", "notes.md", "--data_license", "my own", with_speed=True)
    printed = capsys.readouterr()
    assert names(folder) == MODEL | CODE | OF_RUN | {"samples.png", "evaluation/yard-validation.json"}
    assert (
        "samples.png shows images of yard (licence: my own)" in printed.out and "nothing was uploaded" in printed.out
    )
    assert "warning" not in printed.err
    for name in names(folder):  # no folder of this machine
        assert str(home).encode() not in (folder / name).read_bytes(), name

    results = json.loads((checkpoint / "evaluation" / "results.json").read_text())
    assert results["fingerprint"] == fingerprint(*load_segmentation_model(folder))
    published = json.loads((folder / "evaluation" / "yard-validation.json").read_text())
    assert published == {**results, "checkpoint": "yard", "data_dir": "yard"}
    card = ModelCard.load(folder / "README.md")
    found = {(result.metric_type, result.metric_name): result.metric_value for result in card.data.eval_results}
    headlines = [(metric, name, value) for metric, name, value in headline_scores(results) if value is not None]
    assert len(found) == len(headlines) >= 5
    for metric, name, value in headlines:
        label = metric.label[0].upper() + metric.label[1:]
        assert found[metric.key, label if name is None else f"{label} of {name}"] == value
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in card.text.splitlines()}
    assert all(float(rows[metric.label][0]) == round(results[metric.key], 4) for metric in METRICS)
    for of_class in results["classes"]:
        values = [of_class[metric.key] for metric in CLASS_METRICS]
        assert rows[of_class["name"]] == ["–" if value is None else f"{value:.4f}" for value in values]  # noqa: RUF001
    speed = next(values for values in rows.values() if "float32" in values)
    assert speed[0] == "32x32" and float(speed[2]) > 0 and speed[3].endswith("MB (the process with its libraries)")
    origin = "`student`, pre-trained on the attention (NMI-HAD) of block"
    assert origin in card.text and "of the teacher `teacher` on the data *yard*" in card.text
    assert "## From me\n\nRecorded in May.\n" in card.text and "yard: my own." in card.text

    arguments = ["--config", str(folder / "recipe.yaml"), "--output_dir", "out"]
    again, first = (vars(finetune.parse_arguments(words)) for words in (arguments, [*arguments, "--data_dir", "yard"]))
    before = json.loads((home / "runs" / "yard" / "run.json").read_text())["options"]
    assert (again["model"], str(again["data_dir"])) == ("student", "yard")
    assert {name: again[name] for name in again.keys() - FREE_OPTIONS - {"model", "data_dir"}} == {
        name: before[name] for name in before.keys() - FREE_OPTIONS - {"model", "data_dir"}
    }
    assert first["num_steps"] == 2
    for name in ("training_curve.png", "samples.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 150
    environment = json.loads((folder / "environment.json").read_text())
    assert (environment["num_steps"], environment["num_planned_steps"]) == (2, 2)
    again_evaluated = {**results, "settings": {**results["settings"], "flip": True}}
    (work / "results.json").write_text(json.dumps(again_evaluated))
    without = dry_run(checkpoint, "me/without", "--no_samples", "--evaluation", "results.json")
    second = "evaluation/yard-validation-2.json"
    assert f"[all numbers]({second})" in (without / "README.md").read_text()
    (without / second).unlink()
    assert (
        names(folder) - names(without) == {"samples.png"} and "samples.png" not in (without / "README.md").read_text()
    )


@pytest.mark.slow
@given(st.data())
def test_any_damage_gives_a_model_that_loads_or_a_sentence(
    home: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    work = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(home / "runs" / "yard", work / "run", ignore=shutil.ignore_patterns("checkpoints", "last"))
    name = data.draw(st.sampled_from(sorted(names(work) - {"run/best/model.safetensors"})))
    whole = (work / name).read_bytes()
    kind = damaged(whole) if Path(name).suffix != ".json" else json_files(json.loads(whole))
    (work / name).write_bytes(data.draw(kind))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = job(publish.main, work / "run" / "best", "me/yard", "--dry_run", work / "out", "--no_speed")
    assert status == 0 or (status == 2 and "error: " in said.getvalue())
    assert (work / "out").exists() == (status == 0)
    if status == 0:
        load_segmentation_model(work / "out")


def test_a_picture_that_is_a_link_to_something_else_is_not_published(
    home: Path, work: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(home / "runs" / "yard", work / "run")
    (work / "secret").write_text("my key")
    for picture in (work / "run" / "predictions").iterdir():
        picture.unlink()
        picture.symlink_to(work / "secret")
    assert job(publish.main, work / "run" / "best", "me/yard", "--dry_run", "out", "--no_speed") == 2
    assert "is not an image that Pillow can read" in capsys.readouterr().err and not (work / "out").exists()


@pytest.mark.slow
def test_the_lines_of_the_cards_run_without_this_library(home: Path, work: Path) -> None:
    kinds = {"me/yard": "yard/best", "me/segformer": "segformer/best", "me/student": "student/last"}
    for repo_id, checkpoint in kinds.items():
        dry_run(home / "runs" / checkpoint, repo_id)
    assert names(Path("me/student")) == MODEL | CODE | OF_RUN
    assert names(Path("me/segformer")) == MODEL | OF_RUN | {
        "samples.png",
        "image_processing_unip.py",
        "image_reading_unip.py",
        "image_settings_unip.py",
        "intensities_unip.py",
    }
    Path("your-image.png").write_bytes((home / "yard" / "images" / "validation" / "0.png").read_bytes())
    program = ["import sys", "sys.modules['unip_hf'] = None", "import numpy"]
    for repo_id in kinds:
        code = re.findall(r"```python\n(.*?)```", Path(repo_id, "README.md").read_text(), flags=re.DOTALL)
        assert len(code) == 1
        result = "features" if repo_id == "me/student" else "ids"
        program += [code[0], f"numpy.savez({repo_id[3:]!r}, {result}.detach(), outputs[0].detach())"]
    environment = {**os.environ, "HF_HOME": str(work / "home")}
    command = [sys.executable, "-c", "\n".join(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    for repo_id, checkpoint in kinds.items():
        model, processor = load_publishable(home / "runs" / checkpoint)
        inputs = processor("your-image.png", return_tensors="pt")
        with torch.no_grad():
            outputs = model.unip(**inputs) if repo_id == "me/student" else model(**inputs)
        expected = outputs[0]  # last hidden state, or logits
        if repo_id != "me/student":
            expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 64)])[0]
        found = np.load(f"{repo_id[3:]}.npz")
        np.testing.assert_array_equal(found["arr_0"], expected.numpy())
        np.testing.assert_array_equal(found["arr_1"], outputs[0].numpy())


def test_cards_of_a_student_and_of_another_network(home: Path, work: Path, capsys: pytest.CaptureFixture) -> None:
    student = ModelCard.load(dry_run(home / "runs" / "student" / "last", "me/student") / "README.md")
    assert student.data.pipeline_tag == "image-feature-extraction" and not student.data.eval_results
    metrics = [json.loads(line) for line in (home / "runs" / "student" / "metrics.jsonl").read_text().splitlines()]
    found = json.loads((home / "runs" / "student" / "run.json").read_text())["found"]
    layer = found["teacher_layer"]
    for part in (
        f"block {layer} (NMI {found['teacher_nmi'][layer - 1]:.3f}) of the teacher `teacher`",
        f"attention was {metrics[-1]['nmi/start']:.3f} on sample images",
        f"the teacher's {metrics[-1]['nmi/teacher']:.3f}.",
        "no segmentation head", "`start`, of which nothing more is recorded", "unip distill --config recipe.yaml",
    ):  # fmt: skip
        assert part in student.text, part
    segformer = dry_run(home / "runs" / "segformer" / "last", "me/segformer", "--base_model", "nvidia/mit-b0")
    card = ModelCard.load(segformer / "README.md")
    assert card.data.base_model == "nvidia/mit-b0" and "unip" not in card.data.tags
    assert "[nvidia/mit-b0](https://huggingface.co/nvidia/mit-b0)" in card.text and "Not evaluated" in card.text
    assert "auto_map" not in json.loads((segformer / "config.json").read_text())


def test_numbers_of_other_weights_and_words_of_the_user_are_not_lost_silently(
    home: Path, work: Path, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = work / "changed"
    model, processor = load_segmentation_model(home / "runs" / "yard" / "best")
    with torch.no_grad():
        model.decode_head.classifier.bias += 1
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)
    (checkpoint / "modeling_unip.py").unlink()  # an incomplete folder becomes a complete one
    results = home / "runs" / "yard" / "best" / "evaluation" / "results.json"
    (checkpoint / "evaluation").mkdir()
    (checkpoint / "evaluation" / "results.json").write_bytes(results.read_bytes())
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n\nWords of mine.\n")
    folder = dry_run(checkpoint, "me/changed")
    errors = capsys.readouterr().err
    assert "measured with other weights or settings. Evaluate this checkpoint again" in errors
    assert "changed/README.md' is not published (text, license)" in errors
    assert names(folder) == MODEL | CODE  # no run left it
    text = (folder / "README.md").read_text()
    assert "Not evaluated, or not with these weights." in text and "How it was trained is not recorded." in text
    wrong = [checkpoint, "me/again", "--dry_run", "again", "--no_speed", "--evaluation", checkpoint / "evaluation"]
    assert job(publish.main, *wrong) == 2
    assert "measured with other weights" in capsys.readouterr().err and not Path("again").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["{best}", "yard", "--dry_run", "out"], "'yard' is not a name on the Hub, which has the form USER/NAME"),
    (["{best}", "me/my yard", "--dry_run", "out"], "'me/my yard' is not a name on the Hub"),
    (["{best}", "me/yard", "--dry_run", "full"], "'full' is not an empty folder"),
    (["{best}", "me/yard", "--dry_run", "new/out", "--license", "My own"],
     "error: 'My own' is not a licence as the Hub names it"),
    (["{best}", "me/yard", "--dry_run", "out", "--notes", "{latin}"], "notes.md' cannot be read as text in UTF-8"),
    (["{best}", "me/yard", "--dry_run", "out", "--notes", "nowhere.md"], "'nowhere.md' cannot be read"),
    (["{best}", "me/yard"], "Nobody is logged in to the Hub: run `hf auth login`"),
    (["{run}", "me/yard", "--dry_run", "out"], "holds several checkpoints, best, last: choose one"),
    (["nowhere", "me/yard", "--dry_run", "out"], "There is no checkpoint folder 'nowhere'"),
    (["{teacher}", "me/yard", "--dry_run", "out"], "ViTModel, which is not a semantic segmentation model"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_and_nothing_written(
    arguments: list[str], message: str, home: Path, work: Path, refuses: Callable
) -> None:
    (work / "full").mkdir()
    (work / "full" / "file").touch()
    (home / "notes.md").write_bytes("für".encode("latin-1"))
    places = {
        "latin": home / "notes.md",
        "best": home / "runs" / "yard" / "best",
        "run": home / "runs" / "yard",
        "teacher": home / "teacher",
    }
    refuses(["publish", *(word.format(**places) for word in arguments), "--no_speed"], message)


class Hub:
    """Writes down what it is asked for; of repositories it knows whether they are private."""

    calls: list[tuple]
    is_private = True

    def create_repo(self, repo_id: str, **options: object) -> str:
        self.calls.append(("create_repo", repo_id, options))
        return f"https://huggingface.co/{repo_id}"

    def repo_info(self, repo_id: str, **options: object) -> "Hub":
        self.private = self.is_private
        return self

    def create_branch(self, repo_id: str, **options: object) -> None:
        self.calls.append(("create_branch", options["branch"]))

    def upload_folder(self, **options: object) -> None:
        folder = Path(str(options["folder_path"]))
        self.calls.append(("upload_folder", {name: (folder / name).read_bytes() for name in names(folder)}, options))


def test_what_is_uploaded_is_what_a_dry_run_writes(
    home: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    checkpoint = home / "runs" / "yard" / "best"
    folder = dry_run(checkpoint, "me/yard")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("unip_hf.hub.uploading.HfApi", Hub)
    Hub.calls = []
    command = [checkpoint, "me/yard", "--no_speed", "--revision", "trial", "--commit_message", "First"]
    assert job(publish.main, *command) == 0
    created, branch, uploaded = Hub.calls
    assert created == ("create_repo", "me/yard", {"repo_type": "model", "private": True, "exist_ok": True})
    assert branch == ("create_branch", "trial")
    assert uploaded[1] == {name: (folder / name).read_bytes() for name in names(folder)}
    assert (uploaded[2]["revision"], uploaded[2]["commit_message"]) == ("trial", "First")
    earlier = names(folder) | {"model-00001-of-00002.safetensors", "model.safetensors.index.json"}
    others = {"notes.txt", "onnx/model.safetensors", "model-a/b.safetensors", "mine/modeling_unip.py"}
    assert set(filter_repo_objects(earlier | others, allow_patterns=uploaded[2]["delete_patterns"])) == (
        earlier - {"README.md", "config.json", "preprocessor_config.json"}  # which are always replaced
    )
    assert "https://huggingface.co/me/yard, which is private" in capsys.readouterr().out

    monkeypatch.setattr(Hub, "is_private", False)
    Hub.calls = []
    assert job(publish.main, checkpoint, "me/yard", "--no_speed") == 2  # it was public before
    assert "everyone can see it: add --public" in capsys.readouterr().err and len(Hub.calls) == 1
    assert job(publish.main, checkpoint, "me/yard", "--no_speed", "--public") == 0
    assert Hub.calls[1][2]["private"] is False and "which is public" in capsys.readouterr().out


def test_no_network_is_said_without_the_token(
    home: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")  # and HF_HUB_OFFLINE is set for all tests
    assert job(publish.main, home / "runs" / "student" / "last", "me/student", "--no_speed") == 2
    printed = capsys.readouterr()
    assert "error: The upload to 'me/student' failed: " in printed.err and "offline" in printed.err
    assert "hf_secret" not in printed.out + printed.err
