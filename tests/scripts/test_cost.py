"""`unip cost` on every kind of model that the other commands take, its files, and wrong input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from unip_hf import UnipForLinearSegmentation, UnipForPreTraining, UnipForSemanticSegmentation
from unip_hf.hub import to_published_state_dict
from unip_hf.scripts import cli

from ..conftest import save_checkpoint, tiny_backbone_config, tiny_config
from ..unip_hf.plain_networks import TIMM_SIZE, save_timm


VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32}
PATCH_16 = {**VIT, "patch_size": 16}
STUDENT = {"layer_scale_init_value": None, "position_embedding_type": "sincos"}


def cost(*arguments: object, speed: bool = False) -> int:
    return cli.main(["cost", *map(str, arguments), *([] if speed else ["--no_speed"])])


def test_the_paper_s_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = ["--json", tmp_path / "cost.json", "--csv", tmp_path / "new" / "cost.csv"]
    assert cost("small", "large", "--mean_iou", 0.6437, 0.6435, *files) == 0
    out = capsys.readouterr().out
    small, large = (line.split() for line in out.splitlines() if line.split()[:1] == ["total"])
    assert small[1:] == ["41.63", "146.21", "155.89", "1.00", "0.6437", "0.440"]
    assert large[1:] == ["439.78", "1,192.56", "1,244.20", "8.16", "0.6435", "0.054"]
    assert "One image of 512x512 pixels" in out

    records = json.loads((tmp_path / "cost.json").read_text())
    assert [record["model"] for record in records] == ["small", "large"] and records[0]["size"] == [512, 512]
    assert list(records[1]["parts"]) == ["encoder", "pyramid", "head", "auxiliary head"]
    assert records[0]["ratio"] == 1 and records[0]["speed"] == []
    table = pd.read_csv(tmp_path / "new" / "cost.csv")
    assert table["part"].tolist() == [*records[0]["parts"], "total"] * 2
    for record in records:
        of_model = table[table["model"] == record["model"]].set_index("part")
        for part, values in {**record["parts"], "total": record["total"]}.items():
            assert {name: of_model.loc[part, name] for name in values} == values
        assert of_model.loc["total", "mean_iou_per_flop"] == pytest.approx(record["mean_iou_per_flop"])
        assert of_model["ratio"].notna().tolist() == [False] * 4 + [True]


def published(folder: Path) -> str:
    """A file as the authors publish it; its width says how many heads there are."""
    config = tiny_config(hidden_size=192, num_attention_heads=3, last_layer_num_attention_heads=None, **STUDENT)
    torch.save(to_published_state_dict(UnipForPreTraining(config)), folder.with_suffix(".pth"))
    return str(folder.with_suffix(".pth"))


def timm_folder(folder: Path, name: str, **arguments: Any) -> str:
    save_timm(folder, name, {**TIMM_SIZE, **arguments})
    return f"timm:local-dir:{folder}"


def saved(model: transformers.PreTrainedModel, folder: Path) -> str:
    save_checkpoint(model, folder)
    return str(folder)


SEGFORMER = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}
WHOLE = ["encoder", "pyramid", "head", "auxiliary head"]
KINDS: dict[str, tuple[Callable[[Path], str], list[str]]] = {
    "student": (lambda folder: saved(UnipForPreTraining(tiny_config(**STUDENT)), folder), WHOLE),
    "fine-tuned": (lambda folder: saved(UnipForSemanticSegmentation(tiny_config(num_labels=7)), folder), WHOLE),
    "probe": (lambda folder: saved(UnipForLinearSegmentation(tiny_config()), folder), ["encoder", "head"]),
    "pairs": (lambda folder: saved(UnipForSemanticSegmentation(tiny_config(fusion="iv_tuning")), folder), WHOLE),
    "on a backbone": (
        lambda folder: saved(UnipForSemanticSegmentation(tiny_backbone_config("swin")), folder),
        ["encoder", "head", "auxiliary head"],
    ),
    "published file": (published, WHOLE),
    "ViT of transformers": (lambda folder: saved(transformers.ViTModel(transformers.ViTConfig(**VIT)), folder), WHOLE),
    "backbone of transformers": (
        lambda folder: saved(transformers.Dinov2Model(transformers.Dinov2Config(**VIT)), folder), WHOLE,
    ),
    "CLIP": (
        lambda folder: saved(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**PATCH_16)), folder),
        ["encoder"],
    ),
    "SegFormer": (
        lambda folder: saved(
            transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**SEGFORMER)), folder
        ),
        ["encoder", "head"],
    ),
    "ViT of timm": (lambda folder: timm_folder(folder, "vit_tiny_patch16_224"), WHOLE),
    "teacher of timm": (
        lambda folder: timm_folder(folder, "vit_small_patch14_reg4_dinov2", img_size=28), ["encoder"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind(kind: str, tmp_path: Path) -> None:
    make, parts = KINDS[kind]
    checkpoint = make(tmp_path / "model")
    assert cost(checkpoint, "--size", 56, 112, "--json", tmp_path / "cost.json") == 0
    (record,) = json.loads((tmp_path / "cost.json").read_text())
    assert record["model"] == checkpoint and list(record["parts"]) == parts
    assert all(part["parameters"] and part["multiply_adds"] for part in record["parts"].values())
    assert record["parts"]["encoder"]["attention_products"] > 0
    assert record["mean_iou"] is record["mean_iou_per_flop"] is None
    if kind == "teacher of timm":  # without its classifier: a block has 12 width^2 weights, an image 4 x 8 patches
        assert record["total"]["parameters"] < 60_000
        assert record["total"]["attention_products"] == 3 * 2 * (4 * 8 + 5) ** 2 * 32


def test_time_and_memory_are_measured_here(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = saved(UnipForSemanticSegmentation(tiny_config(num_channels=1)), tmp_path / "model")
    assert cost(checkpoint, "--size", 40, 64, "--json", tmp_path / "cost.json", speed=True) == 0
    out = capsys.readouterr().out
    (record,) = json.loads((tmp_path / "cost.json").read_text())
    for speed in record["speed"]:
        assert speed["size"] == [40, 64] and 0 < speed["seconds"] < 60 and speed["dtype"] == "float32"
    assert "Measuring time and memory" in out and record["speed"][-1]["hardware"] in out
    assert "seconds" in out and "mean IoU" not in out  # which is not known


def test_the_mean_iou_comes_from_the_model_card(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def write_card(*scores: float) -> None:
        results = [
            EvalResult(
                "image-segmentation", f"data-{number}", f"data-{number}", metric_type=metric, metric_value=value
            )
            for number, score in enumerate(scores)
            for metric, value in (("mean_iou", score), ("iou", 0.9))
        ]
        data = ModelCardData(model_name="mine", eval_results=results)
        ModelCard(f"---\n{data.to_yaml()}\n---\n").save(tmp_path / "model" / "README.md")

    checkpoint = saved(UnipForLinearSegmentation(tiny_config()), tmp_path / "model")
    write_card(0.5)
    assert cost(checkpoint, "--size", 64, 64, "--json", tmp_path / "cost.json") == 0
    (record,) = json.loads((tmp_path / "cost.json").read_text())
    assert record["mean_iou"] == 0.5
    assert record["mean_iou_per_flop"] == pytest.approx(50 / (record["total"]["multiply_adds"] / 1e9))
    write_card(0.5, 0.7)
    capsys.readouterr()
    assert cost(checkpoint, "--size", 64, 64) == 0
    assert "has 2 mean IoUs: choose one with --mean_iou" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny", "--size", "0", "512"], "--size must be at least 1 pixel high and wide, got 0 512"),
        (["tiny", "--size", "8", "512"], "smaller than one patch"),
        (["tiny", "--num_labels", "0"], "--num_labels must be"),
        (["tiny", "small", "--mean_iou", "0.5"], "one score for each of the 2 models, got 1"),
        (["tiny", "--mean_iou", "64.4"], "--mean_iou must be from 0 to 1, got 64.4"),
        (["tiny", "--csv", "."], "'.' is a folder: give the name of a file"),
        (["nowhere.pth"], "There is no checkpoint file 'nowhere.pth'"),
        (["empty"], "'empty' is not a checkpoint folder"),
        (["bert"], "BertConfig"),
        (["timm:no_such_network"], "'no_such_network'"),
        (["model.onnx"], "'model.onnx' is an exported model: give the checkpoint"),
    ],
)
def test_wrong_input_ends_with_a_sentence_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, refuses: Callable
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").touch()
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    refuses(["cost", *arguments, "--no_speed"], message)
