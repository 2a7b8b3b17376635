"""Model cards and data-set cards: what they say is true, and the Hub can read it."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, UperNetConfig, UperNetForSemanticSegmentation

from unip_hf import UnipForLinearSegmentation, UnipForSemanticSegmentation, UnipImageProcessor, UnipModel, paper
from unip_hf.data.benchmarks import BENCHMARKS
from unip_hf.data.infmix.report import InfMixReport, make_card
from unip_hf.data.parquet import dataset_card
from unip_hf.hub.evaluations import describe_settings, find_evaluations, public_record, read_evaluation
from unip_hf.hub.loading import load_publishable
from unip_hf.hub.model_card import describe_intensities, make_model_card
from unip_hf.hub.public_names import path_name
from unip_hf.hub.publishing import write_publication
from unip_hf.hub.speed import Speed, measure_speed
from unip_hf.hub.training_run import find_run, make_recipe, training_curve
from unip_hf.inference import load_segmentation_model
from unip_hf.inference.loading import fingerprint


def evaluation(**fields: Any) -> dict[str, Any]:
    """What `results.json` holds of two classes, one of which does not occur."""
    numbers = {"iou": 0.123456789, "accuracy": 0.25, "dice": 0.2197802, "share_of_pixels": 1.0}
    return {
        "dataset": "soda",
        "split": "test",
        "settings": {"window_size": 512, "stride": 341, "flip": False, "scales": [1.0]},
        "num_images": 1000,
        **dict.fromkeys(("mean_iou", "mean_accuracy", "overall_accuracy", "mean_dice"), 0.123456789),
        "classes": [{"name": "a|b", **numbers}, {"name": "never", **dict.fromkeys(numbers), "share_of_pixels": 0.0}],
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
    assert "8-bit or 16-bit grey, or 8-bit colour" in text

    twice = [(f"evaluation/{number}.json", evaluation(mean_iou=number / 4)) for number in (1, 2)]
    results = make_model_card("me/yard", model, UnipImageProcessor(), evaluations=twice).data.eval_results
    assert [(r.metric_args["file"], r.metric_value) for r in results if r.metric_type == "mean_iou"] == [
        ("evaluation/1.json", 0.25), ("evaluation/2.json", 0.5)
    ]  # fmt: skip


def test_of_another_network_no_more_is_said_than_is_known(tmp_path: Path) -> None:
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, out_features=["stage1", "stage2"],
    )  # fmt: skip
    config = UperNetConfig(backbone_config=backbone, hidden_size=16, pool_scales=[1], use_auxiliary_head=False)
    model, processor = UperNetForSemanticSegmentation(config), UnipImageProcessor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_segmentation_model(tmp_path)
    assert fingerprint(*again) == fingerprint(model, processor)  # also of what saving changes in the backbone's
    again[0].config.backbone_config.layer_norm_eps *= 2
    assert fingerprint(*again) != fingerprint(model, processor)
    card = make_model_card("me/yard", model, processor)
    assert card.data.tags == ["semantic-segmentation"] and "Segments images into" in card.text
    assert "The library unip_hf, which wrote these files, implements:" in card.text


def test_speed_is_measured_on_windows_of_the_evaluations(
    make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = UnipForSemanticSegmentation(make_config(image_size=(64, 96))), UnipImageProcessor()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    sizes: list[int] = []
    monkeypatch.setattr("unip_hf.hub.publishing.measure_speed", lambda _, size: sizes.append(size) or [])
    own, whole = fingerprint(model, processor), {**evaluation()["settings"], "window_size": None}
    for number, settings in enumerate([None, whole, evaluation()["settings"]]):
        if settings is not None:
            folder = tmp_path / "model" / f"evaluation-{number}"
            folder.mkdir()
            record = evaluation(fingerprint=own, settings=settings)
            (folder / "results.json").write_text(json.dumps(record))
        files = write_publication(tmp_path / "model", "me/yard", tmp_path / f"out-{number}").files
    assert sizes == [96, 96, 512]  # that of the model where there are no windows
    assert {"evaluation/soda-test.json", "evaluation/soda-test-2.json"} < set(files)


def test_a_folder_that_lacks_weights_is_not_published(make_config: Callable, tmp_path: Path) -> None:
    UnipModel(make_config()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = min(weights)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights, '{re.escape(name)}' among them"):
        load_publishable(tmp_path)


@pytest.mark.parametrize("content", ['{"fingerprint": "a', "[1]", '{"mean_iou": 0.5}'])
def test_damaged_results_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results.json' is damaged, or `unip evaluate` did not write it"):
        read_evaluation(tmp_path, "a")


def test_names_instead_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "yard").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "yard")
    found = {path: path_name(path) for path in ("/home/anna/best", "a/yard/", ".", "./", "..", "C:\\a\\b", "/")}
    assert list(found.values()) == ["best", "yard", "yard", "yard", "~", "b", ""]
    record = {"checkpoint": "/home/anna/small/best", "data_dir": ["/home/anna/best", "."]}
    assert public_record(record) == {"checkpoint": "small", "data_dir": ["best", "yard"]}


@pytest.mark.parametrize(("field", "value", "message"), [
    ("license", "My own licence", "is not a licence as the Hub names it"),
    ("base_model", "/home/me/model", "is not a name on the Hub"),
    ("base_model", "a/b model", "is not a name on the Hub"),
])  # fmt: skip
def test_metadata_that_the_hub_would_refuse(
    field: str, value: str, message: str, make_config: Callable, tmp_path: Path
) -> None:
    UnipForSemanticSegmentation(make_config()).save_pretrained(tmp_path / "model")
    UnipImageProcessor().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        write_publication(tmp_path / "model", "me/yard", tmp_path / "out", with_speed=False, **{field: value})
    assert not (tmp_path / "out").exists()


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
    assert "evaluation-old/results.json' is damaged" in left_out[1] and "measured with other weights" in left_out[2]
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
        "output_dir": "/home/me/best", "learning_rate": 1e-4, "flip": False, "ema_decay": None, "scale": [0.2, 1.0],
        "dataset": "folder", "batch_size": 2, "crop_size": 64,
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
        "scale": [0.2, 1.0], "dataset": "folder", "batch_size": 2, "crop_size": 64,
    }  # fmt: skip
    figure = training_curve(run.metrics)
    assert figure is not None
    loss, score = (axes.lines[0].get_xydata() for axes in figure.axes)
    np.testing.assert_allclose(loss, [[3, 1 / 3], [6, 1 / 6], [9, 1 / 9]])
    np.testing.assert_allclose(score, [[3, 0.2], [6, 0.4], [9, 0.4]])
    last = find_run(tmp_path / "last")
    assert last is not None and last.samples is not None and last.num_steps == 9
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 11, "loss": 0.1}\n')
    last = find_run(tmp_path / "last")
    assert last is not None and last.samples is None and last.num_steps == 11  # the picture shows other weights
    for wrong in ('{"options": {', "[1]", '{"versions": {}}'):
        (tmp_path / "run.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"run.json' is damaged"):
            find_run(tmp_path / "best")


def write_run(folder: Path, options: dict[str, Any], metrics: list[dict[str, Any]], **found: Any) -> None:
    shared = {"batch_size": 8, "crop_size": 64, "seed": 0}
    record = {"options": {**shared, **options}, "versions": {}, "num_steps": 9, "found": found}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))


def test_a_card_says_where_a_checkpoint_comes_from(
    make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nmi = {"step": 9, "nmi/teacher": 0.091, "nmi/tiny": 0.082, "nmi/small": 0.073}
    distill = {"teacher": "timm:vit.mae", "students": ["tiny", "small"], "dataset": "infmix"}
    write_run(tmp_path / "pre", distill, [nmi], teacher_layer=2, teacher_nmi=[0.5, 0.25, 0.125])
    (tmp_path / "pre" / "last" / "small").mkdir(parents=True)
    student = UnipForSemanticSegmentation(make_config(image_size=(64, 96)))

    def text_of(checkpoint: Path, **fields: Any) -> str:
        return make_model_card("me/yard", student, UnipImageProcessor(), find_run(checkpoint), **fields).text

    text = text_of(tmp_path / "pre" / "last" / "small")
    assert "of block 2 (NMI 0.250) of the teacher `timm:vit.mae` on the data *InfMix*" in text
    assert "attention was 0.073 on sample images, the teacher's 0.091" in text
    assert "| Started from | random weights |" in text and "| for 96x64 pixels" in text

    finetune = {"model": str(tmp_path / "pre" / "last" / "small"), "dataset": "soda", "validation_split": "val"}
    write_run(tmp_path / "run", finetune, [{"step": 3, "mean_iou": 0.4}, {"step": 9, "mean_iou": 0.2}])
    text = text_of(tmp_path / "run" / "best", data_license="what I think")
    assert "It is the checkpoint after 3 updates, the best of 2 by mean IoU on the split `val`" in text
    assert "`small`, pre-trained on the attention (NMI-HAD) of block 2" in text
    assert BENCHMARKS["soda"].LICENSE in text and "what I think" not in text
    assert "the best of" not in text_of(tmp_path / "run" / "last")
    assert find_run(tmp_path / "run" / "last").evaluated_step == 9  # type: ignore[union-attr]
    assert "9 updates of 8 images" in text
    elsewhere = [("1.json", evaluation(dataset="mfnet"))]
    assert "; how it does on other data was not measured." in text_of(tmp_path / "run" / "last")
    assert "other data, except for those under Results, was" in text_of(
        tmp_path / "run" / "best", evaluations=elsewhere
    )

    (tmp_path / "run" / "best").mkdir()
    options = {"model": str(tmp_path / "run" / "best"), "dataset": "mfnet"}
    for logged, said in (([4], "4 updates (of 9 planned) of 8"), ([], "An unknown number of updates (of 9 planned)")):
        write_run(tmp_path / "next", options, [{"step": step, "mean_iou": 0.5} for step in logged])
        assert said in text_of(tmp_path / "next" / "last")
    text = text_of(tmp_path / "next" / "last")
    assert f"| Started from | `run`, fine-tuned on the data *{BENCHMARKS['soda'].TITLE}* |" in text
    os.utime(tmp_path / "next" / "run.json", (0, 0))  # another run has taken the place of the one before
    text = text_of(tmp_path / "next" / "last")
    assert "| Started from | `run`, of which nothing more is recorded |" in text

    student.save_pretrained(tmp_path / "run" / "last")
    UnipImageProcessor().save_pretrained(tmp_path / "run" / "last")
    options = {"data_license": "what I think", "with_speed": False}
    written = write_publication(tmp_path / "run" / "last", "me/yard", tmp_path / "out", **options)
    assert len(written.warnings) == 1 and "so --data_license is not used" in written.warnings[0]

    monkeypatch.setattr("unip_hf.hub.model_card.is_hub_name", lambda name: name == "they/unip")
    write_run(tmp_path / "run", {"model": "they/unip", "dataset": "mfnet", "dataset_config": "rgb"}, [])
    card = make_model_card("me/yard", student, UnipImageProcessor(), find_run(tmp_path / "run" / "last"))
    assert card.data.base_model == "they/unip" and "rgb" in card.data.tags and "infrared" not in card.data.tags


def test_how_an_evaluation_was_made_is_said() -> None:
    settings = {"window_size": None, "flip": False, "scales": [0.75, 1.0]}
    assert describe_settings(evaluation(settings=settings, mixed_precision="bf16")) == (
        "whole images, averaged over the scales 0.75, 1; bf16"
    )


@pytest.mark.parametrize(("settings", "is_said"), [
    ({}, True), ({"intensity_scaling": "percentiles"}, True), ({"intensity_scaling": "dtype_range"}, False),
])  # fmt: skip
def test_a_card_warns_of_images_scaled_one_by_one(
    settings: dict[str, Any], is_said: bool, make_config: Callable
) -> None:
    model = UnipForSemanticSegmentation(make_config())
    text = make_model_card("me/yard", model, UnipImageProcessor(**settings)).text
    assert ("Each image is scaled by itself" in text) == is_said


def test_speed_is_the_median_after_the_first_pass(make_config: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    clock = iter([0, 50, 100, 103, 200, 201, 300, 302, 400, 404, 500, 505])  # 50 s, then 3, 1, 2, 4, 5
    monkeypatch.setattr("unip_hf.hub.speed.time.perf_counter", lambda: next(clock))
    (speed,) = measure_speed(UnipForSemanticSegmentation(make_config()).eval(), 64)
    assert speed.seconds == 3 and speed.size == 64 and speed.dtype == "float32"
    assert speed.megabytes is None or 50 < speed.megabytes < 50_000


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
