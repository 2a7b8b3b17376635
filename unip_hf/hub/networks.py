# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Encoders by every name that users give, with the normalisation that they were trained with."""

import logging
from typing import Any

import torch
from torch import nn

from ..inference.loading import (
    has_segmentation_head,
    is_random_start,
    load_config,
    load_processor,
    load_segmentation_model,
)
from ..modeling.configuration_unip import UnipConfig
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.modeling_unip import UnipModel
from .checkpoint_files import read_checkpoint
from .conversion import convert_checkpoint
from .pretrained import TIMM_PREFIX, Triple, is_published_file, load_pretrained, three_channels


logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def load_encoder(
    name: str, num_attention_heads: int | None = None, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, Triple, Triple]:
    """
    Loads a plain ViT, on the CPU.

    Args:
        name (`str`): See [`load_teacher`].
        num_attention_heads (`int`, *optional*): Heads of a published file of unusual width, which does not say it.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Dtype of the weights of a folder or Hub name.

    Returns:
        The network, and its mean and standard deviation for images scaled to 0..1, ImageNet's if it says none.

    Raises:
        FileNotFoundError: if the name is that of a checkpoint file that does not exist.
        ValueError: if it cannot be loaded, or its tensors do not match the model.
    """
    if is_published_file(name):
        return _load_published(name, num_attention_heads)
    found = load_pretrained(name, dtype)
    if found.image_mean is None or found.image_std is None:
        logger.warning("%r does not say how it normalises images: ImageNet's normalisation is assumed.", name)
        return found.model, IMAGENET_MEAN, IMAGENET_STD
    return found.model, found.image_mean, found.image_std


def load_network(name: str, own_normalisation: bool = False) -> tuple[nn.Module, UnipImageProcessor]:
    """
    Loads any network that can be analysed, on the CPU, with the image processor for it.

    Args:
        name (`str`): A folder or Hub name of a segmentation model, of a UNIP model, or of another encoder; a size
            (`"tiny"`, `"small"`, ...) for random weights; or another name that [`load_teacher`] takes.
        own_normalisation (`bool`, *optional*, defaults to `False`): Whether encoders of other libraries see images
            with the mean and deviation that they were trained with, instead of those of infrared images.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it cannot be loaded, or its tensors do not match the model.
    """
    if is_random_start(name):
        return UnipModel(UnipConfig.from_size(name)).eval(), UnipImageProcessor()
    if not is_published_file(name) and not name.startswith(TIMM_PREFIX):
        config = load_config(name)
        if has_segmentation_head(config):
            model: Any
            model, processor = load_segmentation_model(name)
            return model, processor
        if config.model_type == "unip":
            return load_pretrained(name).model, load_processor(name)
    if not own_normalisation and not is_published_file(name):
        return load_pretrained(name).model, UnipImageProcessor()
    encoder, mean, std = load_encoder(name)
    if own_normalisation:
        return encoder, UnipImageProcessor(image_mean=list(mean), image_std=list(std))
    return encoder, UnipImageProcessor()


def _load_published(path: str, num_attention_heads: int | None) -> tuple[nn.Module, Triple, Triple]:
    tensors, beside = read_checkpoint(path)
    heads = {} if num_attention_heads is None else {"num_attention_heads": num_attention_heads}
    model = convert_checkpoint({"model": tensors, **beside}, UnipModel, num_channels=3, **heads)
    grey = UnipImageProcessor()
    mean, std = three_channels(grey.image_mean), three_channels(grey.image_std)
    if model.config.last_layer_num_attention_heads is None or mean is None or std is None:  # only UNIP's files set it
        return model, IMAGENET_MEAN, IMAGENET_STD
    return model, mean, std


__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "load_encoder", "load_network"]
