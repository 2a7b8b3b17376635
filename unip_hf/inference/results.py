# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The folder that predictions are written into, and which of its files belong to this prediction."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..files import alone, read_json, remove_leftovers, write_whole


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
        self._overwrite = False
        self._others = ExitStack()  # which keeps them out
        self._is_alone = False
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
        self._description, self._overwrite = description, overwrite
        self._find_earlier()
        remove_leftovers(self.path)

    def _find_earlier(self) -> None:
        """Lets the results of an earlier, equal prediction count. Raises a `ValueError` if it was another one."""
        if self._overwrite or not self.file.is_file():
            return
        try:
            before = read_json(self.file)
            kinds = {"fingerprint": "another model", "settings": "other settings", "inputs": "other inputs"}
            differences = [words for key, words in kinds.items() if before[key] != self._description[key]]
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

    def begin(self) -> None:
        """
        Keeps other predictions out until [`close`] is called, and writes `predict.json` unless it is there already.
        To be called before the first result is written; later calls do nothing.

        Raises:
            OSError: if another prediction writes into the folder, or `predict.json` cannot be written.
            ValueError: as [`resume`].
        """
        if self._is_alone:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._others.enter_context(alone(self.path))
        self._is_alone = True
        self._find_earlier()  # another prediction may have ended here since
        if self._since is None:
            with write_whole(self.file) as staged:
                staged.write_text(json.dumps(self._description, indent=2) + "\n", encoding="utf-8")
            self._since = self.file.stat().st_mtime_ns
        self._overwrite = False

    def close(self) -> None:
        """Lets other predictions write into the folder."""
        self._others.close()
        self._is_alone = False

    def has(self, path: Path) -> bool:
        """Whether a file is there that belongs to this prediction."""
        return self._since is not None and path.is_file() and path.stat().st_mtime_ns >= self._since


__all__ = ["ResultFolder"]
