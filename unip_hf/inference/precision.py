# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""In which precision a model computes, and how it is compiled for it."""

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SemanticSegmenterOutput

from .exported import ExportedModel


MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # names of precisions, and those of Accelerate


def choose_dtype(name: str, model: nn.Module, device: torch.device) -> str:
    """
    The precision that a model computes in.

    Args:
        name: `"fp32"`, `"bf16"`, `"fp16"`, or `"auto"` for the fastest that changes few pixels. That is bf16 where the
            device computes in it, and fp32 elsewhere. On the same kind of device it is always the same.
        model: An exported file has one precision, which `"auto"` leaves as it is.
        device: Where it computes.

    Returns:
        `"fp32"`, `"bf16"` or `"fp16"`.
    """
    if name != "auto":
        return name
    return "bf16" if not isinstance(model, ExportedModel) and computes_in_bf16(device) else "fp32"


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for matrix products in bf16, rather than only types."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last of ARM
    return False


def autocast(dtype: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes in a precision that [`choose_dtype`] gave."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


class CompiledModel(nn.Module):
    """
    A segmentation model compiled by `torch.compile`, in its place. It is compiled for the first size of windows, once
    more for the sizes that differ from it, and not again: what fits neither runs as it is.

    Args:
        model: Semantic segmentation model. Its forward pass is compiled in place.
        batch_size: Smaller batches are filled up to this, so that they need no compilation of their own.
        backend (*optional*): See `torch.compile`.

    Raises:
        ValueError: if the model is an exported file.
    """

    config: PreTrainedConfig

    def __init__(self, model: nn.Module, batch_size: int, backend: Any = "inductor"):
        super().__init__()
        if isinstance(model, ExportedModel):
            raise ValueError(f"--compile is for PyTorch models, and {model.name!r} is an exported file: leave it out.")
        self.model = model
        self.config = cast(PreTrainedConfig, model.config)
        self.batch_size = batch_size
        # One call launches all kernels of a size that is known; other sizes would be recorded again and again.
        graphs = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}
        is_for_gpu = backend == "inductor" and self.device.type == "cuda"
        model.compile(backend=backend, options=graphs if is_for_gpu else None)
        self._sizes: set[torch.Size] = set()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, pixel_values: torch.Tensor, **inputs: torch.Tensor) -> SemanticSegmenterOutput:
        """Takes and gives what the model does, apart from everything but `logits`."""
        count = len(pixel_values)
        missing = max(0, self.batch_size - count)
        images = [pixel_values, *inputs.values()]
        images = [torch.cat([image, image[-1:].expand(missing, -1, -1, -1)]) if missing else image for image in images]
        size = images[0].shape
        if len(self._sizes) < 2:
            self._sizes.add(size)
        with torch.compiler.set_stance("default" if size in self._sizes else "eager_on_recompile"):
            logits = self.model(images[0], **dict(zip(inputs, images[1:]))).logits
        return SemanticSegmenterOutput(logits=logits[:count])


__all__ = ["MIXED_PRECISION", "CompiledModel", "autocast", "choose_dtype", "computes_in_bf16"]
