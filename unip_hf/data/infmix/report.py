# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The output folder of InfMix: the plan that it follows, the numbers, and the dataset card."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from ... import paper
from ..._version import __version__
from ...files import read_json, remove_leftovers, write_whole
from ..parquet import size_category
from .candidates import Outcome, SourceCount
from .sources import InfMixSource


PAPER_MEAN, PAPER_STD = 0.3801, 0.1871  # of UNIP's pre-training
COLUMNS = {
    "name": "source",
    "found": "found",
    "taken": "taken",
    "too_dark": "too dark",
    "damaged": "damaged",
    "in_evaluation_set": "in evaluation set",
    "duplicate": "duplicates",
    "kept": "kept",
}


@dataclass
class InfMixReport:
    """
    How many images came from which source.

    Args:
        plan (`dict`): Settings, sources and evaluation sets.
        sources (`list[dict]`): For each source its `name`, how many images were `found`, how many of these its options
            selected (`taken`), and what became of them: `too_dark`, `damaged`, `in_evaluation_set`, `duplicate`,
            `kept`. For a source with classes also their number (`classes`) and how many have too few images
            (`small_classes`).
        evaluation_sets (`list[dict]`): For each its `name`, its number of `images`, how many of these are `damaged`,
            and how many candidates look like one of the others (`matches`).
        num_images (`int`): Images written.
        mean, std (`float`): Mean and standard deviation of all pixels written, on a scale of 0..1.
        shards (`dict[str, int]`): Images in each file.
        versions (`dict[str, str]`): Versions of the libraries on which the bytes depend.
    """

    plan: dict[str, Any]
    sources: list[dict[str, Any]]
    evaluation_sets: list[dict[str, Any]]
    num_images: int
    mean: float
    std: float
    shards: dict[str, int]
    versions: dict[str, str]

    @classmethod
    def from_counts(
        cls,
        plan: dict[str, Any],
        counts: Sequence[SourceCount],
        table: np.ndarray,
        looked_up: Sequence[dict[str, int]],
        histogram: np.ndarray,
        paths: Iterable[Path],
    ) -> "InfMixReport":
        """
        Args:
            plan (`dict`): Settings, sources and evaluation sets.
            counts (`Sequence[SourceCount]`): Counts of each source.
            table (`np.ndarray` of shape `(sources, outcomes)`): int64, numbers of images.
            looked_up (`Sequence[dict]`): `damaged` and `matches` of each evaluation set.
            histogram (`np.ndarray` of shape `(256,)`): int64, pixels by grey value.
            paths (`Iterable[Path]`): The shards.
        """
        sources = [
            {
                "name": source["name"],
                "found": count.found,
                "taken": count.taken,
                **{outcome.name.lower(): int(row[outcome]) for outcome in Outcome},
                **({} if count.classes is None else {"classes": count.classes, "small_classes": count.small_classes}),
            }
            for source, count, row in zip(plan["sources"], counts, table)
        ]
        sets = [
            {"name": described["name"], "images": described["images"], **numbers}
            for described, numbers in zip(plan["evaluation_sets"], looked_up)
        ]
        values = np.arange(256) / 255
        mean = float(histogram @ values / histogram.sum())
        std = float(np.sqrt(histogram @ (values - mean) ** 2 / histogram.sum()))
        shards = {f"{path.parent.name}/{path.name}": pq.read_metadata(path).num_rows for path in paths}
        versions = {
            "unip_hf": __version__,
            "numpy": np.__version__,
            "Pillow": PIL.__version__,
            "pyarrow": pa.__version__,
        }
        return cls(plan, sources, sets, sum(shards.values()), mean, std, shards, versions)

    @property
    def table(self) -> list[list[str]]:
        """Rows of text: a heading, the sources, and the total."""
        sums = {"name": "total"} | {key: sum(row[key] for row in self.sources) for key in list(COLUMNS)[1:]}
        rows = [[str(row["name"]), *(f"{row[key]:,}" for key in list(COLUMNS)[1:])] for row in [*self.sources, sums]]
        return [list(COLUMNS.values()), *rows]

    @property
    def notes(self) -> list[str]:
        """Sentences beside the table."""
        notes = [
            f"{row['name']}: {row['small_classes']} of {row['classes']} classes have fewer images than asked for."
            for row in self.sources
            if row.get("small_classes")
        ]
        notes += [
            f"Evaluation set {row['name']}, {row['images']:,} images: {row['matches']:,} candidates look like one of "
            "them and are left out."
            for row in self.evaluation_sets
        ]
        notes += [
            f"{row['damaged']:,} images of the evaluation set {row['name']} cannot be read, so that images like them "
            "are not left out."
            for row in self.evaluation_sets
            if row["damaged"]
        ]
        notes.append(
            f"All pixels, as grey values 0..1, have the mean {self.mean:.4f} and the standard deviation "
            f"{self.std:.4f} (UNIP's pre-training: {PAPER_MEAN}, {PAPER_STD})."
        )
        return notes

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.table)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in self.table]
        shards = f"{self.num_images:,} images in {len(self.shards)} files."
        return "\n".join([*lines, "", *self.notes, shards])


