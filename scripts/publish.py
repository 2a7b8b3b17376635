# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Publishes a checkpoint on the Hub with a model card: weights, code and processor, the recipe, environment, training
curve and sample predictions of its run, and the numbers of its evaluations.

    unip evaluate outputs/small/best --data_dir my-images
    unip publish outputs/small/best me/unip-small-yard --dry_run look
    unip publish outputs/small/best me/unip-small-yard --license apache-2.0 --notes notes.md

--dry_run writes the files into a folder instead, and needs no network. A new repository is private unless --public.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import make_parser
from unip_hf.scripts.runs import FREE_OPTIONS


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("publish", __doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a model: segmentation of any kind, or UNIP encoder")
    parser.add_argument("repo_id", metavar="USER/NAME", help="where to upload it")
    parser.add_argument("--dry_run", type=Path, metavar="OUT_DIR", help="new folder for the files, instead of the Hub")
    card = parser.add_argument_group("card", "what is not given is called not known there")
    card.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="results of unip evaluate; those in the folders evaluation* in and\nbeside the checkpoint are found",
    )
    card.add_argument("--license", help="of the weights, as the Hub names it: apache-2.0, cc-by-nc-4.0, other, ...")
    card.add_argument("--data_license", help="of the training data, in words, where it is not a benchmark's")
    card.add_argument("--base_model", metavar="USER/NAME", help="what it was fine-tuned from, if that is on the Hub")
    card.add_argument("--notes", type=Path, metavar="FILE.md", help="Markdown of your own for the card")
    card.add_argument("--no_samples", action="store_true", help="show no images of the validation data")
    card.add_argument("--no_speed", action="store_true", help="do not measure speed and memory on this machine")
    hub = parser.add_argument_group("Hub")
    hub.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    hub.add_argument("--revision", metavar="BRANCH", help="default: main")
    hub.add_argument("--commit_message", metavar="TEXT", help="default: the Hub's")
    return parser


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    from transformers.utils import logging

    from unip_hf.hub.publishing import REPLACED_PATTERNS, write_publication
    from unip_hf.hub.uploading import check_login, upload_folder

    logging.disable_progress_bar()
    if options.dry_run is None:
        check_login()
    try:
        notes = "" if options.notes is None else options.notes.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--notes '{options.notes}' cannot be read as text in UTF-8: {error}") from error
    with tempfile.TemporaryDirectory(prefix="unip-publish-") as temporary:
        folder = options.dry_run or Path(temporary) / "files"
        if not options.no_speed:
            print("Measuring speed and memory takes a moment (--no_speed leaves it out) ...", flush=True)
        publication = write_publication(
            options.checkpoint,
            options.repo_id,
            folder,
            evaluations=options.evaluation,
            license=options.license,
            data_license=options.data_license,
            base_model=options.base_model,
            notes=notes,
            with_samples=not options.no_samples,
            with_speed=not options.no_speed,
            ignored_options=FREE_OPTIONS,
        )
        for warning in publication.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if publication.samples_of is not None:
            print(
                f"samples.png shows images of {publication.samples_of}: check that you may publish them, or add "
                "--no_samples."
            )
        if options.dry_run is not None:
            print("\n".join(f"  {name}" for name in publication.files))
            print(f"Wrote {len(publication.files)} files into {folder}; nothing was uploaded.")
            return
        done = upload_folder(
            folder,
            options.repo_id,
            is_public=options.public,
            revision=options.revision,
            commit_message=options.commit_message,
            replaced_patterns=REPLACED_PATTERNS,
        )
        print(done)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
