# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What all builders of this library do beside those of `datasets`."""

import sys
from collections.abc import Iterator
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from ..progress import Progress


class ChunkedBuilder(datasets.GeneratorBasedBuilder):
    """
    A builder whose `gen_kwargs` are `{"chunks": list}`, a list of sized collections of rows, which processes, workers
    and `split_dataset_by_node` divide among themselves.
    """

    def _prepare_split_single(self, *, gen_kwargs: dict, job_id: int, **kwargs: Any) -> Iterator[Any]:
        """As it was, but lines stand for the bar where there is no terminal, and an error keeps its own message."""
        num_rows = sum(map(len, gen_kwargs["chunks"]))
        split = kwargs["split_info"]
        text = "in the first process" if split.num_examples and split.num_examples != num_rows else ""
        is_shown = job_id == 0 and not sys.stderr.isatty()
        progress = Progress(f"Preparing {split.name}", num_rows, is_shown=is_shown)
        try:
            for job, is_done, content in super()._prepare_split_single(gen_kwargs=gen_kwargs, job_id=job_id, **kwargs):
                if not is_done and content:
                    progress.update(text, content)
                yield job, is_done, content
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, (ValueError, OSError)):
                raise error.__cause__ from None
            raise


__all__ = ["ChunkedBuilder"]
