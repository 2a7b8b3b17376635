# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Opens a page in the browser: segment images and videos, see where the network looks, compare two models.

    unip demo
    unip demo --model outputs/small/best nvidia/segformer-b0-finetuned-ade-512-512
"""

import argparse
import sys
from collections.abc import Sequence

from unip_hf.scripts.options import make_parser
from unip_hf.spaces_demo.serving import QUICKSTART, serve


def command_parser() -> argparse.ArgumentParser:
    parser = make_parser("demo", __doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        help="folders of semantic segmentation models, exported files, or names on the\n"
        f"Hub (default: the quickstart's, {QUICKSTART})",
    )
    server = parser.add_argument_group("server")
    server.add_argument("--host", help="address to listen at; 0.0.0.0 for all (default: 127.0.0.1, this machine)")
    server.add_argument("--port", type=int, help="default: the first free one from 7860")
    server.add_argument("--share", action="store_true", help="make it public for a week, through gradio.live")
    return parser


def main(arguments: Sequence[str]) -> None:
    options = command_parser().parse_args(arguments)
    if options.port is not None and not 0 < options.port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {options.port}.")
    serve(options.model, options.host, options.port, options.share)


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
