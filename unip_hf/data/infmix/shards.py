# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Writes InfMix as parquet files, in several processes. An interrupted run can be continued."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ...files import alone, write_whole
from ...progress import Progress
from ..benchmarks.encoding import encode_image
from .candidates import Candidates, Outcome, SourceCount, list_candidates, read_candidate
from .grey_images import prepare_grey, to_8_bits
from .near_duplicates import HashIndex, find_near_duplicates, perceptual_hash
from .report import InfMixReport, open_output_dir, write_finished
from .settings import IMAGE_FORMATS, InfMixSettings
from .sources import InfMixSource
from .workers import run_in_processes


FEATURES = datasets.Features(
    {"image": datasets.Image(), "source": datasets.Value("string"), "name": datasets.Value("string")}
)
ROWS_OF_GROUP = 100  # the least that a reader loads
LOOKED_AT_ONCE = 500  # images of one file of hashes
SHARD_MULTIPLE = 8  # 1, 2, 4 or 8 processes have equally many shards each


def prepare_infmix(
    sources: Sequence[InfMixSource],
    output_dir: str | os.PathLike,
    settings: InfMixSettings | None = None,
    evaluation_sets: Sequence[InfMixSource] = (),
    num_workers: int = 1,
    overwrite: bool = False,
) -> InfMixReport:
    """
    Makes grey images of all sources and writes them in random order to `data/train-00000-of-00008.parquet`, ..., with
    the columns `image`, `source` and `name`, beside `infmix.json` with the numbers and a dataset card, `README.md`.

    The content depends only on sources and settings. A run that was interrupted in any way continues when it is
    started again with the same arguments, and `infmix.json` is written last. Only `skip_damaged` may be turned on.

    Args:
        sources (`Sequence[InfMixSource]`): As [`find_infmix_sources`] returns them.
        output_dir (`str` or `os.PathLike`): Folder.
        settings (`InfMixSettings`, *optional*): By default `InfMixSettings()`.
        evaluation_sets (`Sequence[InfMixSource]`, *optional*): As [`find_evaluation_sets`] returns them. Images that
            look nearly like one of theirs, within `hash_distance`, are left out.
        num_workers (`int`, *optional*, defaults to 1): Processes.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to remove what an earlier run wrote.

    Returns:
        [`InfMixReport`]: how many images came from which source.

    Raises:
        OSError: if a source is missing or the disk is full.
        ValueError: if the folder holds something else, or an image is damaged. The message names it.
    """
    settings = settings or InfMixSettings()
    output_dir = Path(output_dir)
    candidates, counts = list_candidates(sources)
    evaluation, evaluation_counts = list_candidates(evaluation_sets) if evaluation_sets else (None, [])
    plan = {
        "settings": dataclasses.asdict(settings),
        "sources": list(map(_describe, sources, counts)),
        "evaluation_sets": list(map(_describe, evaluation_sets, evaluation_counts)),
    }
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {str(output_dir)!r} is a file.")
    output_dir.mkdir(parents=True, exist_ok=True)
    with alone(output_dir):
        finished = open_output_dir(output_dir, plan, overwrite)
        return finished or _write(candidates, counts, evaluation, settings, plan, output_dir, num_workers)


