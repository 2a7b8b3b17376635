# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Checks a dataset before training: sizes, depths, classes, intensities, and everything that would stop or spoil a
training. Of pairs of images, it also looks for missing partners and for images that do not lie on each other. The exit
status is 2 if there are errors, and 0 if there are only warnings.

    unip check-dataset --data_dir my-images
    unip check-dataset --data_dir my-images --write_report report.html --json report.json
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.options import (
    add_dataset_options,
    check_positive,
    folder_options,
    load_dataset,
    make_parser,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unip_hf.data import FolderScan
    from unip_hf.data.check import DatasetReport
    from unip_hf.data.statistics import Intensities, SplitReport
    from unip_hf.evaluation.reports import Block


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("check-dataset", __doc__)
    data = add_dataset_options(parser)
    data.add_argument("--num_workers", type=int, help="threads that read images (default: one for each core)")
    output = parser.add_argument_group("output", "existing files are replaced")
    output.add_argument("--write_report", type=Path, metavar="FILE", help="HTML page with pictures and plots")
    output.add_argument("--json", type=Path, metavar="FILE", help="everything that was found, for programs")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "num_workers")
    return options


def check_folder(data_dir: Path, num_workers: int | None, mask_options: dict[str, Any]) -> tuple[Any, "DatasetReport"]:
    """
    Checks the pairs that are found in a folder, and reports files without a partner as well. `mask_options` are those
    of [`folder_options`].
    """
    from unip_hf.data import load_id2label, scan_folder
    from unip_hf.data.check import FILE_PROBLEMS, DatasetReport, Problem, check_dataset
    from unip_hf.data.labelled import dataset_from_scan

    scan = scan_folder(data_dir, mask_options["mask_suffix"], mask_options["image_suffix"])
    problems = [Problem("error", problem.removesuffix(".")) for problem in scan.problems]
    dataset: Any = {}
    try:
        if scan.splits:
            dataset = dataset_from_scan(scan, data_dir, mask_options["mask_values"], mask_options["resize_masks"])
    except ValueError as error:
        problems.append(Problem("error", str(error).removesuffix(".")))
    if not dataset:
        return {}, DatasetReport({}, problems)
    id2label = None
    try:
        id2label = load_id2label("folder", data_dir)
    except ValueError as error:
        if Path(data_dir, "id2label.json").exists():  # otherwise the check proposes names
            problems.append(Problem("error", str(error).removesuffix(".")))
    report = check_dataset(dataset, id2label, num_workers)
    # The scan has named the images without a visible one, and where it was looked for.
    of_files = [problem for problem in report.problems if problem.message != FILE_PROBLEMS["no_visible"][1]]
    return dataset, replace(report, problems=problems + of_files, notes=notes(dataset, scan, id2label))


def notes(dataset: Any, scan: "FolderScan", id2label: dict[int, str] | None) -> list[str]:
    """How the masks of a folder are made."""
    feature = next(iter(dataset.values())).features["annotation"]
    if scan.coco:
        files = ", ".join(map(str, scan.coco))
        categories = dict.fromkeys(name for file in scan.coco.values() for name in file.categories.values())
        classes = ", ".join(f"{id} {label}" for id, label in (id2label or {}).items())
        found = f"Masks are drawn from COCO JSON ({files}) with the categories {', '.join(categories)}."
        return [f"{found} The classes are {classes}." if classes else found]
    if feature.ids:
        listed = ", ".join(f"{value} = {id}" for value, id in feature.ids.items())
        return [f"Masks become ids as {feature.source} says: {listed}."]
    return []


