# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder that predictions are written into, and which of its files belong to this prediction."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..files import read_json, write_whole


class ResultFolder:
    """
    A folder with the results of one prediction, which can be interrupted and resumed.

    `predict.json` says what the results belong to. It is written before the first of them, so older files are left
    over from a prediction that is being overwritten: they do not count as results.

    Args:
        path: A folder that does not exist, is empty, or holds an earlier prediction.

    Raises:
        ValueError: if it is a file, or holds other files. This keeps the user's own masks from being replaced.
    """

    def __init__(self, path: Path):
        if path.exists() and not path.is_dir():
            raise ValueError(f"--output_dir {str(path)!r} is a file.")
        self.path = path
        self.file = path / "predict.json"
        self._description: dict[str, Any] = {}
        self._since: int | None = None  # when predict.json was written, in nanoseconds as st_mtime_ns
        is_ours = not path.is_dir() or self.file.is_file()
        if not is_ours and any(not inside.name.startswith(".incomplete-") for inside in path.iterdir()):
            raise ValueError(
                f"--output_dir {str(path)!r} holds other files and no earlier prediction (predict.json): choose a "
                "new folder."
            )

    def resume(self, description: dict[str, Any], overwrite: bool = False) -> None:
        """
        Lets results count that are there already, and deletes what a killed process left.

        Args:
            description: Content of `predict.json`. Two predictions are the same if their `fingerprint`, `settings`
                and `inputs` are.
            overwrite: Whether results of another prediction are replaced. None of those that are there count then.

        Raises:
            ValueError: if the folder holds results of another prediction and `overwrite` is `False`.
        """
        self._description = description
        if self.file.is_file() and not overwrite:
            try:
                before = read_json(self.file)
                kinds = {"fingerprint": "another model", "settings": "other settings", "inputs": "other inputs"}
                differences = [words for key, words in kinds.items() if before[key] != description[key]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{str(self.file)!r} was not written by `unip predict`: choose a new --output_dir."
                ) from error
            if differences:
                raise ValueError(
                    f"--output_dir {str(self.path)!r} holds results of {' and '.join(differences)}, see predict.json "
                    "there: choose a new folder, or add --overwrite."
                )
            self._since = self.file.stat().st_mtime_ns
        for leftover in list(self.path.rglob(".incomplete-*")):
            shutil.rmtree(leftover)

    def begin(self) -> None:
        """Writes `predict.json` unless it is there already. To be called before the first result is written."""
        if self._since is None:
            with write_whole(self.file) as staged:
                staged.write_text(json.dumps(self._description, indent=2) + "\n", encoding="utf-8")
            self._since = self.file.stat().st_mtime_ns

    def has(self, path: Path) -> bool:
        """Whether a file is there that belongs to this prediction."""
        return self._since is not None and path.is_file() and path.stat().st_mtime_ns >= self._since


__all__ = ["ResultFolder"]
