# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Collects finished runs of `unip finetune` into the tables of the paper: one for fine-tuning and one for linear probing,
by data set and size, and one for layer-wise probing, by block. Runs that differ only in the seed become mean and
standard deviation. Unfinished and damaged runs are named and left out. `--correlate` shows how fine-tuning, linear
probing and other scores, such as accuracy on ImageNet, go together (paper, table 1).

    unip results outputs
    unip results outputs/unip-small-* outputs/mae-small-* --which last
    unip results outputs --format csv --output_file results.csv
    unip results outputs --correlate --scores imagenet.csv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unip_hf.scripts.options import make_parser
from unip_hf.scripts.runs import FREE_OPTIONS


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("results", __doc__)
    parser.add_argument(
        "run_dirs", type=Path, nargs="*", metavar="RUN_DIR", help="folders of runs, or folders that hold runs"
    )
    parser.add_argument(
        "--which",
        choices=["best", "last"],
        default="best",
        help="evaluation that counts: the best (default) or the last one; the best is chosen on\n"
        "the reported images themselves, and which one the paper reports is unknown",
    )
    parser.add_argument(
        "--correlate", action="store_true", help="Pearson's coefficients between scores, by size and over all"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE.csv",
        help="more scores for --correlate: columns method and size, named as in the\ntable of runs, then numbers; "
        "with all scores in it, no runs are needed",
    )
    parser.add_argument("--format", choices=["markdown", "csv"], default="markdown", help="default: %(default)s")
    parser.add_argument("--output_file", type=Path, metavar="FILE", help="default: the terminal")
    return parser


def find_cells(options: argparse.Namespace) -> Any:
    """The cells of the tables of all finished runs; others are named on stderr."""
    from unip_hf.evaluation.result_tables import collect_scores, read_run

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
    return collect_scores(runs, FREE_OPTIONS)


def correlation_text(options: argparse.Namespace) -> str:
    """What `--correlate` prints."""
    import pandas as pd

    from unip_hf.evaluation.correlations import correlate, correlations_to_markdown, read_scores, scores_of_runs

    tables, note = [], ""
    if options.run_dirs:
        of_runs, datasets = scores_of_runs(find_cells(options))
        tables.append(of_runs)
        note = f"Runs: mean IoU, averaged over {', '.join(datasets)}.\n"
    if options.scores is not None:
        given = read_scores(options.scores)
        both = [name for name in given if any(name in table for table in tables)]
        if both:
            note += f"Not taken from '{options.scores}', because the runs have it: {', '.join(both)}.\n"
        tables.append(given.drop(columns=both))
    correlations = correlate(pd.concat(tables, axis=1))
    if options.format == "csv":
        return correlations.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    return "\n".join(filter(None, (correlations_to_markdown(correlations), note)))


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    if options.scores is not None and not options.correlate:
        raise ValueError("--scores is for --correlate: add it, or leave --scores out.")
    if not options.run_dirs and options.scores is None:
        raise ValueError("Give folders of runs" + (", or --scores." if options.correlate else "."))
    from unip_hf.evaluation.result_tables import tables_to_markdown
    from unip_hf.files import write_whole

    if options.correlate:
        text = correlation_text(options)
    elif options.format == "csv":
        text = find_cells(options).to_csv(index=False, float_format="%.4f", lineterminator="\n")
    else:
        text = tables_to_markdown(find_cells(options))
    if options.output_file is None:
        print(text, end="")
    else:
        with write_whole(options.output_file) as staged:
            staged.write_text(text, encoding="utf-8")
        print(f"Wrote {options.output_file}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
