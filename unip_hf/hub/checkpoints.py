# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What users name a checkpoint by: a folder, a model on the Hub, or a size for a random start."""

from pathlib import Path

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


__all__ = ["is_random_start", "load_config"]
