# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Command-line options that several jobs share, and recipes."""

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unip_hf._version import __version__
from unip_hf.files import write_whole


def make_parser(job: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every training job has."""
    parser = argparse.ArgumentParser(
        f"unip {job}", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    run = parser.add_argument_group("run")
    run.add_argument("--config", type=Path, help="recipe: a YAML file of options; flags win over it")
    run.add_argument("--output_dir", type=Path, required=True, help="folder of the run")
    run.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds another run")
    run.add_argument("--resume_from_checkpoint", metavar="latest|PATH", help="go on as if never interrupted")
    run.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    run.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="default: %(default)s")
    run.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    run.add_argument(
        "--report_to",
        nargs="+",
        default=["tensorboard"],
        help="trackers of Accelerate: tensorboard (default), wandb, mlflow,\ntrackio, ..., or none",
    )
    run.add_argument("--num_workers", type=int, default=2, help="processes that read images (default: %(default)s)")
    run.add_argument("--save_every", type=int, help="steps between checkpoints (default: at each evaluation)")
    run.add_argument("--log_every", type=int, default=10, help="steps between logged losses (default: %(default)s)")
    add_launch_options(parser)
    return parser


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Options that the `unip` command reads; `accelerate launch` and `torchrun` have their own."""
    launch = parser.add_argument_group("processes", "for the unip command; accelerate launch and torchrun have theirs")
    launch.add_argument("--num_processes", type=int, help="default: one for each GPU")
    launch.add_argument("--accelerate_config", type=Path, help="made by `accelerate config`, for several machines say")


def parse_with_recipe(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """
    Parses a command line; the options in the YAML file of `--config` are read as if they stood in front of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a list of options.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    path = finder.parse_known_args(arguments)[0].config
    words: list[str] = []
    if path is not None:
        import yaml

        if not path.is_file():
            raise FileNotFoundError(f"There is no recipe {str(path)!r}.")
        try:
            recipe = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"The recipe {str(path)!r} is not YAML: {error}") from error
        if not isinstance(recipe, dict):
            raise ValueError(f'The recipe {str(path)!r} is no list of options such as "learning_rate: 1e-4".')
        for name, value in recipe.items():
            if value is True or value is None or value is False:
                words += [f"--{name}"] if value else []
            else:
                words += [f"--{name}", *(str(v) for v in (value if isinstance(value, list) else [value]))]
    return parser.parse_args([*words, *arguments])


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """
    Raises:
        ValueError: if one of the options is given but not above 0.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name} is above 0, not {value}.")


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    import accelerate
    import datasets
    import torch
    import transformers

    modules = (torch, transformers, datasets, accelerate)
    return {
        "unip_hf": __version__,
        "python": platform.python_version(),
        **{m.__name__: m.__version__ for m in modules},
    }


# Options that may differ when a run is resumed: they change what is written or how fast, not what is computed.
FREE_OPTIONS = {
    "accelerate_config", "config", "log_every", "num_processes", "num_workers", "output_dir", "overwrite",
    "per_device_batch_size", "report_to", "resume_from_checkpoint", "save_every", "skip_check",
}  # fmt: skip


def open_run(options: argparse.Namespace) -> dict[str, Any]:
    """
    Looks at the folder of the run, writes nothing.

    Returns:
        What `run.json` shall hold.

    Raises:
        ValueError: if the folder holds another run and neither `--overwrite` nor `--resume_from_checkpoint` was given,
            or the options of the resumed run differ.
    """
    from unip_hf.training.checkpoints import find_checkpoint

    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    file = options.output_dir / "run.json"
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise ValueError(f"--output_dir {str(options.output_dir)!r} is a file.")
    if options.resume_from_checkpoint is None:
        is_empty = not options.output_dir.exists() or not any(options.output_dir.iterdir())
        if not is_empty and not options.overwrite:
            raise ValueError(
                f"{str(options.output_dir)!r} is not empty: choose another --output_dir, add --overwrite to replace "
                "the run in it, or --resume_from_checkpoint latest to go on with it."
            )
    elif find_checkpoint(options.output_dir, options.resume_from_checkpoint) and file.is_file():
        before = json.loads(file.read_text())["options"]
        changed = [n for n in settings if n not in FREE_OPTIONS and n in before and before[n] != settings[n]]
        if changed:
            named = "; ".join(f"--{name} was {before[name]!r}, is {settings[name]!r}" for name in changed)
            raise ValueError(f"A resumed run keeps its options: {named}.")
    return {"options": settings, "versions": versions()}


def start_run(options: argparse.Namespace, run: dict[str, Any]) -> None:
    """Makes the folder of the run and writes `run.json`; with `--overwrite`, removes what the run before left."""
    if options.resume_from_checkpoint is None and options.overwrite:
        for name in ("checkpoints", "best", "last", "logs", "predictions"):
            shutil.rmtree(options.output_dir / name, ignore_errors=True)
        (options.output_dir / "metrics.jsonl").unlink(missing_ok=True)
    for left_behind in options.output_dir.glob(".incomplete-*"):  # by a run that was killed while it wrote
        shutil.rmtree(left_behind, ignore_errors=True)
    with write_whole(options.output_dir / "run.json") as staged:
        staged.write_text(json.dumps(run, indent=1))


__all__ = [
    "add_launch_options",
    "check_positive",
    "make_parser",
    "open_run",
    "parse_with_recipe",
    "start_run",
    "versions",
]
