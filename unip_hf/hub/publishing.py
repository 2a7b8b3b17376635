# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the folder that is published of a checkpoint."""

import itertools
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from ..evaluation.results import CARD_TEXT, load_card
from ..files import write_whole
from ..inference.loading import fingerprint
from .evaluations import evaluation_name, find_evaluations, public_record
from .loading import load_publishable
from .model_card import make_model_card
from .provenance import training_data
from .speed import Speed, measure_speed
from .training_run import TrainingRun, find_run, make_recipe, training_curve


CURVE, SAMPLES, RECIPE, ENVIRONMENT = "training_curve.png", "samples.png", "recipe.yaml", "environment.json"
# What of an earlier upload goes when it is not written any more. A star would also stand for folders.
REPLACED_PATTERNS = (
    CURVE,
    SAMPLES,
    RECIPE,
    ENVIRONMENT,
    "evaluation/*.json",
    "model.safetensors",
    "model.safetensors.index.json",
    f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors",
    "configuration_unip.py",
    "image_processing_unip.py",
    "image_reading_unip.py",
    "intensities_unip.py",
    "modeling_unip.py",
    "modeling_unip_layers.py",
    "modeling_unip_pretraining.py",
    "modeling_unip_segmentation.py",
)


@dataclass(frozen=True)
class Publication:
    """
    Args:
        files: Names of what was written.
        samples_of: Title and licence of the data whose images are shown; `None` if none are.
        warnings: Sentences on what was left out.
    """

    files: list[str]
    samples_of: str | None
    warnings: list[str]


def write_publication(
    checkpoint: str | os.PathLike,
    repo_id: str,
    output_dir: str | os.PathLike,
    *,
    evaluations: Sequence[Path] = (),
    license: str | None = None,
    data_license: str | None = None,
    base_model: str | None = None,
    notes: str = "",
    with_samples: bool = True,
    with_speed: bool = True,
    ignored_options: Collection[str] = (),
) -> Publication:
    """
    Writes all that is published of a checkpoint: weights, configuration, code and processor, saved anew by this
    version; the card; and of the run that left it the recipe, the environment, the training curve and a picture of
    predictions; the results of its evaluations. No file names a folder of this machine.

    Args:
        checkpoint: Folder of a segmentation model of any kind, or of an encoder of UNIP.
        repo_id: `"USER/NAME"`, which stands in the card.
        output_dir: Folder that is empty or not there.
        evaluations: Further `results.json` of `unip evaluate`, or their folders, see [`find_evaluations`].
        license, data_license, base_model, notes: For the card, see [`make_model_card`].
        with_samples: Whether to show validation images, which the licence of the data must allow.
        with_speed: Whether to measure speed and memory.
        ignored_options: Names of options that do not belong into the recipe.

    Raises:
        OSError: if something cannot be read or written.
        ValueError: if the checkpoint or a file that belongs to it cannot be used; nothing is written then.
    """
    checkpoint, output_dir = Path(checkpoint), Path(output_dir)
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise ValueError(f"'{output_dir}' is not an empty folder: choose another.")
    model, processor = load_publishable(checkpoint)
    records, warnings = find_evaluations(checkpoint, fingerprint(model, processor), evaluations)
    warnings += check_own_card(checkpoint)
    run = find_run(checkpoint)
    data = training_data(run)
    if data_license is not None and data is not None and data.license is not None:
        warnings.append(f"The licence of {data.title} is known, so that --data_license is not used: {data.license}.")
    figure = None if run is None else training_curve(run.metrics)
    picture = run.samples.read_bytes() if run is not None and run.samples is not None and with_samples else None
    files: list[str] = []
    for record in records:
        files.append(_new_name(f"evaluation/{evaluation_name(record)}", files))

    def make_card(speeds: Sequence[Speed]) -> ModelCard:
        return make_model_card(
            repo_id,
            model,
            processor,
            run,
            list(zip(files, records)),
            speeds,
            curve=CURVE if figure is not None else None,
            samples=SAMPLES if picture is not None else None,
            license=license,
            data_license=data_license,
            base_model=base_model,
            notes=notes,
        )

    card = make_card(())  # what the Hub would refuse is refused before anything is measured or written
    if with_speed:
        card = make_card(measure_speed(checkpoint, _window_size(model, records)))
    with write_whole(output_dir) as staged:
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
        if run is not None:
            _write_run(staged, run, ignored_options)
        if figure is not None:
            figure.savefig(staged / CURVE, format="png", dpi=120)
        if picture is not None:
            (staged / SAMPLES).write_bytes(picture)
        for file, record in zip(files, records):
            (staged / file).parent.mkdir(exist_ok=True)
            text = json.dumps(public_record(record), indent=2, allow_nan=False)
            (staged / file).write_text(text + "\n", encoding="utf-8")
        card.save(staged / "README.md")
        written = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    shown = f"{data.title} (licence: {data.license or data_license or 'not known'})" if data and picture else None
    return Publication(written, shown, warnings)


def check_own_card(checkpoint: Path) -> list[str]:
    """Warns of words of the user in the checkpoint's `README.md`, since the published card is rendered anew."""
    path = checkpoint / "README.md"
    if not path.is_file():
        return []
    card = load_card(path)
    own = [name for name in card.data.to_dict() if name not in ("library_name", "pipeline_tag", "tags", "model-index")]
    if card.text.strip().partition("\n")[2].strip() != CARD_TEXT:
        own.insert(0, "text")
    if not own:
        return []
    return [
        f"What was added to '{path}' is not published ({', '.join(own)}): the card is written anew. Give text with "
        "--notes, and the licence with --license."
    ]


def _write_run(folder: Path, run: TrainingRun, ignored_options: Collection[str]) -> None:
    command = "distill" if run.is_pretraining else "finetune"
    recipe = yaml.safe_dump(make_recipe(run, ignored_options), sort_keys=False, allow_unicode=True)
    head = f"# unip {command} --config {RECIPE} --output_dir ...\n# Of folders and files only the names are given.\n"
    (folder / RECIPE).write_text(head + recipe, encoding="utf-8")
    counts = {"num_steps": run.num_steps, "num_planned_steps": run.num_planned_steps}
    environment = {"versions": run.versions, **counts, **run.found}
    (folder / ENVIRONMENT).write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def _new_name(stem: str, taken: Sequence[str]) -> str:
    names = itertools.chain([f"{stem}.json"], (f"{stem}-{number}.json" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _window_size(model: PreTrainedModel, records: Sequence[dict[str, Any]]) -> int:
    """Side in pixels of what the network gets at once: the evaluations' windows, or the training crops."""
    windows = [record["settings"].get("window_size") for record in records]
    size = getattr(model.config, "image_size", None) if model.config.model_type == "unip" else None
    size = size if size is None or isinstance(size, int) else max(size)
    return next((window for window in windows if window), None) or size or 512


__all__ = ["REPLACED_PATTERNS", "Publication", "check_own_card", "write_publication"]
