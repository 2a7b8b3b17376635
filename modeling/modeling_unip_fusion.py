# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What encoders of aligned pairs of images share."""

from typing import Any

import torch
from torch import nn

from .configuration_unip import UnipConfig
from .modeling_unip import UnipModel


def check_pair(
    config: UnipConfig, pixel_values: torch.Tensor, auxiliary_pixel_values: torch.Tensor | None
) -> torch.Tensor:
    """
    The other image of each pair `(batch_size, auxiliary_num_channels, height, width)`, where a single channel is
    repeated for each that is read.

    Raises:
        ValueError: if it is missing, holds raw intensities, or does not belong to `pixel_values` by its shape.
    """
    main = config.main_modality
    other = "visible" if main == "infrared" else "infrared"
    if auxiliary_pixel_values is None:
        raise ValueError(
            f"This model reads pairs: pixel_values is the {main} image, and auxiliary_pixel_values, the {other} "
            "image of the same scene, is missing."
        )
    channels = config.auxiliary_num_channels
    if auxiliary_pixel_values.ndim == 4 and auxiliary_pixel_values.shape[1] == 1:
        auxiliary_pixel_values = auxiliary_pixel_values.expand(-1, channels, -1, -1)
    expected = (pixel_values.shape[0], channels, *pixel_values.shape[-2:])
    if not auxiliary_pixel_values.is_floating_point():
        raise ValueError(
            f"auxiliary_pixel_values is {auxiliary_pixel_values.dtype}: scale raw intensities first, see "
            "UnipImageProcessor."
        )
    if tuple(auxiliary_pixel_values.shape) != expected:
        raise ValueError(
            f"auxiliary_pixel_values, the {other} images, is of shape {tuple(auxiliary_pixel_values.shape)}, but "
            f"these pixel_values need {expected}: pairs are aligned and of the same size."
        )
    return auxiliary_pixel_values


class UnipFusionModel(UnipModel):
    """
    UNIP's encoder of one image, and a part beside it, `fusion`, through which the other image of a pair comes in.

    A subclass builds `fusion` and overrides `block_outputs`. The backbone keeps its names, so that its weights load
    from any checkpoint of the encoder alone. `feature_maps` takes the other images as `auxiliary_pixel_values`.
    """

    fusion: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """
        Raises:
            ValueError: always. The blocks alone are not what the model computes.
        """
        raise ValueError(self._of_pairs())

    def query_key(self, *args: Any, **kwargs: Any) -> Any:
        """
        Raises:
            ValueError: always, see `forward`.
        """
        raise ValueError(self._of_pairs())

    def _of_pairs(self) -> str:
        return (
            f"The encoder of a model with fusion={self.config.fusion!r} reads pairs of images and gives feature maps: "
            "its blocks are not used alone. Call the segmentation model, or load an encoder of one image."
        )

    def freeze_backbone(self) -> None:
        """Leaves only `fusion` to be trained."""
        for name, parameter in self.named_parameters():
            if not name.startswith("fusion."):
                parameter.requires_grad_(False)


__all__ = ["UnipFusionModel", "check_pair"]
