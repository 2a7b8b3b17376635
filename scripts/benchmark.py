# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures this library beside what it is compared to, in one run: cost of the import, image processing, attention.

    unip benchmark
    unip benchmark --only import
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence


MEASUREMENTS = ("import", "processor", "attention")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "unip benchmark", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=MEASUREMENTS, nargs="+", default=MEASUREMENTS, help="default: all")
    parser.add_argument("--repeats", type=int, default=9, help="of which the median counts (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        raise ValueError(f"--repeats is at least 1, not {options.repeats}.")
    return options


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


def measure_import(repeats: int) -> None:
    code = """
import json, resource, sys, time
def state(): return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = state(); import transformers; between = state(); import unip_hf; after = state()
unit = 1024 ** (2 if sys.platform == "darwin" else 1)
print(json.dumps([between[0] - before[0], after[0] - between[0], between[1] / unit, (after[1] - between[1]) / unit]))
"""
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code])) for _ in range(repeats)]
    theirs, ours, their_memory, our_memory = (statistics.median(column) for column in zip(*runs))
    print("import unip_hf, on top of import transformers")
    row("time", 1000 * ours, 1000 * theirs, "ms")
    row("memory", our_memory, their_memory, "MB")


def measure_processor(repeats: int) -> None:
    import numpy as np
    from transformers import SegformerImageProcessor

    from unip_hf import UnipImageProcessor

    random = np.random.default_rng(0)
    eight_bit = random.integers(0, 256, (512, 640, 3), dtype=np.uint8)
    counts = random.integers(6743, 7077, (512, 640), dtype=np.uint16)
    size = {"height": 512, "width": 512}
    ours, stock = UnipImageProcessor(size=size), SegformerImageProcessor(size=size)
    calls = [
        lambda: ours(eight_bit, return_tensors="pt", input_data_format="channels_last"),
        lambda: ours(counts, return_tensors="pt"),
        lambda: stock(eight_bit, return_tensors="pt"),
    ]
    colour, sixteen_bit, theirs = median_milliseconds(calls, repeats)
    print("UnipImageProcessor beside SegformerImageProcessor, 640x512 to 512x512")
    row("8-bit, 3 channels, both", colour, theirs, "ms")
    row("16-bit, percentiles (the other takes 8-bit only)", sixteen_bit, theirs, "ms")


def measure_attention(repeats: int) -> None:
    import torch

    from unip_hf import UnipConfig, UnipForSemanticSegmentation

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = UnipConfig.from_size("tiny", num_labels=21, image_size=512, layer_scale_init_value=1.0)
    model = UnipForSemanticSegmentation(config).eval().to(device)
    pixel_values = torch.randn(1, 3, 512, 512, device=device)

    def run(implementation: str) -> None:
        model.set_attn_implementation(implementation)
        with torch.inference_mode():
            model(pixel_values)
        if device == "cuda":
            torch.cuda.synchronize()

    ours, theirs = median_milliseconds([lambda: run("sdpa"), lambda: run("eager")], repeats)
    print(f"UNIP-Tiny segmentation at 512x512 on {device}, sdpa beside eager attention")
    row("forward, batch 1", ours, theirs, "ms")


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {options.repeats} repeats"
    )
    measurements = {"import": measure_import, "processor": measure_processor, "attention": measure_attention}
    for name in options.only:
        measurements[name](options.repeats)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
