"""Model cards and data-set cards: what they say is true, and the Hub can read it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard

from unip_hf import UnipForLinearSegmentation, UnipForSemanticSegmentation, UnipImageProcessor, paper
from unip_hf.data.benchmarks import BENCHMARKS
from unip_hf.data.infmix.report import InfMixReport, make_card
from unip_hf.data.parquet import dataset_card
from unip_hf.evaluation import load_segmentation_model
from unip_hf.hub.checkpoints import fingerprint
from unip_hf.hub.evaluations import find_evaluations
from unip_hf.hub.model_card import describe_intensities, make_model_card
from unip_hf.hub.runs import find_run, make_recipe, training_curve
from unip_hf.hub.speed import Speed


def evaluation(**fields: Any) -> dict[str, Any]:
    """What `results.json` holds of two classes, one of which does not occur."""
    numbers = {"iou": 0.123456789, "accuracy": 0.25, "dice": 0.2197802, "share_of_pixels": 1.0}
    return {
        "dataset": "soda",
        "split": "test",
        "settings": {"window_size": 512, "stride": 341, "flip": False, "scales": [1.0]},
        "num_images": 1000,
        **dict.fromkeys(("mean_iou", "mean_accuracy", "overall_accuracy", "mean_dice"), 0.123456789),
        "classes": [
            {"name": "a|b", **numbers},
            {"name": "never", **dict.fromkeys(numbers), "share_of_pixels": 0.0},
        ],
        **fields,
    }


@pytest.mark.parametrize(("settings", "words"), [
    ({}, ["8 bits are divided by 255", "percentiles 1 and 99", "shorter edge has 512 pixels, the longer at most",
          "mean 0.3801 and standard deviation 0.1871", "Three channels"]),
    ({"intensity_scaling": "percentiles", "intensity_percentiles": (2, 98.5), "do_normalize": False,
      "num_channels": 1},
     ["In every image, percentiles 2 and 98.5", "One channel"]),
    ({"intensity_scaling": "dtype_range", "size": {"height": 64, "width": 96}}, ["of 16 by 65,535", "96x64 pixels"]),
    ({"intensity_scaling": "fixed_range", "intensity_range": (7000, 7300), "do_resize": False}, ["from 7000 to 7300"]),
    ({"intensity_scaling": "fixed_range", "intensity_range": (-20, 60), "counts_to_celsius": (0.01, -273.15)},
     ["-20 °C to 60 °C", "0.01 x count -273.15 in °C"]),
    ({"do_rescale": False}, ["as they are"]),
])  # fmt: skip
def test_intensities_in_words(settings: dict[str, Any], words: list[str]) -> None:
    text = describe_intensities(UnipImageProcessor(**settings))
    assert all(word in text for word in words), text
    assert ("resized" in text) == settings.get("do_resize", True)
    assert ("normalised" in text) == settings.get("do_normalize", True)


def test_a_card_says_what_is_known_and_that_the_rest_is_not(make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config(id2label={0: "a|b", 1: "never"}))
    first, flipped = evaluation(), evaluation(mean_iou=0.5)
    flipped["settings"] = {**first["settings"], "window_size": None, "flip": True}
    card = make_model_card(
        "me/yard",
        model,
        UnipImageProcessor(),
        evaluations=[("evaluation/1.json", first), ("evaluation/2.json", flipped)],
        speeds=[
            Speed("CPU of mine", 2, "float32", 64, 0.01234567, 800.4),
            Speed("GPU", None, "float32", 64, 1.5, None),
        ],
        license="cc-by-nc-4.0",
        data_license="my own",
        notes="## From me\n\n{{ not a template }}",
    )
    again = ModelCard(str(card))  # strict
    assert again.data.license == "cc-by-nc-4.0" and again.data.pipeline_tag == "image-segmentation"
    results = again.data.eval_results
    assert [r.metric_value for r in results if r.metric_type == "mean_iou"] == [0.123456789, 0.5]
    assert {r.metric_name for r in results if r.metric_type == "iou"} == {"IoU of a|b"}  # the other is undefined
    assert {r.metric_args["inference"] for r in results} == {
        "windows of 512 pixels, 341 apart", "whole images, averaged with the mirrored image"
    }  # fmt: skip
    text = again.text
    assert r"| a\|b | 0.1235 | 0.2500 | 0.2198 | 1.0000 |" in text
    assert "not in the means: never." in text and "SODA, test**, 1,000 images" in text
    assert "| CPU of mine, 2 threads | 64x64 | float32 | 0.01235 | 800 MB (the process with its libraries) |" in text
    assert "| GPU | 64x64 | float32 | 1.5 | not measured |" in text
    assert "How it was trained is not recorded." in text and "| Started from | not recorded |" in text
    assert "Training data: my own." in text and "{{ not a template }}" in text
    assert "4 heads in the last" not in text and "2 heads (4 in the last block)" in text

    probe = UnipForLinearSegmentation(make_config(feature_layers=[1, 3]))
    text = make_model_card("me/probe", probe, UnipImageProcessor()).text
    assert "one linear classifier on blocks 1, 3" in text and "Not evaluated" in text and "Not measured." in text
    assert "Weights: not stated" in text and not re.search(r"\n{4}", text)


@pytest.mark.parametrize(("field", "value"), [
    ("license", "My own licence"), ("base_model", "/home/me/model"), ("base_model", "a model"),
    ("evaluations", [("results.json", evaluation(dataset="my data"))]),
])  # fmt: skip
def test_metadata_that_the_hub_would_refuse(field: str, value: Any, make_config: Callable) -> None:
    with pytest.raises(ValueError, match=r"is no (license|base_model|dataset) as the Hub names it"):
        make_model_card("me/yard", UnipForSemanticSegmentation(make_config()), UnipImageProcessor(), **{field: value})


def test_evaluations_belong_to_weights_and_settings(make_config: Callable, tmp_path: Path) -> None:
    model, processor = UnipForSemanticSegmentation(make_config()), UnipImageProcessor()
    model.save_pretrained(tmp_path / "run" / "best")
    processor.save_pretrained(tmp_path / "run" / "best")
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    del config["auto_map"]  # as an older version, or something else, saved it
    (tmp_path / "run" / "best" / "config.json").write_text(json.dumps({**config, "transformers_version": "4.0.0"}))
    own = fingerprint(*load_segmentation_model(tmp_path / "run" / "best"))
    assert own == fingerprint(model, processor)
    assert own != fingerprint(model, UnipImageProcessor(image_std=0.2))
    with torch.no_grad():
        model.decode_head.classifier.bias[0] += 1e-3
    assert own != fingerprint(model, processor)

    def write(folder: str, **fields: Any) -> Path:
        path = tmp_path / "run" / folder / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(evaluation(**fields)))
        return path

    write("best/evaluation", fingerprint=own, split="test")
    write("evaluation-validation", fingerprint=own, split="validation")
    write("evaluation-copy", fingerprint=own, split="test")
    other = write("evaluation-other", fingerprint="0" * 64)
    write("evaluation-old")
    (tmp_path / "run" / "evaluation-odd").mkdir()
    (tmp_path / "run" / "evaluation-odd" / "results.json").write_text("[1]")
    records, left_out = find_evaluations(tmp_path / "run" / "best", own)
    assert [record["split"] for record in records] == ["test", "validation"]
    assert len(left_out) == 3 and "evaluation-odd" in left_out[0] and "is damaged" in left_out[0]
    assert "does not say of which weights" in left_out[1] and "measured with other weights" in left_out[2]
    elsewhere = write("../elsewhere", fingerprint=own, split="train")
    records, _ = find_evaluations(tmp_path / "run" / "best", own, [elsewhere.parent])
    assert records[0]["split"] == "train"
    with pytest.raises(ValueError, match=r"evaluation-other.*other weights"):
        find_evaluations(tmp_path / "run" / "best", own, [other])
    with pytest.raises(FileNotFoundError, match=r"There is no '.*nowhere'"):
        find_evaluations(tmp_path / "run" / "best", own, [tmp_path / "nowhere"])


def test_recipe_and_curve_of_a_run(tmp_path: Path) -> None:
    options = {
        "model": "/home/me/runs/student/last", "data_dir": ["C:\\data\\yard", "../more"], "teacher": "timm:vit.mae",
        "output_dir": "/home/me/out", "learning_rate": 1e-4, "flip": False, "ema_decay": None, "scale": [0.2, 1.0],
    }  # fmt: skip
    (tmp_path / "best").mkdir()
    assert find_run(tmp_path / "best") is None
    (tmp_path / "run.json").write_text(json.dumps({"options": options, "versions": {"torch": "2"}, "num_steps": 9}))
    lines: list[dict[str, Any]] = [{"step": step, "loss": 1 / step} for step in (3, 6, 9)]
    lines += [{"step": 3, "mean_iou": 0.2}, {"step": 6, "mean_iou": 0.4}, {"step": 9, "mean_iou": 0.4}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in (6, 9):
        (tmp_path / "predictions").mkdir(exist_ok=True)
        (tmp_path / "predictions" / f"step-{step:08d}.png").touch()
    run = find_run(tmp_path / "best")
    assert run is not None and run.samples is not None
    assert run.samples.name == "step-00000006.png"  # the first of the highest, as training keeps it
    assert make_recipe(run, ["output_dir"]) == {
        "model": "student", "data_dir": ["yard", "more"], "teacher": "timm:vit.mae", "learning_rate": 1e-4,
        "scale": [0.2, 1.0],
    }  # fmt: skip
    figure = training_curve(run.metrics)
    assert figure is not None
    loss, score = (axes.lines[0].get_xydata() for axes in figure.axes)
    np.testing.assert_allclose(loss, [[3, 1 / 3], [6, 1 / 6], [9, 1 / 9]])
    np.testing.assert_allclose(score, [[3, 0.2], [6, 0.4], [9, 0.4]])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run.json' is damaged"):
        find_run(tmp_path / "best")


def test_dataset_cards_are_complete_and_valid() -> None:
    rows = {"train": datasets.Dataset.from_dict({"image": [1, 2], "annotation": [1, 2]})}
    own = DatasetCard(str(dataset_card(rows, {0: "a|b"}, "yard")))
    assert own.data.license is None and "Licence: not stated" in own.text and r"| 0 | a\|b |" in own.text
    for name, builder in BENCHMARKS.items():
        info = datasets.DatasetInfo(
            description=builder.TITLE, citation=builder.CITATION, homepage=builder.HOMEPAGE, license=builder.LICENSE
        )
        classes = dict(enumerate(builder.CLASSES))
        card = DatasetCard(str(dataset_card(rows, classes, builder.TITLE, info, builder.palette())))
        assert card.data.license in ("other", "unknown"), name
        assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
        assert card.data.task_categories == ["image-segmentation"] and card.data.size_categories == ["n<1K"]
        for part in (builder.HOMEPAGE, builder.LICENSE, builder.CITATION.strip(), "| train | 2 |"):
            assert part in card.text, name
        assert all(f"| {id} | {label} | #" in card.text for id, label in classes.items())

    plan: dict[str, Any] = {"settings": {"seed": 0}, "sources": [{"name": "yard", "path": "yard"}]}
    report = InfMixReport(plan, [], [], 3, 0.38, 0.19, {"data/train-00000-of-00001.parquet": 3}, {"numpy": "2"})
    mixed = DatasetCard(str(make_card(report)))
    assert mixed.data.license == "other" and f"arxiv:{paper.ARXIV_ID}" in mixed.data.tags
    assert paper.CITATION in mixed.text and f"[UNIP]({paper.URL})" in mixed.text


def test_the_citation_is_that_of_the_citation_file() -> None:
    cited = (Path(__file__).parents[2] / "CITATION.cff").read_text()
    title = re.search(r"preferred-citation:.*?title: \"(.*?)\"", cited, flags=re.DOTALL)
    assert title is not None and paper.CITATION.replace("{UNIP}", "UNIP").find(f"title = {{{title[1]}}}") > 0
    for given, family in re.findall(r"given-names: (\w+), family-names: (\w+)", cited):
        assert f"{family}, {given}" in paper.CITATION
    assert paper.URL in cited
