"""Folders that hold only what was trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from unip_hf import UnipConfig, UnipForLinearSegmentation, UnipForMlaSegmentation, UnipForPreTraining, UnipModel
from unip_hf.inference.loading import fingerprint

from ..conftest import tiny_backbone_config


@pytest.fixture
def backbone(make_config: Callable, tmp_path: Path) -> Path:
    config = make_config(layer_scale_init_value=None, position_embedding_type="sincos")
    UnipForPreTraining(config).save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def trained(backbone: Path, **fields: object) -> UnipForLinearSegmentation:
    model = UnipForLinearSegmentation.from_pretrained(backbone, num_labels=5, feature_layers=[1, 3], **fields)
    torch.nn.init.normal_(model.classifier.weight)
    return model


def test_what_is_trained_and_its_backbone_make_the_model(backbone: Path, tmp_path: Path) -> None:
    model = trained(backbone, layer_scale_init_value=1.0)
    folder, image = tmp_path / "trained", torch.randn(2, 3, 64, 64)
    model.save_pretrained(folder, only_trained=True)
    tensors = load_file(folder / "model.safetensors")
    assert {name for name in tensors if "layer_scale" not in name} == {"classifier.weight", "classifier.bias"}
    assert len(tensors) == 2 + 2 * 3  # LayerScale, which the backbone does not have
    for kind in (UnipForLinearSegmentation, AutoModelForSemanticSegmentation):
        loaded, report = kind.from_pretrained(folder, output_loading_info=True)
        assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        assert torch.equal(loaded(image).logits, model(image).logits)
        assert not loaded.unip.training and not any(p.requires_grad for p in loaded.unip.parameters())
    assert fingerprint(loaded, UnipConfig()) == fingerprint(model, UnipConfig())

    loaded.save_pretrained(tmp_path / "whole")  # as any other checkpoint: it does not need the backbone
    assert "backbone_fingerprint" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    assert torch.equal(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "whole")(image).logits,
                       model(image).logits)  # fmt: skip
    loaded.save_pretrained(tmp_path / "again", only_trained=True)
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()

    other = UnipForMlaSegmentation.from_pretrained(folder, num_labels=3, feature_layers=None)  # with another head
    assert torch.equal(other.unip.layers[2].mlp.fc1.weight, model.unip.layers[2].mlp.fc1.weight)


def test_a_position_table_of_another_size_and_running_statistics_are_saved(backbone: Path, tmp_path: Path) -> None:
    model = UnipForMlaSegmentation.from_pretrained(backbone, num_labels=5)
    model.unip.requires_grad_(False)
    model.resize_position_embeddings(128)
    model.train()(torch.randn(2, 3, 64, 64))
    model.eval().save_pretrained(tmp_path / "trained", only_trained=True)
    names = load_file(tmp_path / "trained" / "model.safetensors").keys()
    assert "unip.embeddings.position_embeddings" in names and "neck.outputs.0.batch_norm.running_mean" in names
    assert not any(name.startswith("unip.layers") for name in names)
    loaded = UnipForMlaSegmentation.from_pretrained(tmp_path / "trained")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_backbone_that_is_missing_or_another_one_is_told_of(
    backbone: Path, make_config: Callable, tmp_path: Path
) -> None:
    folder, image = tmp_path / "trained", torch.randn(1, 3, 64, 64)
    model = trained(backbone)
    model.save_pretrained(folder, only_trained=True)
    moved = backbone.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"only what was trained, and its backbone '.*backbone' is missing\. Give it"):
        AutoModelForSemanticSegmentation.from_pretrained(folder)
    for kind in (UnipForLinearSegmentation, AutoModelForSemanticSegmentation):
        loaded = kind.from_pretrained(folder, backbone_checkpoint=str(moved))
        assert torch.equal(loaded(image).logits, model(image).logits)
    UnipModel(make_config()).save_pretrained(backbone)
    with pytest.raises(ValueError, match=r"is not the one that '.*trained' was trained on: its weights differ"):
        UnipForLinearSegmentation.from_pretrained(folder)


def test_a_backbone_in_several_files_serves(make_config: Callable, tmp_path: Path) -> None:
    UnipModel(make_config()).save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    model, image = trained(tmp_path / "sharded"), torch.randn(1, 3, 64, 64)
    model.save_pretrained(tmp_path / "trained", only_trained=True)
    loaded = UnipForLinearSegmentation.from_pretrained(tmp_path / "trained")
    assert torch.equal(loaded(image).logits, model(image).logits)


def test_saving_without_a_backbone_that_fits_is_refused(backbone: Path, make_config: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"was not loaded from a UNIP checkpoint: set config\.backbone"):
        UnipForLinearSegmentation(make_config()).save_pretrained(tmp_path / "no", only_trained=True)
    with pytest.raises(ValueError, match="The backbone 'nowhere/at-all' cannot be read"):
        config = make_config(backbone_checkpoint="nowhere/at-all")
        UnipForLinearSegmentation(config).save_pretrained(tmp_path / "no", only_trained=True)
    other = UnipForLinearSegmentation(tiny_backbone_config("dinov3", backbone_checkpoint=str(backbone)))
    with pytest.raises(ValueError, match=r"no frozen weight of this model is as in .* `unip convert`"):
        other.save_pretrained(tmp_path / "no", only_trained=True)
