# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Checks a dataset before training: what it holds, and what would stop or spoil a training."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..modeling.image_reading_unip import to_channels_last
from ..progress import Progress
from .advice import help_rare_classes, list_colours, list_values, name_classes
from .alignment import find_shift
from .check_report import DatasetReport, Problem
from .mask_feature import mask_name, read_ids
from .masks import MaskError
from .reading import (
    IGNORE_INDEX,
    VISIBLE_COLUMN,
    encoded_bytes,
    read_encoded,
    visible_name,
    without_decoding,
)
from .statistics import IntensityHistogram, SplitStatistics


PATCH_SIZE = 16

# What can be wrong with a file: the severity, and the message about all such files together.
FILE_PROBLEMS = {
    "unreadable": ("error", "Files that cannot be read"),
    "no_mask": ("error", "Images without a mask"),
    "not_finite": ("error", "Images with NaN or infinite values. Replace dead pixels first, e.g. by the median"),
    "small": ("error", f"Images smaller than a patch of {PATCH_SIZE} pixels"),
    "constant": ("warning", "Images that have one value everywhere"),
    "no_visible": ("error", "Infrared images without a visible one, where others have one"),
    "pair_size": ("error", "Infrared and visible images of different sizes (width x height). Align them first"),
    "visible_depth": (
        "error",
        "Visible images of more than 8 bits. Exchange the folders if these are the infrared ones",
    ),
    "misaligned": (
        "warning",
        "Pairs that do not lie on each other, judged by their edges. Look at them (`unip show-dataset`), and align "
        "them if they are so",
    ),
    "colour_mask": (
        "error",
        "Masks in colour, but nothing says which class each colour is",
    ),
    "unlisted": ("error", "Masks with values or colours that are not listed. Add them, or correct the masks"),
    "undrawable": ("error", "Annotations that cannot be drawn. Correct or remove them"),
    "size": (
        "error",
        "Images and masks of different sizes (width x height). If they show the same, add --resize_masks",
    ),
    "unknown_ids": (
        "error",
        f"Masks with ids that have no name. Correct the masks, name the classes in id2label.json, or write "
        f"{IGNORE_INDEX} to ignore",
    ),
    "all_ignored": ("warning", f"Masks that hold only {IGNORE_INDEX}, which is ignored"),
}


@dataclass
class _Findings:
    """What one row holds, without its large arrays."""

    name: str
    digest: bytes | None = None
    size: str = ""
    format: str = ""
    dtype: str = ""
    histogram: IntensityHistogram | None = None
    visible: "_Findings | None" = None
    pixels_of_id: dict[int, int] | None = None
    colours: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)  # key of FILE_PROBLEMS, file and detail


def _examine(row: dict[str, Any], number: int, ids: set[int] | None) -> _Findings:
    found = _Findings(row["image"]["path"] or f"image {number}")
    image = mask = None
    try:
        encoded = encoded_bytes(row["image"])
        found.digest = hashlib.sha1(encoded, usedforsecurity=False).digest()
        image = to_channels_last(read_encoded({"path": found.name, "bytes": encoded}, found.name))  # (H, W, C)
    except Exception as error:  # damaged files can lead decoders to any exception
        found.problems.append(("unreadable", _named(found.name, error)))
    if row.get("annotation") is None:
        found.problems.append(("no_mask", found.name))
    elif image is not None or row["annotation"].get("regions") is None:  # to draw a mask takes the size of the image
        name_of_mask = mask_name(row["annotation"], number)
        try:
            mask = read_ids(row["annotation"], name_of_mask, None if image is None else image.shape[:2])  # (H, W)
        except MaskError as error:
            found.problems.append((error.kind, str(error).rstrip(".")))
            found.colours = error.colours
        except Exception as error:
            found.problems.append(("unreadable", _named(name_of_mask, error)))
    if image is not None:
        _examine_image(image, found)
    if VISIBLE_COLUMN in row:
        _examine_visible(row, number, image, found)
    if mask is not None:
        _examine_mask(mask, name_of_mask, ids, found)
    return found


def _named(name: str, error: Exception) -> str:
    message = str(error).rstrip(".") or type(error).__name__
    return message if name in message else f"{name}: {message}"


