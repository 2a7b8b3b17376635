# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Segments images, folders of images, multi-page TIFF files and videos with any semantic segmentation model.

    unip predict unip-small-soda image.png -o prediction
    unip predict unip-small-soda recordings "flights/**/*.tif" clip.mp4 -o prediction --save_scores
    unip predict exported/model.onnx image.png -o prediction
    unip predict fused thermal.png --auxiliary visible.jpg -o prediction
    unip predict fused thermal/ --auxiliary visible/ -o prediction

In the output folder, results have the names of the files they belong to; pages and video frames are numbered from 0:

    masks/NAME.png           class ids; 8 bits, 16 bits above 256 classes
    overlays/NAME.png        the image with its segmentation; overlays/NAME.mp4 for a video
    scores/NAME.npz          with --save_scores: "probabilities", float16 (classes, height, width)
    predict.json             model, settings, inputs, names and colours of the classes, versions

A model of pairs reads an infrared and a visible image of the same scene, aligned and of the same size. Infrared ones
are the inputs and visible ones are --auxiliary, also if the visible image is the main one of the model.

If it was interrupted, the same command goes on where it stopped.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.files import read_json
from unip_hf.scripts.options import add_inference_options, choose_precision, make_inference_settings, make_parser


if TYPE_CHECKING:
    import torch

    from unip_hf.inference import InferenceSettings


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("predict", __doc__)
    parser.add_argument(
        "model", help="folder of a semantic segmentation model, its name on the Hub, or\nwhat `unip export` wrote"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        help="images, TIFF files of several pages, videos, folders with such files at\n"
        'any depth, quoted patterns with *, ?, [...] and ** ("flights/**/*.tif")',
    )
    parser.add_argument(
        "--auxiliary",
        nargs="+",
        metavar="VISIBLE",
        help="for a model of pairs: the visible image of each infrared input, as files,\nfolders or patterns. One "
        "file and one file are a pair; others belong together if\ntheir paths below the given folders are the same, "
        "apart from the suffix and an\nending _visible or _rgb",
    )
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output_dir", type=Path, required=True, help="folder for the results")
    output.add_argument("--no_overlay", action="store_true", help="write no overlays")
    output.add_argument("--opacity", type=float, default=0.5, help="of overlays, 0 to 1 (default: %(default)s)")
    output.add_argument("--save_scores", action="store_true", help="write the probabilities of all classes")
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results of another model, other settings or other inputs in the\n"
        "output folder; files with other names stay",
    )
    output.add_argument(
        "--skip_unreadable", action="store_true", help="go on after a file that cannot be read, and list it at the end"
    )
    output.add_argument("--every", type=int, default=1, help="take every n-th frame of videos (default: %(default)s)")
    inference = add_inference_options(parser)
    inference.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    if not 0 <= options.opacity <= 1:
        raise ValueError(f"--opacity must be between 0 and 1, got {options.opacity}.")
    if options.every < 1:
        raise ValueError(f"--every must be at least 1, got {options.every}.")
    return options


def choose_device(name: str | None) -> "torch.device":
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


def leave_out_packages(model: str) -> None:
    """
    Keeps `transformers` from importing packages wherever they are installed, which takes longer than everything else,
    if the model is one of UNIP. Those with a backbone of timm need them. Not in a process that did more before.
    """
    try:
        config = read_json(Path(model, "config.json"))
    except (OSError, ValueError):  # no folder of a model: loading it says what is wrong
        return
    is_plain = isinstance(config, dict) and config.get("model_type") == "unip" and not config.get("backbone_config")
    if is_plain and "transformers.image_utils" not in sys.modules:
        for package in ("accelerate", "scipy", "torchvision"):
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]


def describe_run(
    options: argparse.Namespace, settings: "InferenceSettings", model: Any, processor: Any, dtype: str
) -> dict[str, Any]:
    """Content of predict.json."""
    import numpy
    import PIL
    import torch
    import transformers

    from unip_hf import __version__
    from unip_hf.inference.loading import fingerprint
    from unip_hf.inference.precision import MIXED_PRECISION
    from unip_hf.pictures import segmentation_palette

    names = sorted(model.config.id2label.items())
    palette = segmentation_palette(names[-1][0] + 1).tolist()
    shared = ("flip", "scales", "opacity", "every")
    return {
        "model": options.model,
        "fingerprint": fingerprint(model, processor),
        "settings": {
            "window_size": settings.window_size,
            "stride": settings.stride,
            **{name: getattr(options, name) for name in shared},
            "mixed_precision": MIXED_PRECISION[dtype],
            **({"auxiliary": list(map(os.path.abspath, options.auxiliary))} if options.auxiliary else {}),
        },
        "dtype": dtype,
        "inputs": [os.path.abspath(path) for path in options.inputs],
        "classes": [{"id": index, "name": name, "color": palette[index]} for index, name in names],
        "versions": {
            "unip_hf": __version__,
            **{module.__name__: module.__version__ for module in (torch, transformers, numpy, PIL)},
        },
    }


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    leave_out_packages(options.model)
    import torch
    from transformers.utils import logging

    from unip_hf.inference import load_segmentation_model, reads_pairs
    from unip_hf.inference.precision import CompiledModel
    from unip_hf.inference.predictor import Predictor
    from unip_hf.inference.results import ResultFolder
    from unip_hf.inference.sources import find_pairs, find_sources

    logging.disable_progress_bar()
    results = ResultFolder(options.output_dir)
    device = choose_device(options.device)
    unreadable: list[str] | None = [] if options.skip_unreadable else None
    if options.auxiliary:
        sources = find_pairs(options.inputs, options.auxiliary, options.output_dir, unreadable)
    else:
        sources = find_sources(options.inputs, exclude=options.output_dir, unreadable=unreadable)
    model, processor = load_segmentation_model(options.model, device)
    if reads_pairs(model) != bool(options.auxiliary):
        wanted = "one image at a time: leave out --auxiliary."
        if not options.auxiliary:
            wanted = "pairs: give infrared images as inputs, and the visible ones of the same scenes with --auxiliary."
        raise ValueError(f"The model {options.model!r} reads {wanted}")
    settings = make_inference_settings(options, model)
    dtype = choose_precision(options, model, device)
    predictor = Predictor(
        CompiledModel(model, settings.batch_size) if options.compile else model,
        processor,
        results,
        settings,
        opacity=options.opacity,
        with_overlays=not options.no_overlay,
        with_scores=options.save_scores,
        dtype=dtype,
    )
    results.resume(describe_run(options, settings, model, processor, dtype), options.overwrite)
    started = time.monotonic()
    try:
        segmented, already = predictor.run(sources, options.every, unreadable)
    except (ValueError, FileNotFoundError) as error:
        stays = f" Finished results stay in {options.output_dir}." if results.file.is_file() else ""
        raise ValueError(
            f"{str(error).rstrip('.')}.{stays} Repair or convert the file and run the same command again, or add "
            "--skip_unreadable."
        ) from error
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The memory of {device} is too small: lower --batch_size, or choose --device cpu ({error})."
        ) from error
    if not segmented and not already:
        raise ValueError(f"No frame could be read: {(unreadable or [''])[0]}")
    there = f" ({already} more were there already)" if already else ""
    speed = f", {(time.monotonic() - started) / segmented:.3f} s a frame" if segmented else ""
    print(f"{segmented} frame{'s' * (segmented != 1)}{there}{speed}: {options.output_dir}")
    if unreadable:
        print(f"{len(unreadable)} could not be read:", *unreadable, sep="\n  ", file=sys.stderr)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
