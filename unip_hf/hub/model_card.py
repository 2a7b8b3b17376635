# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what is known of a checkpoint, and nothing else."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from transformers import PreTrainedModel

from .. import paper
from .._version import __version__
from ..evaluation.reports import format_cell
from ..evaluation.results import SUMMARY
from ..modeling.configuration_unip import UNIP_SIZES
from ..modeling.image_processing_unip import UnipImageProcessor
from .data_facts import DataFacts
from .evaluations import describe_settings, evaluated_data, evaluation_results
from .loading import ENCODERS
from .provenance import describe_origin, describe_training, training_data
from .speed import Speed
from .training_run import TrainingRun, is_hub_name


TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
NOT_STATED = "not stated by whoever published this"


def make_model_card(
    repo_id: str,
    model: PreTrainedModel,
    processor: UnipImageProcessor,
    run: TrainingRun | None = None,
    evaluations: Sequence[tuple[str, dict[str, Any]]] = (),
    speeds: Sequence[Speed] = (),
    *,
    curve: str | None = None,
    samples: str | None = None,
    license: str | None = None,
    data_license: str | None = None,
    base_model: str | None = None,
    notes: str = "",
) -> ModelCard:
    """
    Renders the card of a checkpoint. What is not known is said to be unknown.

    Args:
        repo_id: `"USER/NAME"`, which the lines of code load.
        model: Segmentation model of any kind, or an encoder of UNIP.
        processor: Its image processor.
        run: That left the checkpoint.
        evaluations: File name in the repository and content of each `results.json` of these very weights.
        speeds: What was measured.
        curve, samples: File names of pictures in the repository.
        license: Of the weights, as the Hub names it, e.g. `"apache-2.0"`.
        data_license: Of the training data, in words, where the library does not know it.
        base_model: Name on the Hub of what it was fine-tuned from; by default the run's model if that is on the Hub.
        notes: Markdown of the user.

    Raises:
        ValueError: if the metadata would not be valid.
    """
    is_segmentation = type(model).__name__ not in ENCODERS
    is_unip = model.config.model_type == "unip"
    data = training_data(run)
    if base_model is None and run is not None and is_hub_name(run.options.get("model") or ""):
        base_model = run.options["model"]
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation" if is_segmentation else "image-feature-extraction",
        base_model=base_model,
        model_name=repo_id.rpartition("/")[2],
        tags=_tags(is_segmentation, is_unip, data),
        eval_results=evaluation_results(evaluations) or None,
    )
    origin = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else describe_origin(run)
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        summary=_summary(model, run, data),
        facts=[*_architecture(model), ("Started from", origin)],
        notes=notes.strip(),
        code=loading_code(repo_id, model),
        needs_code=is_unip,
        is_segmentation=is_segmentation,
        intensities=describe_intensities(processor),
        scales_each_image=processor.do_rescale and processor.intensity_scaling in (None, "percentiles"),
        training=describe_training(run),
        curve=curve,
        samples=samples,
        results=[_result(file, record) for file, record in evaluations],
        no_results="Not evaluated, or not with these weights." if is_segmentation else "It has no segmentation head.",
        speeds=[_speed_row(speed) for speed in speeds],
        limits_of_data=_limits_of_data(run, data, [record for _, record in evaluations]),
        torch_version=torch.__version__,
        weights_license=f"`{license}`" if license else NOT_STATED,
        data_license=_data_license(data, data_license),
        version=__version__,
        citation_reason="The network is that of:"
        if is_unip
        else "The library unip_hf, which wrote these files, implements:",
        citation=paper.CITATION,
    )
    check_model_card(card)
    return card


def check_model_card(card: ModelCard) -> None:
    """
    Checks the metadata as far as that is possible without the Hub.

    Raises:
        ValueError: if something is wrong, with the reason.
    """
    data: Any = ModelCard(str(card)).data  # strict: raises for what is no metadata
    if data.eval_results:
        index = eval_results_to_model_index(data.model_name, data.eval_results)
        if model_index_to_eval_results(index) != (data.model_name, data.eval_results):
            raise ValueError("The results do not survive being written into the metadata of the card.")
    for kind, values, pattern in (
        ("dataset", [result.dataset_type for result in data.eval_results or []], r"(?:[\w-]+/)?[\w.-]+"),
        ("base_model", [data.base_model] if data.base_model else [], r"[\w.-]+/[\w.-]+|[\w.-]+"),
        ("license", [data.license] if data.license else [], r"[a-z0-9][a-z0-9.-]*"),
    ):
        for value in values:
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                raise ValueError(f"{value!r} is no {kind} as the Hub names it.")


