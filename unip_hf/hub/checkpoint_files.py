# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the files of published checkpoints, without running code in them."""

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


# What may stand beside the weights, and what it must be to be read.
BESIDE: dict[str, Any] = {"args": (Mapping, argparse.Namespace), "meta": Mapping}
LARGEST_REPETITION = 2**24  # bytes: a few stored values may stand for a whole tensor, but not for a huge one


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    Reads a published checkpoint.

    Args:
        path: A `.safetensors` file, or a PyTorch file: a flat state dict, or a training state that holds one.

    Returns:
        The state dict, and what was stored beside it (`args`, `meta`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none of these, or holds Python objects other than tensors, plain values and the
            `argparse.Namespace` of the published pre-training.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} was not loaded: it is not a checkpoint, or it holds Python objects that can run code. "
            f"Only tensors, plain values and argparse.Namespace are accepted{_name_objects(path)}. If you trust the "
            "file, load it elsewhere and save its state dict alone."
        ) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{str(path)!r} cannot be read: it is damaged, or it is not a PyTorch checkpoint ({reason})."
        ) from error
    return find_state_dict(content, str(path))


def _name_objects(path: Path) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is not even a PyTorch file
        names = []
    refused = [name for name in names if name != "argparse.Namespace"]
    return f", not {', '.join(refused)}" if refused else ""


def find_state_dict(content: Any, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """
    The weights in a state dict, or in a training state that holds one, and what was stored beside them.

    Raises:
        ValueError: if there are no weights; the message names the `source`.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"There are no weights in {source}: it holds a {type(content).__name__}, not a state dict.")
    # The training states of DINO and iBOT hold a teacher and a student. The teacher is the network that is published.
    for entry in ("model", "state_dict", "teacher", "student"):
        if isinstance(content.get(entry), Mapping):
            tensors, beside = find_state_dict(content[entry], source)
            found = {name: content[name] for name, kind in BESIDE.items() if isinstance(content.get(name), kind)}
            return tensors, found | beside
    prefix = re.compile(r"^((module|model|backbone|encoder)\.)+")
    tensors = {
        prefix.sub("", name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ValueError(
            f"There are no weights in {source}: it holds {sorted(map(str, content))[:10]}, but neither tensors nor "
            "one of the entries model, state_dict, teacher and student."
        )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"{name} in {source} is not a plain tensor with values.")
        if tensor.nbytes > max(tensor.untyped_storage().nbytes(), LARGEST_REPETITION):
            raise ValueError(f"{name} in {source} claims the shape {tuple(tensor.shape)}, but holds few values.")
    return tensors, {}


__all__ = ["find_state_dict", "read_checkpoint"]
