# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Runs a function in several processes, which end whenever the process that started them ends."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from ...processes import end_with_parent


def run_in_processes(function: Callable[..., Any], tasks: Iterable[tuple], num_workers: int) -> Iterator[Any]:
    """
    Calls `function(*task)` for each task, and yields the results as they arrive. Tasks are taken from the iterable
    when they are needed, so that they need not all be in memory.

    Args:
        function: A function of a module, so that another process finds it.
        tasks (`Iterable[tuple]`): Arguments.
        num_workers (`int`): Processes. With 1, everything runs in this process.

    Raises:
        OSError: if a process was killed.
        Exception: what `function` raises. All processes are ended then.
    """
    if num_workers == 1:
        for task in tasks:
            yield function(*task)
        return
    # Forking this process would copy the threads of PyTorch and Arrow in an undefined state.
    has_server = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if has_server else "spawn")
    if has_server:
        context.set_forkserver_preload([function.__module__])
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(num_workers, context, initializer=_prepare_worker)
    waiting: set[Future] = set()
    remaining = iter(tasks)
    try:
        while True:
            for task in remaining:
                waiting.add(executor.submit(function, *task))
                if len(waiting) == 2 * num_workers:
                    break
            if not waiting:
                break
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "A process that reads images was killed, perhaps because memory ran out. Start the same command again "
            "with fewer --num_workers to continue."
        ) from error
    finally:
        if waiting:  # something went wrong
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        executor.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the first one ends the others
    torch.set_num_threads(1)
    end_with_parent()


__all__ = ["run_in_processes"]
