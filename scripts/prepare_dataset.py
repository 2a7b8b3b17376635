# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Writes a dataset as parquet files with a dataset card. The folder can be used for training anywhere, also streamed, and
the Hub can display it. Every image and mask is checked.

    unip prepare-dataset soda --data_dir InfraredSemanticLabel.zip --output_dir soda
    unip prepare-dataset mfnet --data_dir ir_seg_dataset.zip --dataset_config both --output_dir mfnet
    unip prepare-dataset folder --data_dir my-images --output_dir my-dataset --push_to_hub me/my-dataset
    unip finetune --dataset soda --data_dir soda ...
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import add_dataset_options, check_positive, load_dataset, make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("prepare-dataset", __doc__)
    add_dataset_options(parser, is_positional=True)
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", type=Path, required=True, help="new folder")
    output.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")
    output.add_argument("--images_per_shard", type=int, default=500, help="images in one file (default: %(default)s)")
    output.add_argument("--num_workers", type=int, default=2, help="processes that read images (default: %(default)s)")
    hub = parser.add_argument_group("Hub")
    hub.add_argument("--push_to_hub", metavar="USER/NAME", help="upload the dataset there, after `hf auth login`")
    hub.add_argument(
        "--public", action="store_true", help="make it public, if its licence allows that (default: private)"
    )
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "images_per_shard", "num_workers")
    if options.dataset == "infmix":
        raise ValueError("Use `unip prepare-infmix` for infmix.")
    return options


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    """
    Raises:
        ValueError: if the folder holds something that must not be replaced.
    """
    from unip_hf.data.parquet import FILES, parquet_files

    names = {path.name for path in output_dir.iterdir()} if output_dir.is_dir() else set()
    is_ours = bool(parquet_files(output_dir)) and names <= FILES
    if output_dir.is_file() or (names and not (overwrite and is_ours)):
        raise ValueError(
            f"--output_dir {str(output_dir)!r} exists. Choose another, or add --overwrite if it holds only a dataset "
            "that this command wrote."
        )


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    from huggingface_hub import HfApi

    from unip_hf.data import check_dataset, load_id2label
    from unip_hf.data.labelled import BUILDERS
    from unip_hf.data.parquet import dataset_card, parquet_files, write_parquet

    check_output_dir(options.output_dir, options.overwrite)
    if options.data_dir is not None and parquet_files(options.data_dir):
        raise ValueError(
            f"--data_dir {str(options.data_dir)!r} is already prepared. To upload it, use `hf upload USER/NAME "
            f"{options.data_dir} --repo-type dataset`."
        )
    id2label = load_id2label(options.dataset, options.data_dir)
    dataset = load_dataset(options, num_proc=options.num_workers)
    config = None
    if options.dataset == "folder":
        check_dataset(dataset, id2label, options.num_workers).raise_for_errors()
        card = dataset_card(dataset, id2label, options.data_dir.resolve().name)
    else:
        builder = BUILDERS[options.dataset]
        config = builder.builder_configs.get(options.dataset_config or builder.DEFAULT_CONFIG_NAME)
        modality = getattr(config, "modality", "thermal")
        card = dataset_card(
            dataset,
            id2label,
            getattr(builder, "TITLE", options.dataset) + (" (partial)" if options.allow_partial else ""),
            next(iter(dataset.values())).info,
            builder.palette() if hasattr(builder, "palette") else None,
            tags=("infrared", "thermal") if modality in ("thermal", "both") else (modality,),
        )
    origin = {
        "dataset": options.dataset,
        "config_name": None if config is None else config.name,
        "allow_partial": options.allow_partial,
    }
    api = HfApi()
    if options.push_to_hub is not None:
        api.create_repo(options.push_to_hub, repo_type="dataset", private=not options.public, exist_ok=True)
    write_parquet(dataset, options.output_dir, id2label, card, origin, options.images_per_shard)
    for split, rows in dataset.items():
        print(f"{split}: {len(rows):,} images")
    print(f"Wrote {options.output_dir}")
    if options.push_to_hub is not None:
        api.upload_folder(folder_path=options.output_dir, repo_id=options.push_to_hub, repo_type="dataset")
        print(f"Uploaded to {options.push_to_hub}, {'public' if options.public else 'private'}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
