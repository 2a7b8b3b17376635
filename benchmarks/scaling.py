# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How the cost of segmentation grows: with the side of the image, the batch, the classes, and processes."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .measuring import DTYPES, median_ratio, seconds_side_by_side
from .networks import NUM_CLASSES, make_unip, prepare


SIDES = (256, 512, 1024, 2048)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
CLASSES = (2, 9, 21, 60, 150)
HEADS = ("plain", "fast")
JOBS = ("inference", "training")


def measure_point(
    repeats: int, device: str, size: str, side: int = 512, batch_size: int = 1, classes: int = NUM_CLASSES
) -> list[dict[str, Any]]:
    """
    Time, memory and operations of one forward pass, with the plain head and with the fast one side by side: in fp32 on
    a CPU, in bf16 on a GPU.
    """
    dtype = "bf16" if device == "cuda" else "fp32"
    pixel_values = torch.randn(batch_size, 3, side, side, device=device, dtype=DTYPES[dtype])
    point = {"size": size, "side": side, "batch_size": batch_size, "classes": classes, "dtype": dtype}
    results, runs = [], []
    for head in HEADS:
        run, gflop, megabytes = prepare(make_unip(size, head, num_labels=classes), pixel_values)
        runs.append(run)
        results.append({**point, "head": head, "gflop": batch_size * gflop, "peak_megabytes": megabytes})
    times = seconds_side_by_side(runs, repeats)
    for result, seconds in zip(results, times):
        result |= {"seconds": seconds, "ratio": median_ratio(seconds, times[0])}
        print(
            f"  {side:4d}x{side:<4d} batch {batch_size:2d}  {classes:3d} classes  {result['head']:<6}"
            f"{1000 * statistics.median(seconds):10.1f} ms  ratio {result['ratio']:.2f}{result['gflop']:10.1f} GFLOP"
            f"{result['peak_megabytes']:8.0f} MB",
            flush=True,
        )
    return results


def run_process(rank: int, num_processes: int, size: str, side: int, num_steps: int, folder: str) -> None:
    """One of several processes with a thread each; the first writes images a second of inference and of training."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=num_processes)
    pixel_values, labels = torch.randn(2, 3, side, side), torch.randint(0, NUM_CLASSES, (2, side, side))
    model = make_unip(size)
    trained = DistributedDataParallel(make_unip(size).train())
    optimizer = torch.optim.AdamW(trained.parameters())

    def infer() -> None:
        with torch.inference_mode():
            model(pixel_values)

    def train() -> None:
        trained(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    speeds = []
    for job in (infer, train):
        job()
        dist.barrier()
        started = time.perf_counter()
        for _ in range(num_steps):
            job()
        dist.barrier()
        speeds.append(num_processes * len(labels) * num_steps / (time.perf_counter() - started))
    if rank == 0:
        (Path(folder) / "speeds").write_text(" ".join(map(str, speeds)))
    dist.destroy_process_group()


def measure_processes(repeats: int, size: str, side: int = 256, num_steps: int = 5) -> list[dict[str, Any]]:
    """
    Images a second of one CPU process and of two that work at once, with one thread each: two networks that segment,
    and one training whose gradients are averaged.
    """
    speeds: dict[int, list[list[float]]] = {1: [], 2: []}
    for _ in range(repeats):
        for number, found in speeds.items():
            with tempfile.TemporaryDirectory() as folder:
                arguments = (number, size, side, num_steps, folder)
                torch.multiprocessing.start_processes(run_process, arguments, nprocs=number, start_method="spawn")
                found.append([float(speed) for speed in (Path(folder) / "speeds").read_text().split()])
    results = []
    for index, job in enumerate(JOBS):
        of_job = {number: [turn[index] for turn in turns] for number, turns in speeds.items()}
        for number, of_turns in of_job.items():
            ratio = median_ratio(of_job[1], of_turns)
            results.append({"job": job, "processes": number, "images_per_second": of_turns, "ratio": ratio})
            speed = statistics.median(of_turns)
            print(f"  {job:<10} processes {number}{speed:10.2f} images/s  ratio {ratio:.2f}", flush=True)
    return results


def measure_scaling(repeats: int, device: str, size: str = "small", plot: Path | None = None) -> dict[str, Any]:
    """
    Prints time, memory and operations of UNIP with the plain head and the fast one, one thing varied at a time.

    Args:
        repeats: Turns that count; on a CPU at most 3.
        device: "cpu" or "cuda".
        size: Of UNIP.
        plot: File for a picture.

    Returns:
        Lists of what [`measure_point`] and [`measure_processes`] return, under `"side"`, `"batch_size"`, `"classes"`
        and `"processes"`.
    """
    repeats, batch_side = (repeats, 512) if device == "cuda" else (min(repeats, 3), 256)
    print(f"how the cost of UNIP-{size.capitalize()} grows, on {device}; ratio: to the plain head, or to one process")
    ways: dict[str, list[dict[str, int]]] = {
        "side": [{"side": side} for side in SIDES],
        "batch_size": [{"side": batch_side, "batch_size": number} for number in BATCH_SIZES],
        "classes": [{"classes": number} for number in CLASSES],
    }
    found = {
        way: [result for point in points for result in measure_point(repeats, device, size, **point)]
        for way, points in ways.items()
    }
    found["processes"] = measure_processes(repeats, size)
    if plot is not None:
        from .scaling_plot import draw_scaling

        draw_scaling(found, plot)
    return found
