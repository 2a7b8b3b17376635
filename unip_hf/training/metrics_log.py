# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What was measured during a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..files import write_whole


class MetricsLog:
    """
    A file with one JSON object a line, and the trackers.

    Args:
        accelerator: Its trackers get the same values. The main process writes the file.
        path (`Path`): File to append to.
        is_kept (`Callable`): Takes the values of a line that is there. The other lines are removed: a run that was
            interrupted will write them again.
    """

    def __init__(self, accelerator: Accelerator, path: Path, is_kept: Callable[[dict[str, Any]], bool]):
        self.accelerator = accelerator
        self.path = path
        if accelerator.is_main_process and path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and is_kept(json.loads(line))]
            with write_whole(path) as staged:
                staged.write_text("".join(kept))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Adds a line. JSON has no NaN: it becomes `null`. Trackers get numbers only."""
        self.accelerator.log({k: v for k, v in values.items() if isinstance(v, (int, float))}, step=step)
        if self.accelerator.is_main_process:
            defined = {name: None if value != value else value for name, value in values.items()}
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": step, **defined}) + "\n")


__all__ = ["MetricsLog"]
