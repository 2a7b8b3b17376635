"""Recipes, and what runs left, with any content: an answer or a sentence that names the file."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unip_hf.evaluation.result_tables import read_run
from unip_hf.evaluation.runs import read_training_run
from unip_hf.files import read_yaml
from unip_hf.hub.training_run import describe_training, make_recipe
from unip_hf.scripts.finetune import command_parser
from unip_hf.scripts.options import with_recipe
from unip_hf.scripts.runs import FREE_OPTIONS, open_run

from ..nonsense import damaged, json_files, result_or_sentence


PARSER = command_parser()
RECIPE = b"""# a recipe
learning_rate: 1e-4
batch_size: 8
scales: [0.5, 1.0]
linear_probe: true
data_dir: my images
"""
YAML = [
    b"", b"- a\n- b\n", b"a: [", b"\xff\xfe", b"a: &a [*a]", b"a: !!python/object/apply:os.system [ls]",
    b"a: !!int ''",
    b"a: !!bool x", b"a: !!timestamp x", b"a: 2001-99-99", b"? [a]\n: b", b"? {a: b}\n: c", b"<<: [1]", b"a: {b: c}",
    b"a: [[1]]", b"a: 1\n---\nb: 2", b"{" * 2000, b"- " * 5000, b"a: *b", b"a: \x00", b"1: 2", b"null: 3", b"a: 1e999",
    b"a: !!binary \xc3\xa4", b"seed: !!set {a}", b"a: !!float ''", b"a: 0o9", b"a: 1:99:99", b"=: =",
]  # fmt: skip


@given(st.one_of(damaged(RECIPE), damaged(RECIPE), st.sampled_from(YAML), st.binary(max_size=40)))
def test_any_recipe_gives_options_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_bytes(content)
    words = result_or_sentence(lambda: with_recipe(["--config", str(path), "--output_dir", "out"]), str(path))
    if words is not None:
        with contextlib.suppress(SystemExit):  # what argparse does after its sentence
            PARSER.parse_args(words)


@pytest.mark.parametrize("merge", [False, True])
def test_references_in_yaml_do_not_multiply(tmp_path: Path, merge: bool) -> None:
    path, before, lines = tmp_path / "laughs.yaml", "", []
    for number in range(9):
        one = f"*a{number - 1}" if number else "{x: 1}" if merge else "lol"
        all_of_them = ", ".join([one] * 9)
        lines.append(f"a{number}: &a{number} " + (f"{{<<: [{all_of_them}]}}" if merge else f"[{all_of_them}]"))
    path.write_text(before + "\n".join(lines))
    with pytest.raises(ValueError, match=r"laughs\.yaml' is not YAML: it has 72 references"):
        read_yaml(path)


RUN = {
    "options": {
        "model": "models/unip-small", "dataset": "scenes", "data_dir": None, "validation_split": "validation",
        "dataset_config": None, "batch_size": 8, "crop_size": 64, "learning_rate": 1e-4, "num_steps": 20, "seed": 0,
        "layer_decay": 0.9, "linear_probe": False, "mixed_precision": "no", "num_epochs": None,
    },
    "versions": {"torch": "2"},
    "found": {"num_images": 7},
    "num_steps": 20,
}  # fmt: skip
METRICS = [{"step": 10, "loss": 1.5, "learning_rate": 1e-4}, {"step": 20, "mean_iou": 0.5, "mean_accuracy": 0.6}]
LOG = "".join(json.dumps(line) + "\n" for line in METRICS).encode()


@given(st.data(), st.sampled_from(["run.json", "metrics.jsonl", "best/config.json"]))
def test_any_run_gives_its_scores_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "run"
    (folder / "best").mkdir(parents=True, exist_ok=True)
    whole = {"run.json": json.dumps(RUN).encode(), "metrics.jsonl": LOG, "best/config.json": b'{"hidden_size": 384}'}
    nonsense = {
        "run.json": json_files(RUN),
        "metrics.jsonl": st.one_of(damaged(LOG), json_files(METRICS[1]).map(lambda line: LOG + line + b"\n")),
        "best/config.json": json_files({"hidden_size": 384, "fusion": None, "backbone_config": None}),
    }
    for file, content in whole.items():
        (folder / file).write_bytes(data.draw(nonsense[name]) if file == name else content)
    result_or_sentence(lambda: read_run(folder), str(folder))
    run = result_or_sentence(lambda: read_training_run(folder), str(folder))
    if run is not None:
        result_or_sentence(lambda: (make_recipe(run, FREE_OPTIONS), describe_training(run)))


@given(json_files(RUN))
def test_a_run_is_resumed_with_its_options_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "resumed"
    (folder / "checkpoints" / "step-00000001").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "step-00000001" / "state.json").write_text("{}")
    (folder / "run.json").write_bytes(content)
    options = command_parser().parse_args(
        ["--model", "tiny", "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
    )
    result_or_sentence(lambda: open_run(options))
