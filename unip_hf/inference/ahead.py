# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Threads that work ahead, in order, and within a limit of memory."""

import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch


Item = TypeVar("Item")
Task = tuple[Callable[[], Item], int]  # what to do, and how many pixels it keeps in memory

MAX_THREADS = 16
MAX_PIXELS = 2**25  # of all tasks that are begun and not taken yet; a larger image is alone


_starting = threading.Lock()


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """
    Threads that read and write, one for each core. At the end, what is begun is finished, and the rest is left out.
    """
    count = min(MAX_THREADS, os.cpu_count() or 1)
    started = threading.Barrier(count + 1)

    def begin() -> None:
        # Otherwise PyTorch would start as many threads as there are cores in each of these. A thread that was never
        # asked would take over the number of others later.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(count) as threads:
        with _starting:  # another thread would take the 1 for the usual number
            num_threads = torch.get_num_threads()
            try:
                for _ in range(count):
                    threads.submit(begin)
                started.wait()
            except BaseException:  # Ctrl-C, or no more threads: those that have begun must not wait
                started.abort()
                raise
            finally:
                torch.set_num_threads(num_threads)  # of this thread, and of those that others start
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def until_error(items: Iterable[Item], errors: list[BaseException]) -> Iterator[Item]:
    """The items up to an error, which the list takes, so that what was begun can be finished before it is raised."""
    try:
        yield from items
    except BaseException as error:  # Ctrl-C, too
        errors.append(error)


def ahead(threads: Executor, tasks: Iterable[Task[Item]], most: int = 2 * MAX_THREADS) -> Generator[Item, None, None]:
    """
    The results of tasks, in their order. Threads work on those to come, as far ahead as is needed to be ready in time.

    Args:
        threads: They do the tasks.
        tasks: They are asked for in the thread of the caller.
        most: Number of tasks that are begun and not taken yet.
    """
    waiting: deque[tuple[Future[Item], int]] = deque()
    errors: list[BaseException] = []
    to_come = until_error(tasks, errors)
    is_exhausted = False
    try:
        while True:
            is_enough = False
            while not (is_exhausted or is_enough or _is_full(waiting, most)):
                if (task := next(to_come, None)) is None:
                    is_exhausted = True
                else:
                    waiting.append((threads.submit(task[0]), task[1]))
                    is_enough = waiting[0][0].done()
            if not waiting:
                break
            yield waiting.popleft()[0].result()  # nothing here keeps it
    finally:
        for future, _ in waiting:
            future.cancel()
    if errors:
        raise errors[0]


def _is_full(waiting: Collection[tuple[Future, int]], most: int) -> bool:
    return len(waiting) >= most or sum(pixels for _, pixels in waiting) >= MAX_PIXELS


__all__ = ["Task", "ahead", "until_error", "worker_threads"]
