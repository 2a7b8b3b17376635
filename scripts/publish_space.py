# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Publishes the demo as a Space on the Hub: the page of `unip demo` with a model that is on the Hub.

    unip publish-space me/infrared-demo --model me/unip-small-yard --dry_run look
    unip publish-space me/infrared-demo --model me/unip-small-yard

The Space holds this library itself. --dry_run writes the files into a folder instead, and needs no network. A new
Space is private unless --public. For a private model, set a secret HF_TOKEN on the page of the Space.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import make_parser


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("publish-space", __doc__)
    parser.add_argument("repo_id", metavar="USER/NAME", help="the Space")
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="USER/NAME", help="models on the Hub; the first is shown first"
    )
    parser.add_argument("--dry_run", type=Path, metavar="OUT_DIR", help="new folder for the files, instead of the Hub")
    parser.add_argument("--public", action="store_true", help="make a new Space public (default: private)")
    return parser


def not_of_the_library(folder: str, names: Sequence[str]) -> list[str]:
    """The names of those files in a folder of the library that are not its own: caches, and what was left there."""
    kept = (".py", ".yaml", ".html", ".md", ".css", ".typed", "requirements.txt")
    return [
        name
        for name in names
        if name.startswith((".", "__pycache__")) or not (name.endswith(kept) or Path(folder, name).is_dir())
    ]


def write_space(folder: Path, models: Sequence[str]) -> None:
    """
    Writes the files of a Space: `app.py`, `README.md` with the models in its header, `requirements.txt`, and this
    library as the folder `unip_hf`, however it is installed.

    Args:
        folder: Folder that is empty or does not exist.
        models: Names on the Hub.

    Raises:
        ValueError: if there are files in the folder.
    """
    import importlib
    import shutil

    from huggingface_hub import SpaceCard

    from unip_hf.files import write_whole

    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} is not an empty folder: choose another.")
    with write_whole(folder) as staged:
        # In a checkout, the last three lie elsewhere.
        for name in ("unip_hf", "unip_hf.modeling", "unip_hf.scripts", "unip_hf.spaces_demo"):
            shutil.copytree(
                importlib.import_module(name).__path__[0],
                staged / name.replace(".", "/"),
                ignore=not_of_the_library,
                dirs_exist_ok=True,
            )
        for name in ("app.py", "README.md", "requirements.txt"):
            (staged / "unip_hf" / "spaces_demo" / name).rename(staged / name)
        card = SpaceCard.load(staged / "README.md")
        card.data["models"] = list(models)
        card.save(staged / "README.md")


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    from unip_hf.hub.uploading import check_login, check_repo_id, upload_folder

    check_repo_id(options.repo_id)
    for model in options.model:
        card = Path(model) / "README.md"
        # The folder of a dry run may lie here under the very name that the model has on the Hub.
        is_publication = card.is_file() and f'from_pretrained("{model}"' in card.read_text(encoding="utf-8")
        if Path(model).exists() and not is_publication:
            raise ValueError(
                f"{model!r} is a folder on this machine, where a Space cannot read it. Publish its checkpoint first, "
                "with unip publish CHECKPOINT USER/NAME, and give that name."
            )
        check_repo_id(model)
    if options.dry_run is None:
        check_login()
    with tempfile.TemporaryDirectory(prefix="unip-publish-") as temporary:
        folder = options.dry_run or Path(temporary) / "files"
        write_space(folder, options.model)
        if options.dry_run is not None:
            count = sum(path.is_file() for path in folder.rglob("*"))
            print(f"Wrote {count} files into {folder}; nothing was uploaded. To try it: python {folder / 'app.py'}")
            return
        done = upload_folder(
            folder,
            options.repo_id,
            is_public=options.public,
            repo_type="space",
            replaced_patterns=["unip_hf/**"],
            space_sdk="gradio",
        )
        print(done)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
