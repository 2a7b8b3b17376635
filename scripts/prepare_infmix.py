# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Mixes infrared datasets, 200 images of each class of ImageNet, and COCO into InfMix, on which UNIP is pre-trained. All
images are grey, of limited size, in random order, and in parquet files that can be streamed. An interrupted run
continues when the same command is started again.

    unip prepare-infmix --infrared LLVIP.zip my-drone-images --output_dir infmix
    unip prepare-infmix --infrared infpre --imagenet imagenet/train --coco coco/train2017 --output_dir infmix \\
        --remove_near_duplicates --exclude soda=soda.zip mfnet=ir_seg_dataset.zip my-test-images
    unip prepare-infmix --sources infmix-sources.yaml --output_dir infmix

An infrared folder is one source with all images below it, so do not give a folder that also holds masks. Or it holds
several sources, each with a folder "thermal": infpre/llvip/thermal/010001.jpg (infpre/llvip/rgb/ is left out).

The file of --sources is a list with one entry for each source. Paths are relative to the folder of the file:

    - {name: drone-vehicle, path: DroneVehicle/trainimgr, crop_border: 100}
    - {name: scut-fir, path: scut-fir.zip, every: 10, minimum_brightness: 20}
    - {name: mfnet-train, dataset: mfnet, data_dir: ir_seg_dataset.zip, split: train}
    - {name: imagenet, path: imagenet/train, images_per_class: 200}

A source is a path (folder or zip file) or a labelled dataset (with data_dir, config_name, allow_partial and split, by
default train). every takes every n-th image in the order of the names, crop_border cuts pixels off each side,
minimum_brightness must be below the largest grey value of an image, and limit is the most images that are taken.
docs/infmix-sources.yaml lists the sources of the predecessor of InfMix.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from unip_hf.scripts.options import check_positive, make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("prepare-infmix", __doc__)
    sources = parser.add_argument_group("sources")
    sources.add_argument("--infrared", nargs="+", default=[], metavar="PATH", help="folders or zip files")
    sources.add_argument("--imagenet", type=Path, metavar="PATH", help="train folder, with one folder for each class")
    sources.add_argument(
        "--images_per_class", type=int, default=200, help="of ImageNet, first by name (default: %(default)s)"
    )
    sources.add_argument("--coco", type=Path, metavar="PATH", help="train2017, its zip file, or the folder above")
    sources.add_argument("--sources", type=Path, metavar="FILE", help="YAML file of sources, see above")
    choice = parser.add_argument_group("choice")
    choice.add_argument(
        "--remove_near_duplicates", action="store_true", help="keep only the first of images that look alike"
    )
    choice.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="NAME=PATH|PATH",
        help="evaluation sets: benchmarks as NAME=PATH, or folders and zip files of images.\n"
        "Images that look like one of theirs are left out",
    )
    choice.add_argument(
        "--hash_distance",
        type=int,
        default=4,
        help="bits of 64 in which the perceptual hashes of images that look alike may differ\n"
        "(default: %(default)s): up to 4 the same view, up to 12 mostly the same place, then chance",
    )
    choice.add_argument("--allow_partial", action="store_true", help="accept incomplete benchmarks in --exclude")
    choice.add_argument("--skip_damaged", action="store_true", help="count damaged images instead of stopping")
    images = parser.add_argument_group("images")
    images.add_argument(
        "--shortest_edge", type=int, default=512, help="limit in pixels, 0 for none (default: %(default)s)"
    )
    images.add_argument(
        "--image_format", choices=["jpeg", "png"], default="jpeg", help="png is lossless and keeps 16 bits"
    )
    images.add_argument("--quality", type=int, default=90, help="quality of JPEG (default: %(default)s)")
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, required=True, help="new folder, or an unfinished one to continue")
    output.add_argument("--overwrite", action="store_true", help="remove what an earlier run wrote there")
    output.add_argument("--images_per_shard", type=int, default=2000, help="images in one file (default: %(default)s)")
    output.add_argument("--seed", type=int, default=0, help="seed of the order (default: %(default)s)")
    output.add_argument("--num_workers", type=int, help="processes (default: one for each core)")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "images_per_class", "images_per_shard", "num_workers", "quality")
    check_positive(options, "shortest_edge", "hash_distance", "seed", or_zero=True)
    return options


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    from unip_hf.data.infmix import InfMixSettings, find_evaluation_sets, find_infmix_sources, prepare_infmix

    settings = {field.name: getattr(options, field.name) for field in fields(InfMixSettings)}
    settings["shortest_edge"] = options.shortest_edge or None
    sources = find_infmix_sources(
        options.infrared, options.imagenet, options.coco, options.sources, options.images_per_class
    )
    report = prepare_infmix(
        sources,
        options.output_dir,
        InfMixSettings(**settings),
        find_evaluation_sets(options.exclude, options.allow_partial),
        options.num_workers or os.cpu_count() or 1,
        options.overwrite,
    )
    print(f"{report}\n{options.output_dir} is finished.")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
