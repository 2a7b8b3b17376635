# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Starts the processes of a job that trains or evaluates: one here, several on this machine, or many machines."""

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence

from unip_hf.scripts.options import add_launch_options, with_recipe


def launch(job: str, arguments: Sequence[str]) -> int:
    """
    Runs the script of a job in as many processes as the command line asks for (by default one for each GPU).

    Args:
        job (`str`): Name of a script.
        arguments: What the user typed after it.

    Returns:
        The exit status.

    Raises:
        ValueError: if the machine has fewer GPUs than processes are asked for.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_launch_options(finder)
    options, _ = finder.parse_known_args(with_recipe(arguments))
    module = f"unip_hf.scripts.{job}"
    if "RANK" in os.environ or {"-h", "--help"} & set(arguments):  # started by a launcher, or nothing to start
        return importlib.import_module(module).main(arguments) or 0
    if options.accelerate_config is not None:
        if not options.accelerate_config.is_file():
            raise ValueError(f"There is no file {str(options.accelerate_config)!r}: `accelerate config` makes one.")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", options.accelerate_config]
        if options.num_processes is not None:
            command += ["--num_processes", str(options.num_processes)]
        return _run_as_group([*command, "-m", module, *arguments])

    import torch

    num_gpus = torch.cuda.device_count()
    num_processes = max(1, num_gpus) if options.num_processes is None else options.num_processes
    if num_processes < 1 or (num_gpus and num_processes > num_gpus):
        raise ValueError(f"--num_processes is 1 to {num_gpus or 'the number of cores'}, not {num_processes}.")
    if num_processes == 1:
        return importlib.import_module(module).main(arguments) or 0
    return _launch_here(module, arguments, num_processes, is_cpu=num_gpus == 0)


def _run_as_group(command: Sequence[str]) -> int:
    """Runs a command that starts processes; a signal reaches all of them, and all are waited for."""
    process = subprocess.Popen(command, start_new_session=True)
    received: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        received.append(number)
        os.killpg(process.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    status = process.wait()
    until = time.monotonic() + 300
    while received and _has_processes(process.pid) and time.monotonic() < until:
        time.sleep(0.1)  # the launcher may end before what it started has saved
    return 128 + received[0] if received else status


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _launch_here(module: str, arguments: Sequence[str], num_processes: int, is_cpu: bool) -> int:
    # torchrun rather than `accelerate launch`, which starts a single process on CPUs and says nothing
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the script itself says what happened
    if is_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


__all__ = ["launch"]
