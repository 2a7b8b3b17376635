# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Command-line options that several jobs share, and recipes."""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unip_hf.files import read_yaml
from unip_hf.scripts.runs import default_num_workers


if TYPE_CHECKING:
    import torch
    from torch import nn

    from unip_hf.inference import InferenceSettings


def make_parser(job: str, description: str | None) -> argparse.ArgumentParser:
    """A parser without abbreviations: the code that starts the processes could not read them."""
    return argparse.ArgumentParser(
        f"unip {job}", description=description, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )


def check_output_dir(options: argparse.Namespace, file: str, content: str) -> None:
    """
    Checks --output_dir before a job begins that may take hours.

    Raises:
        ValueError: if it is a file, cannot be written, or holds `file`, the `content` of an earlier job, without
            --overwrite.
    """
    folder = options.output_dir
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {str(folder)!r} is a file.")
    if (folder / file).exists() and not options.overwrite:
        raise ValueError(f"{str(folder)!r} holds {content}: choose another --output_dir or add --overwrite.")
    absolute = folder.absolute()
    if not os.access(next(path for path in (absolute, *absolute.parents) if path.exists()), os.W_OK):
        raise ValueError(f"Nothing can be written to {str(folder)!r}: choose another --output_dir.")


def add_training_options(parser: argparse.ArgumentParser, num_workers: int | None = 2) -> None:
    """Options of a run, for every job that trains. If `num_workers` is `None`, it depends on the machine."""
    run = parser.add_argument_group("run")
    run.add_argument(
        "--config",
        type=Path,
        help="recipe: a YAML file of options, or the name of one that comes with\n"
        "the library, such as fine-tuning-small-soda; flags win over it",
    )
    run.add_argument("--output_dir", type=Path, required=True, help="folder of the run")
    run.add_argument("--overwrite", action="store_true", help="replace another run in this folder")
    run.add_argument("--resume_from_checkpoint", metavar="latest|PATH", help="go on as if never interrupted")
    run.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    run.add_argument(
        "--mixed_precision",
        choices=["no", "bf16", "fp16"],
        default=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
        help="default: as the accelerate configuration says, or no",
    )
    run.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    run.add_argument(
        "--report_to",
        nargs="+",
        default=["tensorboard"],
        help="trackers of Accelerate: tensorboard (default), wandb, mlflow,\ntrackio, ..., or none",
    )
    run.add_argument(
        "--num_workers",
        type=int,
        default=num_workers,
        help=f"processes that read images (default: {num_workers or 'one for each core but one, from 2 to 8'})",
    )
    run.add_argument("--save_every", type=int, help="steps between checkpoints (default: at each evaluation)")
    run.add_argument("--log_every", type=int, default=10, help="steps between logged losses (default: %(default)s)")
    add_launch_options(parser)


def add_recipe_options(parser: argparse.ArgumentParser, batch_size: int) -> Any:
    """How every job trains, with the published batch size. Returns the group, for more options."""
    recipe = parser.add_argument_group("recipe", "defaults are the paper's")
    recipe.add_argument("--batch_size", type=int, default=batch_size, help="of an update (default: %(default)s)")
    recipe.add_argument(
        "--per_device_batch_size", type=int, help="images at once on each device (default: its share, at most 256)"
    )
    recipe.add_argument("--num_epochs", type=float, default=100, help="default: %(default)s")
    recipe.add_argument("--num_steps", type=int, help="updates, instead of --num_epochs")
    recipe.add_argument("--weight_decay", type=float, default=0.05, help="default: %(default)s")
    recipe.add_argument("--max_gradient_norm", type=float, help="shorten longer gradients (default: off)")
    recipe.add_argument("--ema_decay", type=float, help="save a moving average, 0.9999 for example (default: off)")
    recipe.add_argument("--gradient_checkpointing", action="store_true", help="less memory, a third more time")
    return recipe


