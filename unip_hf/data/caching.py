# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Fills the cache of `datasets`: chunks that processes share, progress, and errors that say what was wrong."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import datasets
import multiprocess
from datasets.exceptions import DatasetGenerationError

from ..processes import forks_end_with_parent
from ..progress import Progress, can_show_bars


MAX_CHUNKS = 64  # what can be divided among the processes and workers that read a split


@contextmanager
def plain_errors() -> Iterator[None]:
    """
    Raises what went wrong while the cache was filled, in place of the errors that `datasets` raises for it. Processes
    that fill it end with this one.

    Raises:
        OSError, ValueError: as it was raised where the rows are made or written.
    """
    try:
        with forks_end_with_parent():
            yield
    except multiprocess.TimeoutError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Ctrl-C while other processes worked
            raise KeyboardInterrupt from None
        raise
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, (OSError, ValueError)):
            raise error.__cause__ from error
        # Another process sends the text of its traceback. The last of these lines is what was raised.
        lines = re.findall(r"^(?:\w+\.)*(OSError|ValueError|ArrowInvalid): (.*)$", str(error.__cause__), re.MULTILINE)
        if not lines:
            raise
        kind, message = lines[-1]
        raise (OSError if kind == "OSError" else ValueError)(message) from error


class ChunkedBuilder(datasets.GeneratorBasedBuilder):
    """
    A builder whose splits are lists of items, one for each row. Processes, workers and `split_dataset_by_node` divide
    them in chunks. A subclass writes `_info`, `_split_generators` and [`make_example`]. Where there is no terminal,
    `download_and_prepare` prints its progress in lines.
    """

    is_filling_cache = False

    def split_generator(
        self, split: str, items: Sequence[Any], max_chunks: int = MAX_CHUNKS
    ) -> datasets.SplitGenerator:
        """The split with a row for each of these items, which should be small: other processes are sent them."""
        count = min(max_chunks, len(items))
        bounds = [len(items) * part // count for part in range(count + 1)]
        chunks = [(start, items[start:end]) for start, end in pairwise(bounds)]
        return datasets.SplitGenerator(split, gen_kwargs={"chunks": chunks, "split": split})

    def make_example(self, item: Any) -> tuple[str | int, dict[str, Any]]:
        """Key and columns of a row."""
        raise NotImplementedError

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        self.is_filling_cache = True
        try:
            with plain_errors():
                super().download_and_prepare(*args, **kwargs)
        finally:
            self.is_filling_cache = False

    def _generate_examples(
        self, chunks: list[tuple[int, Sequence[Any]]], split: str
    ) -> Iterator[tuple[str | int, dict[str, Any]]]:
        # On a terminal, datasets shows a bar. Elsewhere the process that has the first chunk prints lines.
        is_shown = self.is_filling_cache and chunks[0][0] == 0 and not can_show_bars()
        num_rows = sum(len(items) for _, items in chunks)
        whole = self.info.splits[split].num_examples if self.info.splits else num_rows
        progress = Progress(f"Preparing {split}", num_rows, is_shown=is_shown)
        for _, items in chunks:
            for item in items:
                yield self.make_example(item)
                progress.update("in the first process" if num_rows < whole else "")


__all__ = ["ChunkedBuilder", "plain_errors"]
