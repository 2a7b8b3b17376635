# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Any backbone of transformers or timm in the place of UNIP's encoder, under the same segmentation heads."""

import copy
import math
from typing import Any

import torch
from torch import nn
from transformers import AutoBackbone
from transformers.modeling_outputs import BackboneOutput

from .configuration_unip import UnipConfig
from .modeling_unip_layers import check_pixel_values, pad_to, whole_patches


TRIAL_SIZE = 448  # pixels: a multiple of patches of 14 and 16, and of strides up to 64


class UnipBackboneEncoder(nn.Module):
    """
    A backbone of [`~transformers.AutoBackbone`] as segmentation reads it. Its feature maps are taken as it gives them,
    with or without a final norm.

    Configurations name sizes in many ways, so they are measured: a copy without memory (on torch's device "meta") runs
    once, forward and backward. What no map depends on, such as the mask token of DINOv2, is frozen.

    Attributes:
        is_plain (`bool`): Whether it is a plain ViT, whose stages are its blocks.
        layers (`list[int]`): Numbers of the maps: blocks of a plain ViT or stages, from 1, in ascending order.
        channels (`list[int]`): Channels of each map.
        strides (`list[int]`): Pixels for each cell of each map.
        unused (`frozenset[str]`): Names of the parameters of `backbone` that no map depends on.
        patch_size (`int`): Images are padded to multiples of this: the least that all strides divide.

    Raises:
        ValueError: if `transformers` has no such backbone, or it does not take images of any size.
    """

    def __init__(self, config: UnipConfig):
        super().__init__()
        backbone_config: Any = config.backbone_config
        self.num_channels = config.num_channels
        self.channels, self.strides, self.unused = _try_out(backbone_config, self.num_channels)
        self.backbone: Any = AutoBackbone.from_config(backbone_config)
        self.patch_size = math.lcm(*self.strides)
        names = list(self.backbone.stage_names)
        self.stages = [name for name in names if name != "stem" or backbone_config.model_type == "timm_backbone"]
        self.layers = [len(self.stages) - len(names) + 1 + index % len(names) for index in self.backbone.out_indices]
        self.is_plain = hasattr(backbone_config, "num_hidden_layers") and not hasattr(backbone_config, "depths")

    @property
    def name(self) -> str:
        """As in a sentence, e.g. "Dinov2WithRegisters" or "timm's resnet18"."""
        if self.backbone.config.model_type == "timm_backbone":
            return f"timm's {self.backbone.config.backbone}"
        return type(self.backbone).__name__.removesuffix("Backbone")

    def freeze_unused(self) -> None:
        """Freezes what no map depends on: it would get no gradient."""
        for name, parameter in self.backbone.named_parameters():
            if name in self.unused:
                parameter.requires_grad_(False)

    def padded_size(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Height and width of images, rounded up to whole cells of the coarsest map, which is what the maps cover."""
        return whole_patches(pixel_values.shape[-2:], self.patch_size)

    def forward(
        self, pixel_values: torch.Tensor, output_attentions: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images of any
                size from `patch_size` up.
            output_attentions (`bool`, *optional*): Return attention after softmax, if the backbone has it.

        Returns:
            `feature_maps`, a tuple of `(batch_size, channels, padded_height / stride, padded_width / stride)`, and
            what else the backbone gives if it is asked for it.

        Raises:
            ValueError: if images do not fit, or the backbone does not have what it is asked for.
        """
        if output_attentions and not self.backbone.has_attentions:
            raise ValueError(f"The backbone {self.name} has no attention maps: leave out output_attentions.")
        if kwargs.get("output_hidden_states") and self.backbone.config.model_type == "timm_backbone":
            raise ValueError(f"The backbone {self.name} gives no hidden states: leave out output_hidden_states.")
        check_pixel_values(pixel_values, self.num_channels, self.patch_size)
        pixel_values = pad_to(pixel_values, self.padded_size(pixel_values)).to(self.backbone.dtype)
        return self.backbone.forward_with_filtered_kwargs(
            pixel_values, output_attentions=output_attentions or None, **kwargs
        )


def _try_out(backbone_config: Any, num_channels: int) -> tuple[list[int], list[int], frozenset[str]]:
    """Channels and strides of a backbone's maps, and the names of the parameters that they do not depend on."""
    what = getattr(backbone_config, "backbone", None) or backbone_config.model_type
    try:
        with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
            trial: Any = AutoBackbone.from_config(copy.deepcopy(backbone_config)).eval().requires_grad_(True)
            images = torch.zeros(1, num_channels, TRIAL_SIZE, TRIAL_SIZE, dtype=trial.dtype)
            maps = trial(images).feature_maps
            torch.stack([one.float().sum() for one in maps]).sum().backward()
    except Exception as error:  # of many kinds, from deep inside
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{what!r} cannot be a backbone, which must give feature maps of images of any size: {reason}"
        ) from error
    shapes = [tuple(one.shape[1:]) for one in maps]  # (C, rows, columns) of each
    if any(len(shape) != 3 or shape[1] != shape[2] or TRIAL_SIZE % shape[1] for shape in shapes):
        raise ValueError(
            f"{what!r} cannot be a backbone: for {TRIAL_SIZE}x{TRIAL_SIZE} pixels its maps have the shapes {shapes}, "
            "but (channels, rows, columns) in whole cells are needed."
        )
    unused = frozenset(name for name, parameter in trial.named_parameters() if parameter.grad is None)
    return [shape[0] for shape in shapes], [TRIAL_SIZE // shape[1] for shape in shapes], unused


__all__ = ["UnipBackboneEncoder"]
