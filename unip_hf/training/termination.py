# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a training process does when SIGTERM comes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


STOPPED_BY_SIGTERM = 143  # exit status: 128 + 15


class Termination:
    """
    Remembers that SIGTERM came while this context was active. Inside [`~Termination.at_once`], where nothing would be
    lost, the signal ends the process at once.
    """

    def __init__(self) -> None:
        self.came = False
        self.ends_at_once = False

    def __enter__(self) -> "Termination":
        self.is_main = threading.current_thread() is threading.main_thread()  # other threads cannot handle signals
        if self.is_main:
            self.before = signal.signal(signal.SIGTERM, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_main:
            signal.signal(signal.SIGTERM, self.before)

    def receive(self, *_: object) -> None:
        self.came = True
        if self.ends_at_once:
            raise SystemExit(STOPPED_BY_SIGTERM)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        self.ends_at_once = True
        if self.came:
            raise SystemExit(STOPPED_BY_SIGTERM)
        try:
            yield
        finally:
            self.ends_at_once = False


__all__ = ["STOPPED_BY_SIGTERM", "Termination"]
