# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How long a model takes for an image, and how much memory it needs, measured on this machine."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..hardware import cpu_name, peak_megabytes
from ..inference.windows import reads_pairs


@dataclass(frozen=True)
class Speed:
    """
    Args:
        hardware: Name of the processor.
        threads: Threads that PyTorch used; `None` on a GPU.
        dtype: Type of the weights, such as `"float32"`.
        size: Side of the square image in pixels.
        seconds: Time for one image: median of several forward passes, without reading and scaling.
        megabytes: Peak memory: PyTorch's on a GPU, otherwise that of the whole process with its libraries. `None` if
            the system does not report it.
    """

    hardware: str
    threads: int | None
    dtype: str
    size: int
    seconds: float
    megabytes: float | None


def measure_speed(model: PreTrainedModel, size: int, repeats: int = 5) -> list[Speed]:
    """
    Measures a model on the CPU, and on the GPU if there is one.

    Args:
        model: In evaluation mode, on the CPU, where it is again afterwards.
        size: Side of the image in pixels.
        repeats: Forward passes that are measured, after a first one that warms up.

    Raises:
        ValueError: if the model does not run here.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    try:
        return [_measure_on(device, model, size, repeats) for device in devices]
    except RuntimeError as error:
        raise ValueError(f"The speed cannot be measured (--no_speed leaves it out): {error}") from error
    finally:
        model.cpu()


def _measure_on(device: str, model: Any, size: int, repeats: int) -> Speed:
    is_cpu = device == "cpu"
    if not is_cpu:
        torch.cuda.reset_peak_memory_stats()
    model.to(device)
    shape = (1, getattr(model.config, "num_channels", 3), size, size)
    inputs = {"pixel_values": torch.zeros(shape, device=device, dtype=model.dtype)}
    if reads_pairs(model):
        others = (1, model.config.auxiliary_num_channels, size, size)
        inputs["auxiliary_pixel_values"] = torch.zeros(others, device=device, dtype=model.dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            started = time.perf_counter()
            model(**inputs)
            if not is_cpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return Speed(
        hardware=cpu_name() if is_cpu else torch.cuda.get_device_name(),
        threads=torch.get_num_threads() if is_cpu else None,
        dtype=str(model.dtype).removeprefix("torch."),
        size=size,
        seconds=statistics.median(seconds[1:]),
        megabytes=peak_megabytes() if is_cpu else torch.cuda.max_memory_allocated() / 2**20,
    )


__all__ = ["Speed", "measure_speed"]
