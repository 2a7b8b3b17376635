# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Shows what backbones look at: for every block how local or global its attention is (NMI, distance, entropy), how much
of it falls on objects, how alike the blocks are (CKA), and how far features follow when texture or shape is taken from
the images. Writes one page, index.html, with the numbers beside it, and attention maps of some images.

    unip analyze outputs/unip-small/best --data_dir my_images --split validation
    unip analyze small outputs/unip-small/last timm:vit_small_patch16_224.dino --dataset scenes
    unip analyze outputs/unip-small/best --data_dir my_images --query_pixels 320 200 --map_heads each --map_blocks 9

A network is a UNIP model, a segmentation model on a plain ViT, or a teacher of `unip distill`, with CLS or without; a
size such as small stands for random weights. Networks without attention over all patches are refused.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.scripts.options import (
    add_dataset_options,
    check_output_dir,
    check_positive,
    folder_options,
    load_dataset,
    make_parser,
)
from unip_hf.scripts.runs import versions


if TYPE_CHECKING:
    from unip_hf.analysis.inputs import AnalysisData
    from unip_hf.analysis.measures import NetworkMeasures
    from unip_hf.analysis.texture import Corruption
    from unip_hf.data.reading import Sample

NO_MASKS = "There are no masks."
LEAST_IMAGES = 4  # of a batch, for CKA


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("analyze", __doc__)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folders, names on the Hub, timm:NAME, files, sizes"
    )
    data = add_dataset_options(parser)
    data.add_argument("--split", help="default: validation, or train where there is none")
    data.add_argument("--num_images", type=int, default=64, help="evenly spaced in the split (default: %(default)s)")
    data.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="pixels that images are resized to (default: the short side 224, in the shape of\nthe first image)",
    )
    data.add_argument(
        "--normalization",
        choices=["infrared", "checkpoint"],
        default="infrared",
        help="mean and deviation for encoders of other libraries: of infrared images (default,\nas in the paper), or "
        "those that they were trained with",
    )
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--hybrid_nmi", type=float, nargs=2, default=[0.06, 0.12], metavar=("LOW", "HIGH"),
        help="NMI of hybrid attention; below is global, above is local (default: 0.06 0.12)",
    )  # fmt: skip
    measures.add_argument(
        "--nmi_target", type=float, default=0.09, help="NMI of the ideal block (default: %(default)s)"
    )
    measures.add_argument("--near", type=int, default=1, help="patches around the query that are near (default: 1)")
    measures.add_argument(
        "--background",
        nargs="+",
        metavar="CLASS",
        help="classes that are not objects (default: background, or class 0)",
    )
    measures.add_argument(
        "--corruptions",
        nargs="*",
        default=["patch_shuffle", "low_pass=2", "high_pass=2", "phase_scramble=1"],
        metavar="KIND=AMOUNT",
        help="patch_shuffle=TILES, low_pass=SIGMA, high_pass=SIGMA, phase_scramble=STRENGTH; none\nafter the option "
        "leaves them out (default: shuffled tiles of whole patches, about 4x4,\nsigma 2, strength 1)",
    )
    measures.add_argument(
        "--no_mean_iou", action="store_true", help="do not evaluate segmentation models under each corruption"
    )
    maps = parser.add_argument_group("attention maps")
    maps.add_argument("--num_maps", type=int, default=2, help="images with attention maps (default: %(default)s)")
    maps.add_argument(
        "--query_pixels", type=int, nargs="+", action="extend", metavar="X Y", help="pixels that look (default: an\n"
        "object or what stands out, and a place beside it)",
    )  # fmt: skip
    maps.add_argument("--query_grid", type=int, metavar="N", help="N x N evenly spaced places that look")
    maps.add_argument("--map_blocks", type=int, nargs="+", help="default: a third of the depth, the ideal block, last")
    maps.add_argument(
        "--map_heads", choices=["mean", "each"], default="mean", help="default: %(default)s of all heads"
    )
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", type=Path, default=Path("analysis"), help="default: %(default)s")
    run.add_argument("--overwrite", action="store_true", help="replace an analysis that is there")
    run.add_argument("--batch_size", type=int, default=8, help="images at once, at least 4 (default: %(default)s)")
    run.add_argument("--seed", type=int, default=0, help="of corruptions and random weights (default: %(default)s)")
    run.add_argument("--device", help="default: a GPU if there is one")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "num_images", "query_grid")
    check_positive(options, "near", "num_maps", "nmi_target", or_zero=True)
    if options.batch_size < LEAST_IMAGES:
        raise ValueError(f"--batch_size must be at least {LEAST_IMAGES}, which CKA needs, got {options.batch_size}.")
    if options.size is not None and min(options.size) < 32:
        raise ValueError(f"--size must be at least 32 pixels, got {' '.join(map(str, options.size))}.")
    if not 0 <= options.hybrid_nmi[0] <= options.hybrid_nmi[1] <= 1:
        raise ValueError(f"--hybrid_nmi must be two rising numbers from 0 to 1, got {options.hybrid_nmi}.")
    if options.query_pixels is not None and (len(options.query_pixels) % 2 or min(options.query_pixels) < 0):
        raise ValueError(f"--query_pixels must be pairs of X and Y, 0 or above, got {options.query_pixels}.")
    if options.query_pixels is not None and options.query_grid is not None:
        raise ValueError("--query_pixels and --query_grid both say which places look: give one of them.")
    check_output_dir(options, "analysis.json", "an analysis")
    return options


