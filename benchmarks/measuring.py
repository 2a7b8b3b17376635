# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Times side by side, and how fast and how quiet the machine is."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from unip_hf.training.speed import measure_matrix_peak


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NOISY = 0.2  # how far the matrix peak may vary, and what share of its cores a process may lack

rows: list[dict[str, Any]] = []  # what `row` printed, for the JSON file


def row(name: str, ours: float, theirs: float, unit: str) -> None:
    rows.append({"name": name, "ours": ours, "theirs": theirs, "unit": unit, "ratio": ours / theirs})
    print(f"  {name:<52}{ours:10.2f} {unit}   {theirs:10.2f} {unit}   ratio {ours / theirs:.2f}")


def wait_for(device: str) -> None:
    """Waits until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_side_by_side(
    functions: Sequence[Callable[[], object]], repeats: int, before_each_turn: Callable[[], object] = lambda: None
) -> list[list[float]]:
    """
    The times of each function. They take turns, so that a busy machine slows all of them. A first turn, which is not
    counted, warms up. A function waits for its device itself.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        before_each_turn()
        for function, taken in zip(functions, times):
            started = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - started)
    return times


def median_milliseconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median time of each function, side by side."""
    return [1000 * statistics.median(taken) for taken in seconds_side_by_side(functions, repeats)]


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """How many times as fast as the others these are: the median of the ratios of each turn."""
    return statistics.median(other / time for time, other in zip(times, others))


class MatrixPeak:
    """
    What the machine multiplies in a second, the best of a few square matrices. It is measured again and again.
    Something else is running where the results differ, or where a CPU gives the threads less time than passes.

    Args:
        device: "cpu" or "cuda".
        dtypes: Names of [`DTYPES`].
    """

    def __init__(self, device: str, dtypes: Sequence[str]):
        self.device = device
        self.found: dict[str, list[float]] = {name: [] for name in dtypes}  # operations per second
        self.shares: list[float] = []  # of the cores, on a CPU

    def measure(self) -> None:
        start, start_of_cores = time.perf_counter(), time.process_time()
        for name, found in self.found.items():
            found.append(measure_matrix_peak(torch.device(self.device), DTYPES[name], side_on_cpu=2048))
        if self.device == "cpu":
            taken = torch.get_num_threads() * (time.perf_counter() - start)
            self.shares.append(min(1.0, (time.process_time() - start_of_cores) / taken))

    def best(self, dtype: str) -> float:
        """In operations per second, of what was measured so far."""
        return max(self.found[dtype])

    def spread(self) -> float:
        """How far the slowest measurement stays behind the fastest, from 0 to 1; of the dtypes the largest."""
        return max(1 - min(found) / max(found) for found in self.found.values())

    def describe(self) -> str:
        """A line with the peaks, and a warning where the machine was too busy."""
        peaks = ", ".join(f"{name} {self.best(name) / 1e12:.3g} TFLOP/s" for name in self.found)
        count, spread = len(next(iter(self.found.values()))), self.spread()
        text = f"matrix peak: {peaks}; measured {count} times, the slowest {spread:.0%} below the fastest"
        problems = [f"the peak varies by {spread:.0%}"] if spread > NOISY else []
        share = statistics.median(self.shares) if self.shares else 1.0
        if 1 - share > NOISY:
            problems.append(f"other programs leave {share:.0%} of the cores")
        if problems:
            text += f"\nThe machine is too noisy to believe these numbers: {' and '.join(problems)}. Measure again."
        return text
