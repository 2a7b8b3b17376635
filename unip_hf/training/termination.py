# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a process does when SIGTERM comes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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


__all__ = ["STOPPED_BY_SIGTERM", "on_sigterm"]
