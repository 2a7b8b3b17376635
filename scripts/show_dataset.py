# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Draws samples of a dataset and, next to each, augmented variants: the pixels on which a model is trained. Both images
of pairs are drawn.

    unip show-dataset --data_dir my-images --output_file show.png
    unip show-dataset --data_dir my-images --checkpoint unip-small --split validation --num_samples 2 --seed 1
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unip_hf.scripts.image_options import add_image_options, make_image_processor, make_transform
from unip_hf.scripts.options import (
    add_dataset_options,
    check_positive,
    load_dataset,
    make_parser,
)


if TYPE_CHECKING:
    import numpy as np

    from unip_hf import UnipImageProcessor


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("show-dataset", __doc__)
    data = add_dataset_options(parser)
    data.add_argument("--split", default="train", help="default: %(default)s")
    data.add_argument("--num_samples", type=int, default=4, help="rows of the picture (default: %(default)s)")
    data.add_argument("--seed", type=int, default=0, help="selects samples and variants (default: %(default)s)")
    data.add_argument("--num_variants", type=int, default=3, help="variants of each sample (default: %(default)s)")
    data.add_argument("--checkpoint", help="checkpoint whose image processor is used (default: UNIP's settings)")
    add_image_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output_file", type=Path, default=Path("show.png"), help="default: %(default)s")
    output.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    check_positive(options, "num_samples", "num_variants", "crop_size")
    if options.output_file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--output_file must be a .png or .jpg file, got {str(options.output_file)!r}.")
    if options.output_file.exists() and not options.overwrite:
        raise ValueError(f"{str(options.output_file)!r} exists. Choose another --output_file or add --overwrite.")
    return options


def to_picture(pixels: "np.ndarray", processor: "UnipImageProcessor") -> "np.ndarray":
    """Normalised pixels `(channels, height, width)` as uint8 `(height, width, channels)`."""
    import numpy as np

    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
    if processor.do_normalize:
        pixels = pixels * std + mean
    return np.rint(255 * pixels.clip(0, 1).transpose(1, 2, 0)).astype(np.uint8)


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    import numpy as np
    import torch

    from unip_hf.data import load_id2label
    from unip_hf.data.reading import check_ids, has_pairs, read_sample, without_decoding
    from unip_hf.files import write_whole
    from unip_hf.pictures import overlay_picture, side_by_side, stacked

    dataset = without_decoding(load_dataset(options, options.split))
    id2label = load_id2label(options.dataset, options.data_dir)
    processor = make_image_processor(options, options.checkpoint)
    transform = make_transform(options, processor)
    is_of_pairs = has_pairs(dataset)
    processors = processor.by_role(processor, processor.auxiliary) if is_of_pairs else (processor,)
    overlay = partial(overlay_picture, id2label=id2label, opacity=0.35)

    torch.manual_seed(options.seed)
    rows = []
    for number in np.random.default_rng(options.seed).permutation(len(dataset))[: options.num_samples].tolist():
        sample = read_sample(dataset[number], number, is_of_pairs)
        assert sample.ids is not None  # these datasets have masks
        check_ids(sample.ids, id2label, sample.name)
        images = [sample.image] if sample.visible is None else [sample.image, sample.visible]
        panels = []
        for title, image in zip((Path(sample.name).name, "visible"), images):
            original = overlay(image, sample.ids, with_legend=image is sample.image)
            original.thumbnail((2 * options.crop_size, 2 * options.crop_size))
            panels.append((title, original))
        for variant in range(1, options.num_variants + 1):
            main, labels, *auxiliary = transform(sample.image, sample.ids, *images[1:])  # (C, h, w), (h, w)
            by_modality = processor.by_role(main, *auxiliary) if is_of_pairs else (main,)
            for title, pixels, normalised_by in zip(("", ", visible"), by_modality, processors):
                picture = to_picture(pixels.numpy(), normalised_by)
                panels.append((f"variant {variant}{title}", overlay(picture, labels.numpy())))
        rows.append(side_by_side(panels))

    with write_whole(options.output_file) as staged:
        stacked(rows).save(staged)
    print(f"{len(rows)} of {len(dataset)} samples: {options.output_file}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
