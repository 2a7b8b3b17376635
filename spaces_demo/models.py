# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The models that the demo was started with, and where they compute."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import wraps
from typing import Any, TypeVar, cast


try:
    import spaces  # of Spaces on ZeroGPU, to be imported before CUDA is used
except ImportError:
    spaces = None

import torch
from transformers import PreTrainedModel

from ..inference import load_segmentation_model
from ..inference.exported import ExportedModel
from ..inference.windows import reads_pairs
from ..modeling.image_processing_unip import UnipImageProcessor
from .uploads import visible_errors


Function = TypeVar("Function", bound=Callable)

# All computing happens in one thread: each of several would keep the memory that it once needed.
_THREAD = ThreadPoolExecutor(max_workers=1)


def on_gpu(function: Function) -> Function:
    """
    Makes a function that computes with the models run where it should: in a Space on ZeroGPU on the GPU that is lent
    for each call, elsewhere in one thread that all calls share. Its errors become messages on the page, see
    [`visible_errors`].

    On ZeroGPU, arguments and results go from process to process, so they must be files, arrays and names. The function
    gets models by its closure.
    """
    function = visible_errors()(function)
    if spaces is not None and (lent := spaces.GPU(function)) is not function:
        return lent
    return in_one_thread(function)


def in_one_thread(function: Function) -> Function:
    """Makes a function run in the thread that all computing shares."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        return _THREAD.submit(copy_context().run, function, *arguments).result()  # with what gr.Progress looks for

    return cast(Function, run)


class Models:
    """
    Segmentation models by the names that the demo was started with, loaded once, on a GPU where there is one.

    Args:
        names: Folders, exported files, or names on the Hub; see [`load_segmentation_model`].

    Raises:
        OSError: if there is no such folder or model.
        ValueError: if a model is not a segmentation model.
    """

    def __init__(self, names: Sequence[str]):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Only read later, by any thread.
        self._loaded = {name: load_segmentation_model(name, device) for name in names}
        self.names = list(self._loaded)

    def get(self, name: str) -> tuple[PreTrainedModel | ExportedModel, UnipImageProcessor]:
        """
        Raises:
            ValueError: if the demo was not started with this model.
        """
        if name not in self._loaded:
            raise ValueError(f"There is no model {name!r} here, only {', '.join(self.names)}.")
        return self._loaded[name]

    def reads_pairs(self, name: str) -> bool:
        """Whether a model reads an infrared and a visible image; see [`get`]."""
        return reads_pairs(self.get(name)[0])

    @property
    def any_reads_pairs(self) -> bool:
        return any(map(self.reads_pairs, self.names))

    def first_at_start(self) -> tuple[PreTrainedModel | ExportedModel, UnipImageProcessor]:
        """
        The first model, to compute with before there are visitors. ZeroGPU lends its GPU for calls of visitors only,
        so there it is a copy on the CPU.
        """
        is_lent = spaces is not None and bool(os.environ.get("SPACES_ZERO_GPU"))
        return load_segmentation_model(self.names[0], "cpu") if is_lent else self.get(self.names[0])


__all__ = ["Models", "in_one_thread", "on_gpu"]
