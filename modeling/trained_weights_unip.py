# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Saves what training changed, without the frozen backbone, and puts both together again."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.utils import cached_file


def read_backbone(checkpoint: str, **download: Any) -> tuple[dict[str, torch.Tensor], str]:
    """
    The tensors of a UNIP checkpoint.

    Args:
        checkpoint (`str`): Folder, or name on the Hub.
        download: Arguments of `transformers.utils.cached_file`, such as `token` and `cache_dir`.

    Returns:
        The encoder's tensors by their names in a segmentation model, and the SHA-256 of all tensors of the checkpoint.

    Raises:
        OSError: if there is no such checkpoint with weights as safetensors.
    """
    try:
        files = [cached_file(checkpoint, "model.safetensors", **download)]
    except OSError as error:
        try:
            index = cached_file(checkpoint, "model.safetensors.index.json", **download)
        except OSError:
            raise error from None
        with open(str(index), encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
        files = [cached_file(checkpoint, name, **download) for name in names]
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        tensors |= load_file(str(path))
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    of_encoder = {name if name.startswith("unip.") else f"unip.{name}": value for name, value in tensors.items()}
    return of_encoder, content.hexdigest()


def without_backbone(
    model: nn.Module, state_dict: dict[str, torch.Tensor], checkpoint: str | None
) -> tuple[dict[str, torch.Tensor], str]:
    """
    The tensors of a model that its backbone's checkpoint does not hold: what is trained, running statistics, and
    frozen tensors that were changed when the model was made, such as a position table of another size.

    Args:
        model: With frozen parameters.
        state_dict: Its tensors.
        checkpoint: Where the frozen parameters came from.

    Returns:
        The tensors to save, and the SHA-256 of the checkpoint.

    Raises:
        ValueError: if the checkpoint cannot be read, or holds nothing of what is frozen.
    """
    if not checkpoint:
        raise ValueError(
            "only_trained=True leaves out the frozen backbone, but this model was not loaded from a UNIP checkpoint: "
            "set config.backbone_checkpoint to the one that holds these weights (`unip convert` makes one of "
            "another library's network), or save the whole model."
        )
    try:
        backbone, digest = read_backbone(checkpoint)
    except OSError as error:
        raise ValueError(f"The backbone {checkpoint!r} cannot be read: {error}") from error
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    kept = {}
    for name, tensor in state_dict.items():
        there = backbone.get(name) if name in frozen else None
        if there is None or there.dtype != tensor.dtype or not torch.equal(there, tensor.detach().cpu()):
            kept[name] = tensor
    if len(kept) == len(state_dict):
        raise ValueError(
            f"only_trained=True would leave nothing out: no frozen weight of this model is as in {checkpoint!r}. Save "
            "the whole model. A network of another library must be converted first, with `unip convert`, for its "
            "weights to be found again."
        )
    return kept, digest


@torch.no_grad()
def add_backbone(
    model: nn.Module, missing: Iterable[str], source: str, checkpoint: str, digest: str, **download: Any
) -> set[str]:
    """
    Fills in the tensors that [`without_backbone`] left out.

    Args:
        model: Was loaded from `source`.
        missing: Names of the tensors that were not there.
        source: Folder or name that holds what was trained.
        checkpoint: The backbone's, as saved with the model or as the user says.
        digest: What [`read_backbone`] gave for it.
        download: See [`read_backbone`].

    Returns:
        The names of the tensors that neither holds.

    Raises:
        ValueError: if the backbone is missing, or is not the one that the model was trained with.
    """
    hint = f"Give it: from_pretrained({source!r}, backbone_checkpoint=...), or set it in config.json."
    try:
        backbone, found = read_backbone(checkpoint, **download)
    except OSError as error:
        raise ValueError(
            f"{source!r} holds only what was trained, and its backbone {checkpoint!r} is missing. {hint}"
        ) from error
    if found != digest:
        raise ValueError(
            f"The backbone {checkpoint!r} is not the one that {source!r} was trained on: its weights differ. {hint}"
        )
    tensors = model.state_dict()
    filled = set(missing) & backbone.keys()
    for name in filled:
        tensors[name].copy_(backbone[name])
    return set(missing) - filled


__all__ = ["add_backbone", "read_backbone", "without_backbone"]
