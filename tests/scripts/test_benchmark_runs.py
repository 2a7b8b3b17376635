"""A published benchmark by its name, from training to the model card."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from huggingface_hub import ModelCard

from unip_hf import UnipForPreTraining, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.data import load_id2label
from unip_hf.scripts import cli

from ..unip_hf.benchmark_archives import mfnet_files, write_files


def test_training_and_evaluation_of_a_configuration_on_joined_splits(
    make_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, out = tmp_path / "student", tmp_path / "out"
    UnipForPreTraining(make_config(layer_scale_init_value=None, position_embedding_type="sincos")).save_pretrained(
        student
    )
    UnipImageProcessor().save_pretrained(student)
    archive = write_files(tmp_path / "ir_seg_dataset.zip", mfnet_files())
    data = ["--dataset", "mfnet", "--data_dir", archive, "--allow_partial", "--num_workers", 0]
    recipe = ["--num_steps", 2, "--batch_size", 2, "--crop_size", 32, "--shortest_edge", 32, "--report_to", "none"]
    options = [*recipe, "--validation_split", "validation+test", "--loss_average", "all_pixels"]
    arguments = ["finetune", "--model", student, "--output_dir", out, *data, *options]
    assert cli.main(list(map(str, arguments))) == 0
    model = UnipForSemanticSegmentation.from_pretrained(out / "best")
    assert model.config.loss_average == "all_pixels" and model.config.id2label == load_id2label("mfnet")

    AcceleratorState._reset_state(reset_partial_state=True)
    options = ["--dataset_config", "rgb_night", "--split", "validation+test"]
    assert cli.main(list(map(str, ["evaluate", out / "best", *data, *options]))) == 0
    results = json.loads((out / "best" / "evaluation" / "results.json").read_text())
    assert results["num_images"] == 2  # of three, one is by day
    assert (results["dataset"], results["dataset_config"]) == ("mfnet", "rgb_night")
    result = ModelCard.load(out / "best" / "README.md").data.eval_results[0]
    assert (result.dataset_type, result.dataset_config) == ("mfnet", "rgb_night")
    assert "mfnet rgb_night, validation+test" in (out / "best" / "evaluation" / "report.html").read_text()
