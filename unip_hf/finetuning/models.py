# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of every kind as models to fine-tune or to probe, and what a run does to a model before it trains."""

import logging
from collections.abc import Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel

from ..hub.conversion import adapt_input_channels
from ..hub.plain_vits import find_plain_vit
from ..hub.pretrained import Pretrained
from ..inference.loading import is_random_start, load_config, naming
from ..modeling.configuration_unip import UnipConfig
from ..modeling.modeling_unip import UnipModel
from ..modeling.modeling_unip_heads import SEGMENTATION_MODELS
from ..modeling.modeling_unip_segmentation import UnipSegmentationModel
from .backbones import default_layers, find_backbone_config, load_on_backbone, set_drop_path
from .probing import UnipForLayerwiseProbing


logger = logging.getLogger(__name__)

# Of every segmentation model, and of the one that is only trained.
TASKS: dict[str, type[UnipSegmentationModel]] = {model_class.task: model_class for model_class in SEGMENTATION_MODELS}
TASKS[UnipForLayerwiseProbing.task] = UnipForLayerwiseProbing


def load_model(
    checkpoint: str | Pretrained,
    id2label: dict[int, str],
    task: str = "fine_tuning",
    image_size: int = 512,
    feature_layers: Sequence[int] | None = None,
    drop_path_rate: float = 0.1,
    last_layer_num_attention_heads: int | None = None,
    decoder_channels: int | None = None,
    num_channels: int = 3,
    new_classifier: bool = False,
    fusion: str | None = None,
    main_modality: str | None = None,
    freeze_backbone: bool = True,
) -> PreTrainedModel:
    """
    A model with a segmentation head for these classes.

    A distilled student, an encoder or a plain ViT of another library becomes the paper's segmentation network, with a
    learned position table of this image size, LayerScale 1, and a drop path rate that rises with depth. A network that
    already has the head keeps what is not given here. Any other backbone of `transformers` or `timm` gets the same
    head on top.

    Args:
        checkpoint (`str`): Folder or name of a UNIP model, of a plain ViT or another backbone of `transformers`, or of
            any model for semantic segmentation; `"timm:NAME"` or `"timm:local-dir:FOLDER"` for a network of `timm`; or
            a size (`"tiny"`, `"small"`, `"base"`, `"large"`) for a random start. A plain ViT may also be what
            [`find_plain_vit`] has loaded.
        id2label (`dict[int, str]`): The classes.
        task (`str`, *optional*, defaults to `"fine_tuning"`): Which head is trained, the `task` of a segmentation
            model: `"fine_tuning"`, `"mla"`, `"segformer"`, `"linear_probe"` or `"layerwise_probe"`.
        image_size (`int`, *optional*, defaults to 512): Side of the training crops in pixels.
        feature_layers (`Sequence[int]`, *optional*): Blocks that are read, from 1. By default those of the paper: the
            last one for fine-tuning, four for the other heads and the linear probe, all for the layer-wise probe. Of
            backbones with stages such as Swin, the stages: the last four for fine-tuning, all for the probes.
        drop_path_rate (`float`, *optional*, defaults to 0.1): Stochastic depth rate of the last block.
        last_layer_num_attention_heads (`int`, *optional*): Heads of the last block; by default as in all others.
        decoder_channels (`int`, *optional*): Channels of a new head; by default as the configuration
            says, or the width of the encoder.
        num_channels (`int`, *optional*, defaults to 3): Input channels of a random start. Checkpoints keep theirs, but
            1 sums the filters of a plain ViT of another library.
        new_classifier (`bool`, *optional*, defaults to `False`): Replace a head that has other classes.
        fusion (`str`, *optional*): How a second image is read, `"iv_tuning"` or `"unirgb_ir"`; by default as in the
            checkpoint.
        main_modality (`str`, *optional*): Of pairs, which image the encoder sees, `"infrared"` or `"visible"`; by
            default as in the checkpoint.
        freeze_backbone (`bool`, *optional*, defaults to `True`): Of pairs, whether only what the method adds is
            trained, and the head.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if there is no such task, or the checkpoint does not fit.
    """
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}: choose one of {', '.join(TASKS)}.")
    model_class = TASKS[task]
    fields: dict[str, Any] = {
        "id2label": id2label,
        "drop_path_rate": drop_path_rate,
        "drop_path_schedule": "linear",
        "freeze_backbone": freeze_backbone,
    }
    if fusion is not None:
        fields |= {"fusion": fusion, "main_modality": main_modality or "infrared"}
        if isinstance(checkpoint, str) and not is_random_start(checkpoint):
            fields["backbone_checkpoint"] = checkpoint
    of_head: dict[str, Any] = {
        "last_layer_num_attention_heads": last_layer_num_attention_heads,
        "feature_layers": None if feature_layers is None else list(feature_layers),
    }
    if decoder_channels is not None:  # otherwise as the configuration says
        of_head["decoder_channels"] = decoder_channels
    of_encoder: dict[str, Any] = {}
    if not model_class.freezes_encoder:
        of_encoder = {"position_embedding_type": "learned"}
        if fusion is None or not freeze_backbone:  # a frozen encoder stays as it is
            of_encoder["layer_scale_init_value"] = 1.0
    if isinstance(checkpoint, str) and is_random_start(checkpoint):
        logger.warning(f"{checkpoint!r} is a size: training starts from random weights and needs far more images.")
        sized = UnipConfig.from_size(checkpoint, num_channels=num_channels, image_size=image_size)
        return model_class(_with_fields(sized, {**fields, **of_head, **of_encoder}, model_class))
    vit = checkpoint if isinstance(checkpoint, Pretrained) else find_plain_vit(checkpoint)
    if vit is not None:
        encoder: Any = vit.model
        channels = 1 if num_channels == 1 else encoder.config.num_channels
        started = _with_encoder(model_class, encoder, {**fields, **of_head, **of_encoder, "num_channels": channels})
        started.resize_position_embeddings(image_size)
        return started
    checkpoint = str(checkpoint)
    if (backbone_config := find_backbone_config(checkpoint)) is not None:
        if last_layer_num_attention_heads is not None:
            raise ValueError(f"Heads can be chosen for UNIP models, not for {backbone_config.model_type}.")
        backbone_fields = {"id2label": id2label, "image_size": image_size, "decoder_channels": decoder_channels}
        backbone_fields |= {} if fusion is None else {"fusion": fusion}  # which says that it does not go
        return load_on_backbone(
            checkpoint, model_class, backbone_config, feature_layers, drop_path_rate, **backbone_fields
        )
    config: Any = load_config(checkpoint)
    architecture = (config.architectures or [""])[0]
    if config.model_type != "unip" and model_class is not SEGMENTATION_MODELS[0]:
        raise ValueError(f"{checkpoint!r} is a {config.model_type} model: the task {task} needs a UNIP encoder.")
    has_head = architecture == model_class.__name__ or (
        config.model_type != "unip" and architecture.endswith("ForSemanticSegmentation")
    )
    if has_head and config.num_labels != len(id2label) and not new_classifier:
        raise ValueError(
            f"The checkpoint {checkpoint!r} has {config.num_labels} classes ({_some(config.id2label)}), the dataset "
            f"{len(id2label)} ({_some(id2label)}): add --new_classifier to train new classifiers, or choose another "
            "checkpoint."
        )
    if config.model_type != "unip":
        if fusion is not None:
            raise ValueError(f"Pairs need a UNIP encoder or a plain ViT, and {checkpoint!r} is a {config.model_type}.")
        if any(value is not None for value in of_head.values()):
            raise ValueError(f"Blocks and heads can be chosen for UNIP models, not for {config.model_type}.")
        names: dict[str, Any] = {"id2label": id2label, "label2id": {name: id for id, name in id2label.items()}}
        if hasattr(config, "drop_path_rate"):
            names["drop_path_rate"] = drop_path_rate
        with naming(checkpoint):
            return AutoModelForSemanticSegmentation.from_pretrained(
                checkpoint, ignore_mismatched_sizes=not has_head or new_classifier, trust_remote_code=False, **names
            )
    has_pairs = config.fusion is not None
    if has_pairs:
        for name, value in (("fusion", fusion), ("main_modality", main_modality)):
            if value is not None and value != getattr(config, name):
                raise ValueError(f"{checkpoint!r} was trained with {name}={getattr(config, name)}, not {value}.")
        for name in ("main_modality", "backbone_checkpoint"):
            fields.pop(name, None)  # it says its own
    if has_head:  # what is not given stays as it is
        fields |= {name: value for name, value in of_head.items() if value is not None}
    else:
        fields |= of_head | of_encoder
    try:
        with naming(checkpoint):
            model, loading = model_class.from_pretrained(
                checkpoint,
                config=_with_fields(config, fields, model_class),
                ignore_mismatched_sizes=not has_head or new_classifier,
                output_loading_info=True,
            )
    except ValueError as error:
        if not isinstance(error.__cause__, RuntimeError):
            raise
        raise ValueError(f"The head in {checkpoint!r} does not fit: add --new_classifier ({error}).") from error
    lost = [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])]
    new = ("layer_scale", "hidden_states_norms", *(() if has_pairs else ("unip.fusion.",)))
    lost = [name for name in lost if name.startswith("unip.") and not any(part in name for part in new)]
    if lost:
        raise ValueError(f"The checkpoint {checkpoint!r} lacks the encoder's {lost[:3]} ({len(lost)} in all).")
    model.resize_position_embeddings(image_size)
    return model