def class_figure(report: "SplitReport") -> "Figure":
    """Share of each class in the labelled pixels."""
    from matplotlib.figure import Figure

    shares = report.classes[::-1]  # the first on top
    figure = Figure(figsize=(7, 1 + 0.3 * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{share.id} {share.name or '?'}" for share in shares]
    bars = axes.barh(names, [100 * share.pixel_share for share in shares])
    axes.bar_label(bars, fmt="%.2f %%", padding=3)
    axes.margins(x=0.15)
    axes.set_xlabel("percent of the labelled pixels")
    return figure


def intensity_figure(intensities: dict[str, "Intensities"]) -> "Figure":
    """Histogram of raw intensities, one plot for each dtype."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.5 * len(intensities)), layout="constrained")
    for row, (dtype, values) in enumerate(intensities.items(), start=1):
        axes = figure.add_subplot(len(intensities), 1, row)
        axes.stairs([100 * count / sum(values.counts) for count in values.counts], values.edges, fill=True)
        axes.set_xlabel(f"raw intensity, {dtype}")
        axes.set_ylabel("percent")
    return figure


def example_blocks(rows: Any, names: dict[int, str], count: int = 4) -> list["Block"]:
    """Images and masks from all over a split. Those that cannot be read are left out."""
    from unip_hf.data.reading import has_pairs, read_sample, without_decoding
    from unip_hf.evaluation.reports import Picture
    from unip_hf.pictures import overlay_picture, side_by_side

    blocks: list[Block] = []
    encoded = without_decoding(rows)
    step = max(1, len(encoded) // count)
    for number in range(0, len(encoded), step)[:count]:
        try:
            sample = read_sample(encoded[number], number, has_pairs(encoded))
            assert sample.ids is not None  # these datasets have masks
            overlay = overlay_picture(sample.image, sample.ids, names, with_legend=True)
        except (OSError, ValueError):
            continue  # it is one of the problems
        visible = [] if sample.visible is None else [("visible", sample.visible)]
        picture = side_by_side([("image", sample.image), *visible, ("mask", overlay)])
        picture.thumbnail((1600, 1600))
        blocks.append(Picture(picture, sample.name))
    return blocks


def write_html(path: Path, title: str, report: "DatasetReport", dataset: Any) -> None:
    from unip_hf.evaluation.reports import Heading, Picture, Table, Text, write_report

    blocks: list[Block] = [Heading("Problems")]
    bullet = "\n\u2022 "
    blocks += [Text(f"{problem.severity}: {problem.describe(bullet, bullet)}") for problem in report.problems]
    blocks += [] if report.problems else [Text("None found.")]
    blocks += [Text(note) for note in report.notes]
    blocks += [Text(f"advice: {text}") for text in report.recommendations]
    for split, found in report.splits.items():
        sizes = ", ".join(f"{size} ({count})" for size, count in found.sizes.items())
        formats = "; ".join(f"{name} ({count})" for name, count in found.formats.items())
        blocks += [
            Heading(f"{split}: {found.num_images} images"),
            Text(f"Sizes: {sizes}\nFormats: {formats}\nIgnored: {found.ignored_share:.2%} of the pixels"),
        ]
        if found.classes:
            shares = [(str(c.id), c.name or "?", 100 * c.pixel_share, c.num_images) for c in found.classes]
            blocks.append(Table(["id", "class", "percent of the pixels", "images"], shares))
            blocks.append(Picture(class_figure(found), "Share of the classes in the labelled pixels"))
        if found.intensities:
            blocks.append(Picture(intensity_figure(found.intensities), "Raw intensities"))
        if found.visible_intensities:
            formats = "; ".join(f"{name} ({count})" for name, count in found.visible_formats.items())
            caption = f"Raw intensities of the visible images: {formats}"
            blocks.append(Picture(intensity_figure(found.visible_intensities), caption))
        names = {share.id: share.name or str(share.id) for share in found.classes if 0 <= share.id < 256}
        blocks += example_blocks(dataset[split], names) if names else []
    write_report(path, title, blocks)


def training_command(options: argparse.Namespace, is_of_pairs: bool) -> str:
    """The command that trains on this dataset with what is recommended."""
    from unip_hf.data.advice import RARE_CLASS_OPTIONS

    words = ["unip", "finetune", "--model", "unip-small"]
    for name in ("dataset", "data_dir", "dataset_config", "allow_partial", *folder_options(options)):
        value = getattr(options, name)
        if value is True:
            words.append(f"--{name}")
        elif value and (name, value) != ("dataset", "folder"):
            words += [f"--{name}", str(value)]
    words += ["--fusion", "iv_tuning"] if is_of_pairs else []
    return f"{shlex.join([*words, '--output_dir', 'outputs/small'])} \\\n    {RARE_CLASS_OPTIONS}"


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    from unip_hf.data import check_dataset, load_id2label
    from unip_hf.data.parquet import parquet_files
    from unip_hf.data.reading import has_pairs
    from unip_hf.files import write_whole

    # With a configuration, which a folder does not have, `load_dataset` says so.
    is_folder = options.dataset == "folder" and options.data_dir is not None and options.dataset_config is None
    if is_folder and not parquet_files(options.data_dir):
        dataset, report = check_folder(options.data_dir, options.num_workers, folder_options(options))
    else:
        dataset = load_dataset(options)
        report = check_dataset(dataset, load_id2label(options.dataset, options.data_dir), options.num_workers)
    print(report, flush=True)
    if options.json is not None:
        with write_whole(options.json) as staged:
            staged.write_text(json.dumps(report.to_dict(), indent=1))
    if options.write_report is not None:
        write_html(options.write_report, f"Dataset {options.data_dir or options.dataset}", report, dataset)
        print(f"Wrote {options.write_report}")
    if report.recommendations and not report.has_errors:
        print(training_command(options, has_pairs(next(iter(dataset.values())))))
    if report.has_errors:
        count = len(report.errors)
        raise ValueError(f"The dataset cannot be used for training: {count} error{'s' * (count > 1)}, listed above.")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
