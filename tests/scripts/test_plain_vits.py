"""`unip convert` and `unip finetune` start from plain ViTs of timm and transformers, by the names that users give."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file

from unip_hf import UnipConfig, UnipForLinearSegmentation, UnipForSemanticSegmentation, UnipImageProcessor, UnipModel
from unip_hf.hub.plain_vits import load_plain_vit
from unip_hf.inference import load_segmentation_model
from unip_hf.scripts import cli


QUICK = ["--crop_size", "32", "--shortest_edge", "32", "--batch_size", "2", "--window_size", "32", "--stride", "21",
         "--num_workers", "0", "--report_to", "none", "--num_steps", "2"]  # fmt: skip
SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def dino(tmp_path: Path) -> str:
    """A folder as timm saves it; the name is that of a command line."""
    arguments = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 32}
    model = timm.create_model("vit_small_patch16_224", **arguments)
    model.pretrained_cfg.update(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), license="cc-by-nc-4.0")
    timm.models.save_for_hf(model, tmp_path / "dino-small", model_args=arguments, safe_serialization=True)
    return f"timm:local-dir:{tmp_path / 'dino-small'}"


@pytest.fixture
def deit(tmp_path: Path) -> str:
    model = transformers.DeiTModel(transformers.DeiTConfig(**SIZE, image_size=32))
    model.save_pretrained(tmp_path / "deit")
    return str(tmp_path / "deit")


def finetune(model: str, street: Path, out: Path, *options: str) -> int:
    return cli.main(
        ["finetune", "--model", model, "--data_dir", str(street), "--output_dir", str(out), *QUICK, *options]
    )


def test_fine_tuning_from_a_folder_of_timm(
    dino: str, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert finetune(dino, street, out, "--learning_rate", "1e-9", "--image_mean", "checkpoint") == 0
    assert (
        f"{dino}: 0.06 M parameters, licence of the weights cc-by-nc-4.0, mean 0.1 0.2 0.3, "
        "standard deviation 0.4 0.5 0.6\nUnipForSemanticSegmentation," in capsys.readouterr().out
    )
    model, processor = load_segmentation_model(out / "best")
    assert type(model) is UnipForSemanticSegmentation and model.config.position_embedding_type == "learned"
    assert model.config.layer_norm_eps == 1e-6 and model.config.drop_path_rate == 0.1
    assert (processor.image_mean, processor.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    theirs = load_file(tmp_path / "dino-small" / "model.safetensors")
    for block in range(3):
        ours = model.unip.layers[block].attention.qkv.weight
        torch.testing.assert_close(ours, theirs[f"blocks.{block}.attn.qkv.weight"], atol=1e-6, rtol=0)
    assert json.loads((out / "run.json").read_text())["options"]["model"] == dino

    publish = ["publish", str(out / "best"), "anna/dino", "--no_speed", "--dry_run", str(tmp_path / "hub")]
    assert cli.main(publish) == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    started = "`dino-small`, of which nothing more is recorded; licence of its weights: cc-by-nc-4.0"
    assert started in card and str(tmp_path) not in card


@pytest.mark.parametrize("task", ["fine_tuning", "linear_probe", "layerwise_probe"])
def test_every_task_starts_from_a_folder_of_transformers(task: str, deit: str, street: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ["--feature_layers", "1", "3"] if task == "linear_probe" else []
    assert finetune(deit, street, out, "--task", task, "--num_channels", "1", *options) == 0
    model, processor = load_segmentation_model(out / "best")
    kind = UnipForSemanticSegmentation if task == "fine_tuning" else UnipForLinearSegmentation
    assert type(model) is kind and model.config.use_distillation_token and model.config.layer_norm_eps == 1e-12
    assert model.unip.embeddings.position_embeddings.shape == (1, 2 + 4, 32)
    assert (processor.image_mean, processor.image_std) == ([0.3801], [0.1871])  # of infrared images
    if task == "linear_probe":  # frozen
        start = load_plain_vit(deit).model
        assert torch.equal(model.unip.layers[2].mlp.fc2.weight, start.layers[2].mlp.fc2.weight)
        summed = start.embeddings.patch_embeddings.weight.sum(1, keepdim=True)
        torch.testing.assert_close(model.unip.embeddings.patch_embeddings.weight, summed)


def test_conversion_from_the_command_line(
    dino: str, deit: str, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    ours, image = tmp_path / "unip-dino", torch.randn(1, 3, 32, 32)
    assert cli.main(["convert", dino, str(ours), "--image_mean", "checkpoint"]) == 0
    assert "licence of the weights cc-by-nc-4.0" in capsys.readouterr().out
    model = UnipModel.from_pretrained(ours).eval()
    with torch.no_grad():
        expected = load_plain_vit(dino).model(image).last_hidden_state
        torch.testing.assert_close(model(image).last_hidden_state, expected)
    assert UnipImageProcessor.from_pretrained(ours).image_mean == [0.1, 0.2, 0.3]
    assert finetune(str(ours), street, tmp_path / "out", "--image_mean", "checkpoint", "--image_std", "0.9") == 0
    kept = UnipImageProcessor.from_pretrained(tmp_path / "out" / "best")
    assert (kept.image_mean, kept.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])

    options = ["--model", "semantic-segmentation", "--image_size", "64", "--num_channels", "1"]
    assert cli.main(["convert", deit, str(tmp_path / "segmenter"), *options]) == 0
    segmenter = UnipForSemanticSegmentation.from_pretrained(tmp_path / "segmenter")
    assert segmenter.config.image_size == 64 and segmenter.config.num_channels == 1
    assert UnipImageProcessor.from_pretrained(tmp_path / "segmenter").num_channels == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["convert", "unip", "out"], "'unip' is a UNIP model already"),
    (["convert", "swin", "out"], "SwinModel of transformers is not a plain ViT"),
    (["convert", "timm:resnet18", "out"], "not a plain ViT for any image size"),
    (["convert", "nobody/nothing", "out"], "no model of this name"),
    (["convert", "vit", "out", "--num_attention_heads", "2"], "has its own number of heads"),
    (["convert", "vit", "out", "--image_mean", "checkpoint"], "does not say mean and standard deviation"),
    (["convert", "vit", "out", "--image_size", "8"], "smaller than one patch"),
    (["convert", "vit", "vit"], "'vit' exists"),
    (["finetune", "--model", "vit", "--image_mean", "checkpoint"], "'vit' does not say mean and standard deviation"),
    (["finetune", "--model", "tiny", "--image_mean", "checkpoint"], "a random start is none"),
    (["finetune", "--model", "tiny", "--image_mean", "checkpoint", "0.3"], "numbers, or the word checkpoint alone"),
    (["finetune", "--model", "vit", "--image_mean", "chekpoint"], "'chekpoint' is neither a number nor the word"),
    (["finetune", "--model", "timm:vit_small_patch16_224.dion"], "vit_small_patch16_224.dino"),
    (["finetune", "--model", "vit", "--feature_layers", "9"], "names blocks that do not exist"),
])  # fmt: skip
def test_wrong_input_ends_with_a_sentence_status_2_and_nothing_written(
    arguments: list[str], message: str, street: Path, refuses: Callable
) -> None:
    transformers.ViTModel(transformers.ViTConfig(**SIZE, image_size=32)).save_pretrained("vit")
    transformers.SwinModel(transformers.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1])).save_pretrained(
        "swin"
    )
    UnipModel(UnipConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1)).save_pretrained("unip")
    if arguments[0] == "finetune":
        arguments = [*arguments, "--data_dir", str(street), "--output_dir", "out", *QUICK]
    refuses(arguments, message)
