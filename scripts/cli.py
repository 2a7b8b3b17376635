# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The `unip` command: `unip JOB ...` runs the script of that name."""

import atexit
import functools
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unip_hf._version import __version__
from unip_hf.scripts.launch import end_with_launcher, launch, leave, use_cpu_without_gpu


JOBS = {
    "distill": "pre-train small networks on the attention of a large one (NMI-HAD)",
    "finetune": "train a model on images with masks, or probe a frozen one",
    "evaluate": "mean IoU of a model on a data set, with a report",
    "predict": "segment images, folders, TIFF pages and videos",
    "check-dataset": "find what is wrong with images and masks before training does",
    "show-dataset": "a picture of what the model sees in training",
    "prepare-dataset": "a benchmark or a folder as parquet files, for streaming and for the Hub",
    "prepare-infmix": "infrared images, ImageNet and COCO as one grey set for pre-training",
    "analyze": "what backbones look at: attention, features and texture, block by block, as a page",
    "cost": "parameters, multiply-adds, time and memory of networks",
    "compare-layers": "measure which block of a teacher the student should learn",
    "publish": "a checkpoint with its model card on the Hub",
    "publish-space": "the demo as a Space on the Hub",
    "export": "ONNX and OpenVINO files",
    "demo": "a page in the browser: segment, look at attention, compare",
    "convert": "published checkpoints to this library's models, and back",
    "quickstart": "train and evaluate on built-in infrared scenes, offline",
    "results": "finished runs as the paper's table",
}
LAUNCHED = {"distill", "finetune", "evaluate"}  # in one process or several


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """Arguments with the options spelt as the scripts define them: `--data-dir` becomes `--data_dir`."""
    return [
        re.sub(r"^--[a-zA-Z][\w-]*", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in arguments
    ]


def run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int:
    """
    Runs the `main` of a script with what the user typed. Options may be written with dashes or underscores.

    Returns:
        The exit status: 0; 2 if the input was wrong, with one sentence on stderr; or 130 after Ctrl-C.
    """
    if not is_one_of_several():
        return _run(main, arguments)
    end_with_launcher()
    statuses = [1]
    atexit.register(leave, statuses)  # the first to be registered and so the last to be called

    def begin(words: Sequence[str]) -> int | None:
        use_cpu_without_gpu()
        return main(words)

    try:
        statuses.append(_run(begin, arguments))
    except SystemExit as error:
        statuses.append(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    return statuses[-1]


def _run(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int:
    # A script started as a file has its folder first in the search path, where evaluate.py hides the library evaluate.
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]
    try:
        return main(with_underscores(arguments)) or 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = as_sentence(error)
        is_first = os.environ.get("LOCAL_RANK", "0") == "0"
        if is_one_of_several() and (sentence is None or not is_first):
            # Another process says what is wrong, of which this error may only be the result, a lost connection. Then
            # the launcher ends this process.
            time.sleep(10)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2


def is_one_of_several() -> bool:
    """Whether a launcher started this process and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def as_sentence(error: Exception) -> str | None:
    """What the user is told of an error; `None` for one that is no fault of the input or the machine."""
    # torch raises this wherever the process is at that moment, perhaps while it writes a file
    if worker := re.search(r"DataLoader worker \(pid.*", str(error)):
        return f"{worker[0].strip(' .')}. Perhaps memory ran out: use fewer --num_workers."
    return str(error) if isinstance(error, (ValueError, OSError)) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console command. `arguments` does not include the program name."""
    arguments = sys.argv[1:] if arguments is None else arguments
    job, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if job == "--version":
        print(__version__)
        return 0
    if job in JOBS:
        script = job.replace("-", "_")
        if job in LAUNCHED:
            return run(functools.partial(launch, script), rest)
        return run(importlib.import_module(f"unip_hf.scripts.{script}").main, rest)
    usage = "usage: unip JOB [options]   (unip JOB --help lists them)\n\n"
    usage += "\n".join(f"  {name:<17}{purpose}" for name, purpose in JOBS.items())
    if job in ("-h", "--help"):
        print(usage)
        return 0
    print(f"error: there is no job {job!r}.\n\n{usage}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