def open_output_dir(output_dir: Path, plan: dict[str, Any], overwrite: bool) -> InfMixReport | None:
    """
    Prepares a folder, which exists, for a run. It must be empty or hold an unfinished run of the same plan or, with
    `overwrite`, any run.

    Returns:
        The report, if the run was finished before.

    Raises:
        ValueError: if the folder holds something else. The message says what differs.
    """
    unfinished, finished = output_dir / "unfinished" / "plan.json", output_dir / "infmix.json"
    is_run = unfinished.is_file() or finished.is_file()
    # A run that was killed at once may have left nothing but an unfinished file.
    if not is_run and any(path.is_file() and ".incomplete-" not in str(path) for path in output_dir.rglob("*")):
        raise ValueError(f"{str(output_dir)!r} holds something other than InfMix. Choose another --output_dir.")
    remove_leftovers(output_dir)
    if is_run and overwrite:
        # The file that marks the folder as a run is removed last, so that a run killed here can be started again.
        files = [*(output_dir / "data").glob("train-*.parquet"), *unfinished.parent.glob("*.npz")]
        for file in [*files, output_dir / "README.md", unfinished, finished]:
            file.unlink(missing_ok=True)
    elif is_run:
        found = read_json(finished if finished.is_file() else unfinished)
        differences = _differences(found["plan"] if finished.is_file() else found, plan)
        if differences:
            raise ValueError(
                f"{str(output_dir)!r} holds another InfMix: {'; '.join(differences[:3])}. Choose another "
                "--output_dir, or add --overwrite to start anew."
            )
        if finished.is_file() and all((output_dir / name).is_file() for name in found["shards"]):
            shutil.rmtree(output_dir / "unfinished", ignore_errors=True)
            return InfMixReport(**found)
    with write_whole(unfinished) as staged:
        staged.write_text(json.dumps(plan, indent=1))
    return None


def _differences(before: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Phrases about what differs between two plans."""
    found = [
        f"{name} was {before['settings'].get(name)!r}, is {value!r}"
        for name, value in plan["settings"].items()
        if before["settings"].get(name) != value and not (name == "skip_damaged" and value)  # none was damaged so far
    ]
    for kind in ("sources", "evaluation_sets"):
        names = [[source["name"] for source in side[kind]] for side in (before, plan)]
        if names[0] != names[1]:
            words = [", ".join(side) or "none" for side in names]
            found.append(f"the {kind.replace('_', ' ')} were {words[0]}, are {words[1]}")
            continue
        for old, new in zip(before[kind], plan[kind]):
            changed = [name for name in new if old.get(name) != new[name] and name not in ("images", "fingerprint")]
            found += [f"{name} of {new['name']} was {old.get(name)!r}, is {new[name]!r}" for name in changed]
            if not changed and old != new:
                found.append(f"the files of {new['name']} have changed")
    return found


def write_finished(output_dir: Path, report: InfMixReport) -> None:
    """Writes the dataset card, and then the numbers, which mark the run as finished."""
    with write_whole(output_dir / "README.md") as staged:
        make_card(report).save(staged)
    with write_whole(output_dir / "infmix.json") as staged:
        staged.write_text(json.dumps(dataclasses.asdict(report), indent=1))
    shutil.rmtree(output_dir / "unfinished", ignore_errors=True)


def make_card(report: InfMixReport) -> DatasetCard:
    """The dataset card: the sources, how the set was made, and how to load it."""
    metadata = DatasetCardData(
        pretty_name="InfMix",
        license="other",
        task_categories=["image-feature-extraction"],
        tags=["infrared", "thermal", "pretraining", "grayscale", f"arxiv:{paper.ARXIV_ID}"],
        size_categories=[size_category(report.num_images)],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    heading, *rows = [f"| {' | '.join(row)} |" for row in report.table]
    rule = "|---" + "|---:" * (len(COLUMNS) - 1) + "|"
    defaults = {field.name: field.default for field in dataclasses.fields(InfMixSource)}
    options = []
    for source in report.plan["sources"]:
        given = {name: value for name, value in source.items() if name in defaults and value != defaults[name]}
        named = ", ".join(f"{name} {value}" for name, value in given.items() if name != "name")
        options += [f"- {source['name']}: {named}"] if named else []
    settings = [f"- {name}: {value}" for name, value in report.plan["settings"].items()]
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        "# InfMix",
        "Grey images for self-supervised pre-training of infrared backbones, mixed from infrared datasets and photos "
        f"as described in [UNIP]({paper.URL}), made by `unip prepare-infmix`.",
        "```python\nfrom unip_hf.data import load_infrared_dataset\n\n"
        'images = load_infrared_dataset("infmix", data_dir="this-folder", split="train", streaming=True)\n```',
        "Columns: `image`, grey; `source`, from the table below; `name`, path of the original file in its source. The "
        "rows are in random order.",
        "## Sources",
        "\n".join([heading, rule, *rows]),
        "\n".join(f"- {note}" for note in report.notes),
        "## Licence",
        "Each source keeps its own licence, and many allow research only. Check them before you use or share these "
        "images.",
        "## Settings",
        "\n".join([*settings, *options]),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "## Citation",
        f"```bibtex\n{paper.CITATION}\n```",
    ]
    return DatasetCard("\n\n".join(parts) + "\n")


__all__ = ["InfMixReport", "make_card", "open_output_dir", "write_finished"]
