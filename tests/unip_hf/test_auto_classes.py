"""The Auto classes and the pipeline know UNIP, in whatever order things are imported, and at almost no cost."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    pipeline,
)

import unip_hf
from unip_hf.modeling.modeling_unip_heads import SEGMENTATION_MODELS

from ..conftest import PATIENCE, save_checkpoint


def test_every_auto_class_loads_what_was_saved(make_config: Callable, tmp_path: Path) -> None:
    for model_class in SEGMENTATION_MODELS:
        model_class(make_config()).save_pretrained(tmp_path / model_class.task)
        loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / model_class.task)
        assert type(loaded) is model_class
    save_checkpoint(unip_hf.UnipForPreTraining(make_config(num_channels=1)), tmp_path / "student")
    for folder, auto_class, expected in [
        ("student", AutoModelForPreTraining, unip_hf.UnipForPreTraining),
        ("student", AutoModel, unip_hf.UnipModel),
        ("student", AutoModelForSemanticSegmentation, unip_hf.UnipForSemanticSegmentation),
        ("linear_probe", AutoModel, unip_hf.UnipModel),
        ("student", AutoImageProcessor, unip_hf.UnipImageProcessor),
        ("linear_probe", AutoConfig, unip_hf.UnipConfig),
    ]:
        assert type(auto_class.from_pretrained(tmp_path / folder)) is expected, (folder, auto_class)
    assert type(AutoBackbone.from_config(make_config())) is unip_hf.UnipBackbone
    assert AutoImageProcessor.from_pretrained(tmp_path / "student").num_channels == 1
    assert not (tmp_path / "linear_probe" / "preprocessor_config.json").exists()  # a processor saves itself


@pytest.mark.parametrize("first", [
    "from transformers import pipeline",
    pytest.param("from transformers.modeling_layers import GradientCheckpointingLayer", marks=pytest.mark.slow),
    pytest.param("import unip_hf.modeling.modeling_unip_layers", marks=pytest.mark.slow),
])  # fmt: skip
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = f"""
import sys, unip_hf
assert "torch" not in sys.modules, "import unip_hf imports torch"
{first}
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, AutoBackbone
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
config = AutoConfig.for_model("unip", hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_labels=2)
assert type(AutoModelForSemanticSegmentation.from_config(config)) is unip_hf.UnipForSemanticSegmentation
assert type(AutoBackbone.from_config(config)) is unip_hf.UnipBackbone
assert IMAGE_PROCESSOR_MAPPING[unip_hf.UnipConfig]["pil"] is unip_hf.UnipImageProcessor
assert PIPELINE_REGISTRY.supported_tasks["image-segmentation"]["impl"] is unip_hf.UnipImageSegmentationPipeline
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.fixture
def checkpoint(make_config: Callable, tmp_path: Path) -> Path:
    labels = dict(enumerate(["background", "person", "car", "tree", "pole"]))
    model = unip_hf.UnipForSemanticSegmentation(make_config(id2label=labels))
    model.decode_head.classifier.weight.data.normal_(std=2.0)  # so that several classes are predicted
    model.save_pretrained(tmp_path / "checkpoint")
    small = {"shortest_edge": 64, "longest_edge": 128}
    unip_hf.UnipImageProcessor(size=small).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_the_pipeline_segments_infrared_files_of_any_depth(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", questions.append)
    counts = np.random.default_rng(0).integers(6743, 7077, (6, 8), dtype=np.uint16).repeat(12, 0).repeat(12, 1)
    eight_bit = ((counts - 6743) / 334 * 255).astype(np.uint8)
    Image.fromarray(counts).save(tmp_path / "counts.tiff")
    Image.fromarray(eight_bit).save(tmp_path / "eight_bit.png")
    segment = pipeline("image-segmentation", model=str(checkpoint))
    assert "is not supported" not in caplog.text and not questions

    processor = AutoImageProcessor.from_pretrained(checkpoint)
    inputs = processor(counts, return_tensors="pt")
    outputs = segment.model(**inputs)
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[counts.shape])[0].numpy()
    assert len(np.unique(expected)) > 1
    for image in (str(tmp_path / "counts.tiff"), Image.open(tmp_path / "counts.tiff"), counts):
        segments = segment(image)
        assert [segment.model.config.label2id[found["label"]] for found in segments] == np.unique(expected).tolist()
        for found in segments:
            mask = expected == segment.model.config.label2id[found["label"]]
            np.testing.assert_array_equal(np.asarray(found["mask"]) > 0, mask)

    files = [str(tmp_path / "eight_bit.png"), str(tmp_path / "counts.tiff")]
    assert segment(files[0])[0]["mask"].size == (96, 72)
    assert len(segment(files)) == 2
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        remote = segment(f"http://127.0.0.1:{server.server_port}/counts.tiff")
        server.shutdown()
    assert [found["label"] for found in remote] == [found["label"] for found in segments]


def test_the_pipeline_of_other_models_is_the_stock_one() -> None:
    config = SegformerConfig(num_labels=3, depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4)
    model = SegformerForSemanticSegmentation(config).eval()
    segment = pipeline("image-segmentation", model=model, image_processor=SegformerImageProcessor())
    assert segment(Image.new("L", (40, 30)))[0]["mask"].size == (40, 30)


def test_half_precision_models_run_in_the_pipeline(checkpoint: Path) -> None:
    segment = pipeline("image-segmentation", model=str(checkpoint), dtype=torch.bfloat16)
    assert segment.model.dtype == torch.bfloat16
    assert segment(Image.new("L", (40, 30), 80))[0]["mask"].size == (40, 30)
