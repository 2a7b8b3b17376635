# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Counts the pixels of each class in each training mask: what rare classes are weighted and drawn by."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..progress import Progress
from .reading import check_ids, count_ids, read_sample, without_decoding


def count_class_pixels(rows: Any, num_labels: int, num_workers: int | None = None) -> np.ndarray:
    """
    Reads every mask once.

    Args:
        rows: Dataset with the columns `image` and `annotation`.
        num_labels (`int`): Number of classes.
        num_workers (`int`, *optional*): Threads that read files. By default one for each core.

    Returns:
        int64 counts of shape `(number of rows, num_labels)`. Ignored pixels are not counted.

    Raises:
        OSError, ValueError: if a file cannot be used, has no mask, or holds unknown ids. The message names it.
    """
    encoded = without_decoding(rows)
    progress = Progress("Counting classes: mask", len(encoded))

    def count(number: int) -> np.ndarray:
        sample = read_sample(encoded[number], number)
        if sample.ids is None:
            raise ValueError(f"{sample.name} has no mask.")
        check_ids(sample.ids, range(num_labels), sample.name)
        return count_ids(sample.ids)[:num_labels]

    counts = np.zeros((len(encoded), num_labels), dtype=np.int64)
    with ThreadPoolExecutor(num_workers or min(32, os.cpu_count() or 1)) as threads:
        for number, pixels in enumerate(threads.map(count, range(len(encoded)))):
            counts[number] = pixels
            progress.update()
    progress.close()
    return counts


__all__ = ["count_class_pixels"]
