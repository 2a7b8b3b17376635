# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What is said of a model that reads pairs of images, and of what is trained beside a frozen backbone."""

from torch import nn
from transformers import PreTrainedModel

from ..modeling.image_settings_unip import OTHER_MODALITY
from ..paper import FUSION_PAPERS


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
        rows["Trained"] = describe_trained(model)
        left_out = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
        rows["Size on disk"] = (
            f"{_megabytes(whole)}; {_megabytes(whole - left_out)} without the frozen backbone, as "
            "`save_pretrained(folder, only_trained=True)` saves it"
        )
    else:
        rows["Trained"] = f"all {model.num_parameters():,} parameters"
        rows["Size on disk"] = _megabytes(whole)
    return rows


def describe_trained(model: PreTrainedModel) -> str:
    """
    What is trained beside a frozen backbone, with counts and the share of the backbone. Empty where the backbone is
    trained, or nothing in it.
    """
    encoder = getattr(model, "unip", None)
    if encoder is None:
        return ""
    counts = {True: 0, False: 0}
    for parameter in encoder.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    trained, frozen = counts[True], counts[False]
    has_frozen_layers = any(isinstance(m, nn.Linear) and not m.weight.requires_grad for m in encoder.modules())
    if not trained or not has_frozen_layers:
        return ""
    head = sum(p.numel() for p in model.parameters() if p.requires_grad) - trained
    return (
        f"{trained:,} parameters in the encoder, {trained / frozen:.2%} of its {frozen:,} frozen ones, and "
        f"{head:,} in the head"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


__all__ = ["describe_trained", "pair_facts"]
