# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads what users name a checkpoint by: a folder, a model on the Hub, an exported file, or a size."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..files import read_json
from ..modeling.configuration_unip import UNIP_SIZES, UnipConfig
from ..modeling.image_processing_unip import UnipImageProcessor
from .exported import ExportedModel, is_exported, load_exported_model


# Fields that change when a checkpoint is saved again.
CHANGED_BY_SAVING = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "backbone_checkpoint",
    "dtype",
    "transformers_version",
}


MANY_BYTES = 2**30  # of weights that a configuration may ask for, whatever the files hold


@contextmanager
def naming(checkpoint: str | os.PathLike) -> Iterator[None]:
    """Whatever the files of a checkpoint lead other libraries to becomes a `ValueError` that names it."""
    name = os.fspath(checkpoint)
    try:
        yield
    except Exception as error:
        if isinstance(error, (OSError, ValueError)) and name in str(error):
            raise
        said = (error.__cause__ or error) if isinstance(error, StrictDataclassError) else error
        reason = " ".join(str(said).split()).rstrip(".") or type(said).__name__
        raise ValueError(f"The checkpoint {name!r} cannot be loaded: {reason}.") from error


def is_random_start(checkpoint: str) -> bool:
    """Whether this names one of the paper's sizes rather than a checkpoint."""
    return checkpoint in UNIP_SIZES and not Path(checkpoint).exists()


def load_config(checkpoint: str) -> PreTrainedConfig:
    """
    The configuration of a checkpoint, or of a size.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it is a file, holds no checkpoint or several, or its configuration is damaged.
    """
    return UnipConfig.from_size(checkpoint) if is_random_start(checkpoint) else _read_config(checkpoint)


