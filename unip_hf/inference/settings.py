# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How images are segmented: windows, flipping, scales, and how many windows at once."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .exported import EndToEndModel, ExportedModel


@dataclass(frozen=True)
class InferenceSettings:
    """
    How [`segment_image`] goes over an image; the defaults are the published evaluation.

    Args:
        window_size (`int`, *optional*, defaults to 512): Side of the sliding window in pixels; `None` takes the whole
            image at once.
        stride (`int`, defaults to 341): Pixels from one window to the next.
        flip (`bool`, defaults to `False`): Whether to average with the mirrored image.
        scales (`tuple[float, ...]`, defaults to `(1.0,)`): Sizes to average over, relative to the processor's.
        batch_size (`int`, defaults to 8): How many windows the model gets at once.
        output_device (`str`, *optional*): Where scores of full size are added up, e.g. `"cpu"` for images whose scores
            do not fit the GPU; by default the model's device.

    Raises:
        ValueError: if a value is out of range.
    """

    window_size: int | None = 512
    stride: int = 341
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch_size: int = 8
    output_device: str | None = None

    def __post_init__(self) -> None:
        if self.window_size is not None and not 1 <= self.stride <= self.window_size:
            raise ValueError(
                "window_size must be at least 1, and stride must be from 1 to window_size so that no pixel is left "
                f"out; got window_size={self.window_size} and stride={self.stride}."
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be one or more positive numbers, got {self.scales}.")

    @classmethod
    def for_model(cls, model: nn.Module, **changes: Any) -> "InferenceSettings":
        """
        The default settings for a model: windows of the size that it was trained on, two thirds of a window apart.

        Args:
            model: Segmentation model. The window of a UNIP model is the longer side of its `config.image_size`, that
                of any other model 512 pixels, and of a file for one image size at most the shorter side of that. An
                [`EndToEndModel`] takes whole frames: its `window_size` is `None`.
            changes: Fields that differ from the defaults. `stride` follows from `window_size` if it is left out.

        Raises:
            ValueError: if a value is out of range.
        """
        if isinstance(model, EndToEndModel):
            changes["window_size"] = None
        elif "window_size" not in changes:
            config: Any = model.config
            size = config.image_size if config.model_type == "unip" else 512
            changes["window_size"] = size if isinstance(size, int) else max(size)
            if isinstance(model, ExportedModel) and model.image_size is not None:
                changes["window_size"] = min(changes["window_size"], *model.image_size)
        if changes["window_size"] is not None:
            changes.setdefault("stride", max(1, round(changes["window_size"] * 2 / 3)))
        return cls(**changes)


DEFAULT_SETTINGS = InferenceSettings()


def reads_pairs(model: nn.Module) -> bool:
    """Whether a model reads pairs of an infrared and a visible image."""
    config: Any = getattr(model, "config", None)
    return getattr(config, "fusion", None) is not None


__all__ = ["DEFAULT_SETTINGS", "InferenceSettings", "reads_pairs"]
