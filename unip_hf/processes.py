# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How processes end: by SIGTERM, and with the process that started them."""

import atexit
import multiprocessing.util  # which registers what waits for all processes at the end
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


STOPPED_BY_SIGTERM = 143  # exit status: 128 + 15


@contextmanager
def on_sigterm(function: Callable[..., object]) -> Iterator[None]:
    """Calls a function when SIGTERM comes. Threads other than the main one cannot, and ignore this."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, function) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def end_with_parent(parent: int | None = None) -> None:
    """
    Ends this process as soon as the one that started it has ended, even if that was killed. Otherwise it could wait
    forever to hand on what nobody takes any more.

    Args:
        parent: Its number; by default that of the parent now.
    """
    parent = os.getppid() if parent is None else parent
    threading.Thread(target=_wait_for_parent, args=(parent,), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    starter = multiprocessing.parent_process()
    if starter is not None and starter.pid != parent:  # a fork server stands between the two, and lives on
        with suppress(OSError):
            starter.join()
    else:
        while os.getppid() == parent:
            time.sleep(1)
    os._exit(1)


_parent_of_forks: int | None = None


@contextmanager
def forks_end_with_parent() -> Iterator[None]:
    """All processes that this one forks in the block end with it, for pools of libraries, which wait forever."""
    global _parent_of_forks
    _parent_of_forks = os.getpid()
    try:
        yield
    finally:
        _parent_of_forks = None


def _begin_fork() -> None:
    global _parent_of_forks
    if _parent_of_forks is not None:
        end_with_parent(_parent_of_forks)
    _parent_of_forks = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_fork)


def begin_worker(worker_id: int) -> None:
    """
    `worker_init_fn` of a `DataLoader`. SIGTERM usually reaches a whole process group, and a worker that it ended would
    stop the run before it is saved. Workers end with their loader or with the main process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


@atexit.register
def _kill_workers() -> None:
    """Python would send SIGTERM to workers that are left at the end, which ignore it, and wait for them forever."""
    workers = [process for process in multiprocessing.active_children() if process.daemon]
    if workers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # to torch a worker that was killed is an error
    for worker in workers:
        worker.kill()


__all__ = ["STOPPED_BY_SIGTERM", "begin_worker", "end_with_parent", "forks_end_with_parent", "on_sigterm"]
