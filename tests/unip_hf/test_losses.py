"""The losses for rare classes, against formulas written out, and against the models' own loss."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.modeling_outputs import SemanticSegmenterOutput

from unip_hf import UnipForSemanticSegmentation
from unip_hf.finetuning import SegmentationLoss, UnipForLayerwiseProbing, make_class_weights


ALL_MEANS = SegmentationLoss([0.5, 2.0, 3.0, 1.0, 4.0], dice_loss_weight=0.7, focal_gamma=2.0)


class Fixed(nn.Module):
    """Gives the logits it was made with."""

    config = SimpleNamespace()

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(logits=self.logits)


def make_batch(labels: torch.Tensor, num_channels: int = 3) -> dict:
    pixel_values = torch.randn(len(labels), num_channels, *labels.shape[1:])
    return {"pixel_values": pixel_values, "labels": labels, "num_labelled": int((labels != 255).sum())}


def part(batch: dict, rows: slice) -> dict:
    labels = batch["labels"][rows]
    return {"pixel_values": batch["pixel_values"][rows], "labels": labels, "num_labelled": int((labels != 255).sum())}


@pytest.fixture
def batch() -> dict:
    labels = torch.randint(0, 5, (4, 32, 32))
    labels[:, :3] = 255
    labels[1] = 255  # an image without labels
    labels[1, 5, :7] = 2
    return make_batch(labels)


@pytest.mark.parametrize("loss_average", ["valid_pixels", "all_pixels"])
def test_equal_weights_give_the_published_loss(loss_average: str, batch: dict, make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config(loss_average=loss_average, classifier_dropout_prob=0.0)).train()
    own = SegmentationLoss()(model, batch)
    assert torch.equal(own, model(**{name: batch[name] for name in ("pixel_values", "labels")}).loss)
    torch.testing.assert_close(SegmentationLoss([1.0] * 5)(model, batch), own)  # with the auxiliary head's part
    probes = UnipForLayerwiseProbing(make_config(loss_average=loss_average))
    torch.testing.assert_close(SegmentationLoss([1.0] * 5)(probes, batch), SegmentationLoss()(probes, batch))


def test_models_of_others_train_with_it_too(batch: dict) -> None:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
    model = SegformerForSemanticSegmentation(SegformerConfig(**sizes, decoder_hidden_size=16, num_labels=5)).eval()
    torch.testing.assert_close(SegmentationLoss([1.0] * 5)(model, batch), SegmentationLoss()(model, batch))


def test_the_terms_are_those_of_their_formulas() -> None:
    labels = torch.tensor([[[0, 1, 255, 1]]])
    probabilities = torch.tensor([[0.9, 0.4, 0.5, 0.2], [0.1, 0.6, 0.5, 0.8]])  # (C, W)
    model, batch = Fixed(probabilities.log()[None, :, None]), make_batch(labels)

    def loss(**terms: object) -> float:
        return SegmentationLoss(**terms)(model, batch).item()

    of_true = [0.9, 0.6, 0.8]
    entropies = [-math.log(p) for p in of_true]
    weighted = (2 * entropies[0] + 5 * entropies[1] + 5 * entropies[2]) / 3
    assert loss(class_weights=[2.0, 5.0]) == pytest.approx(weighted, rel=1e-6)
    focal = sum((1 - p) ** 2 * entropy for p, entropy in zip(of_true, entropies)) / 3
    assert loss(focal_gamma=2.0) == pytest.approx(focal, rel=1e-5)
    dice_of_0 = 2 * 0.9 / ((0.9 + 0.4 + 0.2) + 1)
    dice_of_1 = 2 * (0.6 + 0.8) / ((0.1 + 0.6 + 0.8) + 2)
    dice_loss = 1 - (dice_of_0 + dice_of_1) / 2
    assert loss(dice_loss_weight=0.5) == pytest.approx(sum(entropies) / 3 + 0.5 * dice_loss, rel=1e-6)
    all_three = sum(w * (1 - p) ** 2 * e for w, p, e in zip((2, 5, 5), of_true, entropies)) / 3 + 0.5 * dice_loss
    assert loss(class_weights=[2.0, 5.0], dice_loss_weight=0.5, focal_gamma=2.0) == pytest.approx(all_three, rel=1e-5)


def test_a_perfect_prediction_costs_nothing_and_absent_classes_do_not_count() -> None:
    labels = torch.randint(0, 2, (2, 8, 8))
    perfect = nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float() * 60
    loss = SegmentationLoss(dice_loss_weight=1.0)(Fixed(perfect), make_batch(labels))
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_the_loss_does_not_depend_on_how_a_batch_is_divided(batch: dict, make_config: Callable) -> None:
    model = UnipForSemanticSegmentation(make_config()).eval()
    whole = ALL_MEANS(model, batch)
    parts = [part(batch, slice(0, 1)), part(batch, slice(1, 4))]
    divided = sum(ALL_MEANS(model, one) * one["num_labelled"] for one in parts) / batch["num_labelled"]
    torch.testing.assert_close(divided, whole)


@pytest.mark.parametrize("model_class", [UnipForSemanticSegmentation, UnipForLayerwiseProbing])
def test_every_parameter_gets_a_gradient(model_class: type, batch: dict, make_config: Callable) -> None:
    model = model_class(make_config()).train()
    ALL_MEANS(model, batch).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    ignored = {**batch, "labels": torch.full_like(batch["labels"], 255), "num_labelled": 0}
    assert ALL_MEANS(model, ignored) == 0


def test_class_weights_follow_the_shares(tmp_path: Path) -> None:
    shares, names = [0.97, 0.03, 0.0], ["background", "person", "car"]
    expected = [1 / math.log(1.02 + share) for share in shares]
    assert make_class_weights("enet", shares, names) == pytest.approx(expected)
    weights = make_class_weights("inverse_sqrt", shares, names)
    assert weights[1] / weights[0] == pytest.approx(math.sqrt(0.97 / 0.03))
    assert sum(w * share for w, share in zip(weights, shares)) == pytest.approx(1) and weights[2] == 0
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({"car": 3, "background": 0.5, "person": 10}))
    assert make_class_weights(str(file), shares, names) == [0.5, 10, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"car": 3, "person": 1}', "must give a weight to each of"),
        ('{"car": 3, "person": -1, "background": 1}', "must be at least 0"),
        ('{"car": 3, "person": "much", "background": 1}', "is not of the form"),
        ("[1, 2, 3]", "is not of the form"),
        ("no json", "is not of the form"),
    ],
)
def test_wrong_weights_are_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        make_class_weights(str(file), [0.9, 0.1, 0.0], ["background", "person", "car"])
    with pytest.raises(FileNotFoundError, match="must be none, enet, inverse_sqrt or a JSON file"):
        make_class_weights("e-net", [0.9, 0.1, 0.0], ["background", "person", "car"])


def test_numbers_are_weights_in_the_order_of_the_classes() -> None:
    assert make_class_weights([2.0, 0.0, 1.5], [0.9, 0.1, 0.0], ["a", "b", "c"]) == [2.0, 0.0, 1.5]
    with pytest.raises(ValueError, match="has 2 numbers, but there are 3 classes"):
        make_class_weights([1.0, 2.0], [0.9, 0.1, 0.0], ["a", "b", "c"])
    with pytest.raises(ValueError, match="in --class_weights must be at least 0, and one of them above 0"):
        make_class_weights([1.0, -2.0, 1.0], [0.9, 0.1, 0.0], ["a", "b", "c"])
