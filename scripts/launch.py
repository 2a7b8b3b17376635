# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Starts the processes of a job that trains or evaluates. One process runs in place. Several are started and ended by the
launchers of PyTorch and Accelerate, which pass SIGTERM and Ctrl-C on and wait.
"""

import argparse
import ctypes
import importlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unip_hf.scripts.options import add_launch_options, find_shipped, with_recipe


if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig


def launch(job: str, arguments: Sequence[str]) -> int:
    """
    Runs the script of a job in as many processes as the command line asks for; by default one for each GPU. Returns
    the exit status.

    Raises:
        FileNotFoundError: if there is no such configuration of Accelerate.
        ValueError: if the machine has fewer GPUs than processes, or the configuration is not complete.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_launch_options(finder)
    options, _ = finder.parse_known_args(with_recipe(arguments))
    module = f"unip_hf.scripts.{job}"
    if "RANK" in os.environ or {"-h", "--help"} & set(arguments):  # started by a launcher, or nothing to start
        return importlib.import_module(module).main(arguments) or 0
    if options.accelerate_config is not None:
        config = find_shipped(options.accelerate_config, "accelerate", "configuration of Accelerate")
        return launch_with_accelerate(config, options.num_processes, module, arguments)

    num_gpus = count_gpus()
    num_processes = max(1, num_gpus) if options.num_processes is None else options.num_processes
    if num_processes < 1 or (num_gpus and num_processes > num_gpus):
        raise ValueError(f"--num_processes must be 1 to {num_gpus or 'the number of cores'}, got {num_processes}.")
    if num_processes == 1:
        return importlib.import_module(module).main(arguments) or 0
    from torch.distributed import run as torchrun

    if num_gpus == 0:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    # `accelerate launch` would start a single process on CPUs without a word.
    words = ["--standalone", "--nproc_per_node", str(num_processes), "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as folder:  # otherwise torchrun makes one and leaves it
        return exit_status(lambda: torchrun.run(torchrun.parse_args(["--log_dir", folder, *words])))


def use_cpu_without_gpu() -> None:
    """
    In one of several processes on a machine without GPU, makes Accelerate use the CPU and the other processes.

    Accelerate looks for other processes if it finds a GPU or was told to use the CPU. Otherwise each process would
    train alone without a word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and count_gpus() == 0:
        os.environ["ACCELERATE_USE_CPU"] = "true"


def end_with_launcher() -> None:
    """
    Lets SIGTERM come to this process, if a launcher started it, when the launcher has ended, even if that was killed.
    Only Linux can.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def leave(status: Sequence[int]) -> None:
    """
    Ends a process that talks to others, with the last of these statuses, instead of letting Python take itself down:
    a thread of gloo that still holds a tensor then may abort the process, which has done its work.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status[-1])


def count_gpus() -> int:
    """Devices that processes can share the work on, which the GPU of a Mac is not."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return 0 if accelerator is None or accelerator.type == "mps" else torch.accelerator.device_count()


def launch_with_accelerate(config: Path, num_processes: int | None, module: str, arguments: Sequence[str]) -> int:
    """Runs a module with its arguments as `accelerate launch` does; returns the exit status."""
    from accelerate.commands import launch as accelerate_launch
    from accelerate.utils import DistributedType, prepare_simple_launcher_cmd_env

    settings = read_config(config)
    if uses_cpu(config, settings, num_processes):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # most launchers of Accelerate do not hand it on
    words = ["--config_file", str(config), "-m", module, *arguments]
    if num_processes is not None:
        words = ["--num_processes", str(num_processes), *words]
    options = accelerate_launch.launch_command_parser().parse_args(words)
    if settings.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        # Accelerate would start this one command and wait, and SIGTERM would end it without the command. So the
        # command takes the place of this process. Nothing public reads a configuration into the options.
        options, *_ = accelerate_launch._validate_launch_command(options)
        command, environment = prepare_simple_launcher_cmd_env(options)
        os.execvpe(command[0], command, environment)  # noqa: S606  accelerate's own list of arguments, no shell
    return exit_status(lambda: accelerate_launch.launch_command(options))


def read_config(config: Path) -> "ClusterConfig":
    """What a file of `accelerate config` says."""
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return load_config_from_file(str(config))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{str(config)!r} is not a configuration of Accelerate: {error}") from error


def uses_cpu(config: Path, settings: "ClusterConfig", num_processes: int | None) -> bool:
    """
    Whether the processes run on CPUs.

    Raises:
        ValueError: if Accelerate would start something else than the user asked for, or wait forever.
    """
    from accelerate.utils import DistributedType

    name, num_machines, num_gpus = repr(str(config)), settings.num_machines, count_gpus()
    total = settings.num_processes if num_processes is None else num_processes
    if num_machines > 1 and settings.main_process_ip is None:
        raise ValueError(
            f"{name} is for {num_machines} machines and does not say where the first one is: copy it to each machine "
            "and set machine_rank, main_process_ip and main_process_port."
        )
    if settings.distributed_type == DistributedType.MULTI_CPU and not settings.mpirun_config:
        raise ValueError(
            f"For {name} Accelerate starts a single process, because its distributed_type is MULTI_CPU, which needs "
            "MPI. Choose --accelerate_config two-cpu-processes, with --num_processes for more than two."
        )
    if settings.distributed_type == DistributedType.NO and total != 1:
        raise ValueError(f"{name} is for one process, got {total}: choose another --accelerate_config.")
    if total < 1 or total % num_machines:
        raise ValueError(f"--num_processes must be a multiple of the machines in {name}, {num_machines}, got {total}.")
    here = total // num_machines
    if not settings.use_cpu and total > 1 and here > num_gpus and (num_gpus > 0 or num_processes is None):
        raise ValueError(
            f"{name} is for {here} GPUs of a machine, but this one has {num_gpus}: give --num_processes"
            + ("." if num_gpus else ", for as many processes on CPUs.")
        )
    return settings.use_cpu or (total > 1 and num_gpus == 0)


def exit_status(start: Callable[[], object]) -> int:
    """Calls a function that starts processes and waits for them. Returns the status of the first one that fails."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the script itself says what happened
    # After SIGTERM, seconds until what has not ended is killed: an update must end and a checkpoint be written.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    try:
        start()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        reason = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        print(f"error: Process {rank} of the job was ended by {name}{reason}. The others were, too.", file=sys.stderr)
        return 128 - failure.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0
