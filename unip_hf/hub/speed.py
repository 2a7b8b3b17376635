# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How long a saved model takes for an image, and how much memory it needs, measured in a process of its own."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..hardware import cpu_name, peak_megabytes
from .loading import load_publishable


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


def measure_speed(checkpoint: Path, size: int) -> list[Speed]:
    """
    Measures a saved model on the CPU, and on the GPU if there is one.

    Args:
        checkpoint: Folder of the model.
        size: Side of the image in pixels.

    Raises:
        ValueError: if the model does not run here.
    """
    found = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        command = [sys.executable, "-m", __name__, str(checkpoint), str(size), device]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(f"The speed on {device} cannot be measured (--no_speed leaves it out): {reason}")
        found.append(Speed(**json.loads(done.stdout.splitlines()[-1])))
    return found


def measure_here(checkpoint: Path, size: int, device: str, repeats: int = 5) -> Speed:
    """Loads a model and measures it in this process, see [`measure_speed`]."""
    loaded: Any = load_publishable(checkpoint)[0]
    model = loaded.to(device)
    dtype = next(model.parameters()).dtype
    pixel_values = torch.zeros(1, getattr(model.config, "num_channels", 3), size, size, device=device, dtype=dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            started = time.perf_counter()
            model(pixel_values)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    is_cpu = device == "cpu"
    return Speed(
        hardware=cpu_name() if is_cpu else torch.cuda.get_device_name(),
        threads=torch.get_num_threads() if is_cpu else None,
        dtype=str(dtype).removeprefix("torch."),
        size=size,
        seconds=statistics.median(seconds[1:]),  # the first pass warms up
        megabytes=peak_megabytes() if is_cpu else torch.cuda.max_memory_allocated() / 2**20,
    )


__all__ = ["Speed", "measure_here", "measure_speed"]


if __name__ == "__main__":
    folder, side, device_name = sys.argv[1:]
    print(json.dumps(asdict(measure_here(Path(folder), int(side), device_name))))