def _with_encoder(
    model_class: type[UnipSegmentationModel], encoder: UnipModel, fields: dict[str, Any]
) -> UnipSegmentationModel:
    """A new model with the weights of an encoder, as far as segmentation reads it."""
    weights = encoder.state_dict()
    patches = "embeddings.patch_embeddings.weight"
    weights[patches] = adapt_input_channels(weights[patches], fields["num_channels"])
    model = model_class(_with_fields(encoder.config, fields, model_class))
    of_model = model.unip.state_dict()
    # LayerScale that the encoder does not have begins with 1.
    model.unip.load_state_dict(of_model | {name: weights[name] for name in of_model.keys() & weights.keys()})
    return model


def _with_fields(config: UnipConfig, fields: dict[str, Any], model_class: type[UnipSegmentationModel]) -> UnipConfig:
    """The configuration with some fields changed, checked as a new one."""
    values = {**config.to_dict(), **fields}
    for derived in ("label2id", "architectures", "auto_map", "transformers_version"):
        values.pop(derived, None)
    if config.backbone_config is not None:
        set_drop_path(values["backbone_config"], values["drop_path_rate"])
        values["feature_layers"] = values["feature_layers"] or default_layers(config.backbone_config, model_class)
    elif values["feature_layers"] is None:
        values["feature_layers"] = model_class.default_feature_layers(config.num_hidden_layers)
    try:
        return UnipConfig(**values)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def _some(id2label: dict[int, str]) -> str:
    names = [str(name) for _, name in sorted(id2label.items())]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def set_training_mode(model: nn.Module, freezes_batch_norm: bool = False) -> None:
    """Training mode. Frozen batch norm uses its running statistics and does not update them."""
    model.train()
    for module in model.modules():
        if freezes_batch_norm and isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.eval()


__all__ = ["TASKS", "load_model", "set_training_mode"]
