"""`unip results` on real runs, and on folders of runs written by hand."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from unip_hf import UnipForPreTraining, UnipImageProcessor
from unip_hf.evaluation.result_tables import method_name
from unip_hf.scripts import cli


def write_run(
    folder: Path,
    *mean_iou: float | None,
    width: int = 384,
    num_steps: int = 100,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """What a run leaves that was evaluated at equal distances; without numbers it was not."""
    defaults = {
        "model": "models/unip-small-mae-large", "dataset": "soda", "dataset_config": None, "data_dir": "data",
        "validation_split": "test", "allow_partial": False, "num_steps": None, "linear_probe": False,
        "layerwise_probe": False, "learning_rate": 1e-4, "seed": 0, "output_dir": str(folder),
    }  # fmt: skip
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "config.json").write_text(json.dumps({"hidden_size": width, **(config or {})}))
    (folder / "run.json").write_text(json.dumps({"options": {**defaults, **options}, "num_steps": num_steps}))
    lines: list[dict] = [{"step": num_steps, "loss": 0.5, "learning_rate": 1e-6}]
    lines += [
        {"step": num_steps * number // len(mean_iou), "mean_iou": value}
        for number, value in enumerate(mean_iou, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def markdown_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_real_runs_become_tables(
    make_config: Callable, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = tmp_path / "unip-mine"
    UnipForPreTraining(make_config(layer_scale_init_value=None, position_embedding_type="sincos")).save_pretrained(
        model
    )
    UnipImageProcessor().save_pretrained(model)
    quick = ["--model", model, "--data_dir", street, "--dataset", "folder", "--num_steps", 4,
             "--num_warmup_steps", 1, "--evaluate_every", 2, "--crop_size", 32, "--shortest_edge", 32,
             "--window_size", 32, "--stride", 21, "--num_workers", 0, "--report_to", "none",
             "--mixed_precision", "no", "--learning_rate", 0.05]  # fmt: skip
    out = tmp_path / "runs"
    for name, options in {
        "seed-0": ["--config", "fine-tuning-tiny-scut-seg", "--feature_layers", 3],
        "seed-1": ["--config", "fine-tuning-tiny-scut-seg", "--feature_layers", 3, "--seed", 1],
        "layers": ["--config", "layerwise-probing-scut-seg"],
    }.items():
        command = ["finetune", "--output_dir", out / name, *quick, *options]
        assert cli.main(list(map(str, command))) == 0, capsys.readouterr().err
    config = json.loads((out / "seed-0" / "best" / "config.json").read_text())
    processor = json.loads((out / "seed-0" / "best" / "preprocessor_config.json").read_text())
    assert config["loss_average"] == "all_pixels" and processor["image_std"] == [0.18783373]  # the recipe's

    def evaluations(name: str) -> list[dict]:
        lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if "mean_iou" in line]

    capsys.readouterr()
    for which, choose in (("best", max), ("last", lambda values: values[-1])):
        assert cli.main(["results", str(out), "--format", "csv", "--which", which]) == 0
        found = cells(capsys.readouterr().out)
        assert {(cell["method"], cell["size"], cell["dataset"]) for cell in found} == {
            ("unip-mine", "width 32", "street")
        }
        scores = [choose([line["mean_iou"] for line in evaluations(name)]) for name in ("seed-0", "seed-1")]
        (whole,) = [cell for cell in found if cell["task"] == "fine-tuning"]
        assert float(whole["mean_iou_percent"]) == pytest.approx(100 * fmean(scores), abs=1e-4)
        assert float(whole["deviation_percent"]) == pytest.approx(100 * stdev(scores), abs=1e-4)
        assert whole["runs"] == "2"
        layers = {cell["block"]: float(cell["mean_iou_percent"]) for cell in found if cell["block"]}
        assert layers == {
            str(block): pytest.approx(
                100 * choose([line[f"mean_iou/block_{block:02d}"] for line in evaluations("layers")]), abs=1e-4
            )
            for block in (1, 2, 3)
        }
    table = json.loads((out / "layers" / "layers.json").read_text())["mean_iou"]  # of the last evaluation
    assert layers == {block: pytest.approx(100 * value, abs=1e-4) for block, value in table.items()}


def test_models_of_pairs_have_rows_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = {"dataset": "mfnet", "dataset_config": "both"}
    write_run(tmp_path / "a", 0.5, **pairs, config={"fusion": "iv_tuning"})
    write_run(tmp_path / "b", 0.6, **pairs, config={"fusion": "unirgb_ir", "main_modality": "visible"})
    write_run(tmp_path / "c", 0.4, dataset="mfnet", dataset_config="thermal")
    assert cli.main(["results", str(tmp_path), "--format", "csv"]) == 0
    found = [(cell["method"], cell["dataset"]) for cell in cells(capsys.readouterr().out)]
    assert sorted(found) == [
        ("unip-mae-large", "MFNet-T (test)"),
        ("unip-mae-large + IV-tuning, main image infrared", "MFNet, pairs"),
        ("unip-mae-large + UniRGB-IR, main image visible", "MFNet, pairs"),
    ]


def test_tables_are_laid_out_as_the_paper(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    ours = {"model": "models/unip-small-mae-large"}
    mfnet = {"dataset": "mfnet", "dataset_config": "thermal", "validation_split": "validation+test"}
    scut = {"dataset": "scut-seg", "validation_split": "validation"}
    write_run(tmp_path / "scut", 0.66, **scut, **ours)
    write_run(tmp_path / "a" / "mfnet", 0.5, 0.55, **mfnet, **ours, num_steps=98)
    for seed, best in enumerate((0.70, 0.71, 0.75)):
        write_run(tmp_path / "a" / f"soda{seed}", best, 0.6, **ours, seed=seed)
    write_run(tmp_path / "base", 0.8, model="models/unip-base-mae-large/best", width=768)
    write_run(tmp_path / "test-only", 0.9, **{**mfnet, "validation_split": "test"}, **ours)
    write_run(tmp_path / "partial", 0.9, allow_partial=True, **ours)
    write_run(tmp_path / "probe", 0.4, linear_probe=True, **ours)
    # The same place twice, once through its parent.
    assert cli.main(["results", str(tmp_path / "a" / "soda0"), str(tmp_path)]) == 0
    fine_tuning, probing = capsys.readouterr().out.split("**Linear probing**")
    header, _, *rows = markdown_rows(fine_tuning)
    assert header == ["method", "SODA S", "SODA B", "MFNet-T S", "SCUT-Seg S", "MFNet-T (test) S", "SODA (partial) S",
                      "average S"]  # fmt: skip
    average = f"{100 * (0.72 + 0.55 + 0.66) / 3:.2f}"
    assert rows == [["unip-mae-large", "72.00 ± 2.65 (3)", "80.00", "55.00", "66.00", "90.00", "90.00", average]]
    assert markdown_rows(probing)[2:] == [["unip-mae-large", "40.00"]]


def test_only_the_seed_may_differ_within_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_run(tmp_path / "100", 0.6, seed=1, learning_rate=1e-4, data_dir="here", log_every=10)
    write_run(tmp_path / "200", 0.7, seed=2, learning_rate=2e-4, data_dir="there", log_every=20)
    assert cli.main(["results", str(tmp_path)]) == 0
    assert markdown_rows(capsys.readouterr().out)[2:] == [
        ["unip-mae-large (learning_rate 0.0001)", "60.00"],
        ["unip-mae-large (learning_rate 0.0002)", "70.00"],
    ]


def test_what_does_not_count_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = write_run(tmp_path / "good", None, 0.5)
    with open(good / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')  # killed while it wrote
    stopped = write_run(tmp_path / "stopped", 0.9)
    (stopped / "run.json").write_text(
        (stopped / "run.json").read_text().replace('"num_steps": 100}', '"num_steps": 101}')
    )
    started = write_run(tmp_path / "started", 0.9)
    (started / "metrics.jsonl").unlink()
    not_evaluated = write_run(tmp_path / "at-the-end")
    half = write_run(tmp_path / "half", 0.9, 0.9)
    (half / "metrics.jsonl").write_text("".join((half / "metrics.jsonl").read_text().splitlines(keepends=True)[:2]))
    cut = write_run(tmp_path / "cut", 0.9)
    (cut / "run.json").write_text('{"options": ')
    scribble = write_run(tmp_path / "scribble", 0.9)
    (scribble / "metrics.jsonl").write_text("no json\n")
    percent = write_run(tmp_path / "percent", 90.0)
    no_config = write_run(tmp_path / "no-config", 0.9)
    (no_config / "best" / "config.json").unlink()
    undefined = write_run(tmp_path / "undefined", None)
    no_settings = write_run(tmp_path / "no-settings", 0.9)
    (no_settings / "best" / "config.json").write_text("[]")
    no_number = write_run(tmp_path / "no-number", 0.9)
    (no_number / "run.json").write_text(
        (no_number / "run.json").read_text().replace('"num_steps": 100}', '"num_steps": "x"}')
    )
    other = write_run(tmp_path / "other", 0.9)
    (other / "run.json").write_text('{"options": {"student": "tiny"}}')
    assert cli.main(["results", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert markdown_rows(captured.out)[2:] == [["unip-mae-large", "50.00"]]
    expected = {
        stopped: "unfinished: step 100 of 101", started: "unfinished: step 0 of 100",
        not_evaluated: "without being evaluated", half: "the model of step 100 was not evaluated",
        cut: "run.json' is damaged", scribble: "metrics.jsonl' is damaged in line 1",
        percent: "outside 0 to 1", no_config: "config.json", no_settings: "config.json' is damaged",
        no_number: "how many steps", undefined: "undefined", other: "is not a run of `unip finetune`",
    }  # fmt: skip
    lines = captured.err.splitlines()
    assert len(lines) == len(expected) and all(line.startswith("Not counted: ") for line in lines)
    for folder, message in expected.items():
        assert sum(message in line and str(folder) in line for line in lines) == 1, message

    target = tmp_path / "table.md"
    for folders, message in (
        ([stopped], f"There is no finished run in '{stopped}'"),
        ([tmp_path / "nowhere"], "There is no folder"),
    ):
        assert cli.main(["results", *map(str, folders), "--output_file", str(target)]) == 2
        assert message in capsys.readouterr().err and not target.exists()
    assert cli.main(["results", str(good), "--output_file", str(target), "--format", "csv"]) == 0
    assert cells(target.read_text())[0]["mean_iou_percent"] == "50.0000"


@pytest.mark.parametrize(
    ("model", "size", "name"),
    [
        ("models/unip-small-mae-large/", "small", "unip-mae-large"),
        ("mae-large", "large", "mae"),
        ("unip_vit_tiny_by_mae_large", "tiny", "unip_vit_by_mae_large"),
        ("runs/dino-base/best", "base", "dino"),
        ("small", "small", "random start"),
        ("nvidia/mit-b0", "", "mit-b0"),
        ("smallest", "small", "smallest"),
    ],
)
def test_sizes_share_the_row_of_their_method(model: str, size: str, name: str) -> None:
    assert method_name(model, size) == name


PAPER_SCORES = Path(__file__).parents[2] / "docs" / "paper-scores.csv"


def test_the_papers_scores_correlate_as_in_the_paper(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["results", "--correlate", "--scores", str(PAPER_SCORES), "--format", "csv"]) == 0
    found = {(row["first"], row["second"], row["size"]): row for row in cells(capsys.readouterr().out)}
    probing, imagenet = ("fine-tuning", "linear probing"), ("fine-tuning", "ImageNet")
    for pair, small, base, large in ((probing, 0.97, 0.93, 0.81), (imagenet, 0.78, 0.12, -0.66)):
        for size, expected in (("small", small), ("base", base), ("large", large)):
            assert float(found[(*pair, size)]["pearson"]) == pytest.approx(expected, abs=0.005)
        assert [found[(*pair, size)]["points"] for size in ("tiny", "small", "large", "all")] == ["2", "6", "4", "18"]
        assert found[(*pair, "tiny")]["pearson"] == ""
    assert cli.main(["results", "--correlate", "--scores", str(PAPER_SCORES)]) == 0
    header, _, *rows = markdown_rows(capsys.readouterr().out)
    assert header == ["score", "and", "tiny", "small", "base", "large", "all"]
    assert ["fine-tuning", "linear probing", "too few (2)", "0.97 (6)", "0.93 (6)", "0.81 (4)", "0.91 (18)"] in rows


def test_runs_correlate_over_the_data_sets_that_all_have(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mfnet = {"dataset": "mfnet", "dataset_config": "thermal", "validation_split": "validation+test"}
    for number, (tuned, probed) in enumerate([(0.5, 0.2), (0.6, 0.3), (0.7, 0.5)]):
        model = {"model": f"models/m{number}-small"}
        for seed in (0, 1):  # their mean counts
            write_run(tmp_path / f"ft{number}{seed}", tuned - 0.1 + 0.2 * seed, seed=seed, **model)
        write_run(tmp_path / f"lp{number}", probed, linear_probe=True, **model)
    write_run(tmp_path / "once", 0.1, **mfnet, model="models/m1-small")
    write_run(tmp_path / "layers", 0.1, layerwise_probe=False, **mfnet, model="models/m2-small")
    scores = tmp_path / "scores.csv"
    scores.write_text(
        "# mine\nsize,method,ImageNet,linear probing\nS,m0,80,1\nsmall,m1,79,2\nsmall,m2,77,3\nB,m0,9,\n"
    )
    command = ["results", str(tmp_path), "--correlate", "--scores", str(scores)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "averaged over SODA." in printed and "because the runs have it: linear probing." in printed
    _, _, *rows = markdown_rows(printed)
    expected = {
        ("fine-tuning", "linear probing"): "0.98 (3)",
        ("fine-tuning", "ImageNet"): "-0.98 (3)",
        ("linear probing", "ImageNet"): "-1.00 (3)",
    }
    assert {(row[0], row[1]): row[2] for row in rows} == expected and all(row[3] == "too few (0)" for row in rows)


@pytest.mark.parametrize(("text", "options", "message"), [
    ("method,ImageNet\na,1\n", [], "has no column 'size'"),
    ("method,size,ImageNet\na,S,high\n", [], "The column 'ImageNet' of"),
    ("method,size,a,b\nm,S,1,1\nm,small,2,2\n", [], "but m small is there twice"),
    ("method,size,a,b\n,S,1,1\n", [], "but one is empty"),
    ("method,size,a\nm,S,1\n", [], "needs two columns of numbers or more, and there is a"),
    ("", [], "is not a table in CSV"),
    (None, [], "scores.csv"),
    ("method,size,a,b\nm,S,1,1\n", ["--no"], "--scores is for --correlate"),
])  # fmt: skip
def test_scores_that_cannot_be_used_are_explained(
    text: str | None, options: list[str], message: str, tmp_path: Path, refuses: Callable
) -> None:
    scores = tmp_path / "scores.csv"
    if text is not None:
        scores.write_text(text)
    refuses(["results", *([] if options else ["--correlate"]), "--scores", scores], message)


def test_runs_or_scores_are_needed(refuses: Callable) -> None:
    refuses(["results"], "Give folders of runs.")
    refuses(["results", "--correlate"], "runs, or --scores.")
