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
from collections.abc import Callable, Sequence
from pathlib import Path

from unip_hf.scripts.options import add_launch_options, find_accelerate_config, with_recipe


def launch(job: str, arguments: Sequence[str]) -> int:
    """
    Runs the script of a job in as many processes as the command line asks for (by default one for each GPU).

    Args:
        job (`str`): Name of a script.
        arguments: What the user typed after it.

    Returns:
        The exit status.

    Raises:
        FileNotFoundError: if there is no such configuration of Accelerate.
        ValueError: if the machine has fewer GPUs than processes are asked for, or the configuration is not complete.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_launch_options(finder)
    options, _ = finder.parse_known_args(with_recipe(arguments))
    module = f"unip_hf.scripts.{job}"
    if "RANK" in os.environ or {"-h", "--help"} & set(arguments):  # started by a launcher, or nothing to start
        return importlib.import_module(module).main(arguments) or 0
    if options.accelerate_config is not None:
        return _launch_with_accelerate(module, arguments, options.accelerate_config, options.num_processes)

    num_gpus = _count_gpus()
    num_processes = max(1, num_gpus) if options.num_processes is None else options.num_processes
    if num_processes < 1 or (num_gpus and num_processes > num_gpus):
        raise ValueError(f"--num_processes is 1 to {num_gpus or 'the number of cores'}, not {num_processes}.")
    if num_processes == 1:
        return importlib.import_module(module).main(arguments) or 0
    return _launch_here(module, arguments, num_processes, is_cpu=num_gpus == 0)


def use_cpu_without_gpu() -> None:
    """
    In one of several processes on a machine without GPU, makes Accelerate use the CPU and the other processes.

    Accelerate looks for other processes where it finds a GPU or was told to use the CPU. Elsewhere each process trains
    alone, and nothing says so.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and _count_gpus() == 0:
        os.environ["ACCELERATE_USE_CPU"] = "true"


def _count_gpus() -> int:
    """Devices that processes can share the work on, which the GPU of a Mac is not."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return 0 if accelerator is None or accelerator.type == "mps" else torch.accelerator.device_count()


def _launch_with_accelerate(module: str, arguments: Sequence[str], config: Path, num_processes: int | None) -> int:
    config = find_accelerate_config(config)
    if _uses_cpu(config, num_processes):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # most launchers of Accelerate do not hand it on
    command = [sys.executable, "-m", "unip_hf.scripts.launch", "--config_file", str(config)]
    if num_processes is not None:
        command += ["--num_processes", str(num_processes)]
    return _run_as_group([*command, "-m", module, *arguments])


def _uses_cpu(config: Path, num_processes: int | None) -> bool:
    """
    Raises:
        ValueError: if Accelerate would start something else than the configuration says, or wait without an end.
    """
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    try:
        settings = load_config_from_file(str(config))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{str(config)!r} is no configuration of Accelerate: {error}") from error
    if settings.num_machines > 1 and settings.main_process_ip is None:
        raise ValueError(
            f"{str(config)!r} is for {settings.num_machines} machines and does not say where the first one is: copy "
            "it to each machine and set machine_rank, main_process_ip and main_process_port."
        )
    if settings.distributed_type == DistributedType.MULTI_CPU and not settings.mpirun_config:
        raise ValueError(
            f"For {str(config)!r} Accelerate starts a single process, because its distributed_type is MULTI_CPU, "
            "which needs MPI. Choose --accelerate_config two-cpu-processes, with --num_processes for more than two."
        )
    num_gpus = _count_gpus()
    total = settings.num_processes if num_processes is None else num_processes
    here = total // settings.num_machines
    if num_processes is not None and here < 1:
        raise ValueError(f"--num_processes is at least {settings.num_machines}, not {num_processes}.")
    if not settings.use_cpu and total > 1 and here > num_gpus and (num_gpus > 0 or num_processes is None):
        raise ValueError(
            f"{str(config)!r} is for {here} GPUs of a machine, but this one has {num_gpus}: give --num_processes"
            + ("." if num_gpus else ", for as many processes on CPUs.")
        )
    return settings.use_cpu or (total > 1 and num_gpus == 0)


def _run_as_group(command: Sequence[str]) -> int:
    """Runs a command that starts processes; a signal reaches all of them, and all are waited for."""
    process = subprocess.Popen(command, start_new_session=True)
    received: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        received.append(number)
        os.killpg(process.pid, number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = process.wait()
        until = time.monotonic() + 300
        while received and _has_processes(process.pid) and time.monotonic() < until:
            time.sleep(0.1)  # the launcher may end before what it started has saved
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else status


def _has_processes(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _launch_here(module: str, arguments: Sequence[str], num_processes: int, is_cpu: bool) -> int:
    # torchrun rather than `accelerate launch`, which starts a single process on CPUs and says nothing
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

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
    return _exit_status(lambda: elastic_launch(config, sys.executable)("-u", "-m", module, *arguments))


def _exit_status(start: Callable[[], object]) -> int:
    """Of the first process that fails among those that a function starts and waits for."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the script itself says what happened
    try:
        start()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except SignalException as error:
        return 128 + error.sigval
    return 0


def main(arguments: Sequence[str]) -> int:
    """`accelerate launch`, but it ends with the exit status of what it started and adds no traceback of its own."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    return _exit_status(lambda: launch_command(launch_command_parser().parse_args(arguments)))


__all__ = ["launch", "use_cpu_without_gpu"]


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
