# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""The part of `make bench` that is about fine-tuning: training crops and the training step."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unip_hf import UnipConfig, UnipForSemanticSegmentation, UnipImageProcessor
from unip_hf.finetuning import SegmentationLoss
from unip_hf.training import layer_decay_parameter_groups

from .measuring import median_milliseconds, row
from .pretraining import draw_jpegs, peak_memory


def plain_crop(
    processor: UnipImageProcessor,
    size: tuple[int, int],
    mask_interpolation: str,
    image: np.ndarray,
    ids: np.ndarray,
    *others: Any,
) -> tuple[torch.Tensor, ...]:
    """
    What `training_transforms(processor, size, mask_interpolation=mask_interpolation)` makes of image, ids and others,
    the plain way: image and mask are resized as a whole, masks as int64, and then cropped.
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from unip_hf.data.transforms import Finish, PhotometricDistortion, Prepare, uniform

    class_ids = [other for other in others if isinstance(other, int)]
    main, _, *auxiliary = Prepare(processor)(image, ids, *others[: len(others) - len(class_ids)])
    height, width = processor.output_size(*ids.shape)
    ratio = uniform(0.5, 2.0)
    resized = max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
    whole = torch.from_numpy(ids.astype(np.int64))[None, None].double()
    mask = nn.functional.interpolate(whole, size=resized, mode=mask_interpolation)[0, 0].long()
    images = [
        v2.functional.resize(one.contiguous(), list(resized), antialias=processor.antialias)
        for one in (main, *auxiliary)
    ]
    height, width = (min(pair) for pair in zip(size, resized))
    lowest, highest = [0, 0], [resized[0] - height, resized[1] - width]
    if class_ids and len(pixels := (mask == class_ids[0]).nonzero()):
        place = pixels[int(torch.randint(len(pixels), ()))].tolist()
        lowest = [max(0, at - side + 1) for at, side in zip(place, (height, width))]
        highest = [min(pair) for pair in zip(place, highest)]
    for _ in range(10):
        top, left = (low + int(torch.randint(high - low + 1, ())) for low, high in zip(lowest, highest))
        window = mask[top : top + height, left : left + width]
        counts = torch.bincount(window.flatten(), minlength=256)
        counts[255] = 0
        if counts.count_nonzero() > 1 and counts.max() < 0.75 * counts.sum():
            break
    crops = [tv_tensors.Image(one[:, top : top + height, left : left + width]) for one in images]
    finish = v2.Compose([v2.RandomHorizontalFlip(0.5), PhotometricDistortion(), Finish(processor, size)])
    return finish(crops[0], tv_tensors.Mask(window), *crops[1:])


def measure_crops(repeats: int, number: int = 16) -> None:
    """Crops of 512 from images of 640x512, one core, beside crops of whole resized images; with reading and alone."""
    import datasets

    from unip_hf.data import draw_scene
    from unip_hf.data.reading import read_sample
    from unip_hf.data.samples import TrainingSamples
    from unip_hf.data.transforms import training_transforms

    processor, size = UnipImageProcessor(), (512, 512)
    ours = training_transforms(processor, size)
    plain = partial(plain_crop, processor, size, "nearest-exact")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        draw_jpegs(Path(name), number)
        images = sorted(map(str, Path(name).glob("*.jpg")))
        masks = [draw_scene(seed, 512, 640)[1] for seed in range(number)]
        rows = datasets.Dataset.from_dict(
            {"image": images, "annotation": masks},
            features=datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()}),
        )
        read = [TrainingSamples(rows, transform, 256) for transform in (ours, plain)]
        grey = [read_sample(row, 0) for row in read[0].dataset]
        kinds = {
            "grey": [(sample.image, sample.ids) for sample in grey],
            "16 bits": [(draw_scene(seed, 512, 640)[0][..., None], masks[seed]) for seed in range(number)],
            "colour": [(np.dstack([s.image[..., 0], s.image[::-1, :, 0], s.image[..., 0]]), s.ids) for s in grey],
        }
        print(f"training crops beside those of whole resized images, one core, {number} images of 640x512")
        keys = [(0, row) for row in range(number)]
        times = median_milliseconds([partial(samples.__getitems__, keys) for samples in read], repeats)
        row("grey, with reading of JPEG and PNG", *(1000 * number / time for time in times), "crops/s")  # type: ignore[misc]
        for kind, arrays in kinds.items():

            def crop_all(transform: Callable[..., Any], arrays: Sequence[tuple[Any, Any]] = arrays) -> None:
                torch.manual_seed(0)
                for pair in arrays:
                    transform(*pair)

            times = median_milliseconds([partial(crop_all, transform) for transform in (ours, plain)], repeats)
            row(f"{kind}, without reading", *(time / number for time in times), "ms")  # type: ignore[misc]
    torch.set_num_threads(num_threads)


def measure_training_step(repeats: int, size: str = "small", side: int = 512) -> None:
    """A step of fine-tuning with the fast head beside the plain one: forward, loss, backward, fused AdamW."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size, repeats = (8, repeats) if device == "cuda" else (1, min(repeats, 3))
    batch = {
        "pixel_values": torch.randn(batch_size, 3, side, side, device=device),
        "labels": torch.randint(0, 9, (batch_size, side, side), dtype=torch.uint8, device=device),
        "num_labelled": batch_size * side * side,
    }

    def make_step(head_implementation: str) -> Callable[[], None]:
        torch.manual_seed(0)
        with torch.device(device):
            config = UnipConfig.from_size(size, num_labels=9, head_implementation=head_implementation)
            model = UnipForSemanticSegmentation(config).train()
        optimizer = torch.optim.AdamW(layer_decay_parameter_groups(model, 1e-4, 0.85, 0.05), 1e-4, fused=True)

        def step() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = SegmentationLoss()(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()

        return step

    steps = [make_step(implementation) for implementation in ("fast", "plain")]
    times = median_milliseconds(steps, repeats)
    memory = [peak_memory(step) for step in steps]
    print(
        f"training step of UNIP-{size.capitalize()} with the fast head beside the plain one, {batch_size} crops of "
        f"{side}, {'bf16' if device == 'cuda' else 'fp32'}, on {device}"
    )
    row("time", *times, "ms")  # type: ignore[misc]
    row("peak memory beside weights and optimizer", *memory, "MB")  # type: ignore[misc]
