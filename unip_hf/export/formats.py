# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Traces networks and writes them as ONNX and OpenVINO files."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..inference.exported import require_package


if TYPE_CHECKING:
    import onnx_ir

FILES = {"onnx": "model.onnx", "openvino": "model.xml"}
INT8_FILE = "model_int8.onnx"
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
LARGEST_SINGLE_FILE = 1.9e9  # bytes: an ONNX file holds at most 2 GiB, larger weights lie beside it


class LogitsOnly(nn.Module):
    """A segmentation model whose only output is the logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, pixel_values: torch.Tensor, auxiliary_pixel_values: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`(batch_size, num_channels, height, width)` to `{"logits": (batch_size, num_labels, rows, columns)}`."""
        pair = {} if auxiliary_pixel_values is None else {"auxiliary_pixel_values": auxiliary_pixel_values}
        return {"logits": self.model(pixel_values=pixel_values, **pair).logits}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporters' own messages, which are about versions and internals that no user chose."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(network: nn.Module, inputs: dict[str, torch.Tensor], dynamic_shapes: dict[str, Any]) -> "onnx_ir.Model":
    """
    Args:
        network: Takes `inputs` by name and returns a dictionary of tensors, whose names become those of the outputs.
        inputs: Examples.
        dynamic_shapes: As for `torch.export.export`.

    Raises:
        ValueError: if the network cannot be traced.
    """
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    try:
        with _quiet():
            exporter: Any = OnnxExporter()
            exported = exporter.export(network.eval(), inputs, OnnxConfig(dynamic_shapes=dynamic_shapes))
    except Exception as error:  # of many kinds, from deep inside
        raise ValueError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error
    exported = getattr(exported, "program", exported)  # newer versions of transformers wrap it, some twice
    return getattr(exported, "model", exported)


def save(program: "onnx_ir.Model", folder: Path, format: str, num_bytes: int) -> None:
    """
    Writes what [`trace`] returned as the file in [`FILES`].

    Args:
        program: Result of [`trace`].
        folder: An existing folder.
        format: One of [`FILES`].
        num_bytes: Size of all weights.
    """
    import onnx_ir

    onnx_file = folder / FILES["onnx"]
    with _quiet():
        beside = f"{onnx_file.name}.data" if num_bytes > LARGEST_SINGLE_FILE else None
        onnx_ir.save(program, onnx_file, external_data=beside)
        if format == "openvino":
            # OpenVINO's converter of PyTorch models would report to its makers, and only newer versions of
            # transformers have an exporter. By way of ONNX it is the same in all versions.
            openvino: Any = require_package("openvino")
            graph = openvino.Core().read_model(onnx_file)
            openvino.save_model(graph, folder / FILES[format], compress_to_fp16=False)
            del graph  # which holds the ONNX file open
            for path in folder.glob(f"{onnx_file.name}*"):
                path.unlink()


def quantize(folder: Path) -> None:
    """
    Writes [`INT8_FILE`]: the ONNX file with the weights of matrix products in 8 bits, with one scale for each column.
    Their inputs are quantised at run time. Convolutions stay: in ONNX Runtime they are not faster in 8 bits. So do
    products of weights with weights.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(folder / FILES["onnx"], load_external_data=False).graph
    varying, constant_products = {value.name for value in graph.input}, []
    for node in graph.node:  # in the order of their computation
        if varying.intersection(node.input):
            varying.update(node.output)
        if node.op_type == "MatMul" and node.input[0] not in varying:
            constant_products.append(node.name)
    # Unsigned weights: processors without VNNI would overflow with signed ones.
    settings: dict[str, Any] = {"op_types_to_quantize": ["MatMul"], "nodes_to_exclude": constant_products}
    with _quiet():
        files = (folder / FILES["onnx"], folder / INT8_FILE)
        quantize_dynamic(*files, per_channel=True, weight_type=QuantType.QUInt8, **settings)


__all__ = ["FILES", "INT8_FILE", "PACKAGES", "LogitsOnly", "quantize", "save", "trace"]
