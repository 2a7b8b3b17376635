# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Exports a segmentation model as a file for ONNX Runtime or OpenVINO, and checks it against PyTorch.

    unip export unip-small-soda --format onnx -o exported
    unip export unip-small-soda --format openvino -o exported
    unip export unip-small-soda --format onnx -o exported --end_to_end --frame_size 512 640
    unip export unip-small-soda --format onnx -o exported --int8 --data_dir my-images --split validation

The output folder holds the model file, the configurations of model and processor, and export.json: what was checked
and measured. `unip predict` takes the folder or the file in the place of a checkpoint.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import add_dataset_options, load_dataset, make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("export", __doc__)
    parser.add_argument("checkpoint", help="folder of a semantic segmentation model, or its name on the Hub")
    parser.add_argument("--format", choices=["onnx", "openvino"], required=True)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output_dir", type=Path, required=True, help="folder to write")
    output.add_argument("--overwrite", action="store_true", help="replace an earlier export in it")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="the file takes images of this size only, for networks such as Swin that\ncannot be exported for all",
    )
    graph = parser.add_argument_group("end to end", "the file also scales intensities, resizes, and chooses classes")
    graph.add_argument("--end_to_end", action="store_true", help="the file takes raw frames and gives class ids")
    graph.add_argument(
        "--frame_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the camera's frames in pixels (default: 512 640)",
    )
    graph.add_argument("--frame_dtype", choices=["uint8", "uint16"], help="of infrared frames (default: uint16)")
    int8 = parser.add_argument_group("int8", "for CPUs; the loss in mean IoU is measured if a dataset is given")
    int8.add_argument("--int8", action="store_true", help="also write a file with 8-bit weights (ONNX only)")
    data = add_dataset_options(parser)
    data.add_argument("--split", default="validation", help="default: %(default)s")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    options.has_dataset = options.data_dir is not None or options.dataset != "folder"
    if not options.end_to_end and (options.frame_size or options.frame_dtype):
        raise ValueError("--frame_size and --frame_dtype are for --end_to_end; other files take images of any size.")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from transformers.utils import logging as transformers_logging

    from unip_hf.export.exporting import export_model

    transformers_logging.disable_progress_bar()
    logging.getLogger("unip_hf").setLevel(logging.INFO)
    dataset = load_dataset(options, options.split) if options.has_dataset else None
    dataset_name = options.dataset if options.data_dir is None else str(options.data_dir)
    description = export_model(
        options.checkpoint,
        options.output_dir,
        options.format,
        end_to_end=options.end_to_end,
        frame_size=tuple(options.frame_size or (512, 640)),
        frame_dtype=options.frame_dtype or "uint16",
        int8=options.int8,
        dataset=dataset,
        dataset_name=f"{dataset_name}, {options.split}",
        overwrite=options.overwrite,
        image_size=tuple(options.image_size) if options.image_size else None,
    )
    speed = description["speed"]
    times = ", ".join(f"{name} {time:.0f} ms" for name, time in speed["milliseconds"].items())
    print(f"Speed here for {'x'.join(map(str, speed['shape']))}: {times}")
    print("Size: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in description["bytes"].items()))
    if options.int8:
        scores = description["int8"]["mean_iou"]
        if scores is None:
            print("The loss of int8 in mean IoU is unknown: give --dataset or --data_dir to measure it.")
        else:
            print(
                f"Mean IoU on {scores['dataset']} ({scores['images']} images): {scores['float32']:.4f}, with int8 "
                f"{scores['int8']:.4f}: a loss of {scores['loss']:.4f}"
            )
    partner = " --auxiliary IMAGES" if description["reads_pairs"] else ""
    print(f"Wrote {options.output_dir}; `unip predict {options.output_dir} IMAGES{partner} -o FOLDER` runs it.")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
