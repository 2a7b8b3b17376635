# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Opens a page in the browser: segment images and videos, see where the network looks, compare two models.

    unip demo
    unip demo --model outputs/small/best nvidia/segformer-b0-finetuned-ade-512-512
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unip_hf.scripts.options import make_parser


QUICKSTART = Path("outputs/quickstart/best")


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("demo", __doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        help="folders of semantic segmentation models, exported files, or names on the\n"
        f"Hub (default: the model of the quickstart, {QUICKSTART})",
    )
    server = parser.add_argument_group("server")
    server.add_argument("--host", help="address to listen at; 0.0.0.0 for all (default: 127.0.0.1, this machine)")
    server.add_argument("--port", type=int, help="default: the first free one from 7860")
    server.add_argument("--share", action="store_true", help="make the page public for a week, through gradio.live")
    return parser


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    options = command_parser().parse_args(arguments)
    if options.port is not None and not 0 < options.port < 65536:
        raise ValueError(f"--port must be a number from 1 to 65535, got {options.port}.")
    if options.model is None:
        if not QUICKSTART.is_dir():
            raise ValueError(
                f"There is no folder {str(QUICKSTART)!r} here. Run `unip quickstart` first (three minutes, offline), "
                "or name a model with --model."
            )
        options.model = [str(QUICKSTART)]
    return options


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError('The demo needs gradio: pip install ".[demo]" in the folder of this project.') from error
    from unip_hf.spaces_demo.interface import serve

    serve(options.model, options.host, options.port, options.share)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
