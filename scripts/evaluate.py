# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Evaluates a semantic segmentation model on a dataset with masks: a table on the terminal, `results.json`,
`report.html` with the best and worst images, and the numbers in the checkpoint's model card.

    unip evaluate outputs/unip-small --data_dir my_images --split validation
    unip evaluate outputs/unip-small --dataset scenes --split test --whole_image
    unip evaluate outputs/fused --dataset mfnet --dataset_config both --data_dir ir_seg_dataset.zip --split test
    accelerate launch -m unip_hf.scripts.evaluate outputs/unip-small --data_dir my_images --flip --scales 0.75 1 1.25

Several processes share the images; the result is the same as with one. A model of pairs of images is also evaluated
without its auxiliary image, and with a shifted one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import (
    add_dataset_options,
    add_inference_options,
    add_launch_options,
    check_output_dir,
    check_positive,
    choose_precision,
    folder_options,
    load_dataset,
    make_inference_settings,
    make_parser,
)
from unip_hf.scripts.runs import versions


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("evaluate", __doc__)
    parser.add_argument("checkpoint", help="folder of a semantic segmentation model, or its name on the Hub")
    group = add_dataset_options(parser)
    group.add_argument("--split", default="validation", help="default: %(default)s")
    group.add_argument("--num_workers", type=int, default=2, help="processes that read images (default: %(default)s)")
    group = add_inference_options(parser)
    group.add_argument(
        "--no_sensor_faults",
        action="store_true",
        help="of a model of pairs: leave out the scores without the auxiliary image and with\nit shifted by 8 and 16 "
        "pixels, each of which takes as long as those with both",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, help="default: the folder `evaluation` in the checkpoint folder")
    group.add_argument("--overwrite", action="store_true", help="replace results that are there")
    group.add_argument(
        "--num_examples", type=int, default=4, help="best and worst images to show (default: %(default)s)"
    )
    group.add_argument("--no_update_card", action="store_true", help="leave the checkpoint's README.md as it is")
    add_launch_options(parser)
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "num_workers", "num_examples", or_zero=True)
    if options.output_dir is None:
        if not Path(options.checkpoint).is_dir():
            raise ValueError(f"There is no folder {options.checkpoint!r}: for a model on the Hub give --output_dir.")
        options.output_dir = Path(options.checkpoint) / "evaluation"
    check_output_dir(options, "results.json", "results")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    from dataclasses import asdict

    from accelerate import Accelerator
    from transformers.utils import logging

    from unip_hf.data import load_id2label
    from unip_hf.evaluation import evaluate_dataset, format_result, update_model_card, write_results
    from unip_hf.hardware import device_name
    from unip_hf.inference import load_segmentation_model
    from unip_hf.inference.loading import fingerprint
    from unip_hf.inference.precision import MIXED_PRECISION, CompiledModel, autocast

    logging.disable_progress_bar()
    accelerator = Accelerator(mixed_precision="no")
    try:
        id2label = load_id2label(options.dataset, options.data_dir)
        model, processor = load_segmentation_model(options.checkpoint, accelerator.device)
        settings = make_inference_settings(options, model)
        classes = dict(model.config.id2label or {})
        if classes != id2label:
            raise ValueError(
                f"The classes of the model {options.checkpoint!r} are not those of the dataset.\n"
                f"  model:   {classes}\n  dataset: {id2label}"
            )
        dtype = choose_precision(options, model, accelerator.device)
        used = CompiledModel(model, settings.batch_size) if options.compile else model
        dataset = load_dataset(options, options.split)
        with autocast(dtype, accelerator.device):
            result = evaluate_dataset(
                *(
                    used,
                    processor,
                    dataset,
                    id2label,
                    settings,
                    accelerator,
                    options.num_workers,
                    options.num_examples,
                ),
                with_sensor_faults=not options.no_sensor_faults,
            )
        if accelerator.is_main_process:
            details = {
                "checkpoint": options.checkpoint,
                "fingerprint": fingerprint(model, processor),
                "dataset": options.dataset,
                "dataset_config": options.dataset_config,
                "data_dir": None if options.data_dir is None else str(options.data_dir),
                "allow_partial": options.allow_partial,
                **folder_options(options),
                "split": options.split,
                "settings": asdict(settings),
                "dtype": dtype,
                "mixed_precision": MIXED_PRECISION[dtype],  # what the model card reads
                "compile": options.compile,
                "hardware": device_name(accelerator.device),
                "versions": versions(),
            }
            is_folder = options.dataset == "folder"
            config_name = options.data_dir.resolve().name if is_folder else options.dataset_config
            dataset_name = config_name if is_folder else " ".join(filter(None, (options.dataset, config_name)))
            title = f"{Path(options.checkpoint).name} on {dataset_name}, {options.split}"
            print(format_result(result, id2label), flush=True)
            write_results(options.output_dir, result, id2label, details, title)
            print(f"Wrote {options.output_dir / 'results.json'} and {options.output_dir / 'report.html'}")
            if Path(options.checkpoint).is_dir() and not options.no_update_card:
                card = update_model_card(
                    options.checkpoint, result, id2label, options.dataset, options.split, config_name
                )
                print(f"Wrote the numbers into {card}")
            elif not options.no_update_card:
                print(f"{options.checkpoint!r} is on the Hub: its model card was left as it is.")
    finally:
        accelerator.end_training()


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