def loading_code(repo_id: str, model: PreTrainedModel) -> str:
    """Lines of Python that load the model from the Hub, or from a folder of that name, and run it."""
    is_segmentation = type(model).__name__ not in ENCODERS
    auto_class = "AutoModelForSemanticSegmentation" if is_segmentation else "AutoModel"
    trust = ", trust_remote_code=True" if model.config.model_type == "unip" else ""
    lines = [
        "from PIL import Image",
        f"from transformers import AutoImageProcessor, {auto_class}",
        "",
        'image = Image.open("your-image.png")  # grey of 8 or 16 bits, or colour of 8',
        f'processor = AutoImageProcessor.from_pretrained("{repo_id}", trust_remote_code=True)',
        f'model = {auto_class}.from_pretrained("{repo_id}"{trust})',
        'outputs = model(**processor(image, return_tensors="pt"))',
    ]
    if is_segmentation:
        size = "target_sizes=[image.size[::-1]]"
        lines.append(f"ids = processor.post_process_semantic_segmentation(outputs, {size})[0]  # (height, width)")
    else:
        lines.append(
            f"features = outputs.last_hidden_state  # (1, 1 + patches, {model.config.hidden_size}), CLS first"
        )
    return "\n".join(lines)


def describe_intensities(processor: UnipImageProcessor) -> str:
    """How raw values become what the network sees, in words."""
    ranks = "percentiles {:g} and {:g}".format(*processor.intensity_percentiles)
    scaling = processor.intensity_scaling
    if not processor.do_rescale:
        first = "Values are taken as they are: scale them yourself as they were in training."
    elif scaling == "dtype_range":
        first = "The full range of the file's type becomes 0..1: values of 8 bits are divided by 255, of 16 by 65,535."
    elif scaling == "percentiles":
        first = f"In every image, {ranks} of its values become 0 and 1, like the gain control of a camera."
    elif scaling == "fixed_range":
        low, high = processor.intensity_range or (0, 1)
        if processor.counts_to_celsius is None:
            first = f"Values from {low:g} to {high:g} become 0..1; what lies outside is clipped."
        else:
            factor, offset = processor.counts_to_celsius
            first = (
                f"{low:g} °C to {high:g} °C become 0..1, and what lies outside is clipped. Integers are counts, "
                f"{factor:g} x count {offset:+g} in °C; floating-point images are in °C already."
            )
    else:
        first = (
            f"Values of 8 bits are divided by 255. In every image of more bits, {ranks} of its values become 0 and 1, "
            "like the gain control of a camera."
        )
    parts = [first]
    if processor.do_resize and "height" in processor.size:
        parts.append("Then it is resized to {width}x{height} pixels (width x height).".format(**processor.size))
    elif processor.do_resize:
        limit = f", the longer at most {processor.size['longest_edge']}" if "longest_edge" in processor.size else ""
        parts.append(f"Then it is resized until the shorter edge has {processor.size['shortest_edge']} pixels{limit}.")
    if processor.do_normalize:
        mean, std = (
            ", ".join(f"{value:.4g}" for value in values) for values in (processor.image_mean, processor.image_std)
        )
        parts.append(f"It is normalised with mean {mean} and standard deviation {std}.")
    channels = "One channel; colour is made grey." if processor.num_channels == 1 else "Three channels, alike if grey."
    return " ".join([*parts, channels])


def _plain(text: object) -> str:
    """Text that Markdown and its tables show as it is."""
    escaped = re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(str(text).split()))
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escaped)  # within a word it means nothing


def _tags(is_segmentation: bool, is_unip: bool, data: DataFacts | None) -> list[str]:
    tags = ["semantic-segmentation"] if is_segmentation else []
    if _is_infrared(is_unip, data):
        tags += ["infrared", "thermal"]
    elif data is not None:
        tags.append(data.modality)
    return tags + (["unip", f"arxiv:{paper.ARXIV_ID}"] if is_unip else [])


def _is_infrared(is_unip: bool, data: DataFacts | None) -> bool:
    """Whether it is for infrared images, as far as that is known."""
    return is_unip if data is None else data.modality in ("thermal", "both")


def _trained_on(run: TrainingRun | None, data: DataFacts | None) -> str:
    if run is None or data is None:
        return ""
    how = "pre-trained" if run.is_pretraining else "trained" if run.options["model"] in UNIP_SIZES else "fine-tuned"
    return f"{how} on the data *{_plain(data.title)}*"


