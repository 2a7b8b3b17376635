# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def write_whole(target: str | os.PathLike) -> Iterator[Path]:
    """
    Gives a temporary path on the disk of `target`; what was written there, a file or a folder, takes its place when
    the block ends without an error, and vanishes otherwise.

    Args:
        target: File or folder. A file is replaced. In a folder that exists, files of the same names are replaced and
            all others stay.

    Raises:
        OSError: if the disk is full, say; the message names `target`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".incomplete-") as folder:
            staged = Path(folder) / target.name
            yield staged
            if staged.is_dir() and target.exists():
                for file in staged.iterdir():
                    os.replace(file, target / file.name)
            else:
                os.replace(staged, target)
    except (RuntimeError, SafetensorError) as error:  # what torch and safetensors raise where they cannot write
        raise OSError(f"Could not write {str(target)!r}: {error}") from error
    except OSError as error:
        if error.filename is not None and str(target) in str(error):
            raise
        raise OSError(f"Could not write {str(target)!r}: {error.strerror or error}") from error


__all__ = ["write_whole"]
