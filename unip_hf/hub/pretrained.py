# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Pre-trained networks of `timm` and `transformers` by the names that users give, and what their weights say."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from torch import nn


TIMM_PREFIX = "timm:"
FILE_SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
Triple = tuple[float, float, float]


class NotPlainViTError(ValueError):
    """A network was found, but it does not compute what a plain ViT computes."""


@dataclass(frozen=True)
class Pretrained:
    """
    A network, and what its weights say of themselves.

    Args:
        name: As the user named it.
        model: In evaluation mode, on the CPU.
        license: Licence of the weights as the Hub names it; `None` if they do not say.
        image_mean, image_std: Normalisation that the network was trained with, for three channels scaled to 0..1;
            `None` if the weights do not say.
    """

    name: str
    model: nn.Module
    license: str | None = None
    image_mean: Triple | None = None
    image_std: Triple | None = None

    def describe(self) -> str:
        """One line with name, parameters, licence, and mean and standard deviation."""
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        text = f"{self.name}: {millions:.2f} M parameters, licence of the weights {self.license or 'unknown'}, "
        if self.image_mean is None or self.image_std is None:
            return text + "mean and standard deviation unknown"
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.image_mean, self.image_std))
        return f"{text}mean {mean}, standard deviation {std}"


def is_published_file(name: str) -> bool:
    """Whether this names a checkpoint file, also one that does not exist, rather than a model of another library."""
    path = Path(name)
    return path.is_file() or (path.suffix in FILE_SUFFIXES and not name.startswith(TIMM_PREFIX))


def load_pretrained(name: str, dtype: torch.dtype = torch.float32) -> Pretrained:
    """
    Loads `"timm:NAME"`, see [`load_timm`], or another name, see [`load_transformers`].

    Raises:
        NotPlainViTError, ValueError: see there.
    """
    if name.startswith(TIMM_PREFIX):
        return load_timm(name.removeprefix(TIMM_PREFIX))
    return load_transformers(name, dtype)


def load_timm(name: str) -> Pretrained:
    """
    Loads a ViT of `timm` that takes any image size.

    Args:
        name: As `timm.create_model` takes it, e.g. `"vit_small_patch16_224.dino"`, or `"local-dir:FOLDER"`; without
            `timm:` in front.

    Raises:
        NotPlainViTError: if the network does not take any image size, and so is not a plain ViT.
        ValueError: if there is no such model, or its weights do not match.
    """
    import timm

    try:
        # With another number of classes timm would load what matches and say nothing about the rest.
        model = timm.create_model(name, pretrained=True, dynamic_img_size=True)
    except TypeError as error:
        raise NotPlainViTError(f"timm's {name!r} is not a plain ViT for any image size.") from error
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        names = timm.list_pretrained()
        hint = ""
        if ":" not in name and name not in names:
            hint = f" Similar names: {', '.join(difflib.get_close_matches(name, names, n=5)) or 'none'}."
        elif isinstance(error, OSError):
            hint = " Without network, give the folder of a model downloaded from the Hub: timm:local-dir:FOLDER."
        raise ValueError(f"timm cannot load {name!r}: {_one_line(error)}.{hint}") from error
    return with_timm_settings(name, model.eval())


def with_timm_settings(name: str, model: nn.Module) -> Pretrained:
    """A network of `timm` with what its `pretrained_cfg` says; `name` as in [`load_timm`]."""
    settings: Any = model.pretrained_cfg
    source, _, place = name.partition(":")
    license = settings.get("license") or (_license(place) if source in ("local-dir", "hf-hub") else None)
    mean, std = three_channels(settings.get("mean")), three_channels(settings.get("std"))
    return Pretrained(TIMM_PREFIX + name, model, license, mean, std)


def load_transformers(name: str, dtype: torch.dtype = torch.float32) -> Pretrained:
    """
    Loads the encoder of a model of `transformers`, or a model of `timm` from the Hub.

    Args:
        name: Folder, or name on the Hub.
        dtype: Dtype of the weights; those of `timm` are always loaded in `torch.float32`.

    Raises:
        NotPlainViTError: see [`load_timm`].
        ValueError: if there is no such model, or its weights do not match; the message lists those that do not.
    """
    from transformers import AutoConfig, AutoModel

    is_folder = Path(name).is_dir()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != "timm_wrapper":
            model, report = AutoModel.from_pretrained(
                name,
                dtype=dtype,
                attn_implementation="sdpa",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # all of them are listed below
                trust_remote_code=False,
            )
    except Exception as error:  # of many kinds, as the values of the files
        where = "in this folder" if is_folder else "of this name (not a file or folder; timm's names begin with timm:)"
        raise ValueError(f"{name!r}: no model {where} can be loaded. {_one_line(error)}.") from error
    if config.model_type == "timm_wrapper":
        found = load_timm(f"{'local-dir' if is_folder else 'hf-hub'}:{name}")
        return Pretrained(name, found.model, found.license, found.image_mean, found.image_std)
    problems = [f"{key}: not in the checkpoint" for key in sorted(report["missing_keys"]) if "pooler" not in key]
    for key, found_shape, own in sorted(report["mismatched_keys"]):
        problems.append(f"{key}: {tuple(found_shape)} in the checkpoint, {tuple(own)} in the model")
    if problems:
        raise ValueError(f"The weights of {name!r} do not match its {type(model).__name__}: {'; '.join(problems)}.")
    return with_card(name, model.eval())


def with_card(name: str, model: nn.Module) -> Pretrained:
    """A network of `transformers` with what the model card and the image processor of a folder or Hub name say."""
    return Pretrained(name, model, _license(name), *_normalisation(name))


def _normalisation(name: str) -> tuple[Triple | None, Triple | None]:
    """Mean and standard deviation in the image processor of a model of `transformers`."""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        return three_channels(processor.image_mean), three_channels(processor.image_std)
    except Exception:  # of many kinds: none, or a damaged one, and the weights can do without
        return None, None


def _license(name: str) -> str | None:
    """The licence in the model card of a folder or of a name on the Hub."""
    card_file = Path(name, "README.md")
    if Path(name).is_dir() and not card_file.is_file():
        return None
    try:
        card = ModelCard.load(card_file if card_file.is_file() else name, ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError):  # no card, no network, or not a card
        return None
    license = card.data.get("license")
    if license == "other":
        license = card.data.get("license_name") or license
    return ", ".join(map(str, license)) if isinstance(license, list) else license and str(license)


def three_channels(values: Iterable[float] | None) -> Triple | None:
    """Values of three channels. A single value stands for all three; other numbers of channels have none."""
    values = [float(value) for value in values or ()]
    if len(values) not in (1, 3):
        return None
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


__all__ = [
    "TIMM_PREFIX",
    "NotPlainViTError",
    "Pretrained",
    "Triple",
    "is_published_file",
    "load_pretrained",
    "load_timm",
    "load_transformers",
    "three_channels",
    "with_card",
    "with_timm_settings",
]
