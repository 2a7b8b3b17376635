# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what is known of a checkpoint, and nothing else."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

from .. import paper
from .._version import __version__
from ..evaluation import results
from ..evaluation.reports import format_cell
from ..evaluation.runs import TrainingRun
from ..inference.windows import reads_pairs
from ..modeling.configuration_unip import UNIP_SIZES
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.modeling_unip_backbone import UnipBackboneEncoder
from ..modeling.modeling_unip_segmentation import UnipSegmentationModel
from .evaluations import describe_settings, evaluation_results
from .loading import ENCODERS
from .pairs import pair_facts
from .public_names import data_facts, is_hub_name, plain
from .speed import Speed
from .training_run import describe_origin, describe_training, trained_on


TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"


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
        run: The run that left the checkpoint.
        evaluations: File name in the repository and content of each `results.json` of these very weights.
        speeds: What was measured.
        curve, samples: File names of pictures in the repository.
        license: Licence of the weights, as the Hub names it, e.g. `"apache-2.0"`.
        data_license: Licence of the training data, in words, where the library does not know it.
        base_model: Name on the Hub of what it was fine-tuned from; by default the run's model if that is on the Hub.
        notes: Markdown of the user.

    Raises:
        ValueError: if the licence is not a name that the Hub could know.
    """
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise ValueError(f"{license!r} is not a licence as the Hub names it, such as apache-2.0 or other.")
    is_segmentation, is_unip = not isinstance(model, ENCODERS), model.config.model_type == "unip"
    data = None if run is None else data_facts(run.options)
    is_infrared = is_unip if data is None else data.modality in ("thermal", "both")
    is_of_pairs = reads_pairs(model)
    if base_model is None and run is not None and is_hub_name(run.options.get("model") or ""):
        base_model = run.options["model"]
    tags = ["semantic-segmentation"] * is_segmentation
    tags += ["infrared", "thermal"] if is_infrared else [] if data is None else [data.modality]
    tags += ["visible", "multimodal", f"arxiv:{paper.FUSION_PAPERS[model.config.fusion][1]}"] if is_of_pairs else []
    name = repo_id.rpartition("/")[2]
    metadata = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation" if is_segmentation else "image-feature-extraction",
        base_model=base_model,
        model_name=name,
        tags=tags + ["unip", f"arxiv:{paper.ARXIV_ID}"] * is_unip,
        eval_results=evaluation_results(evaluations) or None,
    )
    origin = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else describe_origin(run)
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        kind=type(model).__name__,
        config=model.config,
        is_segmentation=is_segmentation,
        is_unip=is_unip,
        is_of_pairs=is_of_pairs,
        backbone=_backbone_name(model),
        is_infrared=is_infrared,
        facts={**_architecture(model), "Started from": origin},
        notes=notes.strip(),
        intensities=describe_images(processor, is_of_pairs),
        scales_each_image=processor.do_rescale and processor.intensity_scaling in (None, "percentiles"),
        trained="" if run is None else trained_on(run),
        training=describe_training(run),
        curve=curve,
        samples=samples,
        evaluations=[(file, record, data_facts(record)) for file, record in evaluations],
        speeds=speeds,
        torch_version=torch.__version__,
        data=data,
        data_license=data_license,
        version=__version__,
        paper=paper,
        plain=plain,
        format_cell=format_cell,
        describe_settings=describe_settings,
        results=results,
    )


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
        parts.append(_describe_statistics(processor))
    parts.append(_describe_channels(processor))
    return " ".join(parts)


def _describe_statistics(processor: UnipImageProcessor) -> str:
    mean, std = (
        ", ".join(f"{value:.4g}" for value in values) for values in (processor.image_mean, processor.image_std)
    )
    return f"It is normalised with mean {mean} and standard deviation {std}."


def _describe_channels(processor: UnipImageProcessor) -> str:
    if processor.num_channels == 1:
        return "One channel; colour images are converted to grey."
    return "Three channels, which are equal for grey images."


def describe_images(processor: UnipImageProcessor, is_of_pairs: bool) -> str:
    """How the images of a model are scaled, in one or more sentences; of pairs, both images."""
    if not is_of_pairs:
        return describe_intensities(processor)
    infrared, visible = processor.by_role(processor, processor.auxiliary)  # the processor of each
    parts = [f"Infrared images: {describe_intensities(infrared)}"]
    parts += ["Visible images: the full range of the file's type becomes 0..1; the size is that of the infrared one."]
    parts += [_describe_statistics(visible)] if visible.do_normalize else []
    return " ".join([*parts, _describe_channels(visible)])


def _backbone_name(model: PreTrainedModel) -> str | None:
    """Name of the backbone that a model of ours has in place of UNIP's encoder."""
    encoder = getattr(model, "unip", None)
    return encoder.name if isinstance(encoder, UnipBackboneEncoder) else None


def _architecture(model: PreTrainedModel) -> dict[str, str]:
    """Rows of a table."""
    config: Any = model.config
    rows = {"Class": f"`{type(model).__name__}`"}
    backbone = _backbone_name(model)
    if backbone is not None and isinstance(model, UnipSegmentationModel):
        channels = f"{config.num_channels} channel{'s' * (config.num_channels > 1)}"
        rows["Backbone"] = f"{backbone} (`{config.backbone_config.model_type}`)"
        rows["Head"] = model.describe_head()
        rows["Input"] = f"{channels}, any size from {model.patch_size} pixels"
    elif config.model_type == "unip":
        width, blocks, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
        names = [name.capitalize() for name, shape in UNIP_SIZES.items() if shape == (width, blocks, heads)]
        size = f"UNIP-{names[0]}, " if names else ""
        last = config.last_layer_num_attention_heads
        in_last = f" ({last} in the last block)" if last not in (None, heads) else ""
        patch = config.patch_size
        rows["Encoder"] = (
            f"{size}ViT, {blocks} blocks of width {width}, {heads} heads{in_last}, patches of {patch} pixels"
        )
        if isinstance(model, UnipSegmentationModel):
            rows["Head"] = model.describe_head()
        sides = "x".join(str(side * patch) for side in reversed(config.grid_size))
        rows["Position table"] = f"for {sides} pixels, interpolated for others"
        channels = f"{config.num_channels} channel{'s' * (config.num_channels > 1)}"
        rows["Input"] = f"{channels}, any size from {patch} pixels"
    if reads_pairs(model):
        rows |= pair_facts(model)
    rows["Parameters"] = f"{model.num_parameters():,}"
    if not isinstance(model, ENCODERS):
        labels = [plain(label) for _, label in sorted(config.id2label.items())]
        rows[f"{len(labels)} classes"] = ", ".join(labels)
    return rows


__all__ = ["describe_images", "describe_intensities", "make_model_card"]