def has_segmentation_head(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint with this configuration holds a head for semantic segmentation."""
    names = config.architectures or []
    return type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING and any("Segmentation" in name for name in names)


def _read_config(checkpoint: str) -> PreTrainedConfig:
    path = Path(checkpoint)
    if path.is_file():
        raise ValueError(
            f"{checkpoint!r} is a file. Make a checkpoint folder of it first: `unip convert {checkpoint} FOLDER`."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        inside = sorted(file.parent.name for file in path.glob("*/config.json"))
        if inside:
            raise ValueError(f"{checkpoint!r} holds several checkpoints, {', '.join(inside)}: choose one.")
        raise ValueError(f"{checkpoint!r} is not a checkpoint folder: it has no config.json.")
    try:
        if path.is_dir():
            architectures = dict(read_json(path / "config.json")).get("architectures") or []
            if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
                raise ValueError(f"architectures must be a list of names, got {architectures!r}.")
        return AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:  # of many kinds, as the values of the file
        if path.is_dir() or not isinstance(error, OSError):
            said = (error.__cause__ or error) if isinstance(error, StrictDataclassError) else error
            raise ValueError(f"The configuration of {checkpoint!r} cannot be used: {said}") from error
        raise OSError(
            f"There is no checkpoint folder {checkpoint!r}, and a model of that name cannot be loaded from the Hub."
        ) from error


def load_weights(kind: Any, checkpoint: str, config: PreTrainedConfig) -> tuple[Any, list[str]]:
    """
    A model of a class, or of an Auto class, with the weights of a checkpoint.

    Returns:
        The model, in evaluation mode, and the names of the weights that the checkpoint lacks.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it is damaged, its weights do not fit its configuration, or they are not finite.
    """
    with naming(checkpoint):
        files = [*Path(checkpoint).glob("*.safetensors"), *Path(checkpoint).glob("*.bin")]
        if files and getattr(config, "backbone_fingerprint", None) is None:
            # Otherwise a wrong number in config.json could take all memory before its weights are compared.
            with torch.device("meta"):
                model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
            claimed = sum(parameter.nbytes for parameter in model.parameters())
            if claimed > MANY_BYTES and claimed > 8 * sum(file.stat().st_size for file in files):
                raise ValueError(f"config.json asks for {claimed / 2**30:,.1f} GB of weights, and the files hold less")
        model, report = kind.from_pretrained(
            checkpoint, config=config, output_loading_info=True, trust_remote_code=False
        )
        for name, parameter in model.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(f"its weights hold NaN or infinite values, in {name!r} first")
    return model.eval(), sorted(report["missing_keys"])


def fingerprint(model: nn.Module, processor: Any) -> str:
    """
    Identifies the weights and the configuration of a model and its processor. It stays the same when a checkpoint is
    saved again, by any version of `transformers`.

    Args:
        model: With a `config`, on any device.
        processor: Its image processor.

    Returns:
        SHA-256 as 64 hexadecimal digits.
    """
    parts: list[Any] = [model.config, processor]
    settings = [_kept_by_saving(part.to_dict()) for part in parts]
    content = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _kept_by_saving(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _kept_by_saving(value) if isinstance(value, dict) and "model_type" in value else value  # e.g. a backbone
        for key, value in settings.items()
        if key not in CHANGED_BY_SAVING
    }


def load_processor(checkpoint: str | os.PathLike) -> UnipImageProcessor:
    """
    The image processor for a checkpoint, one that takes infrared images whatever the model is.

    Args:
        checkpoint: Folder, or name on the Hub.

    Returns:
        The checkpoint's own if it is a [`UnipImageProcessor`]. For other models one with three channels, their mean
        and standard deviation, and the published evaluation's size.

    Raises:
        OSError: if there is none.
        ValueError: if it cannot be used.
    """
    folder, files = os.fspath(checkpoint), ("preprocessor_config.json", "processor_config.json")
    if Path(folder).is_dir() and not any(Path(folder, name).is_file() for name in files):
        raise FileNotFoundError(
            f"{folder!r} has no preprocessor_config.json, which says how images are scaled. Save the model's image "
            f"processor there, e.g. UnipImageProcessor(num_channels=1).save_pretrained({folder!r})."
        )
    with naming(checkpoint):
        described, _ = UnipImageProcessor.get_image_processor_dict(checkpoint)
        if described.get("image_processor_type") == UnipImageProcessor.__name__:
            return UnipImageProcessor.from_pretrained(checkpoint)  # the Auto class would ask for torchvision
        processor: Any = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False)
        settings = {name: getattr(processor, name, None) for name in ("do_normalize", "image_mean", "image_std")}
        known = {name: value for name, value in settings.items() if value is not None}
        return UnipImageProcessor(num_channels=3, size={"shortest_edge": 512, "longest_edge": 2048}, **known)


def load_segmentation_model(
    checkpoint: str | os.PathLike, device: str | torch.device | None = None
) -> tuple[PreTrainedModel | ExportedModel, UnipImageProcessor]:
    """
    Args:
        checkpoint: Folder of a semantic segmentation model of any kind, or its name on the Hub; or what `unip export`
            wrote: the folder, or an `.onnx` or `.xml` file in it.
        device: Where to put the model.

    Returns:
        The model, in evaluation mode, and its processor, see [`load_processor`].

    Raises:
        OSError: if there is no such folder or model.
        ValueError: if it is not a trained segmentation model.
    """
    checkpoint = os.fspath(checkpoint)
    if is_exported(checkpoint):
        folder = checkpoint if os.path.isdir(checkpoint) else os.path.dirname(checkpoint) or "."
        exported, processor = load_exported_model(checkpoint, device), load_processor(folder)
        _check_roles(checkpoint, exported.config, processor)
        return exported, processor
    config = _read_config(checkpoint)
    kind = (config.architectures or [config.model_type])[0]
    if type(config) not in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        raise ValueError(f"{checkpoint!r} holds {kind}, which is not a semantic segmentation model.")
    model, missing = load_weights(AutoModelForSemanticSegmentation, checkpoint, config)
    if missing:
        raise ValueError(
            f"{checkpoint!r} holds {kind}, which is not a trained segmentation model: {len(missing)} weights are "
            f"missing, {missing[0]!r} among them. Fine-tune it first."
        )
    processor = load_processor(checkpoint)
    _check_roles(checkpoint, config, processor)
    model = model.to(device)
    if model.device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)  # as its convolutions compute
    return model, processor


def _check_roles(checkpoint: str, config: PreTrainedConfig, processor: UnipImageProcessor) -> None:
    """Raises a `ValueError` if a model of pairs and its processor do not agree on which image is the main one."""
    main = getattr(config, "main_modality", processor.main_modality)
    if getattr(config, "fusion", None) is not None and main != processor.main_modality:
        raise ValueError(
            f"The main image of the model in {checkpoint!r} is {main}, but its preprocessor_config.json says "
            f"{processor.main_modality}: save UnipImageProcessor(main_modality={main!r}, ...) there."
        )


__all__ = [
    "fingerprint",
    "has_segmentation_head",
    "is_random_start",
    "load_config",
    "load_processor",
    "load_segmentation_model",
    "load_weights",
    "naming",
]
