# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a small UNIP network from a random start on built-in infrared scenes, evaluates it, saves it, and segments a
16-bit file with what was saved. Offline, on a CPU, in about two minutes.

    unip quickstart --output_dir outputs/quickstart
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "unip quickstart", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/quickstart"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=700, help="training steps of 4 scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        raise ValueError(f"--steps is at least 1, not {options.steps}.")
    return options


def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    import numpy as np
    import torch
    from PIL import Image
    from transformers import pipeline
    from transformers.utils import logging

    from unip_hf import UnipConfig, UnipForSemanticSegmentation, UnipImageProcessor
    from unip_hf.data import SCENE_CLASSES, SCENE_PALETTE, draw_scene

    logging.disable_progress_bar()
    torch.manual_seed(options.seed)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    processor = UnipImageProcessor(num_channels=1, do_resize=False)

    def scenes(first: int, count: int) -> dict[str, torch.Tensor]:
        counts, ids = zip(*(draw_scene(seed) for seed in range(first, first + count)))
        return dict(processor(list(counts), segmentation_maps=list(ids), return_tensors="pt"))

    config = UnipConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=256,
        num_channels=1,
        decoder_channels=48,
        auxiliary_channels=48,
        position_embedding_type="learned",
        id2label=dict(enumerate(SCENE_CLASSES)),
    )
    model = UnipForSemanticSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=options.steps, pct_start=0.1)
    print(f"Training {model.num_parameters() / 1e6:.1f} M parameters on drawn 16-bit scenes of 256x320 pixels ...")
    started = said = time.monotonic()
    for step in range(1, options.steps + 1):
        batch = scenes(first=1000 + 4 * step, count=4)  # every scene is new
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        now = time.monotonic()
        if now - said > 5 or step == options.steps:
            left = (now - started) / step * (options.steps - step)
            print(f"step {step}/{options.steps}  loss {loss.item():.3f}  {left:.0f} s left", flush=True)
            said = now

    model.eval()
    classes = len(SCENE_CLASSES)
    confusion = torch.zeros(classes, classes)
    for first in range(0, 40, 8):
        batch = scenes(first, count=8)
        with torch.no_grad():
            outputs = model(batch["pixel_values"])
        predicted = torch.stack(processor.post_process_semantic_segmentation(outputs, target_sizes=[(256, 320)] * 8))
        pairs = torch.bincount((classes * batch["labels"] + predicted).flatten(), minlength=classes**2)
        confusion += pairs.reshape(classes, classes)
    hits = confusion.diag()
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    for name, value in zip(SCENE_CLASSES, iou):
        print(f"  {name:<10}IoU {value:.3f}")
    print(f"  mean IoU {iou.nanmean():.3f} on 40 scenes it has not seen")

    checkpoint = options.output_dir / "checkpoint"
    model.save_pretrained(checkpoint)
    processor.save_pretrained(checkpoint)

    # What a user does with the folder: give the pipeline a 16-bit file.
    counts, ids = draw_scene(3)
    Image.fromarray(counts).save(options.output_dir / "scene.png")
    segment = pipeline("image-segmentation", model=str(checkpoint))
    predicted_ids = np.zeros_like(ids)
    for found in segment(str(options.output_dir / "scene.png")):
        predicted_ids[np.asarray(found["mask"]) > 0] = SCENE_CLASSES.index(found["label"])
    grey = processor(counts, return_tensors="np", do_normalize=False).pixel_values[0, 0] * 255
    palette = np.array(SCENE_PALETTE, np.uint8)
    panels = [np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), palette[predicted_ids], palette[ids]]
    gap = np.full((counts.shape[0], 6, 3), 255, np.uint8)
    picture = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    Image.fromarray(picture).save(options.output_dir / "prediction.png")
    print(f"Checkpoint: {checkpoint}\nScene, prediction, truth: {options.output_dir / 'prediction.png'}")


if __name__ == "__main__":
    from unip_hf.scripts.cli import run

    sys.exit(run(main, sys.argv[1:]))