def _write(
    candidates: Candidates,
    counts: list[SourceCount],
    evaluation: Candidates | None,
    settings: InfMixSettings,
    plan: dict[str, Any],
    output_dir: Path,
    num_workers: int,
) -> InfMixReport:
    """Writes what is missing of a folder that [`open_output_dir`] has prepared."""
    outcomes = np.zeros(len(candidates), dtype=np.uint8)
    looked_up: list[dict[str, int]] = []
    if settings.remove_near_duplicates or evaluation is not None:
        outcomes, looked_up = _choose(candidates, evaluation, settings, output_dir / "unfinished", num_workers)
    table = np.zeros((len(candidates.sources), len(Outcome)), dtype=np.int64)  # images by source and outcome
    np.add.at(table, (candidates.source_numbers, outcomes), 1)
    kept = np.flatnonzero(outcomes == Outcome.KEPT)
    kept = np.random.Generator(np.random.PCG64(settings.seed)).permutation(kept)
    if not len(kept):
        raise ValueError("No image is left. All are too dark, damaged, or in an evaluation set.")
    table[:, Outcome.KEPT] = 0  # the shards may still find some too dark or damaged
    histogram = np.zeros(256, dtype=np.int64)
    num_shards = SHARD_MULTIPLE * math.ceil(len(kept) / settings.images_per_shard / SHARD_MULTIPLE)
    num_shards = min(num_shards, len(kept))
    name = f"train-{{:05d}}-of-{num_shards:05d}.parquet"
    slices = np.array_split(kept, num_shards)
    shards = {output_dir / "data" / name.format(number): positions for number, positions in enumerate(slices)}
    _write_missing(write_shard, "Writing images", shards, candidates, settings, num_workers)
    for path in shards:
        written = json.loads(pq.read_metadata(path).metadata[b"infmix"])
        table += np.array(written["outcomes"])
        histogram += np.array(written["histogram"])
    if not histogram.sum():
        raise ValueError("No image is left. All are too dark or damaged.")
    report = InfMixReport.from_counts(plan, counts, table, looked_up, histogram, shards)
    write_finished(output_dir, report)
    return report


def _describe(source: InfMixSource, count: SourceCount) -> dict[str, Any]:
    """What of a source the content depends on. Paths are left out, because the folder may be given to others."""
    fields = {name: value for name, value in dataclasses.asdict(source).items() if name not in ("path", "data_dir")}
    return {**fields, "images": count.taken, "fingerprint": count.fingerprint}


