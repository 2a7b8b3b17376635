# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Segmentation side by side: UNIP in several dtypes and runtimes, its plain computation, and other networks."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unip_hf.progress import Progress

from .measuring import DTYPES, MatrixPeak, median_ratio, seconds_side_by_side
from .networks import EXPORTED, OTHERS, available_runtimes, count_pass, make_other, make_runner, make_unip
from .pretraining import peak_memory


NAMES = {"plain": "UNIP, plain head", "fast": "UNIP", **OTHERS}


@dataclass(frozen=True)
class Cell:
    """
    What is measured in one go.

    Args:
        size: Size of UNIP.
        image_size: Height and width in pixels.
        batch_size: Images at once.
        dtypes: Names of [`DTYPES`], the first one for the ratios. Files for other runtimes are fp32.
        runtimes: Of UNIP, names of [`RUNTIMES`]. The plain computation and other networks run eagerly.
        others: Other networks, names of [`OTHERS`].
    """

    size: str
    image_size: tuple[int, int] = (512, 512)
    batch_size: int = 1
    dtypes: tuple[str, ...] = ("fp32", "bf16")
    runtimes: tuple[str, ...] = ("eager",)
    others: tuple[str, ...] = ()

    def contenders(self) -> Iterator[tuple[str, str, str]]:
        """Network, dtype and runtime of each, with what it is compared with first."""
        yield from (("plain", dtype, "eager") for dtype in self.dtypes)
        for dtype in self.dtypes:
            for runtime in self.runtimes:
                if dtype == "fp32" or runtime not in EXPORTED:
                    yield "fast", dtype, runtime
        yield from ((other, dtype, "eager") for other in self.others for dtype in self.dtypes)

    def describe(self) -> str:
        height, width = self.image_size
        images = "1 image" if self.batch_size == 1 else f"{self.batch_size} images"
        return f"UNIP-{self.size.capitalize()}, {images} of {height}x{width}"


def default_cells(device: str) -> list[Cell]:
    """Everything for UNIP-Small at 512x512; other sizes of networks, images and batches beside their plain selves."""
    modes = ("reduce-overhead", "max-autotune") if device == "cpu" else ("max-autotune",)
    runtimes = tuple(runtime for runtime in available_runtimes(device) if runtime not in modes)
    batches = (1, 8) if device == "cuda" else (1,)
    cells = [Cell("small", batch_size=batch, runtimes=runtimes, others=tuple(OTHERS)) for batch in batches]
    dtypes = ("fp32", "bf16") if device == "cuda" else ("fp32",)
    cells += [Cell(size, batch_size=batch, dtypes=dtypes) for size in ("tiny", "base") for batch in batches]
    return [*cells, Cell("small", (480, 640), dtypes=dtypes)]


def draw_images(number: int, height: int, width: int) -> torch.Tensor:
    """Drawn infrared scenes as networks see them, `(number, 3, height, width)`."""
    from unip_hf import UnipImageProcessor
    from unip_hf.data import draw_scene

    processor = UnipImageProcessor(size={"height": height, "width": width})
    frames = [draw_scene(seed)[0] for seed in range(number)]
    return processor(frames, return_tensors="pt")["pixel_values"]


def changed_pixels(logits: torch.Tensor, expected: torch.Tensor, image_size: tuple[int, int]) -> float:
    """The share of pixels that get another class from these logits, `(batch_size, classes, rows, columns)`."""
    ids = [nn.functional.interpolate(one, image_size, mode="bilinear").argmax(1) for one in (logits, expected)]
    return (ids[0] != ids[1]).float().mean().item()


