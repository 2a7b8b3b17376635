# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The whole step of distillation, beside one that is written down plainly."""

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch

from unip_hf import UnipForPreTraining, UnipImageProcessor
from unip_hf.distillation import ATTENTION, DistillationInput, Students, Teacher, attention_distillation_loss
from unip_hf.scripts.pretraining import count_operations

from .measuring import MatrixPeak, median_ratio, seconds_side_by_side, wait_for
from .pretraining import loss_of_students, make_optimizer, make_students, make_teacher, peak_memory


SIDE = 224  # of the images, in pixels
UPDATES = {"cpu": 1, "cuda": 4}  # at once; training hardly ever waits for a GPU


def train(compute_loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, device: str) -> None:
    """A few updates."""
    for _ in range(UPDATES[device]):
        compute_loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    wait_for(device)


def plain_step(network: UnipForPreTraining, student: str, batch_size: int, device: str) -> Callable[[], None]:
    """Images are normalised in three channels on the host, the teacher is in fp32, attention maps are whole."""
    with torch.device(device):
        networks = make_students((student,), network.config.num_attention_heads)
    students = Students(dict(networks), attention_distillation_loss).train()  # type: ignore[arg-type]
    optimizer = make_optimizer(students)
    pixel_values = torch.randn(batch_size, 3, SIDE, SIDE)

    def compute_loss() -> torch.Tensor:
        return loss_of_students(network, students, pixel_values.to(device), is_half=device == "cuda")

    return lambda: train(compute_loss, optimizer, device)


def library_step(
    network: UnipForPreTraining, student: str, batch_size: int, device: str, is_compiled: bool = False
) -> tuple[Callable[[], None], float | None]:
    """As `unip distill` computes it with `--mixed_precision bf16` on a GPU; and its operations for one image."""
    is_cuda = device == "cuda"
    teacher = Teacher(copy.deepcopy(network).to(torch.bfloat16) if is_cuda else network, len(network.unip.layers))
    with torch.device(device):
        students = make_students((student,), teacher.num_attention_heads).train()
    num_operations = count_operations(SIDE, ATTENTION, teacher, students)
    optimizer = make_optimizer(students, fused=True)
    if is_compiled:
        teacher.compile()
        students[student].compile()
    inputs = DistillationInput(teacher, UnipImageProcessor())
    images = torch.randint(256, (batch_size, 1, SIDE, SIDE), dtype=torch.uint8)
    if is_cuda:
        images = images.pin_memory()

    def compute_loss() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=is_cuda):
            return students(*inputs(images.to(device, non_blocking=True))).sum()

    return lambda: train(compute_loss, optimizer, device), num_operations


def measure_distillation(
    repeats: int, teacher: tuple[str, int] = ("large", 18), student: str = "small", batch_size: int | None = None
) -> dict[str, Any]:
    """
    Prints images a second, share of the matrix peak and peak memory beside what exists before the step.

    Args:
        repeats: The median counts; at most 3 on a CPU.
        teacher: Size and block of the teacher, which has random weights.
        student: Size of the student.
        batch_size: Images at once; by default 256 on a GPU, 2 on a CPU.

    Returns:
        The same numbers.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, usual, repeats = ("bf16", 256, repeats) if device == "cuda" else ("fp32", 2, min(repeats, 3))
    batch_size = batch_size or usual
    with torch.device(device):
        network = make_teacher(*teacher)
    step, num_operations = library_step(network, student, batch_size, device)
    steps = {"plain": plain_step(network, student, batch_size, device), "unip distill": step}
    if device == "cuda":
        steps["unip distill --compile"], _ = library_step(network, student, batch_size, device, is_compiled=True)
    peak = MatrixPeak(device, [dtype])
    times = seconds_side_by_side(list(steps.values()), repeats, peak.measure)
    print(
        f"a step of distillation, {teacher[0]} up to block {teacher[1]} to {student}, {batch_size} images of "
        f"{SIDE}x{SIDE}, {dtype}, on {device}\n  {'':<26}{'images/s':>10}{'ratio':>7}{'of peak':>9}{'MB':>8}"
    )
    measured = []
    for (name, run), taken in zip(steps.items(), times):
        speed = batch_size * UPDATES[device] / statistics.median(taken)
        result = {"name": name, "images_per_second": speed, "ratio": median_ratio(taken, times[0])}
        result["share_of_peak"] = speed * (num_operations or 0.0) / peak.best(dtype)
        result["peak_megabytes"] = peak_memory(run)
        measured.append(result)
        print(
            f"  {name:<26}{speed:10.1f}{result['ratio']:7.2f}{result['share_of_peak']:9.0%}"
            f"{result['peak_megabytes']:8.0f}",
            flush=True,
        )
    print(f"  {(num_operations or 0.0) / 1e9:.1f} GFLOP for an image; {peak.describe()}")
    return {"batch_size": batch_size, "dtype": dtype, "operations": num_operations, "steps": measured}
