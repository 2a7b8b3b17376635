# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Measures this library beside what it is compared with, in one process: the import, image processing, attention, the
mean-IoU metric; segmentation in several dtypes and runtimes beside its plain computation and other networks;
prediction of a folder, crops and steps of fine-tuning; and for pre-training the loss, several students, the whole step
and the input. Ratios mean more than times: they are medians over turns, one after the other.

    python -m benchmarks
    python -m benchmarks --only segmentation --sizes small --image_sizes 512x512 --batch_sizes 1 8 --output bench.json
    python -m benchmarks --only segmentation --device cuda --all --dtypes fp16 bf16
    python -m benchmarks --only input --images my-images

These run only if they are asked for: `lean_head` (narrower heads), `scaling` (how cost grows), and `pretraining_cost`,
which calculates what pre-training takes on GPUs, without one.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from unip_hf.files import write_whole
from unip_hf.hardware import device_name
from unip_hf.modeling.configuration_unip import UNIP_SIZES
from unip_hf.scripts.options import make_parser

from . import measuring
from .networks import OTHERS, RUNTIMES, available_runtimes
from .segmentation import Cell, default_cells


# Name -> file and function.
MEASUREMENTS = {
    "import": "library.measure_import",
    "processor": "library.measure_processor",
    "attention": "library.measure_attention",
    "metric": "library.measure_metric",
    "segmentation": "segmentation.measure_segmentation",
    "prediction": "prediction.measure_prediction",
    "crops": "training.measure_crops",
    "training_step": "training.measure_training_step",
    "loss": "pretraining.measure_loss",
    "students": "pretraining.measure_students",
    "distillation": "distillation.measure_distillation",
    "fusion": "fusion.measure_fusion",
    "input": "pretraining.measure_input",
}
ON_REQUEST = {
    "lean_head": "lean_head.measure_lean_head",
    "scaling": "scaling.measure_scaling",
    "pretraining_cost": "pretraining.print_cost",
}


def image_size(text: str) -> tuple[int, int]:
    """Height and width of "480x640"."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"a size is written HEIGHTxWIDTH, such as 480x640, got {text!r}")
    return int(height), int(width)


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("benchmark", __doc__)
    parser.add_argument(
        "--only",
        choices=(*MEASUREMENTS, *ON_REQUEST),
        nargs="+",
        default=tuple(MEASUREMENTS),
        metavar="NAME",
        help=textwrap.fill(f"default: {', '.join(MEASUREMENTS)}. On request: {', '.join(ON_REQUEST)}", 95),
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=9,
        help="the median counts; on a CPU, those of networks are at most 3\n(default: %(default)s)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON file for all numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="SVG or PNG file for the curves of scaling")
    parser.add_argument("--images", type=Path, help="folder of JPEG files for input, instead of drawn ones")
    cells = parser.add_argument_group(
        "segmentation", "default: a selection that takes a few minutes; with any of these options, all combinations"
    )
    cells.add_argument("--all", action="store_true", help="tiny, small, base; 512x512, 480x640; batch 1 and 8")
    cells.add_argument("--sizes", choices=UNIP_SIZES, nargs="+", help="of UNIP (default: small)")
    cells.add_argument("--image_sizes", type=image_size, nargs="+", metavar="HEIGHTxWIDTH", help="default: 512x512")
    cells.add_argument("--batch_sizes", type=int, nargs="+", metavar="NUMBER", help="default: 1")
    cells.add_argument(
        "--dtypes", choices=measuring.DTYPES, nargs="+", help="the first is compared with (default: fp32 bf16)"
    )
    cells.add_argument("--runtimes", choices=RUNTIMES, nargs="+", help="of UNIP (default: what the device has)")
    cells.add_argument("--others", choices=OTHERS, nargs="*", help="other networks (default: all)")
    cells.add_argument("--channels_last", action="store_true", help="UNIP's weights and images in this order")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    if options.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {options.repeats}.")
    if options.batch_sizes is not None and min(options.batch_sizes) < 1:
        raise ValueError(f"--batch_sizes must be at least 1, got {' '.join(map(str, options.batch_sizes))}.")
    if options.images is not None and not options.images.is_dir():
        raise ValueError(f"--images must be a folder, got {str(options.images)!r}.")
    for name in ("output", "plot"):
        file = getattr(options, name)
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise ValueError(f"--{name} must be a file in an existing folder, got {str(file)!r}.")
    if options.plot is not None and options.plot.suffix not in (".svg", ".png"):
        raise ValueError(f"--plot must be an SVG or a PNG file, got {str(options.plot)!r}.")
    return options


def choose_device(wanted: str | None) -> str:
    """
    Raises:
        ValueError: if a GPU is wanted and there is none.
    """
    if wanted == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all measurements look for a GPU themselves
        return "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a GPU, and PyTorch finds none: leave the option out.")
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_cells(options: argparse.Namespace, device: str) -> list[Cell]:
    """
    What segmentation measures.

    Raises:
        ValueError: if a runtime cannot run on the device.
    """
    names = ("sizes", "image_sizes", "batch_sizes", "dtypes", "runtimes", "others")
    available = available_runtimes(device)
    missing = [runtime for runtime in options.runtimes or () if runtime not in available]
    if missing:
        raise ValueError(
            f"--runtimes {' '.join(missing)} cannot be used on {device}: choose of {' '.join(available)}."
        )
    if not options.all and all(getattr(options, name) is None for name in names):
        return default_cells(device)
    sizes = options.sizes or (("tiny", "small", "base") if options.all else ("small",))
    image_sizes = options.image_sizes or (((512, 512), (480, 640)) if options.all else ((512, 512),))
    batch_sizes = options.batch_sizes or ((1, 8) if options.all else (1,))
    runtimes = options.runtimes or [name for name in available if name != "max-autotune"]
    others = OTHERS if options.others is None else options.others
    return [
        Cell(size, shape, batch_size, tuple(options.dtypes or ("fp32", "bf16")), tuple(runtimes), tuple(others))
        for size in sizes
        for shape in image_sizes
        for batch_size in batch_sizes
    ]


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    device = choose_device(options.device)
    size = options.sizes[0] if options.sizes else "small"
    extra: dict[str, tuple[Any, ...]] = {
        "input": (options.images,),
        "lean_head": (device, options.sizes or ("tiny", "small", "base")),
        "scaling": (device, size, options.plot),
    }
    if "segmentation" in options.only:
        extra["segmentation"] = (choose_cells(options, device), device, options.channels_last)
    machine = {
        "hardware": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(f"{', '.join(f'{name} {value}' for name, value in machine.items())}, {options.repeats} repeats", flush=True)
    peak = measuring.MatrixPeak(device, ["fp32"])
    measured: dict[str, Any] = {"machine": machine, "repeats": options.repeats}
    for name in options.only:
        peak.measure()
        measuring.rows.clear()
        module, _, function = {**MEASUREMENTS, **ON_REQUEST}[name].partition(".")
        measure = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        found = measure() if name == "pretraining_cost" else measure(options.repeats, *extra.get(name, ()))
        measured[name] = {"rows": [*measuring.rows], **(found or {})}
        write(options.output, measured)  # what an interruption leaves
    peak.measure()
    print(f"in the whole run: {peak.describe()}")
    write(options.output, {**measured, "matrix_peak": peak.found})


def write(file: Path | None, measured: dict[str, Any]) -> None:
    if file is not None:
        with write_whole(file) as staged:
            staged.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
