# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
The losses of semantic segmentation: a model's own, and those for data whose classes are rare. The latter are computed
from the logits and auxiliary logits of any model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.reading import IGNORE_INDEX
from ..data.samples import IMAGES
from ..files import read_json
from ..modeling.modeling_unip_resampling import resize


def make_class_weights(kind: str | Sequence[float], shares: Sequence[float], names: Sequence[str]) -> list[float]:
    """
    Weights of the classes for [`SegmentationLoss`].

    Args:
        kind (`str` or `Sequence[float]`): The weights themselves, or one of

            - `"enet"`: `1 / ln(1.02 + share)`, from 1.4 for a class that fills everything to 50 for one that never
              occurs ([ENet](https://huggingface.co/papers/1606.02147));
            - `"inverse_sqrt"`: `1 / sqrt(share)`, divided by its mean over all pixels, so that the size of the loss
              stays the same;
            - a JSON file of weights by the names of the classes, `{"background": 0.5, "person": 10}`.
        shares (`Sequence[float]`): Shares of the classes in the labelled pixels of the training masks, 0 to 1.
        names (`Sequence[str]`): Names of the classes.

    Returns:
        One weight for each class.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if not each class has one weight of at least 0, and one of them above 0.
    """
    if not isinstance(kind, str):
        if len(kind) != len(names):
            raise ValueError(f"--class_weights has {len(kind)} numbers, but there are {len(names)} classes: {names}.")
        return _checked(kind, "--class_weights")
    if kind == "enet":
        return [1 / float(np.log(1.02 + share)) for share in shares]
    if kind == "inverse_sqrt":  # the mean of 1 / sqrt(share) over all pixels is the sum of sqrt(share)
        total = sum(np.sqrt(shares))
        return [float(1 / (np.sqrt(share) * total)) if share > 0 else 0.0 for share in shares]
    if not Path(kind).is_file():
        raise FileNotFoundError(
            f"--class_weights must be none, enet, inverse_sqrt or a JSON file, and there is no file {kind!r}."
        )
    try:
        content = read_json(kind)
        weights = {str(name): float(weight) for name, weight in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f'{kind!r} is not of the form {{"background": 0.5, "person": 10}}: {error}.') from error
    if set(weights) != set(names):
        raise ValueError(f"{kind!r} must give a weight to each of {list(names)}, but it names {sorted(weights)}.")
    return _checked([weights[name] for name in names], repr(kind))


def _checked(weights: Sequence[float], source: str) -> list[float]:
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError(f"The weights in {source} must be at least 0, and one of them above 0, got {list(weights)}.")
    return list(weights)


@dataclass
class SegmentationLoss:
    """
    The loss of a model for semantic segmentation.

    Without arguments it is the model's own loss: for UNIP the published cross-entropy. With any of them it is computed
    from the logits and, where the model gives them, the auxiliary logits, which count `config.auxiliary_loss_weight`:

        mean of  weight * (1 - p)^gamma * -ln(p)  +  dice_loss_weight * Dice loss

    `p` is the probability of the true class of a pixel. The mean is over the labelled pixels, or over all where the
    model's `config.loss_average` says so. The Dice loss of an image is the mean of `1 - 2 |P T| / (|P| + |T|)` over
    the classes in its mask, with probabilities `P` and truth `T`. The images are averaged by their labelled pixels. So
    the loss does not depend on how a batch is divided.

    Args:
        class_weights (`Sequence[float]`, *optional*): One weight for each class, see [`make_class_weights`].
        dice_loss_weight (`float`, *optional*, defaults to 0.0): Weight of the Dice loss.
        focal_gamma (`float`, *optional*, defaults to 0.0): The higher, the less pixels count that are right already
            ([focal loss](https://huggingface.co/papers/1708.02002)).
    """

    class_weights: Sequence[float] | None = None
    dice_loss_weight: float = 0.0
    focal_gamma: float = 0.0

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        """
        The loss of a batch, of shape `()`; 0 where no pixel has a label. Many models return NaN there.

        Args:
            model: Any model for semantic segmentation.
            batch: `pixel_values` `(batch_size, channels, height, width)`, of pairs also `auxiliary_pixel_values`,
                `labels` `(batch_size, height, width)`, any integers, and `num_labelled`, how many pixels have a class.
        """
        labels = batch["labels"].long()
        images = {name: batch[name] for name in IMAGES if name in batch}
        is_own = self.class_weights is None and not self.dice_loss_weight and not self.focal_gamma
        if is_own and batch["num_labelled"]:
            return model(**images, labels=labels).loss
        outputs = model(**images)
        unwrapped: Any = getattr(model, "module", model)  # out of the wrapper for several processes
        auxiliary_weight = getattr(unwrapped.config, "auxiliary_loss_weight", 0.4)
        auxiliary = outputs.get("auxiliary_logits")
        if auxiliary is None or torch.is_tensor(auxiliary):
            auxiliary = () if auxiliary is None else (auxiliary,)
        given = [(1.0, outputs.logits), *((auxiliary_weight, logits) for logits in auxiliary)]
        if not batch["num_labelled"]:
            return torch.stack([logits.sum() * 0 for _, logits in given]).sum()
        is_over_all = getattr(unwrapped.config, "loss_average", None) == "all_pixels"
        total = labels.numel() if is_over_all else (labels != IGNORE_INDEX).sum()
        losses = [
            weight * self._sum_over_pixels(one, labels) / total
            for weight, logits in given
            for one in logits.chunk(getattr(unwrapped, "num_probes", 1), dim=1)
        ]
        return torch.stack(losses).sum()

    def _sum_over_pixels(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of logits `(batch_size, num_labels, rows, columns)`, summed over the labelled pixels."""
        logits = resize(logits, labels.shape[-2:])
        log_probabilities = logits.float().log_softmax(dim=1)  # (B, C, H, W)
        is_labelled = labels != IGNORE_INDEX
        ids = labels.masked_fill(~is_labelled, 0).unsqueeze(1)  # (B, 1, H, W)
        log_of_true = log_probabilities.gather(1, ids).squeeze(1)  # (B, H, W)
        losses = -log_of_true
        if self.focal_gamma:
            losses = losses * (1 - log_of_true.exp()) ** self.focal_gamma
        if self.class_weights is not None:
            losses = losses * _on_device(tuple(self.class_weights), losses.device)[ids.squeeze(1)]
        total = (losses * is_labelled).sum()
        if self.dice_loss_weight:
            total = total + self.dice_loss_weight * self._dice(log_probabilities.exp(), ids, is_labelled)
        return total

    def _dice(self, probabilities: torch.Tensor, ids: torch.Tensor, is_labelled: torch.Tensor) -> torch.Tensor:
        """The Dice loss of each image times the number of its labelled pixels, summed."""
        probabilities = probabilities * is_labelled.unsqueeze(1)  # (B, C, H, W)
        truth = torch.zeros_like(probabilities).scatter_(1, ids, 1.0) * is_labelled.unsqueeze(1)
        pixels = truth.sum((2, 3))  # (B, C)
        overlap = (probabilities * truth).sum((2, 3))
        dice = 2 * overlap / (probabilities.sum((2, 3)) + pixels).clamp(min=1e-6)
        occurs = pixels > 0
        of_image = ((1 - dice) * occurs).sum(1) / occurs.sum(1).clamp(min=1)  # (B,)
        return (of_image * pixels.sum(1)).sum()


@lru_cache(maxsize=1)
def _on_device(weights: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Kept there, because the host waits for the device whenever it copies a list."""
    return torch.tensor(weights, device=device)


__all__ = ["SegmentationLoss", "make_class_weights"]
