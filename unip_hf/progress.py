# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Progress with the time left: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm


SECONDS_BETWEEN_LINES = 10.0


def duration(seconds: float) -> str:
    """Seconds in words: `"42 s"`, `"3 min 05 s"`, `"2 h 03 min"`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def can_show_bars() -> bool:
    """Whether stderr is a terminal, and not one that only takes lines, which is called "dumb"."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Hides the progress bars of `datasets` where they would fill a log file, see [`can_show_bars`]."""
    import datasets

    is_quiet = not can_show_bars() and not datasets.are_progress_bars_disabled()
    if is_quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if is_quiet:
            datasets.enable_progress_bars()


def say(text: str) -> None:
    """Prints a line on stderr, above the bars that are shown."""
    tqdm.write(text, file=sys.stderr)


class Progress:
    """
    Shows progress and the time left on stderr.

    Args:
        title (`str`): What is being done.
        total (`int`): Steps in all.
        done (`int`, *optional*, defaults to 0): Steps that were done before.
        is_shown (`bool`, *optional*, defaults to `True`): Whether to show anything. One of several processes does.
    """

    def __init__(self, title: str, total: int, done: int = 0, is_shown: bool = True):
        self.title = title
        self.total = total
        self.done = self.done_before = done
        self.is_shown = is_shown
        self.started = time.monotonic()
        self.said = self.started - SECONDS_BETWEEN_LINES + 1  # a first line after a second
        self.bar = None
        if is_shown and can_show_bars():
            self.bar = tqdm(total=total, initial=done, desc=title, dynamic_ncols=True)

    def update(self, text: str = "", steps: int = 1) -> None:
        """Counts steps. `text` is shown beside them."""
        self.done += steps
        now = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(steps)
        elif self.is_shown and (now - self.said >= SECONDS_BETWEEN_LINES or self.done == self.total):
            left = (now - self.started) / (self.done - self.done_before) * (self.total - self.done)
            parts = [f"{self.title} {self.done}/{self.total}", text, f"{duration(left)} left"]
            print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)
            self.said = now

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        if self.is_shown:
            say(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


__all__ = ["Progress", "bars_on_terminals_only", "can_show_bars", "duration", "say"]
