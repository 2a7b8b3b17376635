# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The `unip` command: `unip JOB ...` runs the script of that name."""

import importlib
import re
import sys
from collections.abc import Callable, Sequence

from unip_hf._version import __version__


JOBS = {
    "benchmark": "measure import cost, speed and memory on this machine",
    "convert": "published checkpoints to this library's models, and back",
    "quickstart": "train and evaluate on built-in infrared scenes, offline",
}


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """
    Runs the `main` of a script.

    Args:
        main: Takes command-line arguments.
        arguments: What the user typed; names of options may be written with dashes or underscores.

    Returns:
        The exit status: 0, or 2 with one sentence on stderr where the input was wrong.
    """
    try:
        main(
            [
                re.sub(r"^--[a-zA-Z][\w-]*", lambda name: "--" + name[0][2:].replace("-", "_"), word)
                for word in arguments
            ]
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console command; `arguments` without the program name."""
    arguments = sys.argv[1:] if arguments is None else arguments
    job, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if job == "--version":
        print(__version__)
        return 0
    if job in JOBS:
        return run(importlib.import_module(f"unip_hf.scripts.{job}").main, rest)
    usage = "usage: unip JOB [options]   (unip JOB --help lists them)\n\n"
    usage += "\n".join(f"  {name:<12}{purpose}" for name, purpose in JOBS.items())
    if job in ("-h", "--help"):
        print(usage)
        return 0
    print(f"error: there is no job {job!r}.\n\n{usage}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
