# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What this machine is, and how much memory a process took."""

import contextlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def device_name(device: "str | torch.device") -> str:
    """What the system calls the GPU or the processor that a device of PyTorch is."""
    import torch

    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else cpu_name()


def cpu_name() -> str:
    """What the system calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_megabytes() -> float | None:
    """
    Most memory that this process had at once, since [`forget_peak`] if that was called. (`resource.getrusage` would
    count that of the process that started it.)
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def forget_peak() -> None:
    """Begins [`peak_megabytes`] anew from what the process has now, where the system lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


__all__ = ["cpu_name", "device_name", "forget_peak", "peak_megabytes"]