def load_rows(options: argparse.Namespace) -> tuple[Any, str]:
    """The rows of the split, encoded, with masks where there are some; and the name of the split."""
    from unip_hf.data.folder import scan_folder
    from unip_hf.data.parquet import parquet_files
    from unip_hf.data.reading import without_decoding
    from unip_hf.data.unlabelled import load_unlabelled

    place = options.data_dir
    if options.dataset == "folder" and place is not None and place.is_dir() and not parquet_files(place):
        scan = scan_folder(place, options.mask_suffix, options.image_suffix)
        if not any(scan.splits.values()) and not scan.coco and not any(folder_options(options).values()):
            return load_unlabelled("folder", place, options.split), options.split or "all images"
    loaded = load_dataset(options)
    split = options.split or ("validation" if "validation" in loaded else next(iter(loaded)))
    missing = [part for part in split.split("+") if part not in loaded]
    if missing:
        raise ValueError(f"There is no split {missing[0]!r}, only {', '.join(loaded)}.")
    from unip_hf.data.labelled import select_split

    return without_decoding(select_split(loaded, split)), split


def find_background(words: Sequence[str] | None, id2label: dict[int, str]) -> list[int]:
    """Ids of the classes that are not objects."""
    ids = {label: number for number, label in id2label.items()}
    if words is None:
        return [ids.get("background", 0)]
    unknown = [word for word in words if word not in ids and not (word.isdecimal() and int(word) in id2label)]
    if unknown:
        raise ValueError(f"--background: there is no class {unknown[0]!r}, only {', '.join(ids)}.")
    return [ids[word] if word in ids else int(word) for word in words]


def parse_corruptions(words: Sequence[str], grid_size: tuple[int, int], seed: int) -> "list[Corruption]":
    """The corruptions that `--corruptions` names. Tiles that are not given become whole patches of this grid."""
    from unip_hf.analysis.inputs import whole_tiles
    from unip_hf.analysis.texture import Corruption, check_amount

    corruptions = []
    for word in words:
        kind, _, amount = word.partition("=")
        if word == "patch_shuffle" and (tiles := whole_tiles(grid_size)) is not None:
            amount = str(tiles)
        elif word == "patch_shuffle":
            print(f"Not shuffled: no tiles are whole patches of a grid of {grid_size[0]}x{grid_size[1]}.")
            continue
        try:
            strength = float(amount)
        except ValueError as error:
            raise ValueError(f"--corruptions takes KIND=AMOUNT, such as low_pass=2, got {word!r}.") from error
        check_amount(kind, strength)
        corruptions.append(Corruption(kind, strength, seed))
    return corruptions


