# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Evaluation during training: metrics for the log, sample predictions, the curve over depth of layer-wise probing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import nn

from ..data.advice import RARE_CLASS_OPTIONS
from ..evaluation import MAIN_METRIC, Example, count_confusions, evaluate_dataset, segment_dataset, segmentation_scores
from ..evaluation.evaluator import checked_ids
from ..evaluation.results import headline_scores, make_record
from ..files import write_whole
from ..inference import InferenceSettings
from ..inference.canvas import highest
from ..modeling.image_processing_unip import UnipImageProcessor
from ..pictures import grey_picture, overlay_picture, side_by_side, stacked
from ..progress import say
from ..training.checkpoints import find_checkpoint
from ..training.pictures import log_picture
from .probing import UnipForLayerwiseProbing, plot_over_depth


@dataclass(frozen=True)
class Validation:
    """
    Evaluates a model on the validation rows whenever [`unip_hf.training.TrainingLoop`] calls it.

    Args:
        accelerator: Its processes share the rows, and its trackers get the pictures.
        processor: Image processor of the model.
        rows: Dataset with the columns `image` and `annotation`, and `rgb` for a model of pairs.
        id2label (`dict[int, str]`): Names of the classes.
        settings: How images are segmented.
        output_dir (`Path`): Folder for `predictions/step-....png`, or, of layer-wise probing, for `layers.json` and
            `layers.png`.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images ahead.
    """

    accelerator: Accelerator
    processor: UnipImageProcessor
    rows: Any
    id2label: dict[int, str]
    settings: InferenceSettings
    output_dir: Path
    num_workers: int = 0

    def __call__(self, model: nn.Module, step: int) -> dict[str, Any]:
        """
        Metrics for the log: the headline metrics, and those of each class as `iou/CLASS`, `None` where undefined, with
        its share of the predicted pixels as `share_of_predictions/CLASS`. Of layer-wise probing the mean IoU of the
        best block, its number as `best_layer`, and the mean IoU of each block.
        """
        if isinstance(model, UnipForLayerwiseProbing):
            return self._evaluate_layers(model)
        result = evaluate_dataset(
            model, self.processor, self.rows, self.id2label, self.settings, self.accelerator, self.num_workers, 2
        )
        if self.accelerator.is_main_process:
            self._show([*result.worst, *result.best], step)
            say(describe_classes(result.metrics, self.id2label, step))
        scores = headline_scores(make_record(result, self.id2label))
        metrics = {metric.key if name is None else f"{metric.key}/{name}": value for metric, name, value in scores}
        shares = result.metrics["per_category_share_of_predictions"].tolist()
        metrics |= {f"share_of_predictions/{self.id2label[id]}": share for id, share in enumerate(shares)}
        return metrics | {MAIN_METRIC.key: result.metrics[MAIN_METRIC.key]}  # a float even where it is undefined

    def _show(self, examples: list[Example], step: int) -> None:
        rows = []
        for example in examples:
            panels: list[tuple[str, Image.Image | np.ndarray]] = [
                (Path(example.name).name, grey_picture(example.image, self.processor))
            ]
            panels += [] if example.visible is None else [("visible", grey_picture(example.visible))]
            title = f"prediction, {MAIN_METRIC.label} {example.mean_iou:.2f}"
            for name, ids in (("truth", example.ids), (title, example.predicted_ids)):
                panels.append((name, overlay_picture(example.image, ids, self.id2label)))
            rows.append(side_by_side(panels))
        if not rows:
            return
        picture = stacked(rows)
        with write_whole(self.output_dir / "predictions" / f"step-{step:08d}.png") as staged:
            picture.save(staged)
        log_picture(self.accelerator, "predictions", picture, step)

    def _evaluate_layers(self, model: UnipForLayerwiseProbing) -> dict[str, Any]:
        num_labels = len(self.id2label)
        counts = np.zeros((len(model.feature_layers), num_labels, num_labels), np.int64)
        outputs = segment_dataset(
            model, self.processor, self.rows, self.settings, self.accelerator, self.num_workers
        )  # (layers * classes, H, W) for each image
        for _, sample, scores in outputs:
            ids = checked_ids(sample, self.id2label)
            for of_layer, one in zip(counts, scores.split(num_labels)):
                of_layer += count_confusions(highest(one), ids, num_labels)
        counts = sum(gather_object([counts]))  # of all processes
        mean_iou = {n: segmentation_scores(part)["mean_iou"] for n, part in zip(model.feature_layers, counts)}
        best = max(mean_iou, key=mean_iou.__getitem__)
        model.best_layer = best
        if self.accelerator.is_main_process:
            with write_whole(self.output_dir / "layers.json") as staged:
                staged.write_text(json.dumps({"mean_iou": mean_iou, "best_layer": best}, indent=1))
            with write_whole(self.output_dir / "layers.png") as staged:
                plot_over_depth(mean_iou).savefig(staged, format="png", dpi=150)
        layers = {f"mean_iou/block_{layer:02d}": value for layer, value in mean_iou.items()}
        return {"mean_iou": mean_iou[best], "best_layer": best, **layers}


def read_best_layer(output_dir: Path, resume_from_checkpoint: str) -> int | None:
    """
    The best block in the last evaluation of a run of layer-wise probing that is resumed; `None` before the first.

    Args:
        output_dir (`Path`): Folder of the run.
        resume_from_checkpoint (`str`): `"latest"`, or the path of a checkpoint.
    """
    file = find_checkpoint(output_dir, resume_from_checkpoint).parents[1] / "layers.json"
    return json.loads(file.read_text())["best_layer"] if file.is_file() else None


def describe_classes(metrics: dict[str, Any], id2label: dict[int, str], step: int) -> str:
    """
    IoU and share of the predicted pixels of each class as text, and a sentence if one class is predicted everywhere.

    Args:
        metrics: What [`unip_hf.evaluation.segmentation_scores`] returns.
        id2label: Names of the classes.
        step: Number of updates made.
    """
    shares = metrics["per_category_share_of_predictions"].tolist()
    found = zip(id2label.values(), metrics["per_category_iou"].tolist(), shares)
    text = f"Step {step}: IoU (share of the predicted pixels) "
    text += ", ".join(f"{name} {iou:.3f} ({share:.2%})" for name, iou, share in found)
    predicted = [id2label[id] for id, share in enumerate(shares) if share > 0]
    if len(predicted) == 1:
        text += (
            f"\nThe model predicts {predicted[0]!r} for every pixel. If it still does after more steps, try "
            f"{RARE_CLASS_OPTIONS}, or start from pre-trained weights."
        )
    return text


__all__ = ["Validation", "describe_classes", "read_best_layer"]
