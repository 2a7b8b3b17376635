# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Small plain ViTs of `transformers` and `timm`, with attention that depends on the image."""

from pathlib import Path

import timm
import torch
from torch import nn


SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
PATCH_16 = {**SIZE, "image_size": 32, "patch_size": 16}
PATCH_14 = {**SIZE, "image_size": 28, "patch_size": 14}
TIMM_SIZE = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}


@torch.no_grad()
def with_large_weights(model: nn.Module) -> nn.Module:
    """As they are initialised, attention is nearly uniform, and zero tokens and norms of 1 hide where they go."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def save_timm(folder: Path, name: str, arguments: dict) -> nn.Module:
    model = with_large_weights(timm.create_model(name, **arguments))
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
    return model
