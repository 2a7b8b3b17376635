# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Makes the folder that is published of a checkpoint."""

import json
import os
import pkgutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import modeling
from ..evaluation.results import CARD_TEXT, load_card
from ..files import write_whole
from ..inference.loading import fingerprint
from ..inference.windows import InferenceSettings
from ..modeling.image_reading_unip import open_image
from .evaluations import evaluation_name, find_evaluations, public_record
from .loading import load_publishable
from .model_card import make_model_card
from .public_names import data_facts, without_folders
from .speed import measure_speed
from .training_run import find_run, make_recipe, training_curve
from .uploading import check_repo_id


CURVE, SAMPLES, RECIPE, ENVIRONMENT = "training_curve.png", "samples.png", "recipe.yaml", "environment.json"
# Files of an earlier upload that are deleted if they are not written any more: other weights, or what tells of them. A
# star would also match folders.
REPLACED_PATTERNS = (
    *(CURVE, SAMPLES, RECIPE, ENVIRONMENT, "evaluation/*.json"),
    *("model.safetensors", "model.safetensors.index.json", f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors"),
    *(f"{module.name}.py" for module in pkgutil.iter_modules(modeling.__path__)),
)


@dataclass(frozen=True)
class Publication:
    """
    Args:
        files: Names of the files that were written.
        samples_of: Title and licence of the data whose images are shown; `None` if none are shown.
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
    Writes everything that is published of a checkpoint: weights, configuration, code and processor, saved anew by this
    version of the library; the model card; recipe, environment, training curve and sample predictions of the run that
    left it; and the results of its evaluations. No file names a folder of this machine.

    Args:
        checkpoint: Folder of a segmentation model of any kind, or of an encoder of UNIP.
        repo_id: `"USER/NAME"`, for the card.
        output_dir: Folder that is empty or does not exist.
        evaluations: Further `results.json` of `unip evaluate`, or their folders, see [`find_evaluations`].
        license, data_license, base_model, notes: For the card, see [`make_model_card`].
        with_samples: Whether to show validation images, which the licence of the data must allow.
        with_speed: Whether to measure speed and memory.
        ignored_options: Names of options that do not belong in the recipe.

    Raises:
        OSError: if something cannot be read or written.
        ValueError: if the checkpoint, a file that belongs to it or a name cannot be used. Nothing is written then.
    """
    checkpoint, output_dir = Path(checkpoint), Path(output_dir)
    for name in filter(None, (repo_id, base_model)):
        check_repo_id(name)
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise ValueError(f"'{output_dir}' is not an empty folder: choose another.")
    model, processor = load_publishable(checkpoint)
    records, warnings = find_evaluations(checkpoint, fingerprint(model, processor), evaluations)
    warnings += check_own_card(checkpoint)
    run = find_run(checkpoint)
    data = None if run is None else data_facts(run.options)
    if data_license is not None and data is not None and data.license is not None:
        warnings.append(f"The licence of {data.title} is known, so --data_license is not used: {data.license}.")
    figure = None if run is None else training_curve(run.metrics)
    picture = run.samples if run is not None and with_samples else None
    if picture is not None:  # in a folder that someone else made, it may be a link to another file
        with open(picture, "rb") as encoded, open_image(encoded, str(picture)) as opened:
            if opened.format != "PNG":
                raise ValueError(f"'{picture}' must be a PNG file, got {opened.format}.")
    files: dict[str, str] = {}
    for record in records:
        stem, number = evaluation_name(record), 1
        while (file := f"evaluation/{stem}{f'-{number}' if number > 1 else ''}.json") in files:
            number += 1
        files[file] = json.dumps(public_record(record), indent=2, allow_nan=False) + "\n"
    windows = [record["settings"]["window_size"] for record in records]
    size = next(filter(None, [*windows, InferenceSettings.for_model(model).window_size]))
    card = make_model_card(
        repo_id,
        model,
        processor,
        run,
        list(zip(files, records)),
        measure_speed(model, size) if with_speed else (),
        curve=CURVE if figure is not None else None,
        samples=SAMPLES if picture is not None else None,
        license=license,
        data_license=data_license,
        base_model=base_model,
        notes=notes,
    )
    if run is not None:
        recipe = yaml.safe_dump(make_recipe(run, ignored_options), sort_keys=False, allow_unicode=True)
        head = f"# unip {run.command} --config {RECIPE} --output_dir ...\n"
        head += "# Of folders and files only the names are given.\n"
        counts = {"num_steps": run.num_steps, "num_planned_steps": run.num_planned_steps}
        environment = json.dumps({"versions": run.versions, **counts, **run.found}, indent=2)
        files |= {RECIPE: head + recipe, ENVIRONMENT: environment + "\n"}
    config: Any = model.config
    if getattr(config, "backbone_checkpoint", None) is not None:
        config.backbone_checkpoint = without_folders(config.backbone_checkpoint, is_checkpoint=True)
    with write_whole(output_dir) as staged:
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
        if figure is not None:
            figure.savefig(staged / CURVE, format="png", dpi=120)
        if picture is not None:
            (staged / SAMPLES).write_bytes(picture.read_bytes())
        for file, text in files.items():
            (staged / file).parent.mkdir(exist_ok=True)
            (staged / file).write_text(text, encoding="utf-8")
        card.save(staged / "README.md")
        written = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    shown = f"{data.title} (licence: {data.license or data_license or 'not known'})" if data and picture else None
    return Publication(written, shown, warnings)


def check_own_card(checkpoint: Path) -> list[str]:
    """A warning if the user wrote into the checkpoint's `README.md`, because the published card is rendered anew."""
    path = checkpoint / "README.md"
    if not path.is_file():
        return []
    card = load_card(path)
    own = ["text"] * (card.text.strip().partition("\n")[2].strip() != CARD_TEXT)
    own += [
        name for name in card.data.to_dict() if name not in ("library_name", "pipeline_tag", "tags", "model-index")
    ]
    if not own:
        return []
    return [
        f"What was added to '{path}' is not published ({', '.join(own)}): the card is written anew. Give text with "
        "--notes, and the licence with --license."
    ]


__all__ = ["REPLACED_PATTERNS", "Publication", "check_own_card", "write_publication"]
