# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Loads what can be published: segmentation models of any kind, and encoders of UNIP."""

from pathlib import Path

from transformers import PreTrainedModel

from ..inference import load_processor, load_segmentation_model
from ..inference.loading import load_config, load_weights
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.modeling_unip import UnipModel, UnipPreTrainedModel
from ..modeling.modeling_unip_pretraining import UnipForPreTraining


ENCODERS: tuple[type[UnipPreTrainedModel], ...] = (UnipModel, UnipForPreTraining)  # all others segment


def load_publishable(checkpoint: Path) -> tuple[PreTrainedModel, UnipImageProcessor]:
    """
    Args:
        checkpoint: Folder of a segmentation model of any kind, or of an encoder of UNIP.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        OSError, ValueError: if there is no such folder, it holds something else, or weights are missing.
    """
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder '{checkpoint}'.")
    config = load_config(str(checkpoint))
    architectures = config.architectures or []
    encoder = next((kind for kind in ENCODERS if kind.__name__ in architectures), None)
    if encoder is None:
        model, processor = load_segmentation_model(checkpoint)
        if not isinstance(model, PreTrainedModel):
            raise ValueError(f"'{checkpoint}' holds an exported model: publish the checkpoint that it was made from.")
        return model, processor
    loaded, missing = load_weights(encoder, str(checkpoint), config)
    if missing:
        raise ValueError(f"'{checkpoint}' lacks {len(missing)} weights, {missing[0]!r} among them.")
    return loaded, load_processor(checkpoint)


__all__ = ["ENCODERS", "load_publishable"]