def _examine_image(image: np.ndarray, found: _Findings) -> None:
    height, width, channels = image.shape
    found.size, found.dtype = f"{width}x{height}", image.dtype.name
    found.format = f"{found.dtype}, {channels} channel{'s' * (channels > 1)}"
    if min(height, width) < PATCH_SIZE:
        found.problems.append(("small", f"{found.name}: {found.size}"))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        found.problems.append(("not_finite", found.name))
        return
    found.histogram = IntensityHistogram(image)
    if found.histogram.min == found.histogram.max:
        found.problems.append(("constant", f"{found.name}: {found.histogram.min}"))


def _examine_visible(row: dict[str, Any], number: int, infrared: np.ndarray | None, found: _Findings) -> None:
    if row[VISIBLE_COLUMN] is None:
        found.problems.append(("no_visible", found.name))
        return
    visible = found.visible = _Findings(visible_name(row, number))
    try:
        image = to_channels_last(read_encoded(row[VISIBLE_COLUMN], visible.name))  # (H, W, C)
    except Exception as error:
        found.problems.append(("unreadable", _named(visible.name, error)))
        return
    _examine_image(image, visible)
    found.problems += [problem for problem in visible.problems if problem[0] != "small"]  # of both images, or of sizes
    if image.dtype.kind != "f" and image.dtype != np.uint8:
        found.problems.append(("visible_depth", f"{visible.name}: {image.dtype}"))
    if visible.size != (found.size or visible.size):
        found.problems.append(("pair_size", f"{found.name}: {found.size}, {visible.name}: {visible.size}"))
    elif infrared is not None and found.histogram is not None and visible.histogram is not None:
        shift = find_shift(infrared, image)
        if shift is not None:
            right, down = shift
            found.problems.append(
                ("misaligned", f"{found.name}: the visible image lies {right:+d} pixels to the right, {down:+d} down")
            )


def _examine_mask(mask: np.ndarray, name: str, ids: set[int] | None, found: _Findings) -> None:
    size = f"{mask.shape[1]}x{mask.shape[0]}"
    if found.size and size != found.size:
        found.problems.append(("size", f"{found.name}: {found.size}, {name}: {size}"))
    if mask.dtype in (np.uint8, bool):  # much faster than np.unique
        counts = np.bincount(mask.ravel())
        occurring = counts.nonzero()[0]
        counts = counts[occurring]
    else:
        occurring, counts = np.unique(mask, return_counts=True)
    found.pixels_of_id = dict(zip(occurring.tolist(), counts.tolist()))
    unknown = sorted(set(found.pixels_of_id) - ids - {IGNORE_INDEX}) if ids is not None else []
    if unknown:
        more = ", ..." if len(unknown) > 10 else ""
        found.problems.append(("unknown_ids", f"{name}: ids {', '.join(map(str, unknown[:10]))}{more}"))
    if set(found.pixels_of_id) == {IGNORE_INDEX}:
        found.problems.append(("all_ignored", name))


