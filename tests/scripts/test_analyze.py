"""`unip analyze`: networks of every kind, data with and without masks, its files, and wrong input."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor, UnipModel
from unip_hf.analysis import normalized_mutual_information
from unip_hf.data import load_infrared_dataset
from unip_hf.data.reading import without_decoding
from unip_hf.data.scenes import draw_scene
from unip_hf.scripts import cli
from unip_hf.scripts.analyze import read_samples

from ..conftest import save_checkpoint, tiny_backbone_config, tiny_config
from ..unip_hf.plain_networks import TIMM_SIZE, save_timm, with_large_weights


QUICK = ("--num_images", 5, "--size", 32, 64, "--batch_size", 4, "--num_maps", 1)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and a folder of images and masks of five classes."""
    root = tmp_path_factory.mktemp("analyze")
    config = tiny_config(hidden_size=24, num_attention_heads=2, num_labels=5)
    save_checkpoint(with_large_weights(UnipForSemanticSegmentation(config)), root / "unip")
    save_checkpoint(
        UnipForSemanticSegmentation(tiny_backbone_config("dinov2-registers", num_labels=3)), root / "dinov2"
    )
    save_checkpoint(UnipForSemanticSegmentation(tiny_backbone_config("convnextv2")), root / "convnext")
    save_checkpoint(UnipForSemanticSegmentation(tiny_config(fusion="iv_tuning")), root / "pairs")
    student = tiny_config(layer_scale_init_value=None, position_embedding_type="sincos", num_channels=1)
    save_checkpoint(UnipForPreTraining(student), root / "student")
    save_timm(root / "timm", "vit_tiny_patch16_224", {**TIMM_SIZE, "dynamic_img_size": True})
    for folder in ("images", "masks"):
        (root / "data" / folder / "validation").mkdir(parents=True)
    for number in range(6):
        image, mask = draw_scene(number, 96, 144)
        Image.fromarray(image).save(root / "data" / "images" / "validation" / f"{number}.png")
        Image.fromarray((mask % 5).astype(np.uint8)).save(root / "data" / "masks" / "validation" / f"{number}.png")
    names = dict(enumerate(("background", "person", "car", "tree", "road")))
    (root / "data" / "id2label.json").write_text(json.dumps(names))
    return root


def analyze(*arguments: object) -> int:
    return cli.main(["analyze", *map(str, arguments), "--device", "cpu"])


def test_networks_of_every_kind_on_a_folder_with_masks(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    models = [places / "unip", places / "student", places / "dinov2", f"timm:local-dir:{places / 'timm'}"]
    data = ("--data_dir", places / "data", "--output_dir", tmp_path)
    assert analyze(*models, *data, *QUICK) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "analysis.json").read_text())
    assert [model["name"] for model in report["models"]] == list(map(str, models))
    assert [model["grid"] for model in report["models"]] == [[2, 4], [2, 4], [2, 5], [2, 4]]
    assert report["data"] == {"name": str(places / "data"), "split": "validation", "num_images": 5, "size": [32, 64]}
    for model in report["models"]:
        for block in model["blocks"]:
            assert f"block {block['block']:2d}  {block['pattern']:<6}  NMI {block['nmi']:.4f}" in printed
        assert model["objects"] is not None
        for shares in model["objects"]:
            assert sum(value for name, value in shares.items() if name != "block") == pytest.approx(1, abs=1e-4)
    texture = report["models"][0]["texture"]
    assert set(texture["mean_iou"]) == {"clean", *texture["features"]} and "patch_shuffle_2" in texture["features"]
    assert report["models"][1]["texture"]["mean_iou"] is None  # has no head
    assert report["models"][2]["texture"]["mean_iou"] is None and "dinov2 has 3 classes, the data set 5" in printed
    assert "patch_shuffle_2" not in report["models"][2]["texture"]["features"]  # 2 x 5 patches of 14 pixels
    assert "no tiles are whole patches of a grid of 2x5" in printed
    assert len(report["cka"]["values"]) == sum(len(model["blocks"]) for model in report["models"])
    blocks = pd.read_csv(tmp_path / "blocks.csv")
    assert blocks["nmi"].tolist() == pytest.approx([b["nmi"] for m in report["models"] for b in m["blocks"]])
    page = (tmp_path / "index.html").read_text()
    assert "Attention maps" in page and "http://" not in page.replace("http://www.w3.org", "")

    processor = UnipImageProcessor.from_pretrained(places / "unip")
    model = UnipModel.from_pretrained(places / "unip", attn_implementation="eager").eval()
    rows = load_infrared_dataset("folder", places / "data", "validation")
    size = {"height": 32, "width": 64}
    inputs = [
        processor(rows[number]["image"], return_tensors="pt", size=size)["pixel_values"] for number in (0, 1, 2, 3, 4)
    ]
    with torch.no_grad():
        attentions = model(torch.cat(inputs), output_attentions=True).attentions
    expected = [normalized_mutual_information(attention).mean().item() for attention in attentions]
    assert [block["nmi"] for block in report["models"][0]["blocks"]] == pytest.approx(expected, abs=1e-5)

    assert analyze(places / "unip", *data, *QUICK) == 2
    assert "holds an analysis: choose another --output_dir or add --overwrite" in capsys.readouterr().err
    options = ("--query_pixels", 10, 50, 80, 5, "--map_heads", "each", "--map_blocks", 1, 3, "--corruptions")
    assert analyze(places / "unip", *data, *QUICK, "--overwrite", *options, "--background", "background", 4) == 0
    assert json.loads((tmp_path / "analysis.json").read_text())["models"][0]["texture"] is None
    assert not (tmp_path / "texture.csv").exists()


