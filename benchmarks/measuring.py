# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Times side by side."""

import statistics
import time
from collections.abc import Callable, Sequence


def row(name: str, ours: float, theirs: float, unit: str) -> None:
    print(f"  {name:<52}{ours:10.2f} {unit}   {theirs:10.2f} {unit}   ratio {ours / theirs:.2f}")


def median_milliseconds(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median time of each function; they take turns, so that a busy machine slows all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, taken in zip(functions, times):
            started = time.perf_counter()
            function()
            if turn:  # the first turn warms up
                taken.append(1000 * (time.perf_counter() - started))
    return [statistics.median(taken) for taken in times]