def check_training_options(options: argparse.Namespace) -> None:
    """Checks what [`add_training_options`] and [`add_recipe_options`] were given, and counts cores if need be."""
    check_positive(
        options, "crop_size", "batch_size", "per_device_batch_size", "num_epochs", "num_steps", "learning_rate",
        "max_gradient_norm", "save_every", "log_every",
    )  # fmt: skip
    check_positive(options, "weight_decay", "num_workers", or_zero=True)
    options.num_workers = default_num_workers() if options.num_workers is None else options.num_workers
    if options.ema_decay is not None and not 0 < options.ema_decay < 1:
        raise ValueError(f"--ema_decay must be between 0 and 1, got {options.ema_decay}.")


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """What the `unip` command reads; `accelerate launch` and `torchrun` have their own."""
    launch = parser.add_argument_group("processes", "for the unip command; accelerate launch and torchrun have theirs")
    launch.add_argument("--num_processes", type=int, help="default: one for each GPU")
    launch.add_argument(
        "--accelerate_config",
        type=Path,
        help="YAML file, as `accelerate config` makes it, or the name of one that comes with\nthe library: "
        "one-gpu, eight-gpus, several-machines, fsdp, two-cpu-processes",
    )


DATASETS = "scenes, or a benchmark such as soda or mfnet;\nan unknown name lists all"


def add_dataset_options(parser: argparse.ArgumentParser, is_positional: bool = False) -> Any:
    """Which dataset. Returns the group, for more options."""
    data = parser.add_argument_group("data")
    if is_positional:
        data.add_argument("dataset", help=f"folder (images and masks of your own), {DATASETS}")
    else:
        data.add_argument(
            "--dataset", default="folder", help=f'"folder" (default), images and masks of your own; or\n{DATASETS}'
        )
    data.add_argument("--data_dir", type=Path, help="the folder; for a benchmark also the zip file as downloaded")
    add_benchmark_options(data)
    data.add_argument(
        "--mask_values", metavar="0=0,255=1", help="id of each value in the masks of a folder, if values are not ids"
    )
    data.add_argument("--mask_suffix", metavar="_gt", help="how names of masks end, if not like the image or in _mask")
    data.add_argument("--image_suffix", metavar="_img", help="how names of images end, if masks lack that ending")
    data.add_argument("--resize_masks", action="store_true", help="resize masks to their images (nearest neighbour)")
    return data


def add_benchmark_options(data: Any) -> None:
    """Which part of a benchmark."""
    data.add_argument("--dataset_config", help="thermal, rgb, both, ...: which data of a benchmark")
    data.add_argument("--allow_partial", action="store_true", help="accept a benchmark that is not complete")


def folder_options(options: argparse.Namespace) -> dict[str, Any]:
    """What [`add_dataset_options`] were given about masks, as arguments of `load_infrared_dataset`."""
    names = ("mask_values", "mask_suffix", "image_suffix", "resize_masks")
    return {name: getattr(options, name) for name in names}


def load_dataset(options: argparse.Namespace, split: str | None = None, num_proc: int | None = None) -> Any:
    """The dataset that the options of [`add_dataset_options`] choose."""
    from unip_hf.data import load_infrared_dataset

    return load_infrared_dataset(
        options.dataset,
        options.data_dir,
        split,
        num_proc=num_proc,
        config_name=options.dataset_config,
        allow_partial=options.allow_partial,
        **folder_options(options),
    )


def add_window_options(group: Any) -> None:
    """How a model goes over an image."""
    group.add_argument("--window_size", type=int, help="sliding window, pixels (default: the training crop, 512)")
    group.add_argument("--stride", type=int, help="from window to window (default: two thirds, 341)")
    group.add_argument(
        "--whole_image", action="store_true", help="no windows; position tables learned on crops are stretched"
    )


