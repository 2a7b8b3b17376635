# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
What networks cost for one image: parameters, multiply-adds with and without the products of attention, by part, and
time and peak memory on this machine. Several models are compared with the first. Where the mean IoU is known, also the
paper's "mIoU per FLOP".

    unip cost tiny small base large --no_speed
    unip cost outputs/unip-small/best outputs/unip-base/best --size 480 640
    unip cost small large --mean_iou 0.644 0.644 --csv cost.csv

A size of UNIP, an encoder or a backbone is counted as the network that `unip finetune` makes of it for crops of 512
pixels; a segmentation model as it is; any other teacher of `unip distill` without a head.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.options import check_positive, make_parser


if TYPE_CHECKING:
    from torch import nn


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("cost", __doc__)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="as for `unip finetune --model` or `unip distill --teacher`: tiny, small, base, large,\na folder or name "
        "on the Hub, timm:NAME, a published file",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[512, 512],
        metavar=("HEIGHT", "WIDTH"),
        help="of the image in pixels (default: 512 512)",
    )
    parser.add_argument("--num_labels", type=int, default=21, help="classes of a new head (default: %(default)s)")
    parser.add_argument(
        "--mean_iou",
        type=float,
        nargs="+",
        metavar="SCORE",
        help="of each model, 0 to 1 (default: as the model card in the folder says, if it says one)",
    )
    parser.add_argument("--no_speed", action="store_true", help="do not measure time and memory on this machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row for each part there")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "num_labels")
    if min(options.size) < 1:
        raise ValueError(f"--size must be at least 1 pixel high and wide, got {' '.join(map(str, options.size))}.")
    if options.mean_iou is not None:
        if len(options.mean_iou) != len(options.models):
            raise ValueError(
                f"--mean_iou must have one score for each of the {len(options.models)} models, got "
                f"{len(options.mean_iou)}."
            )
        if not all(0 <= score <= 1 for score in options.mean_iou):
            raise ValueError(f"--mean_iou must be from 0 to 1, got {' '.join(map(str, options.mean_iou))}.")
    for path in filter(None, (options.json, options.csv)):
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: give the name of a file.")
    return options


