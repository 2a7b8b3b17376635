# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What a model card says of a model that reads pairs of images."""

from transformers import PreTrainedModel

from ..modeling.image_settings_unip import OTHER_MODALITY
from ..paper import FUSION_PAPERS


def count_trained(model: PreTrainedModel) -> str:
    """A phrase: how many parameters are trained in an encoder, a part of which is frozen, and in the head."""
    encoder = {True: 0, False: 0}
    for parameter in model.base_model.parameters():
        encoder[parameter.requires_grad] += parameter.numel()
    trained, frozen = encoder[True], encoder[False]
    head = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) - trained
    return (
        f"{trained:,} parameters in the encoder, {trained / frozen:.2%} of its {frozen:,} frozen ones, and {head:,} "
        "in the head"
    )


def pair_facts(model: PreTrainedModel) -> dict[str, str]:
    """
    Rows of a table: the method, which image is which, what was trained, and how large the files are.

    Args:
        model: Segmentation model with `config.fusion`.
    """
    config = model.config
    main, other = config.main_modality, OTHER_MODALITY[config.main_modality]
    name, arxiv_id = FUSION_PAPERS[config.fusion]
    numbers = (config.num_channels, config.auxiliary_num_channels)
    of_main, of_other = (f"{number} channel{'s' * (number > 1)}" for number in numbers)
    size = f"any size from {config.patch_size} pixels"
    rows = {
        "Pairs": f"[{name}](https://huggingface.co/papers/{arxiv_id}): the {main} image goes through the backbone, "
        f"and the {other} one, aligned with it and of the same size, comes in beside it",
        "Input": f"{main} image with {of_main}, {other} image with {of_other}, {size}",
    }
    whole = sum(tensor.nbytes for tensor in model.state_dict().values())
    if config.freeze_backbone:
        rows["Trained"] = count_trained(model)
        left_out = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
        rows["Size on disk"] = (
            f"{_megabytes(whole)}; {_megabytes(whole - left_out)} without the frozen backbone, as "
            "`save_pretrained(folder, only_trained=True)` saves it"
        )
    else:
        rows["Trained"] = f"all {model.num_parameters():,} parameters"
        rows["Size on disk"] = _megabytes(whole)
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


__all__ = ["count_trained", "pair_facts"]
