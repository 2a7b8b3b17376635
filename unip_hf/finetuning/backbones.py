# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Pre-trained backbones of `transformers` and `timm` under UNIP's segmentation heads."""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    PreTrainedConfig,
    TimmBackbone,
    TimmBackboneConfig,
)

from ..hub.pretrained import TIMM_PREFIX, Pretrained, with_card, with_timm_settings
from ..inference.loading import load_config
from ..modeling.configuration_unip import UnipConfig
from ..modeling.modeling_unip_segmentation import UnipSegmentationModel


logger = logging.getLogger(__name__)


def find_backbone_config(checkpoint: str) -> PreTrainedConfig | None:
    """
    The configuration of a pre-trained backbone without a head for segmentation; `None` for every other checkpoint.

    Args:
        checkpoint (`str`): Folder, name on the Hub, or `timm:` and a name as `timm.create_model` takes it.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if its configuration cannot be used.
    """
    if (name := _timm_name(checkpoint)) is not None:
        return _timm_config(name)
    config = load_config(checkpoint)
    has_head = type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
    return config if type(config) in MODEL_FOR_BACKBONE_MAPPING and not has_head else None


def load_on_backbone(
    checkpoint: str,
    model_class: type[UnipSegmentationModel],
    backbone_config: PreTrainedConfig,
    feature_layers: Sequence[int] | None = None,
    drop_path_rate: float = 0.0,
    **fields: Any,
) -> UnipSegmentationModel:
    """
    A segmentation model with a new head on the weights of a backbone.

    Args:
        checkpoint (`str`): See [`find_backbone_config`].
        model_class: The segmentation model.
        backbone_config: What [`find_backbone_config`] found.
        feature_layers (`Sequence[int]`, *optional*): Blocks or stages that are read, from 1; by default see
            [`default_layers`].
        drop_path_rate (`float`, *optional*, defaults to 0.0): Stochastic depth rate, where the backbone has it.
        fields: Other fields of the configuration, such as `id2label` and `image_size`.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if the backbone does not fit the head, or weights of it are missing.
    """
    values: dict[str, Any] = {**backbone_config.to_dict()}
    layers = list(feature_layers) if feature_layers else default_layers(backbone_config, model_class)
    set_drop_path(values, drop_path_rate)
    for of_outputs in ("out_features", "out_indices"):  # feature_layers says it
        values.pop(of_outputs, None)
    try:
        config = UnipConfig(backbone_config=values, feature_layers=layers, **fields)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    model = model_class(config)
    encoder: Any = model.unip
    source, missing = _load_weights(checkpoint, encoder.backbone.config)
    new = sorted(name for name in missing if "hidden_states_norms" in name)
    lost = sorted(set(missing) - set(new) - encoder.unused)
    if lost:
        raise ValueError(f"The checkpoint {checkpoint!r} lacks the encoder's {lost[:3]} ({len(lost)} in all).")
    if new:
        logger.info(f"The norms of the feature maps are not in {checkpoint!r}: they start at the identity.")
    encoder.backbone.load_state_dict(source.state_dict())
    return model


def describe_backbone(checkpoint: str, encoder: nn.Module) -> Pretrained:
    """
    What the weights of a backbone say of themselves.

    Args:
        checkpoint (`str`): See [`find_backbone_config`].
        encoder (`nn.Module`): Holds the weights.
    """
    name = _timm_name(checkpoint)
    if name is None:
        return with_card(checkpoint, encoder)
    return replace(with_timm_settings(name, _timm_network(name)), name=checkpoint, model=encoder)


def default_layers(backbone_config: Any, model_class: type[UnipSegmentationModel]) -> list[int]:
    """
    The blocks of a plain ViT that a segmentation model reads by default: those of UNIP. Of networks with stages, the
    last four for fine-tuning and all for probing.
    """
    if backbone_config.model_type == "timm_backbone":
        names = getattr(backbone_config, "stage_names", None) or _timm_stages(backbone_config.backbone)
    else:
        names = [name for name in backbone_config.stage_names if name != "stem"]
        if not hasattr(backbone_config, "depths"):
            return model_class.default_feature_layers(len(names)) or [len(names)]
    count = len(names)
    if model_class.freezes_encoder:
        return list(range(1, count + 1))
    return list(range(count - 3, count + 1)) if count >= 4 else [count]


def set_drop_path(backbone_config: dict[str, Any], drop_path_rate: float) -> None:
    """Sets the stochastic depth rate of a backbone, where its configuration has one."""
    if "drop_path_rate" in backbone_config:
        backbone_config["drop_path_rate"] = drop_path_rate
    elif drop_path_rate:
        logger.info(f"{backbone_config['model_type']} has no drop path rate: it is trained without.")


def _load_weights(checkpoint: str, config: Any) -> tuple[nn.Module, list[str]]:
    """The backbone with the weights of a checkpoint, and the names of those that it lacks or has in other shapes."""
    try:
        if config.model_type == "timm_backbone":
            settings = {"num_channels": config.num_channels, "out_indices": config.out_indices}
            source = TimmBackbone.from_pretrained(_timm_name(checkpoint), **settings)
            return source, []  # timm itself refuses weights that do not match
        model_class: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
        source, loading = model_class.from_pretrained(
            checkpoint,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they count as missing
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        hint = ""
        if isinstance(error, OSError) and checkpoint.startswith(TIMM_PREFIX):
            hint = " Without network, give the folder of a model downloaded from the Hub: timm:local-dir:FOLDER."
        raise ValueError(f"The weights of {checkpoint!r} cannot be loaded: {reason}.{hint}") from error
    return source, [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]


def _timm_name(checkpoint: str) -> str | None:
    """What `timm.create_model` calls a checkpoint; `None` for those that are not of `timm`."""
    if checkpoint.startswith(TIMM_PREFIX):
        return checkpoint.removeprefix(TIMM_PREFIX)
    if load_config(checkpoint).model_type != "timm_wrapper":
        return None
    return f"{'local-dir' if Path(checkpoint).is_dir() else 'hf-hub'}:{checkpoint}"


def _timm_network(name: str) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:  # of many kinds: no such name or folder, no features
        hint = ""
        if ":" not in name and not timm.is_model(name):
            similar = difflib.get_close_matches(name, timm.list_models(), n=5)
            hint = f" Similar names: {', '.join(similar) or 'none'}."
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"timm cannot give feature maps of {name!r}: {reason}.{hint}") from error


def _timm_config(name: str) -> TimmBackboneConfig:
    settings: dict[str, Any] = _timm_network(name).pretrained_cfg
    architecture = settings["architecture"] if ":" in name else name
    return TimmBackboneConfig(backbone=architecture)


def _timm_stages(name: str) -> list[str]:
    info = _timm_network(name).feature_info
    return [one["module"] for one in info.info]


__all__ = ["default_layers", "describe_backbone", "find_backbone_config", "load_on_backbone", "set_drop_path"]