def test_images_without_masks_and_random_weights(places: Path, tmp_path: Path) -> None:
    shutil.copytree(places / "data" / "images" / "validation", tmp_path / "frames")
    data = ("--data_dir", tmp_path / "frames", "--output_dir", tmp_path / "out", *QUICK, "--query_grid", 2)
    models = ("tiny", f"timm:local-dir:{places / 'timm'}")
    assert analyze(*models, *data, "--hybrid_nmi", 0, 1, "--normalization", "checkpoint") == 0
    report = json.loads((tmp_path / "out" / "analysis.json").read_text())
    model, other = report["models"]
    assert "mean 0.3801" in model["normalisation"] and "mean 0.5 0.5 0.5" in other["normalisation"]
    assert len(model["blocks"]) == 12 and {block["pattern"] for block in model["blocks"]} == {"hybrid"}
    assert model["objects"] is None and report["not_measured"]["objects"] == "There are no masks."
    assert "There are no masks." in (tmp_path / "out" / "index.html").read_text()
    assert analyze("tiny", *data, "--overwrite", "--num_images", 3) == 0
    report = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert report["data"]["num_images"] == 3 and report["cka"] is None
    assert "It needs at least 4 images." in (tmp_path / "out" / "index.html").read_text()
    assert analyze("tiny", *data, "--overwrite") == 0  # the same random weights
    assert (
        json.loads((tmp_path / "out" / "analysis.json").read_text())["models"][0]["blocks"][3]["nmi"]
        == model["blocks"][3]["nmi"]
    )


def test_images_are_evenly_spaced(places: Path) -> None:
    rows = without_decoding(load_infrared_dataset("folder", places / "data", "validation"))
    numbers, samples = read_samples(argparse.Namespace(num_images=3), rows)
    assert numbers == [0, 2, 4] and [Path(sample.name).name for sample in samples] == ["0.png", "2.png", "4.png"]


def test_pairs_are_seen_by_both_cameras(places: Path, tmp_path: Path, few_scenes: Callable) -> None:
    with few_scenes():
        data = ("--dataset", "scenes", "--dataset_config", "both", "--output_dir", tmp_path, "--no_mean_iou")
        assert analyze(places / "unip", *data, *QUICK, "--corruptions", "low_pass=1") == 0
    features = json.loads((tmp_path / "analysis.json").read_text())["models"][0]["texture"]["features"]
    assert set(features) == {"low_pass_1", "visible"} and max(features["visible"]) < 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convnext"], "has no attention that can be looked at: ConvNextV2Backbone is not one list of equal blocks"),
        (["pairs"], "reads pairs of images: choose a model of one image"),
        (["nowhere"], "There is no checkpoint folder"),
        (["unip", "--split", "test"], "There is no split 'test', only validation"),
        (["unip", "--batch_size", "2"], "--batch_size must be at least 4, which CKA needs, got 2"),
        (["unip", "--size", "8", "64"], "--size must be at least 32 pixels, got 8 64"),
        (["unip", "--hybrid_nmi", "0.2", "0.1"], "--hybrid_nmi must be two rising numbers"),
        (["unip", "--query_pixels", "1", "2", "3"], "--query_pixels must be pairs of X and Y"),
        (["unip", "--query_pixels", "144", "2"], "The pixel 144 2 (x, y) lies outside of"),
        (["unip", "--query_pixels", "1", "2", "--query_grid", "2"], "give one of them"),
        (["unip", "--map_blocks", "4"], "unip has no block 4: choose from 1 to 3"),
        (["unip", "--background", "sky"], "--background: there is no class 'sky', only background, person"),
        (["unip", "--corruptions", "low_pass"], "--corruptions takes KIND=AMOUNT, such as low_pass=2, got 'low_pass'"),
        (["unip", "--corruptions", "melt=2"], "There is no corruption 'melt'"),
        (["unip", "--corruptions", "patch_shuffle=3"], "has no 3x3 tiles of whole patches"),
    ],
)
def test_wrong_input_ends_in_a_sentence(arguments: list[str], message: str, places: Path, refuses: Callable) -> None:
    model, *others = arguments
    options = ("--data_dir", places / "data", "--output_dir", "out", "--no_mean_iou", *QUICK, *others)
    refuses(["analyze", places / model, *options, "--device", "cpu"], message)