def load_network(
    name: str, num_labels: int, height: int, width: int, runs: bool
) -> "tuple[nn.Module, dict[str, Any]]":
    """
    A network to count.

    Args:
        name: As the user named it.
        num_labels: Classes of a new head.
        height, width: Of the image in pixels.
        runs: Whether it is also to be run. Otherwise a size of UNIP needs no memory.

    Returns:
        The network in evaluation mode, and what its forward pass takes beside the image.

    Raises:
        OSError, ValueError: if there is no such network, or none whose cost can be counted.
    """
    import torch
    from transformers import AutoModelForSemanticSegmentation

    from unip_hf import UnipConfig, UnipModel
    from unip_hf.distillation import load_teacher
    from unip_hf.finetuning import load_model
    from unip_hf.hub.pretrained import TIMM_PREFIX, Pretrained, is_published_file
    from unip_hf.inference.exported import is_exported
    from unip_hf.inference.loading import has_segmentation_head, is_random_start, load_config

    classes = {number: str(number) for number in range(num_labels)}
    if is_exported(name):
        raise ValueError(f"{name!r} is an exported model: give the checkpoint that it was made from.")
    if is_random_start(name):
        with nullcontext() if runs else torch.device("meta"):
            encoder = UnipModel(UnipConfig.from_size(name))
            return load_model(Pretrained(name, encoder), classes).eval(), {}
    problem = None
    if not is_published_file(name):
        try:
            if not name.startswith(TIMM_PREFIX) and has_segmentation_head(load_config(name)):
                return AutoModelForSemanticSegmentation.from_pretrained(name).eval(), {}
            return load_model(name, classes).eval(), {}
        except ValueError as error:
            if isinstance(error.__cause__, OSError):  # it cannot be read at all
                raise
            problem = error
    try:
        teacher = load_teacher(name)
    except ValueError as error:
        raise ValueError(str(problem or error).splitlines()[0]) from error
    if isinstance(teacher.model, UnipModel):
        return load_model(Pretrained(name, teacher.model), classes).eval(), {}
    if hasattr(teacher.model, "reset_classifier"):  # of timm
        teacher.model.reset_classifier(0)  # type: ignore[operator]
    num_patches = (height // teacher.patch_size) * (width // teacher.patch_size)
    return teacher.model, teacher.forward_options(1, num_patches)


def recorded_mean_iou(name: str) -> float | None:
    """The mean IoU in the model card of a folder, as `unip evaluate` writes it; `None` if there is none or several."""
    from unip_hf.evaluation.metrics import MAIN_METRIC
    from unip_hf.evaluation.results import load_card

    path = Path(name) / "README.md"
    if not path.is_file():
        return None
    data: Any = load_card(path).data
    scores = [one.metric_value for one in data.eval_results or [] if one.metric_type == MAIN_METRIC.key]
    if len(scores) > 1:
        print(f"{path} has {len(scores)} mean IoUs: choose one with --mean_iou.", flush=True)
    return scores[0] if len(scores) == 1 else None


def measure(name: str, options: argparse.Namespace, mean_iou: float | None) -> dict[str, Any]:
    """Everything about one network."""
    from dataclasses import asdict

    from unip_hf.analysis.cost import count_cost, total_cost
    from unip_hf.hub.speed import measure_speed

    height, width = options.size
    network, inputs = load_network(name, options.num_labels, height, width, runs=not options.no_speed)
    try:
        parts = count_cost(network, height, width, **inputs)
        speeds = []
        if not options.no_speed:
            print(f"Measuring time and memory of {name} (--no_speed leaves it out) ...", flush=True)
            speeds = measure_speed(network, (height, width), **inputs)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    total = total_cost(parts)
    score = recorded_mean_iou(name) if mean_iou is None else mean_iou
    return {
        "model": name,
        "size": options.size,
        "parts": {part: asdict(cost) for part, cost in parts.items()},
        "total": asdict(total),
        "mean_iou": score,
        # In percent for each 10^9 multiply-adds without attention products, as in the paper.
        "mean_iou_per_flop": None if score is None else 100 * score / (total.multiply_adds / 1e9),
        "speed": [asdict(speed) for speed in speeds],
    }


def make_rows(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each part of each network, and one for the whole with all that is not of a part."""
    rows = []
    for record in records:
        rows += [{"model": record["model"], "part": part, **cost} for part, cost in record["parts"].items()]
        measured = record["speed"][-1] if record["speed"] else {}  # on the GPU if there is one
        rows.append(
            {
                "model": record["model"],
                "part": "total",
                **record["total"],
                **{name: record[name] for name in ("ratio", "mean_iou", "mean_iou_per_flop")},
                **{name: measured.get(name) for name in ("seconds", "megabytes")},
            }
        )
    return rows


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for a terminal, without what is not known of any network."""
    import pandas as pd

    columns = {
        "parameters": ("parameters (M)", 1e6, "{:,.2f}"),
        "multiply_adds": ("multiply-adds (G)", 1e9, "{:,.2f}"),
        "with_attention": ("with attention (G)", 1e9, "{:,.2f}"),
        "ratio": ("ratio", 1, "{:.2f}"),
        "mean_iou": ("mean IoU", 1, "{:.4f}"),
        "mean_iou_per_flop": ("% per G", 1, "{:.3f}"),
        "seconds": ("seconds", 1, "{:.3g}"),
        "megabytes": ("memory (MB)", 1, "{:,.0f}"),
    }
    shown = pd.DataFrame()
    rows = [{**row, "with_attention": row["multiply_adds"] + row["attention_products"]} for row in rows]
    shown["model"] = [row["model"] if row["part"] == "encoder" else "" for row in rows]
    shown["part"] = [row["part"] for row in rows]
    for key, (title, unit, form) in columns.items():
        values = [row.get(key) for row in rows]
        if any(value is not None for value in values):
            shown[title] = ["" if value is None else form.format(value / unit) for value in values]
    alignment = ["left", "left"] + ["right"] * (len(shown.columns) - 2)
    return shown.to_markdown(index=False, tablefmt="simple", colalign=alignment, disable_numparse=True)


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    import json

    import pandas as pd
    from transformers.utils import logging

    from unip_hf.files import write_whole

    logging.set_verbosity_error()  # what is new in a network that is only counted does not matter
    logging.disable_progress_bar()
    scores = options.mean_iou or [None] * len(options.models)
    records = [measure(name, options, score) for name, score in zip(options.models, scores)]
    for record in records:
        record["ratio"] = record["total"]["multiply_adds"] / records[0]["total"]["multiply_adds"]
    rows = make_rows(records)
    print(format_rows(rows))
    print(
        f"One image of {options.size[0]}x{options.size[1]} pixels. Totals have the parameters of the auxiliary head, "
        "but not its multiply-adds:\nit serves training alone. The ratio is that of multiply-adds without attention, "
        "to those of the first model."
    )
    for speed in records[0]["speed"][-1:]:
        of_process = "" if speed["threads"] is None else f", {speed['threads']} threads; memory of the whole process"
        print(f"Time and memory: {speed['hardware']}, {speed['dtype']}{of_process}")
    if options.json is not None:
        with write_whole(options.json) as staged:
            staged.write_text(json.dumps(records, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        print(f"Wrote {options.json}")
    if options.csv is not None:
        with write_whole(options.csv) as staged:
            pd.DataFrame(rows).to_csv(staged, index=False, lineterminator="\n")
        print(f"Wrote {options.csv}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