def read_samples(options: argparse.Namespace, rows: Any) -> "tuple[list[int], list[Sample]]":
    """Evenly spaced rows, and their numbers."""
    from unip_hf.data.reading import has_pairs, read_sample

    count = min(options.num_images, len(rows))
    numbers = [number * len(rows) // count for number in range(count)]
    return numbers, [read_sample(rows[number], number, has_pairs(rows)) for number in numbers]


def choose_size(size: Sequence[int] | None, first_image: Any) -> tuple[int, int]:
    """The size that is given, or one whose short side is 224 pixels, in the shape of an image and multiples of 32."""
    if size is not None:
        return size[0], size[1]
    height, width = first_image.shape[:2]
    scale = 224 / min(height, width)
    return max(224, 32 * round(height * scale / 32)), max(224, 32 * round(width * scale / 32))


def analyze_network(
    name: str, options: argparse.Namespace, data: "AnalysisData", rows_with_masks: tuple[Any, dict[int, str]] | None
) -> "tuple[NetworkMeasures, dict[str, Any]]":
    """
    Measures a network. `rows_with_masks`, and their classes, are what a segmentation model is evaluated on under each
    corruption. Returns the measures, and the network's part of the report.
    """
    from dataclasses import replace

    import torch
    from transformers import PreTrainedModel

    from unip_hf.analysis import BlockReader, NetworkMeasures
    from unip_hf.analysis.inputs import grid_of
    from unip_hf.evaluation import mean_iou_under_corruptions
    from unip_hf.hub.networks import load_network
    from unip_hf.inference.loading import has_segmentation_head
    from unip_hf.inference.windows import reads_pairs
    from unip_hf.progress import Progress

    torch.manual_seed(options.seed)
    model: Any
    model, processor = load_network(name, options.normalization == "checkpoint")
    if reads_pairs(model):
        raise ValueError(f"{name!r} reads pairs of images: choose a model of one image.")
    try:
        reader = BlockReader(model, name)
    except ValueError as error:
        raise ValueError(f"{name!r} has no attention that can be looked at: {error}") from error
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    reader.to(device)
    grid_size = grid_of(data.size, reader.patch_size)
    corruptions = parse_corruptions(options.corruptions, grid_size, options.seed)
    measures = NetworkMeasures(reader, corruptions, options.near, with_grams=len(data.samples) >= LEAST_IMAGES)
    progress = Progress(f"{name}: image", len(data.samples))
    for images in replace(data, corruptions=corruptions).batches(processor, reader.patch_size):
        measures.add(images)
        progress.update(steps=len(images.numbers))
    progress.close()
    mean, std = (
        " ".join(f"{value:.4g}" for value in values) for values in (processor.image_mean, processor.image_std)
    )
    found = measures.report(options.hybrid_nmi)
    can_segment = isinstance(model, PreTrainedModel) and has_segmentation_head(model.config)
    if found["texture"] is not None and rows_with_masks is not None and can_segment:
        rows, id2label = rows_with_masks
        if model.config.num_labels == len(id2label):
            scores = mean_iou_under_corruptions(model.to(device), processor, rows, id2label, corruptions)
            found["texture"]["mean_iou"] = {kind: score["mean_iou"] for kind, score in scores.items()}
        else:
            print(f"{name} has {model.config.num_labels} classes, the data set {len(id2label)}: it is not evaluated.")
    del measures.reader  # the next network needs its memory
    return measures, {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in reader.parameters()),
        "patch_size": reader.patch_size,
        "grid": list(grid_size),
        "normalisation": f"mean {mean}, deviation {std}",
        **found,
    }


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    from transformers.utils import logging

    from unip_hf.analysis import write_report
    from unip_hf.analysis.figures import short_names
    from unip_hf.analysis.inputs import AnalysisData
    from unip_hf.analysis.maps import choose_images, map_pictures
    from unip_hf.analysis.measures import compare_networks
    from unip_hf.data import load_id2label
    from unip_hf.data.reading import check_ids

    logging.disable_progress_bar()
    rows, split = load_rows(options)
    numbers, samples = read_samples(options, rows)
    has_masks = all(sample.ids is not None for sample in samples)
    background: list[int] = []
    rows_with_masks = None
    if has_masks:
        id2label = load_id2label(options.dataset, options.data_dir)
        for sample in samples:
            assert sample.ids is not None
            check_ids(sample.ids, id2label, sample.name)
        background = find_background(options.background, id2label)
        rows_with_masks = None if options.no_mean_iou else (rows.select(numbers), id2label)
    elif options.background is not None:
        raise ValueError(f"--background needs masks. {NO_MASKS}")
    size = choose_size(options.size, samples[0].image)
    pixels = options.query_pixels and list(zip(options.query_pixels[::2], options.query_pixels[1::2]))
    images = choose_images(samples, options.num_maps, size, background, pixels, options.query_grid)
    data = AnalysisData(
        samples,
        size,
        background=background if has_masks else None,
        places={image.number: image.places for image in images},
        batch_size=options.batch_size,
    )
    found = [analyze_network(name, options, data, rows_with_masks) for name in options.models]
    networks = dict(zip(short_names(options.models), [measures for measures, _ in found]))
    models = [of_model for _, of_model in found]
    report = {
        "data": {
            "name": options.dataset if options.data_dir is None else str(options.data_dir),
            "split": split,
            "num_images": len(samples),
            "size": list(size),
        },
        "settings": {
            "hybrid_nmi": options.hybrid_nmi,
            "target_nmi": options.nmi_target,
            "near": options.near,
            "seed": options.seed,
        },
        "versions": versions(),
        "models": models,
        "cka": None if len(samples) < LEAST_IMAGES else compare_networks(dict(zip(options.models, networks.values()))),
        "not_measured": {
            "objects": "There are no objects in these images." if has_masks else NO_MASKS,
            "cka": f"It needs at least {LEAST_IMAGES} images.",
        },
    }
    pictures = map_pictures(images, networks, options.map_blocks, options.map_heads == "each", options.nmi_target)
    page = write_report(report, list(pictures), options.output_dir)
    for of_model in models:
        print(f"\n{of_model['name']}")
        for block in of_model["blocks"]:
            print(
                f"  block {block['block']:2d}  {block['pattern']:<6}  NMI {block['nmi']:.4f}  distance "
                f"{block['distance']:6.1f} px  entropy {block['entropy']:.3f}"
            )
    print(f"\nWrote {page}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