def measure_cell(cell: Cell, repeats: int, peak: MatrixPeak, channels_last: bool = False) -> list[dict[str, Any]]:
    """
    Measures all contenders of a cell side by side.

    Args:
        cell: What is measured.
        repeats: Turns that count.
        peak: Is measured before each turn.
        channels_last: Whether UNIP, but not its plain computation, is given weights and images in this order.

    Returns:
        For each contender the names of the network, the dtype and the runtime, and either `problem`, a sentence, or:
        `first_seconds`, compilation or export and the first pass; `seconds` of each turn; `ratio`, the median of how
        many times as fast as the plain computation in the first dtype; `gflop` of an image; `share_of_peak`;
        `peak_megabytes` beside weights and images, where it is known; and of UNIP `largest_difference` of logits
        from the plain computation in fp32 on the CPU, and the share of `changed_pixels`.
    """
    device, found = peak.device, []
    torch.compiler.reset()  # what was compiled for other shapes would count against the limit
    torch.manual_seed(0)
    unip = {name: make_unip(cell.size, name) for name in ("plain", "fast")}
    unip["fast"].load_state_dict(unip["plain"].state_dict())
    counted: dict[tuple[str, str], tuple[float, float]] = {}
    images = draw_images(cell.batch_size, *cell.image_size)
    with torch.inference_mode():
        expected = unip["plain"](images).logits
    runs: list[Callable[[], torch.Tensor]] = []
    progress = Progress(cell.describe(), len(list(cell.contenders())) + repeats + 1)

    def before_turn() -> None:
        peak.measure()
        progress.update("side by side")

    with tempfile.TemporaryDirectory() as folder:
        for name, dtype, runtime in cell.contenders():
            result: dict[str, Any] = {"network": name, "dtype": dtype, "runtime": runtime}
            found.append(result)
            progress.update(f"{NAMES[name]}, {dtype}, {runtime}")
            try:
                model = unip[name] if name in unip else make_other(name, cell.size, cell.image_size)
                order = torch.channels_last if channels_last and name == "fast" else torch.preserve_format
                place = Path(folder) / runtime
                place.mkdir(exist_ok=True)
                if runtime not in EXPORTED:
                    model = copy.deepcopy(model).to(device, DTYPES[dtype]).to(memory_format=order)
                pixel_values = images.to(device, DTYPES[dtype], memory_format=order)
                started = time.perf_counter()
                run = make_runner(model, runtime, pixel_values, place)
                logits = run().float().cpu()
                result["first_seconds"] = time.perf_counter() - started
                if (name, dtype) not in counted:
                    counted[name, dtype] = count_pass(model, images if runtime in EXPORTED else pixel_values)
            except (RuntimeError, ValueError) as error:
                if name == "plain":
                    raise
                result["problem"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
                continue
            if name in unip:
                result["largest_difference"] = (logits - expected).abs().max().item()
                result["changed_pixels"] = changed_pixels(logits, expected, cell.image_size)
            result["gflop"], megabytes = counted[name, dtype]
            # Neither compiled code on a CPU nor a CUDA graph allocates where it could be counted.
            if runtime == "eager":
                result["peak_megabytes"] = megabytes
            elif runtime == "compiled" and device == "cuda":
                result["peak_megabytes"] = peak_memory(run)
            runs.append(run)
        times = seconds_side_by_side(runs, repeats, before_turn)
        peak.measure()
    progress.close()
    for result, seconds in zip((result for result in found if "problem" not in result), times):
        speed = 1e9 * result["gflop"] * cell.batch_size / statistics.median(seconds)
        result |= {"seconds": seconds, "ratio": median_ratio(seconds, times[0])}
        result["share_of_peak"] = speed / peak.best(result["dtype"])
    return found


def print_cell(cell: Cell, results: Sequence[dict[str, Any]], device: str) -> None:
    """The results of [`measure_cell`] as a table."""
    print(f"{cell.describe()} on {device}, beside the plain computation in {cell.dtypes[0]}", flush=True)
    print(
        f"  {'':<18}{'dtype':<6}{'runtime':<16}{'ms':>9}{'ratio':>7}{'GFLOP':>8}{'of peak':>8}{'MB':>7}"
        f"{'difference':>12}{'pixels':>8}{'first s':>9}"
    )
    for result in results:
        text = f"  {NAMES[result['network']]:<18}{result['dtype']:<6}{result['runtime']:<16}"
        if "problem" in result:
            print(f"{text} left out: {result['problem']}")
            continue
        memory = f"{result['peak_megabytes']:.0f}" if "peak_megabytes" in result else "-"
        text += f"{1000 * statistics.median(result['seconds']):9.1f}{result['ratio']:7.2f}{result['gflop']:8.1f}"
        text += f"{result['share_of_peak']:8.0%}{memory:>7}"
        if "changed_pixels" in result:
            text += f"{result['largest_difference']:12.1e}{result['changed_pixels']:8.2%}"
        else:
            text += f"{'':20}"
        print(f"{text}{result['first_seconds']:9.1f}", flush=True)


def measure_segmentation(
    repeats: int, cells: Sequence[Cell], device: str, channels_last: bool = False
) -> dict[str, Any]:
    """Prints a table for each cell, and returns all that was measured."""
    peak = MatrixPeak(device, sorted({dtype for cell in cells for dtype in cell.dtypes}))
    measured = []
    for cell in cells:
        results = measure_cell(cell, repeats if device == "cuda" else min(repeats, 3), peak, channels_last)
        print_cell(cell, results, device)
        measured.append({**asdict(cell), "contenders": results})
    print(peak.describe())
    return {"device": device, "channels_last": channels_last, "matrix_peak": peak.found, "cells": measured}
