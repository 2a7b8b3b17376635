# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What may be published of a path: the name of what it leads to, and no folder of this machine."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError


def is_hub_name(name: str) -> bool:
    """Whether this names a model on the Hub that was loaded on this machine before, and not a path."""
    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def path_name(path: str) -> str:
    """The last part of a path, which may be published. For `.` and `..` it is the name of that folder here."""
    if Path(path).resolve() == Path.home():
        return "~"  # its name is that of the user
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return Path(path).resolve().name if name in ("", ".", "..") else name


def checkpoint_name(path: str) -> str:
    """The name of a run for its checkpoints `best` and `last`, and the name of the folder for others."""
    return path_name(re.sub(r"(?<=[^\\/])[\\/]+(best|last)[\\/]*$", "", path))


def without_folders(value: Any, is_checkpoint: bool = False) -> Any:
    """An option without the folders of this machine: of each path, also in lists, only the name remains."""
    if isinstance(value, list):
        return [without_folders(part, is_checkpoint) for part in value]
    if not isinstance(value, str) or not re.search(r"[\\/]|^\.\.?$", value) or is_hub_name(value):
        return value
    return checkpoint_name(value) if is_checkpoint else path_name(value)


__all__ = ["checkpoint_name", "is_hub_name", "path_name", "without_folders"]