def add_inference_options(parser: argparse.ArgumentParser) -> Any:
    """How images are segmented. Returns the group, for more options."""
    group = parser.add_argument_group("inference", "defaults are the published evaluation's")
    add_window_options(group)
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    group.add_argument("--scales", type=float, nargs="+", default=[1.0], help="sizes to average over (default: 1)")
    group.add_argument(
        "--batch_size", type=int, default=8, help="windows at once, also of several images (default: %(default)s)"
    )
    group.add_argument(
        "--dtype",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="fp32",
        help="precision of the computation; auto takes bf16 where the device computes in\nit (default: %(default)s)",
    )
    # The name of this option in earlier versions.
    names = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
    group.add_argument("--mixed_precision", dest="dtype", type=lambda name: names.get(name, name),
                       choices=[*names.values()], default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the model with torch.compile, which takes minutes and pays for many\nimages of one size",
    )
    return group


def make_window_settings(options: argparse.Namespace, model: "nn.Module", **changes: Any) -> "InferenceSettings":
    """The settings for a model with what [`add_window_options`] were given; `changes` are other fields."""
    from unip_hf.inference import InferenceSettings

    given = {"window_size": options.window_size, "stride": options.stride}
    changes |= {name: value for name, value in given.items() if value is not None}
    if options.whole_image:
        changes["window_size"] = None
    return InferenceSettings.for_model(model, **changes)


def make_inference_settings(options: argparse.Namespace, model: "nn.Module") -> "InferenceSettings":
    """The settings for a model with what [`add_inference_options`] were given."""
    return make_window_settings(
        options, model, flip=options.flip, scales=tuple(options.scales), batch_size=options.batch_size
    )


def choose_precision(options: argparse.Namespace, model: "nn.Module", device: "torch.device") -> str:
    """The precision that `--dtype` chooses for a model on a device. What `auto` takes is said."""
    from unip_hf.inference.precision import choose_dtype

    chosen = choose_dtype(options.dtype, model, device)
    if options.dtype == "auto" and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"--dtype auto takes {chosen} here.", flush=True)
    return chosen


def find_shipped(name: Path, folder: str, kind: str) -> Path:
    """
    A YAML file: this path, or the one of this name that comes with the library, in a folder beside this file.

    Raises:
        FileNotFoundError: if there is no such file. The message says its `kind` and the names that are most alike.
    """
    if name.is_file():
        return name
    shipped = {path.stem: path for path in sorted((Path(__file__).parent / folder).glob("*.yaml"))}
    if str(name) not in shipped:
        alike = difflib.get_close_matches(str(name), shipped, n=5, cutoff=0)
        raise FileNotFoundError(
            f"There is no {kind} {str(name)!r}: it is neither a file nor a name such as {', '.join(alike)}."
        )
    return shipped[str(name)]


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """
    A command line that begins with the options in the recipe of `--config`, so that those of the user win.

    Raises:
        FileNotFoundError: if there is no such recipe.
        ValueError: if it is not a list of options.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path = finder.parse_known_args(arguments)[0].config
    if path is None:
        return list(arguments)
    path = find_shipped(path, "recipes", "recipe")
    recipe = read_yaml(path)
    if not isinstance(recipe, dict):
        raise ValueError(f'The recipe {str(path)!r} is not a list of options such as "learning_rate: 1e-4".')
    words: list[str] = []
    for name, value in recipe.items():
        option = "--" + str(name).replace("-", "_")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            values = value if isinstance(value, list) else [value]
            if any(isinstance(one, (dict, list, set, tuple)) for one in values):
                raise ValueError(f"The recipe {str(path)!r} must give {name} a plain value, or a list of them.")
            words += [option, *map(str, values)]
    return [*words, *arguments]


def check_positive(options: argparse.Namespace, *names: str, or_zero: bool = False) -> None:
    """Checks that options, if they are given, are above 0, or with `or_zero` at least 0."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not (value > 0 or (value == 0 and or_zero)):  # also if it is NaN
            raise ValueError(f"--{name} must be {'0 or above' if or_zero else 'above 0'}, got {value}.")
