# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What can be seen while students learn: how close they are to the teacher, and where both look."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from ..analysis import attention_map, normalized_mutual_information
from ..analysis.plots import attention_pictures
from ..files import write_whole
from ..training.pictures import log_picture
from .inputs import DistillationInput, StudentInput
from .students import Students


@dataclass(frozen=True)
class AttentionMonitor:
    """
    Compares students with their teacher, if there is one, on images that stay the same;
    [`unip_hf.training.TrainingLoop`] calls it.

    Args:
        accelerator: Its main process writes. Its trackers get the pictures.
        inputs: The normalisation, and the teacher if there is one.
        images (`torch.Tensor` of shape `(count, 1, height, width)`): uint8.
        output_dir (`Path`): Folder for `attention/step-....png`.
        num_pictures (`int`, *optional*, defaults to 3): Number of images to show.
        batch_size (`int`, *optional*, defaults to 16): Images at once.
    """

    accelerator: Accelerator
    inputs: StudentInput
    images: torch.Tensor
    output_dir: Path
    num_pictures: int = 3
    batch_size: int = 16

    @torch.no_grad()
    def __call__(self, students: nn.Module, step: int) -> dict[str, float]:
        """
        Returns `sample_loss/NAME`, the loss of each student on these images, and `nmi/NAME`, the normalised mutual
        information of the attention of each student and of the teacher, averaged over images and heads. The students'
        attention is that of the last block, whatever they learn.
        """
        assert isinstance(students, Students)
        are_compared = students.answers == ("query", "key")  # otherwise queries and keys are asked for
        encoders = {name: student.unip for name, student in students.checkpoints().items()}
        gpus = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        sums: dict[str, float] = defaultdict(float)
        shown: dict[str, list[torch.Tensor]] = defaultdict(list)
        for images in self.images.to(self.accelerator.device).split(self.batch_size):
            with self.accelerator.autocast(), torch.random.fork_rng(gpus):
                torch.manual_seed(0)  # what masked pre-training hides is the same each time
                pixel_values, *of_teacher = self.inputs(images)
                networks = {}
                if isinstance(self.inputs, DistillationInput):
                    teacher, seen = self.inputs.teacher, self.inputs.for_teacher
                    networks["teacher"] = tuple(of_teacher if are_compared else teacher.query_key(seen(images)))
                for name, output, loss in students.compare(pixel_values, *of_teacher):
                    if not loss.isfinite():
                        return {}  # there is nothing to look at, and training will stop
                    sums[f"sample_loss/{name}"] += float(loss) * len(images) / len(self.images)
                    pair = (output.query, output.key) if are_compared else encoders[name].query_key(pixel_values)
                    networks[name] = pair
            for name, (query, key) in networks.items():
                attention = attention_map(query, key)  # (B, heads, 1+N, 1+N)
                nmi = normalized_mutual_information(attention).mean()
                sums[f"nmi/{name}"] += float(nmi) * len(images) / len(self.images)
                shown[name].append(attention[: self.num_pictures].cpu())
        if self.accelerator.is_main_process:
            self._show({name: torch.cat(maps)[: self.num_pictures] for name, maps in shown.items()}, step)
        return sums

    def _show(self, attentions: dict[str, torch.Tensor], step: int) -> None:
        titled = attentions
        if self.inputs.teacher is not None:
            titled = {f"teacher, block {self.inputs.teacher.layer}": attentions.pop("teacher"), **attentions}
        figure = attention_pictures(self.images[: self.num_pictures], titled)
        path = self.output_dir / "attention" / f"step-{step:08d}.png"
        with write_whole(path) as staged:
            figure.savefig(staged, format="png", dpi=100)
        with Image.open(path) as picture:
            log_picture(self.accelerator, "attention", picture.convert("RGB"), step)


__all__ = ["AttentionMonitor"]
