# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The networks that `make bench` runs, with random weights, and the runtimes that run them."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unip_hf import UnipConfig, UnipForSemanticSegmentation

from .pretraining import peak_memory


NUM_CLASSES = 9
# Runtime -> mode of torch.compile.
COMPILE_MODES = {"compiled": "default", "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune"}
EXPORTED = ("onnx", "openvino")
RUNTIMES = ("eager", *COMPILE_MODES, *EXPORTED)
OTHERS = {"beit": "BEiT with UPerNet", "segformer": "SegFormer-B2", "dpt": "DPT"}


def available_runtimes(device: str) -> list[str]:
    """Those that run on a device and are installed."""
    names = ["eager", *COMPILE_MODES]
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        if device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            names.append("onnx")
    return names + ["openvino"] * (device == "cpu" and find_spec("openvino") is not None)


def make_unip(size: str, head_implementation: str = "fast", **fields: Any) -> UnipForSemanticSegmentation:
    """The paper's segmentation network; `"plain"` computes its head as it was published."""
    fields = {"num_labels": NUM_CLASSES, "image_size": 512, "layer_scale_init_value": 1.0, **fields}
    config = UnipConfig.from_size(size, head_implementation=head_implementation, **fields)
    return UnipForSemanticSegmentation(config).eval()


def make_other(name: str, size: str, image_size: tuple[int, int]) -> nn.Module:
    """
    What a user of `transformers` would take instead: BEiT and DPT as wide and deep as UNIP of this size, without the
    auxiliary heads, which serve training alone.

    Raises:
        ValueError: if the network does not take images of this size.
    """
    from transformers import (
        BeitConfig,
        BeitForSemanticSegmentation,
        DPTConfig,
        DPTForSemanticSegmentation,
        SegformerConfig,
        SegformerForSemanticSegmentation,
    )

    unip = UnipConfig.from_size(size)
    width, depth = unip.hidden_size, unip.num_hidden_layers
    classes: dict[str, Any] = {"num_labels": NUM_CLASSES}
    vit: dict[str, Any] = {**classes, "hidden_size": width, "num_hidden_layers": depth, "intermediate_size": 4 * width}
    vit |= {"num_attention_heads": unip.num_attention_heads, "use_auxiliary_head": False}
    quarters = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    if name == "beit":
        vit |= {"image_size": image_size, "out_indices": quarters, "use_relative_position_bias": True}
        return BeitForSemanticSegmentation(BeitConfig(**vit)).eval()
    if name == "dpt":
        if image_size[0] != image_size[1]:
            raise ValueError(f"it takes square images, not {image_size[0]}x{image_size[1]}")
        widths = [width // 4, width // 2, width, width]
        vit |= {"image_size": image_size[0], "backbone_out_indices": quarters, "neck_hidden_sizes": widths}
        return DPTForSemanticSegmentation(DPTConfig(**vit)).eval()
    b2: dict[str, Any] = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    return SegformerForSemanticSegmentation(SegformerConfig(**b2, **classes)).eval()


def count_pass(model: nn.Module, pixel_values: torch.Tensor) -> tuple[float, float]:
    """
    What an eager pass computes and needs: billions of operations for each image (convolutions and matrix products, two
    for each multiply-add), and the peak memory in MB beside weights and images.
    """
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        megabytes = peak_memory(lambda: model(pixel_values))
    return counter.get_total_flops() / 1e9 / len(pixel_values), megabytes


def prepare(model: nn.Module, pixel_values: torch.Tensor) -> tuple[Callable[[], torch.Tensor], float, float]:
    """The eager runner of a model, which is brought to the device and dtype of images, and its [`count_pass`]."""
    run = make_runner(model.to(pixel_values.device, pixel_values.dtype), "eager", pixel_values, Path())
    run()  # what libraries set up once is no memory of the pass
    return run, *count_pass(model, pixel_values)


def make_runner(
    model: nn.Module, runtime: str, pixel_values: torch.Tensor, folder: Path
) -> Callable[[], torch.Tensor]:
    """
    A function that gives the logits of `pixel_values`, and waits for the device.

    Args:
        model: In evaluation mode, on the device and in the dtype of `pixel_values`; for exported files UNIP in fp32
            on the CPU.
        runtime: One of [`RUNTIMES`].
        pixel_values: Images `(batch_size, num_channels, height, width)`.
        folder: An existing folder for exported files, which is used as long as the function is.
    """
    network: Any = model
    if runtime in COMPILE_MODES:
        network = torch.compile(model, mode=COMPILE_MODES[runtime])
    elif runtime in EXPORTED:
        network = export(model, runtime, pixel_values.device, folder)  # type: ignore[arg-type]

    def run() -> torch.Tensor:
        with torch.inference_mode():
            logits = network(pixel_values).logits
        if logits.is_cuda:
            torch.cuda.synchronize()
        return logits

    return run


@functools.lru_cache(maxsize=1)  # for both formats
def traced(model: UnipForSemanticSegmentation) -> Any:
    """The program of `unip export`, for images of any size."""
    from unip_hf.export.formats import LogitsOnly, trace

    patch = model.patch_size
    shapes = {0: torch.export.Dim("batch", min=1, max=1024)}
    shapes |= {axis: patch * torch.export.Dim(name, min=1, max=1024) for axis, name in ((2, "rows"), (3, "columns"))}
    example = {"pixel_values": torch.zeros(2, model.config.num_channels, 12 * patch, 16 * patch)}
    return trace(LogitsOnly(model), example, {"pixel_values": shapes})


def export(model: UnipForSemanticSegmentation, runtime: str, device: torch.device, folder: Path) -> nn.Module:
    """The file that `unip export` writes, without its checks."""
    from unip_hf.export.formats import FILES, save
    from unip_hf.inference.exported import ExportedModel

    save(traced(model), folder, runtime, sum(parameter.nbytes for parameter in model.parameters()))
    return ExportedModel(folder / FILES[runtime], model.config, model.patch_size, device).eval()
