# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Traces networks and writes them as ONNX, OpenVINO and torch.export files."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..inference.exported import require_package


FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch-export": "model.pt2"}
INT8_FILE = "model_int8.onnx"
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch-export": (),
}
LARGEST_SINGLE_FILE = 1.9e9  # bytes: an ONNX file holds at most 2 GiB, larger weights lie beside it


class LogitsOnly(nn.Module):
    """A segmentation model whose only output are the logits, so that a file of it needs none of its classes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(batch_size, num_channels, height, width)` to `{"logits": (batch_size, num_labels, rows, columns)}`."""
        return {"logits": self.model(pixel_values=pixel_values).logits}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own messages, on versions and internals that no user chose."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(
    network: nn.Module, inputs: dict[str, torch.Tensor], dynamic_shapes: dict[str, Any], format: str, name: str
) -> Any:
    """
    Args:
        network: Takes `inputs` by name, gives a dictionary of tensors, whose names become those of the file's outputs.
        inputs: Examples.
        dynamic_shapes: As for `torch.export.export`.
        format: One of [`FILES`].
        name: Of the model, for the error.

    Returns:
        `torch.export.ExportedProgram` for `"torch-export"`, otherwise `onnx_ir.Model`.

    Raises:
        ValueError: if the network cannot be traced.
    """
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    is_torch = format == "torch-export"
    try:
        with _quiet():
            exporter: Any = DynamoExporter() if is_torch else OnnxExporter()
            config = (DynamoConfig if is_torch else OnnxConfig)(dynamic_shapes=dynamic_shapes)
            exported = exporter.export(network.eval(), inputs, config)
    except Exception as error:  # of many kinds, from deep inside
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be exported to {format}: {reason}") from error
    program = getattr(exported, "program", exported)  # newer versions of transformers wrap it
    return program if is_torch else getattr(program, "model", program)


def save(program: Any, folder: Path, format: str, num_bytes: int) -> None:
    """
    Writes what [`trace`] gave as the file in [`FILES`].

    Args:
        program: Result of [`trace`] for this format.
        folder: Exists.
        format: One of [`FILES`].
        num_bytes: Of all weights.
    """
    with _quiet():
        if format == "torch-export":
            torch.export.save(program, folder / FILES[format])
            return
        import onnx_ir

        onnx_file = folder / FILES["onnx"]
        beside = f"{onnx_file.name}.data" if num_bytes > LARGEST_SINGLE_FILE else None
        onnx_ir.save(program, onnx_file, external_data=beside)
        if format == "openvino":
            # Not by OpenVINO's converter of PyTorch models, which reports to its makers, nor by the exporter that only
            # newer versions of transformers have: by way of ONNX it is the same in all versions.
            openvino = require_package("openvino")
            graph = openvino.Core().read_model(onnx_file)
            openvino.save_model(graph, folder / FILES[format], compress_to_fp16=False)
            del graph
            for path in folder.glob(f"{onnx_file.name}*"):
                path.unlink()


def quantize(folder: Path) -> None:
    """
    Writes [`INT8_FILE`]: the ONNX file with the weights of matrix products in 8 bits, one scale for each column, and
    their inputs quantised as they come. Convolutions stay: in ONNX Runtime they are no faster in 8 bits.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Unsigned weights: processors without VNNI would overflow with signed ones.
    settings = {"op_types_to_quantize": ["MatMul"], "per_channel": True, "weight_type": QuantType.QUInt8}
    with _quiet():
        quantize_dynamic(folder / FILES["onnx"], folder / INT8_FILE, **settings)


__all__ = ["FILES", "INT8_FILE", "PACKAGES", "LogitsOnly", "quantize", "save", "trace"]
