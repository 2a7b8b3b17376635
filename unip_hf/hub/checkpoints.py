# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What users name a checkpoint by: a folder, a model on the Hub, or a size for a random start."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from ..modeling.configuration_unip import UNIP_SIZES, UnipConfig


def is_random_start(checkpoint: str) -> bool:
    """Whether this names one of the paper's sizes rather than a checkpoint."""
    return checkpoint in UNIP_SIZES and not Path(checkpoint).exists()


def load_config(checkpoint: str) -> PreTrainedConfig:
    """
    The configuration of a checkpoint, or of a size.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it is a file, holds several checkpoints, or its configuration is damaged.
    """
    if is_random_start(checkpoint):
        return UnipConfig.from_size(checkpoint)
    if Path(checkpoint).is_file():
        raise ValueError(f"{checkpoint!r} is a file: make a folder of it first, `unip convert {checkpoint} FOLDER`.")
    try:
        return AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        inside = sorted(path.parent.name for path in Path(checkpoint).glob("*/config.json"))
        if inside:
            raise ValueError(f"{checkpoint!r} holds several checkpoints, {', '.join(inside)}: choose one.") from error
        if Path(checkpoint, "config.json").exists():
            raise ValueError(f"The configuration in {checkpoint!r} cannot be used: {error}") from error
        raise OSError(f"There is no checkpoint {checkpoint!r}, nor could a model of that name be had.") from error


def fingerprint(model: nn.Module, processor: Any) -> str:
    """
    A number that is another one as soon as weights or configuration of the model or its processor change; that a
    checkpoint was saved again, by whichever version of `transformers`, does not change it.

    Args:
        model: With a `config`, on any device.
        processor: Its image processor.

    Returns:
        SHA-256 as 64 hexadecimal digits.
    """
    parts: list[Any] = [model.config, processor]
    settings = [_kept_by_saving(part.to_dict()) for part in parts]
    content = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _kept_by_saving(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _kept_by_saving(value) if isinstance(value, dict) and "model_type" in value else value  # e.g. a backbone
        for key, value in settings.items()
        if key not in _CHANGED_BY_SAVING
    }


_CHANGED_BY_SAVING = {"_name_or_path", "architectures", "auto_map", "dtype", "transformers_version"}

__all__ = ["fingerprint", "is_random_start", "load_config"]
