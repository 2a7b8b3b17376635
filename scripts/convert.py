# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Converts a published checkpoint (UNIP, MAE, DINO, iBOT, DeiT) to a folder that `from_pretrained` loads, or a folder
back to a published file.

    unip convert unip_vit_small_by_mae_large.pth unip-small
    unip convert iter_14400.pth unip-small-soda --model semantic-segmentation
    unip convert --to_published unip-small-soda soda.pth
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unip_hf.files import write_whole
from unip_hf.scripts.options import make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("convert", __doc__)
    parser.add_argument("source", type=Path, help="published file, or with --to_published a folder")
    parser.add_argument("target", type=Path, help="folder to write, or with --to_published a .pth file")
    parser.add_argument("--to_published", action="store_true", help="write a file with the published names")
    parser.add_argument("--overwrite", action="store_true", help="replace a target that exists")
    group = parser.add_argument_group("network", "what the file does not say, or what shall be different")
    models = ["auto", "pre-training", "semantic-segmentation", "linear-segmentation", "encoder"]
    group.add_argument("--model", choices=models, default="auto", help="kind of model (default: what the file holds)")
    group.add_argument("--num_attention_heads", type=int, help="heads, for widths that are not the paper's")
    group.add_argument("--last_layer_num_attention_heads", type=int, help="heads of the last block")
    group.add_argument("--feature_layers", type=int, nargs="+", help="blocks that segmentation reads, from 1")
    group.add_argument("--image_size", type=int, help="resize the position table to this image size in pixels")
    group.add_argument("--num_channels", type=int, choices=[1, 3], help="input channels")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    return command_parser().parse_args(arguments)


def convert(options: argparse.Namespace) -> None:
    """Published file to folder."""
    from unip_hf import (
        UnipForLinearSegmentation,
        UnipForPreTraining,
        UnipForSemanticSegmentation,
        UnipImageProcessor,
        UnipModel,
    )
    from unip_hf.hub import convert_checkpoint, read_checkpoint

    classes = {
        "pre-training": UnipForPreTraining,
        "semantic-segmentation": UnipForSemanticSegmentation,
        "linear-segmentation": UnipForLinearSegmentation,
        "encoder": UnipModel,
    }
    tensors, beside = read_checkpoint(options.source)
    if options.model == "auto":
        options.model = "pre-training"
        if "decode_head.conv_seg.weight" in tensors:
            has_pyramid = "decode_head.bottleneck.conv.weight" in tensors
            options.model = "semantic-segmentation" if has_pyramid else "linear-segmentation"
    names = ("num_attention_heads", "last_layer_num_attention_heads", "feature_layers", "image_size", "num_channels")
    overrides = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    model = convert_checkpoint({"model": tensors, **beside}, classes[options.model], **overrides)
    # The published fine-tuning normalises with 96.9255 and 47.8976 of 255, and resizes as OpenCV does.
    fine_tuned: dict[str, Any] = {"image_mean": [96.9255 / 255], "image_std": [47.8976 / 255], "antialias": False}
    settings = fine_tuned if "segmentation" in options.model else {}

    with write_whole(options.target) as staged:
        model.save_pretrained(staged)
        UnipImageProcessor(num_channels=model.config.num_channels, **settings).save_pretrained(staged)


def convert_back(options: argparse.Namespace) -> None:
    """Folder to published file."""
    import torch
    from transformers import AutoConfig

    import unip_hf
    from unip_hf.hub import to_published_state_dict

    if not (options.source / "config.json").is_file():
        raise ValueError(f"{str(options.source)!r} is no checkpoint folder: it has no config.json.")
    config = AutoConfig.from_pretrained(options.source)
    architecture = (config.architectures or ["none"])[0]
    if config.model_type != "unip" or not hasattr(unip_hf, architecture):
        raise ValueError(f"{str(options.source)!r} holds {architecture} ({config.model_type}), not a UNIP model.")
    model = getattr(unip_hf, architecture).from_pretrained(options.source)
    state_dict = to_published_state_dict(model)
    if "Segmentation" in architecture:
        classes = tuple(config.id2label[index] for index in range(config.num_labels))
        layers = list(config.feature_layers or [config.num_hidden_layers])
        layers *= 4 if "Semantic" in architecture and len(layers) == 1 else 1
        indices = [number - 1 for number in layers]
        content = {"state_dict": state_dict, "meta": {"CLASSES": classes, "config": f"out_indices={indices}"}}
    else:
        last_heads = config.last_layer_num_attention_heads or config.num_attention_heads
        content = {"model": state_dict, "args": argparse.Namespace(last_heads=last_heads)}
    with write_whole(options.target) as staged:
        torch.save(content, staged)


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("unip_hf").setLevel(logging.INFO)
    if not options.source.exists():
        raise FileNotFoundError(f"There is no {str(options.source)!r}.")
    if options.target.exists() and not options.overwrite:
        raise ValueError(f"{str(options.target)!r} exists: choose another target or add --overwrite.")
    (convert_back if options.to_published else convert)(options)
    print(f"Wrote {options.target}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
