# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How long a model takes for an image, and how much memory it needs, measured on this machine."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..analysis.cost import image_inputs
from ..hardware import device_name, forget_peak, peak_megabytes


@dataclass(frozen=True)
class Speed:
    """
    Args:
        hardware: Name of the processor.
        threads: Threads that PyTorch used; `None` on a GPU.
        dtype: Type of the weights, such as `"float32"`.
        size: Side of the square image in pixels, or height and width.
        seconds: Time for one image: median of several forward passes, without reading and scaling.
        megabytes: Peak memory: PyTorch's on a GPU, otherwise that of the whole process with its libraries. `None` if
            the system does not report it.
    """

    hardware: str
    threads: int | None
    dtype: str
    size: int | tuple[int, int]
    seconds: float
    megabytes: float | None

    @property
    def height_and_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def measure_speed(model: nn.Module, size: int | tuple[int, int], repeats: int = 5, **options: Any) -> list[Speed]:
    """
    Measures a model on the CPU, and on the GPU if there is one.

    Args:
        model: In evaluation mode, on the CPU, where it is again afterwards.
        size: Side of the image in pixels, or height and width.
        repeats: Forward passes that are measured, after a first one that warms up.
        options: Further arguments of the forward pass.

    Raises:
        ValueError: if the model does not run here.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    try:
        return [_measure_on(device, model, size, repeats, options) for device in devices]
    except RuntimeError as error:
        raise ValueError(f"The speed cannot be measured (--no_speed leaves it out): {error}") from error
    finally:
        model.cpu()


def _measure_on(
    device: str, model: nn.Module, size: int | tuple[int, int], repeats: int, options: dict[str, Any]
) -> Speed:
    is_cpu = device == "cpu"
    if is_cpu:
        forget_peak()
    else:
        torch.cuda.reset_peak_memory_stats()
    model.to(device)
    inputs: dict[str, Any] = image_inputs(model, *((size, size) if isinstance(size, int) else size))
    pixel_values = inputs.pop("pixel_values")
    for name, value in options.items():
        inputs[name] = value.to(device) if isinstance(value, torch.Tensor) else value
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            started = time.perf_counter()
            model(pixel_values, **inputs)
            if not is_cpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return Speed(
        hardware=device_name(device),
        threads=torch.get_num_threads() if is_cpu else None,
        dtype=str(pixel_values.dtype).removeprefix("torch."),
        size=size,
        seconds=statistics.median(seconds[1:]),
        megabytes=peak_megabytes() if is_cpu else torch.cuda.max_memory_allocated() / 2**20,
    )


__all__ = ["Speed", "measure_speed"]
