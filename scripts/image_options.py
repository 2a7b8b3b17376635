# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Command-line options on images: how they are scaled, resized, cropped and varied."""

import argparse
import math
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from unip_hf import UnipImageProcessor
    from unip_hf.data.transforms import Transform
    from unip_hf.hub.pretrained import Pretrained


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """How training images are scaled and augmented."""
    images = parser.add_argument_group("images", "sizes in pixels; by default as in the checkpoint's processor")
    images.add_argument("--crop_size", type=int, default=512, help="of training (default: %(default)s)")
    images.add_argument("--shortest_edge", type=int, help="size of the image before the crop")
    images.add_argument("--longest_edge", type=int, help="limit of its other edge")
    images.add_argument(
        "--resize_to",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of every image before the crop, whatever its aspect ratio; also of whole\nimages in evaluation",
    )
    images.add_argument("--ratio_range", type=float, nargs=2, default=[0.5, 2.0], help="resize at random (0.5 to 2)")
    images.add_argument("--flip_probability", type=float, default=0.5, help="default: %(default)s")
    images.add_argument("--no_photometric_distortion", action="store_true", help="if absolute temperatures matter")
    images.add_argument("--no_antialias", action="store_true", help="resize images like OpenCV and the published code")
    images.add_argument(
        "--mask_interpolation",
        choices=["nearest-exact", "nearest"],
        default="nearest-exact",
        help="of training masks; nearest is like OpenCV and the published code\n(default: %(default)s)",
    )
    images.add_argument("--intensity_scaling", choices=["dtype_range", "percentiles", "fixed_range"])
    images.add_argument("--intensity_percentiles", type=float, nargs=2, metavar=("LOW", "HIGH"))
    images.add_argument("--intensity_range", type=float, nargs=2, metavar=("LOW", "HIGH"))
    images.add_argument("--counts_to_celsius", type=float, nargs=2, metavar=("FACTOR", "OFFSET"))
    images.add_argument(
        "--image_mean",
        type=number_or_checkpoint,
        nargs="+",
        help="of intensities 0..1: one or three numbers; or checkpoint, for mean and standard\n"
        "deviation of its weights, whatever --image_std is",
    )
    images.add_argument("--image_std", type=float, nargs="+", help="standard deviation, likewise")
    images.add_argument(
        "--auxiliary_image_mean",
        type=float,
        nargs="+",
        help="of the other images of pairs: one or three numbers (default: of their\nmodality, InfMix or ImageNet)",
    )
    images.add_argument("--auxiliary_image_std", type=float, nargs="+", help="standard deviation, likewise")


def number_or_checkpoint(text: str) -> float | str:
    """A number, or the word `checkpoint`."""
    try:
        return text if text == "checkpoint" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor the word checkpoint") from error


# Options that are settings of the processor begin like this.
IMAGE_SETTINGS = ("intensity_", "image_mean", "image_std", "counts_", "auxiliary_image_")


def make_image_processor(
    options: argparse.Namespace,
    checkpoint: str | None,
    num_channels: int | None = None,
    weights: "Pretrained | None" = None,
    main_modality: str | None = None,
) -> "UnipImageProcessor":
    """
    The processor of a checkpoint (`None`: UNIP's default), changed by the options of [`add_image_options`]. `weights`
    are those of another library, whose mean and standard deviation `--image_mean checkpoint` takes. If
    `main_modality` is not that of the checkpoint, its statistics become those of the auxiliary images.
    """
    from unip_hf import UnipImageProcessor
    from unip_hf.inference import load_processor

    if checkpoint is None:
        processor = UnipImageProcessor(num_channels or 3, main_modality=main_modality or "infrared")
    else:
        processor = load_processor(checkpoint)
        processor = processor if main_modality in (None, processor.main_modality) else processor.auxiliary
    settings = {name: value for name, value in vars(processor).items() if not name.startswith("_")}
    given = {name: value for name, value in vars(options).items() if value is not None}
    if "checkpoint" in given.get("image_mean", ()):
        if len(given["image_mean"]) > 1:
            raise ValueError("--image_mean takes numbers, or the word checkpoint alone.")
        if weights is None and checkpoint is None:
            raise ValueError("--image_mean checkpoint needs a checkpoint, and a random start is none: give numbers.")
        del given["image_mean"]  # a checkpoint with a processor keeps its own
        given.pop("image_std", None)
        given |= normalisation_of_weights(weights, num_channels) if weights is not None else {}
    settings |= {name: value for name, value in given.items() if name.startswith(IMAGE_SETTINGS)}
    if "image_mean" in given or "image_std" in given:
        settings["do_normalize"] = True
    if given.get("no_antialias"):
        settings["antialias"] = False
    if edges := {name: given[name] for name in ("shortest_edge", "longest_edge") if name in given}:
        before = processor.size if "shortest_edge" in processor.size else {"shortest_edge": 512, "longest_edge": 2048}
        settings["size"] = {**before, **edges}
        settings["do_resize"] = True
    if given.get("resize_to"):
        if edges:
            raise ValueError("--resize_to sets height and width: leave --shortest_edge and --longest_edge out.")
        settings["size"] = dict(zip(("height", "width"), given["resize_to"]))
        settings["do_resize"] = True
    if num_channels is not None:
        settings["num_channels"] = num_channels
    return UnipImageProcessor(**settings)


def normalisation_of_weights(weights: "Pretrained", num_channels: int | None) -> dict[str, list[float]]:
    """
    Settings of an image processor: what `--image_mean checkpoint` takes from the weights of another library.

    Raises:
        ValueError: if they do not say it, or say it for another number of channels.
    """
    mean, std = weights.image_mean, weights.image_std
    if mean is None or std is None:
        raise ValueError(
            f"{weights.name!r} does not say mean and standard deviation of its images: give --image_mean and "
            "--image_std as numbers, or leave both out for those of infrared images."
        )
    if num_channels == 1 and (len(set(mean)) > 1 or len(set(std)) > 1):
        raise ValueError(
            f"{weights.name!r} has another mean or standard deviation for each of its three channels: "
            "--image_mean checkpoint does not go with --num_channels 1."
        )
    return {"image_mean": list(mean[:num_channels]), "image_std": list(std[:num_channels])}


def training_crop(options: argparse.Namespace) -> tuple[int, int]:
    """Height and width of the training crops that the options of [`add_image_options`] choose."""
    largest = (options.crop_size, options.crop_size)
    if options.resize_to is not None:  # no image is larger than this
        largest = tuple(math.ceil(side * options.ratio_range[1]) for side in options.resize_to)
    height, width = (min(options.crop_size, side) for side in largest)
    return height, width


def make_transform(options: argparse.Namespace, processor: "UnipImageProcessor") -> "Transform":
    """The training transforms that the options of [`add_image_options`] choose."""
    from unip_hf.data.transforms import training_transforms

    return training_transforms(
        processor,
        training_crop(options),
        tuple(options.ratio_range),
        flip_probability=options.flip_probability,
        photometric_distortion=not options.no_photometric_distortion,
        mask_interpolation=options.mask_interpolation,
    )
