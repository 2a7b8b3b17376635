# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How fast a run is: images a second, and how much of what its devices can multiply that uses."""

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RunSpeed:
    """
    What the speed of a run is calculated from.

    Args:
        images_per_update (`int`): Of all processes and accumulation steps.
        operations_per_image (`float`, *optional*): Floating-point operations of the networks, forward and backward.
        peak (`float`, *optional*): What all devices together can multiply, in floating-point operations per second.
    """

    images_per_update: int
    operations_per_image: float | None = None
    peak: float | None = None

    def rates(self, num_updates: int, seconds: float) -> dict[str, float]:
        """
        `images_per_second`; `tflops`, the 10^12 operations of the networks in a second, if they are known; and `mfu`,
        model-FLOP utilisation, which is their share of the peak, if that is known as well.
        """
        rates = {"images_per_second": self.images_per_update * num_updates / seconds}
        if self.operations_per_image is not None:
            speed = rates["images_per_second"] * self.operations_per_image
            rates["tflops"] = speed / 1e12
            if self.peak is not None:
                rates["mfu"] = speed / self.peak
        return rates


def measure_matrix_peak(device: torch.device, dtype: torch.dtype, side_on_cpu: int = 1024) -> float:
    """
    Floating-point operations per second of a large matrix product, the best of several. It takes a fraction of a
    second and does not touch torch's random state.
    """
    side = side_on_cpu if device.type == "cpu" else 8192
    # Random, because a GPU multiplies zeros faster than it multiplies numbers.
    generator = torch.Generator(device).manual_seed(0)
    matrix = torch.rand(side, side, generator=generator, device=device, dtype=dtype)
    product = torch.empty_like(matrix)
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.1:
        started = time.perf_counter()
        torch.mm(matrix, matrix, out=product)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times)


__all__ = ["RunSpeed", "measure_matrix_peak"]
