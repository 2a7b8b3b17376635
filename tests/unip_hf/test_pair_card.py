"""The card of a model of pairs: its lines run, and its numbers are those of model and files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from unip_hf import UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.hub.model_card import make_model_card
from unip_hf.hub.publishing import write_publication
from unip_hf.inference.loading import fingerprint


METRICS = ("mean_iou", "mean_accuracy", "overall_accuracy", "mean_dice")


def evaluation(**fields: Any) -> dict[str, Any]:
    """What `results.json` holds of a class, without and with faults of the second camera."""
    scores = dict.fromkeys(METRICS, 0.25)
    return {
        "dataset": "mfnet",
        "dataset_config": "both",
        "split": "test",
        "settings": {"window_size": 512, "stride": 341, "flip": False, "scales": [1.0]},
        "num_images": 393,
        **scores,
        "sensor_faults": {"auxiliary_missing": scores, "auxiliary_shifted_8": {**scores, "mean_iou": 0.125}},
        "classes": [{"name": "all", "iou": 0.25, "accuracy": 0.25, "dice": 0.25}],
        **fields,
    }


@pytest.mark.parametrize(("fusion", "main"), [
    ("iv_tuning", "infrared"),
    pytest.param("unirgb_ir", "visible", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_card_of_a_model_of_pairs(fusion: str, main: str, make_config: Callable, tmp_path: Path) -> None:
    alone = UnipForSemanticSegmentation(make_config(num_hidden_layers=4))
    alone.save_pretrained(tmp_path / "alone")
    config = make_config(num_hidden_layers=4, fusion=fusion, main_modality=main)
    model = UnipForSemanticSegmentation.from_pretrained(tmp_path / "alone", config=config).eval()
    processor = UnipImageProcessor(main_modality=main)
    model.save_pretrained(tmp_path / "trained", only_trained=True)
    processor.save_pretrained(tmp_path / "trained")
    (tmp_path / "trained" / "evaluation").mkdir()
    own = evaluation(fingerprint=fingerprint(model, processor))
    (tmp_path / "trained" / "evaluation" / "results.json").write_text(json.dumps(own))
    write_publication(tmp_path / "trained", "me/pairs", tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    text = card.text
    assert {"infrared", "visible", "multimodal"} < set(card.data.tags)
    assert f"arxiv:{'2412.16654' if fusion == 'iv_tuning' else '2404.17360'}" in card.data.tags
    other = "visible" if main == "infrared" else "infrared"
    assert f"the {main} image goes through the backbone, and the {other} one" in text
    trained = sum(p.numel() for p in model.unip.parameters() if p.requires_grad)
    assert f"| Trained | {trained:,} parameters in the encoder" in text
    said = re.search(r"\| Size on disk \| ([\d.]+) MB; ([\d.]+) MB without the frozen", text)
    for size, name in zip(said.groups(), ("out", "trained")):
        assert float(size) == pytest.approx((tmp_path / name / "model.safetensors").stat().st_size / 1e6, abs=0.2)
    assert (
        "| auxiliary image missing | 0.2500 |" in text and "| auxiliary image shifted by 8 pixels | 0.1250 |" in text
    )
    assert "what a missing or shifted one costs stands under Results" in text
    assert "Infrared images: Values of 8 bits" in text and "mean 0.485, 0.456, 0.406" in text
    assert "`unip predict me/pairs your-infrared-image.png --auxiliary your-visible-image.png -o prediction`" in text

    infrared, visible = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), np.uint8)
    Image.fromarray(infrared[..., 0]).save(tmp_path / "your-infrared-image.png")
    Image.fromarray(visible).save(tmp_path / "your-visible-image.png")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for name in ("your-infrared-image.png", "your-visible-image.png"):
        code = code.replace(name, str(tmp_path / name))
    found: dict[str, Any] = {}
    exec(code.replace("me/pairs", str(tmp_path / "out")), found)
    images = (infrared[..., :1], visible) if main == "infrared" else (visible, infrared[..., :1])
    with torch.no_grad():
        outputs = model(**processor(images[0], auxiliary_images=images[1], return_tensors="pt"))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 64)])[0]
    assert (found["ids"] == expected).float().mean() > 0.99

    text = make_model_card("me/pairs", UnipForSemanticSegmentation(config), processor).text
    assert "how it does when one is missing or shifted was not measured" in text
    config.freeze_backbone = False
    whole = UnipForSemanticSegmentation(config)
    assert f"| Trained | all {whole.num_parameters():,} parameters |" in make_model_card("a/b", whole, processor).text