def _examine_all(rows: Any, ids: set[int] | None, num_workers: int) -> Iterator[_Findings]:
    """In order. Only a few rows are read at any time."""
    with ThreadPoolExecutor(num_workers) as pool:
        pending: deque = deque()
        for number, row in enumerate(rows):
            pending.append(pool.submit(_examine, row, number, ids))
            if len(pending) >= 4 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def check_dataset(dataset: Any, id2label: dict[int, str] | None, num_workers: int | None = None) -> DatasetReport:
    """
    Reads every image and mask of a dataset once, and reports what it holds and what is wrong with it. Of pairs, which
    have the column `rgb`, also visible images are read, and compared with the infrared ones.

    Args:
        dataset: Dictionary of splits, as [`load_infrared_dataset`] returns it.
        id2label (`dict[int, str]`, *optional*): Names of the classes. Without them, an error lists the ids that occur.
        num_workers (`int`, *optional*): Threads that read files. By default one for each core.

    Returns:
        [`DatasetReport`]
    """
    num_workers = num_workers or min(32, os.cpu_count() or 1)
    ids = None if id2label is None else set(id2label)
    dataset = without_decoding(dataset)
    statistics: dict[str, SplitStatistics] = {}
    problems: list[Problem] = []
    first_with: dict[bytes, tuple[str, str]] = {}  # split and name, by digest
    leaks = Problem("warning", "Images that are in two splits, so that scores on them are misleading")
    colours: set[str] = set()
    of_kind: dict[str, list[Problem]] = {}  # in all splits
    total = sum(_num_rows(split, rows) for split, rows in dataset.items())
    progress = Progress("Checking images", total, is_shown=total > 0)
    for split, rows in dataset.items():
        counted = statistics[split] = SplitStatistics()
        by_kind: dict[str, Problem] = {}
        for found in _examine_all(rows, ids, num_workers):
            counted.num_images += 1
            if found.size:
                counted.add_image(found.size, found.format, found.dtype, found.histogram)
            if found.visible is not None and found.visible.size:
                visible = found.visible
                counted.add_visible(visible.size, visible.format, visible.dtype, visible.histogram)
            if found.pixels_of_id is not None:
                counted.add_mask(found.pixels_of_id)
            colours.update(found.colours)
            for kind, detail in found.problems:
                by_kind.setdefault(kind, Problem(*FILE_PROBLEMS[kind], split=split)).add(detail)
            if found.digest is not None:
                other_split, other = first_with.setdefault(found.digest, (split, found.name))
                if other_split != split:
                    leaks.add(f"{other} ({other_split}) = {found.name} ({split})")
            progress.update()
        if "all_ignored" in by_kind and by_kind["all_ignored"].num_files == counted.num_masks:
            by_kind["all_ignored"].severity = "error"
        problems += by_kind.values()
        for kind, problem in by_kind.items():
            of_kind.setdefault(kind, []).append(problem)
    progress.close()
    ids_found = set().union(*(counted.ids for counted in statistics.values()))
    advice = {"colour_mask": list_colours(colours, ids_found, id2label)}
    if id2label is not None:
        advice["unknown_ids"] = list_values(ids_found, id2label)
    for kind, sentence in advice.items():
        for problem in of_kind.get(kind, []):
            problem.message += sentence
    problems += [leaks] if leaks.num_files else []
    problems += _problems_of_splits(statistics, id2label, bool(colours))
    problems.sort(key=lambda problem: problem.severity)  # stable: errors first
    reports = {split: counted.report(id2label) for split, counted in statistics.items()}
    recommendations = help_rare_classes(reports["train"].classes) if "train" in reports else []
    return DatasetReport(reports, problems, recommendations=recommendations)


def _num_rows(split: str, rows: Any) -> int:
    """Number of rows of a split, 0 if a stream does not know it."""
    if hasattr(rows, "__len__"):
        return len(rows)
    return rows.info.splits[split].num_examples if rows.info.splits else 0


def _problems_of_splits(
    statistics: dict[str, SplitStatistics], id2label: dict[int, str] | None, has_colours: bool
) -> list[Problem]:
    """Problems that only all files of a split together show."""
    problems = []
    if not statistics:
        problems.append(Problem("error", "There are no images"))
    ids = set().union(*(counted.ids for counted in statistics.values()))
    looks_binary = ids == {0, IGNORE_INDEX}
    if looks_binary:
        problems.append(
            Problem(
                "error",
                f"All masks hold only 0 and {IGNORE_INDEX}. {IGNORE_INDEX} is ignored, so that one class is left. If "
                f"{IGNORE_INDEX} stands for an object, add --mask_values 0=0,{IGNORE_INDEX}=1, or write "
                f'{{"0": 0, "{IGNORE_INDEX}": 1}} into mask_values.json beside the images. Or write 1 for it: '
                "Image.fromarray((np.asarray(mask) == 255).astype(np.uint8)).save(path)",
            )
        )
        ids = {0, 1}
    if id2label is None and ids and not has_colours:  # which will have names
        problems.append(Problem("error", name_classes(sorted(ids - {IGNORE_INDEX}))))
    for split, counted in statistics.items():
        classes = counted.ids - {IGNORE_INDEX}
        if not counted.num_images:
            problems.append(Problem("error", "The split is empty", split))
        if len(counted.histograms) > 1:
            depths = ", ".join(sorted(counted.histograms))
            problems.append(
                Problem("warning", f"The images have several depths ({depths}), which are scaled differently", split)
            )
        if len(classes) == 1 and not looks_binary:
            problems.append(Problem("warning", f"All masks hold one class only, {classes.pop()}", split))
        elif id2label is not None and split == "train" and classes:
            missing = [f"{id} {name}" for id, name in id2label.items() if id not in classes]
            if missing:
                problems.append(Problem("warning", f"Classes that never occur: {', '.join(missing)}", split))
    return problems


__all__ = ["DatasetReport", "Problem", "check_dataset"]
