# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""One training step of small parts beside full fine-tuning."""

from functools import partial
from typing import Any

import torch

from unip_hf import UnipConfig, UnipForSegformerSegmentation
from unip_hf.finetuning import SegmentationLoss, add_lora

from .measuring import median_milliseconds
from .pretraining import peak_memory


def make_run(size: str, kind: str, image_size: int, device: str) -> tuple[Any, torch.optim.Optimizer]:
    """A network of random weights, `"full"`, `"lora"` or a method of fusion, and AdamW for what is trained."""
    fields: dict[str, Any] = {"position_embedding_type": "learned", "image_size": image_size, "num_labels": 9}
    config = UnipConfig.from_size(size, **fields, fusion=None if kind in ("full", "lora") else kind)
    config.feature_layers = [config.num_hidden_layers * quarters // 4 for quarters in (1, 2, 3, 4)]  # of UniRGB-IR
    with torch.device(device):
        model = UnipForSegformerSegmentation(config).train()
        if kind == "lora":
            add_lora(model, rank=16)
    return model, torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])


def training_step(model: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    """Loss, gradients and an update; of models of one image, with the main image alone. Waits for the device."""
    is_pair = model.config.fusion is not None
    read = {name: value for name, value in batch.items() if is_pair or name != "auxiliary_pixel_values"}
    with torch.autocast(batch["labels"].device.type, torch.bfloat16, enabled=batch["labels"].is_cuda):
        loss = SegmentationLoss()(model, read)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.item()


def measure_fusion(repeats: int, size: str = "small", side: int | None = None) -> None:
    """Prints time and peak memory of one step for each kind, with AdamW, and what is trained."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # a CPU computes in fp32, less at once
    batch_size, default, repeats = (8, 512, repeats) if device == "cuda" else (2, 256, min(repeats, 3))
    side = side or default
    images = torch.randn(2, batch_size, 3, side, side, device=device)
    labels = torch.randint(0, 9, (batch_size, side, side), device=device)
    batch: dict[str, Any] = {"pixel_values": images[0], "auxiliary_pixel_values": images[1], "labels": labels}
    batch["num_labelled"] = labels.numel()
    kinds = {"full": "full fine-tuning", "lora": "LoRA, rank 16", "iv_tuning": "IV-tuning", "unirgb_ir": "UniRGB-IR"}
    memory = [whole_memory(size, kind, batch) for kind in kinds]
    trained, steps = [], []
    for kind in kinds:
        model, optimizer = make_run(size, kind, side, device)
        trained.append(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
        steps.append(partial(training_step, model, optimizer, batch))
    times = median_milliseconds(steps, repeats)
    print(
        f"one training step, UNIP-{size.capitalize()} with SegFormer's head, {batch_size} images of {side}x{side}, "
        f"{'bf16' if device == 'cuda' else 'fp32'}, AdamW, on {device}"
    )
    for name, number, time, peak in zip(kinds.values(), trained, times, memory):
        print(
            f"  {name:<20}{number / 1e6:8.2f} M trained{time:10.1f} ms   ratio {time / times[0]:.2f}"
            f"{peak:10.0f} MB   ratio {peak / memory[0]:.2f}"
        )


def whole_memory(size: str, kind: str, batch: dict[str, Any]) -> float:
    """Peak memory in MB of two steps: weights, gradients, optimizer, activations."""

    def run() -> None:
        model, optimizer = make_run(size, kind, batch["pixel_values"].shape[-1], batch["pixel_values"].device.type)
        for _ in range(2):
            training_step(model, optimizer, batch)

    return peak_memory(run)
