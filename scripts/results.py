# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Collects finished runs of `unip finetune` into the tables of the paper: one for fine-tuning and one for linear probing,
by data set and size, and one for layer-wise probing, by block. Runs that differ only in the seed become mean and
standard deviation. Unfinished and damaged runs are named and left out.

    unip results outputs
    unip results outputs/unip-small-* outputs/mae-small-* --which last
    unip results outputs --format csv --output_file results.csv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import make_parser
from unip_hf.scripts.runs import FREE_OPTIONS


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("results", __doc__)
    parser.add_argument(
        "run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="folders of runs, or folders that hold runs"
    )
    parser.add_argument(
        "--which",
        choices=["best", "last"],
        default="best",
        help="evaluation that counts: the best (default) or the last one; the best is chosen on\n"
        "the reported images themselves, and which one the paper reports is unknown",
    )
    parser.add_argument("--format", choices=["markdown", "csv"], default="markdown", help="default: %(default)s")
    parser.add_argument("--output_file", type=Path, metavar="FILE", help="default: the terminal")
    return parser


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    from unip_hf.evaluation.result_tables import collect_scores, read_run, tables_to_markdown
    from unip_hf.files import write_whole

    folders: dict[Path, Path] = {}  # each once
    for run_dir in options.run_dirs:
        if not run_dir.is_dir():
            raise FileNotFoundError(f"There is no folder '{run_dir}'.")
        for file in sorted(run_dir.rglob("run.json")):
            folders.setdefault(file.parent.resolve(), file.parent)
    runs = []
    for folder in folders.values():
        try:
            runs.append(read_run(folder, options.which))
        except (OSError, ValueError) as error:
            print(f"Not counted: {error}", file=sys.stderr)
    if not runs:
        raise ValueError(f"There is no finished run in {', '.join(map(repr, map(str, options.run_dirs)))}.")
    scores = collect_scores(runs, FREE_OPTIONS)
    if options.format == "csv":
        text = scores.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    else:
        text = tables_to_markdown(scores)
    if options.output_file is None:
        print(text, end="")
    else:
        with write_whole(options.output_file) as staged:
            staged.write_text(text, encoding="utf-8")
        print(f"Wrote {options.output_file}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
