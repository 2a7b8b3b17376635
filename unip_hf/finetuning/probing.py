# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Layer-wise linear probing (paper section 3.1): one classifier for each block of a frozen encoder, in one pass."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..modeling.configuration_unip import UnipConfig
from ..modeling.modeling_unip_linear import UnipForLinearSegmentation


if TYPE_CHECKING:
    from matplotlib.figure import Figure


class UnipForLayerwiseProbing(UnipForLinearSegmentation):
    """
    One linear classifier for each of `config.feature_layers`, trained side by side: a 1x1 convolution in groups, so
    that each classifier sees its own block alone. The loss is the sum over all, so each learns as if it were alone.

    `logits`, of shape `(batch_size, num_layers * num_labels, rows, columns)`, holds the classes of the first block,
    then those of the second, and so on. `best_layer` is the block with the highest mean IoU of the last evaluation.

    Where stages differ in width and size, as of Swin or ConvNeXt, all maps are resized (bilinear) to the finest and
    get channels of zeros up to the widest.
    """

    task = "layerwise_probe"
    best_layer: int | None = None

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        self.num_probes = len(self.feature_layers)
        self.classifier = nn.Conv2d(
            self.num_probes * max(self.feature_channels),
            self.num_probes * (config.num_labels or 0),
            kernel_size=1,
            groups=self.num_probes,
        )
        self.post_init()

    @classmethod
    def default_feature_layers(cls, num_hidden_layers: int) -> list[int] | None:
        """All blocks."""
        return list(range(1, num_hidden_layers + 1))

    def _at_one_size(self, feature_maps: list[torch.Tensor]) -> list[torch.Tensor]:
        widest = max(self.feature_channels)
        return [
            nn.functional.pad(maps, (0, 0, 0, 0, 0, widest - maps.shape[1])) if maps.shape[1] < widest else maps
            for maps in super()._at_one_size(feature_maps)
        ]

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss_of_one = super()._cross_entropy
        return torch.stack([loss_of_one(one, labels) for one in logits.chunk(self.num_probes, dim=1)]).sum()

    def linear_model(self, layer: int) -> UnipForLinearSegmentation:
        """
        The linear probe of one block, with its trained classifier.

        Args:
            layer (`int`): Block, from 1.

        Raises:
            ValueError: if this block has no classifier.
        """
        if layer not in self.feature_layers:
            raise ValueError(f"Block {layer} was not probed, only {self.feature_layers}.")
        values = {k: v for k, v in self.config.to_dict().items() if k not in ("architectures", "label2id")}
        model = UnipForLinearSegmentation(UnipConfig(**{**values, "feature_layers": [layer]}))
        weights = self.state_dict()
        for name in ("classifier.weight", "classifier.bias"):
            weights[name] = weights[name].chunk(self.num_probes)[self.feature_layers.index(layer)]
        weights["classifier.weight"] = weights["classifier.weight"][:, : model.classifier.in_channels]
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        return model.to(self.device)  # type: ignore[arg-type]


def plot_over_depth(mean_iou: dict[int, float]) -> "Figure":
    """Mean IoU (0..1) by block, as a `matplotlib` figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(mean_iou), [100 * value for value in mean_iou.values()], marker="o", color="#1f6f8b")
    axes.set(xlabel="block", ylabel="mean IoU of a linear classifier (%)", xticks=list(mean_iou))
    axes.grid(alpha=0.3)
    return figure


__all__ = ["UnipForLayerwiseProbing", "plot_over_depth"]