def _choose(
    candidates: Candidates,
    evaluation: Candidates | None,
    settings: InfMixSettings,
    folder: Path,
    num_workers: int,
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """
    Looks at all images. Returns the outcome of each, uint8 (N,), and for each evaluation set how many candidates look
    like one of its images (`matches`) and how many of its images are `damaged`.
    """
    indices, looked_up = [], []
    if evaluation is not None:
        their_outcomes, theirs = _look(evaluation, settings, folder, "evaluation", num_workers)
        for number, source in enumerate(evaluation.sources):
            is_theirs = evaluation.source_numbers == number
            is_readable = is_theirs & (their_outcomes == Outcome.KEPT)
            if not is_readable.any():
                raise ValueError(
                    f"No image of the evaluation set {source.name!r} can be used, so nothing would be left out. Give "
                    "a benchmark as NAME=PATH, so that its files are read correctly."
                )
            indices.append(HashIndex(theirs[is_readable], settings.hash_distance))
            looked_up.append({"damaged": int((is_theirs & (their_outcomes == Outcome.DAMAGED)).sum())})
    outcomes, hashes = _look(candidates, settings, folder, "sources", num_workers)
    for index, numbers in zip(indices, looked_up):
        left = np.flatnonzero((outcomes == Outcome.KEPT) | (outcomes == Outcome.IN_EVALUATION_SET))
        found = left[index.contains_near(hashes[left])]
        outcomes[found] = Outcome.IN_EVALUATION_SET
        numbers["matches"] = len(found)
    if settings.remove_near_duplicates:
        left = np.flatnonzero(outcomes == Outcome.KEPT)
        progress = Progress("Comparing", len(left))
        duplicates = find_near_duplicates(hashes[left], settings.hash_distance, lambda n: progress.update(steps=n))
        progress.close()
        outcomes[left[duplicates]] = Outcome.DUPLICATE
    return outcomes, looked_up


def _look(
    candidates: Candidates, settings: InfMixSettings, folder: Path, kind: str, num_workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes, uint8 (N,), and perceptual hashes, uint64 (N,), of all candidates. The next run reads their files."""
    slices = np.split(np.arange(len(candidates)), range(LOOKED_AT_ONCE, len(candidates), LOOKED_AT_ONCE))
    files = {folder / f"{kind}-{number:05d}.npz": positions for number, positions in enumerate(slices)}
    _write_missing(look_at_images, f"Looking at images ({kind})", files, candidates, settings, num_workers)
    loaded = [np.load(file) for file in files]
    return np.concatenate([piece["outcomes"] for piece in loaded]), np.concatenate([p["hashes"] for p in loaded])


def _write_missing(
    write: Callable[[Candidates, InfMixSettings, Path], int],
    title: str,
    files: dict[Path, np.ndarray],
    candidates: Candidates,
    settings: InfMixSettings,
    num_workers: int,
) -> None:
    """Writes the files that do not exist yet, each from the candidates at its positions, in several processes."""
    todo = {path: positions for path, positions in files.items() if not path.exists()}
    tasks = ((candidates.take(positions), settings, path) for path, positions in todo.items())
    total, left = (sum(map(len, part.values())) for part in (files, todo))
    progress = Progress(title, total, done=total - left)
    for number in run_in_processes(write, tasks, min(num_workers, max(1, len(todo)))):
        progress.update(steps=number)
    progress.close()


def look_at_images(candidates: Candidates, settings: InfMixSettings, target: Path) -> int:
    """Writes outcomes and hashes of some candidates to a `.npz` file. Returns the number of candidates."""
    outcomes = np.zeros(len(candidates), dtype=np.uint8)
    hashes = np.zeros(len(candidates), dtype=np.uint64)
    for number, candidate in enumerate(candidates):
        outcomes[number], image = read_candidate(candidate, settings.skip_damaged)
        if image is not None:
            hashes[number] = perceptual_hash(to_8_bits(image))
    with write_whole(target) as staged:
        np.savez(staged, outcomes=outcomes, hashes=hashes)
    return len(candidates)


def write_shard(candidates: Candidates, settings: InfMixSettings, target: Path) -> int:
    """
    Writes the images of some candidates to a parquet file, which appears when it is whole. Its metadata holds, under
    "infmix", how many images of each source had which outcome, and how many pixels have which of the 256 grey values.
    Returns the number of candidates.
    """
    histogram = np.zeros(256, dtype=np.int64)
    outcomes = np.zeros((len(candidates.sources), len(Outcome)), dtype=np.int64)
    numbers = {source.name: number for number, source in enumerate(candidates.sources)}
    schema, suffix = FEATURES.arrow_schema, IMAGE_FORMATS[settings.image_format]
    quality = {"quality": settings.quality} if settings.image_format == "jpeg" else {}
    rows: list[dict[str, Any]] = []
    with write_whole(target) as staged:
        # Compression does not make encoded images smaller, and a dictionary of them would stay in memory.
        columns = {"use_dictionary": ["source"], "write_statistics": ["source", "name"]}
        with pq.ParquetWriter(staged, schema, compression="none", **columns) as writer:
            for candidate in candidates:
                outcome, image = read_candidate(candidate, settings.skip_damaged)
                outcomes[numbers[candidate.source.name], outcome] += 1
                if image is not None:
                    grey = prepare_grey(image, settings.shortest_edge, settings.image_format)
                    histogram += np.bincount(to_8_bits(grey).ravel(), minlength=256)
                    path = PurePosixPath(candidate.source.name, candidate.name).with_suffix(suffix)
                    encoded = encode_image(Image.fromarray(grey), settings.image_format, **quality)
                    image_file = {"bytes": encoded, "path": str(path)}
                    rows.append({"image": image_file, "source": candidate.source.name, "name": candidate.name})
                if len(rows) == ROWS_OF_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
            numbers_found = {"outcomes": outcomes.tolist(), "histogram": histogram.tolist()}
            writer.add_key_value_metadata({"infmix": json.dumps(numbers_found)})
    return len(candidates)


__all__ = ["prepare_infmix"]