def _limits_of_data(run: TrainingRun | None, data: DataFacts | None, records: Sequence[dict[str, Any]]) -> str:
    trained = _trained_on(run, data)
    if data is None or not trained:
        return "What it was trained on is not recorded."
    others = {evaluated_data(record).name for record in records} - {data.name}
    but = ", but for those under Results," if others else ""
    return f"It was {trained}; how it does on other data{but} was not measured."


def _summary(model: PreTrainedModel, run: TrainingRun | None, data: DataFacts | None) -> str:
    kind = type(model).__name__
    where = ", ".join(["", *filter(None, [_trained_on(run, data)])])
    if kind in ENCODERS:
        return f"A [UNIP]({paper.URL}) encoder for infrared images{where}, to be fine-tuned."
    is_unip = model.config.model_type == "unip"
    network = f"a [UNIP]({paper.URL}) network" if is_unip else f"`{kind}`"
    images = "infrared images" if _is_infrared(is_unip, data) else "images"
    return f"Segments {images} into {model.config.num_labels} classes: {network}{where}."


def _architecture(model: PreTrainedModel) -> list[tuple[str, str]]:
    """Rows of a table."""
    config: Any = model.config
    kind = type(model).__name__
    rows = [("Class", f"`{kind}`")]
    if config.model_type == "unip":
        shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
        size = next((f"UNIP-{name.capitalize()}, " for name, known in UNIP_SIZES.items() if known == shape), "")
        last = config.last_layer_num_attention_heads
        heads = f"{shape[2]} heads" + (f" ({last} in the last block)" if last not in (None, shape[2]) else "")
        rows.append(
            (
                "Encoder",
                f"{size}ViT, {shape[1]} blocks of width {shape[0]}, {heads}, patches of {config.patch_size} pixels",
            )
        )
        blocks = list(config.feature_layers or [config.num_hidden_layers])
        read = f"block{'s' if len(set(blocks)) > 1 else ''} {', '.join(map(str, dict.fromkeys(blocks)))}"
        if kind == "UnipForLinearSegmentation":
            rows.append(("Head", f"one linear classifier on {read}"))
        elif kind not in ENCODERS:
            pyramid = "last-layer feature pyramid (LL-FPN)" if len(set(blocks)) == 1 else "feature pyramid"
            rows.append(("Head", f"{pyramid} on {read}, UPerNet"))
        height, width = (side * config.patch_size for side in config.grid_size)
        rows.append(("Position table", f"for {width}x{height} pixels, interpolated for others"))
        channels = f"{config.num_channels} channel{'s' * (config.num_channels > 1)}"
        rows.append(("Input", f"{channels}, any size from {config.patch_size} pixels"))
    rows.append(("Parameters", f"{model.num_parameters():,}"))
    if kind not in ENCODERS:
        names = [_plain(name) for _, name in sorted(config.id2label.items())]
        rows.append((f"{len(names)} classes", ", ".join(names)))
    return rows


def _result(file: str, record: dict[str, Any]) -> dict[str, Any]:
    data, config = evaluated_data(record), record.get("dataset_config")
    images = record["num_images"]
    columns = ("iou", "accuracy", "dice", "share_of_pixels")
    return {
        "title": " ".join(map(_plain, filter(None, (f"{data.title},", config, record["split"])))),
        "count": f"{images:,} image{'s' * (images != 1)}",
        "settings": describe_settings(record),
        "file": file,
        "means": [(label, format_cell(record[name])) for name, label in SUMMARY.items()],
        "classes": [
            [_plain(found["name"]), *(format_cell(found[column]) for column in columns)] for found in record["classes"]
        ],
        "absent": ", ".join(_plain(found["name"]) for found in record["classes"] if found["iou"] is None),
    }


def _speed_row(speed: Speed) -> list[str]:
    threads = f", {speed.threads} thread{'s' * (speed.threads != 1)}" if speed.threads else ""
    memory = "not measured" if speed.megabytes is None else f"{speed.megabytes:,.0f} MB"
    whole = " (the process with its libraries)" if speed.threads and speed.megabytes is not None else ""
    size = f"{speed.size}x{speed.size}"
    return [f"{_plain(speed.hardware)}{threads}", size, speed.dtype, f"{speed.seconds:.4g}", memory + whole]


def _data_license(data: DataFacts | None, given: str | None) -> str:
    if data is None:
        return _plain(given) if given else "what it was trained on is not recorded"
    home = f" ([homepage]({data.homepage}))" if data.homepage else ""
    return f"{_plain(data.title)}: {_plain(data.license or given or NOT_STATED)}{home}"


__all__ = ["check_model_card", "describe_intensities", "loading_code", "make_model_card"]
