# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How processes end: by SIGTERM, and with the process that started them."""

import os
import signal
import threading
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


def end_with_parent() -> None:
    """
    Ends this process of `multiprocessing` as soon as the one that started it has ended, even if that was killed.
    Otherwise it could wait forever to hand on what nobody takes any more.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    with suppress(OSError):
        if parent is not None:
            parent.join()
    os._exit(1)


def begin_worker(worker_id: int) -> None:
    """
    `worker_init_fn` of a `DataLoader`. SIGTERM usually reaches a whole process group, and a worker that it ended would
    stop the run before it is saved. Workers end with their loader or with the main process.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


__all__ = ["STOPPED_BY_SIGTERM", "begin_worker", "end_with_parent", "on_sigterm"]
