# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Which block of a teacher to distil: the one with hybrid attention (paper section 4.1)."""

from typing import NamedTuple

import torch
from torch import nn

from ..analysis.attention import HYBRID_NMI, attention_map, nearest_block, normalized_mutual_information
from ..analysis.blocks import Block
from ..progress import Progress
from .teachers import Teacher


class LayerChoice(NamedTuple):
    """
    Args:
        layer (`int`): Number of the chosen block, from 1.
        nmi (`list[float]`): Normalised mutual information of every block.
    """

    layer: int
    nmi: list[float]


@torch.no_grad()
def select_layer(
    model: nn.Module,
    images: torch.Tensor,
    target: float = HYBRID_NMI,
    batch_size: int = 16,
    show_progress: bool = True,
) -> LayerChoice:
    """
    Measures the attention of every block and chooses the block whose normalised mutual information (the mean over all
    images and heads) is nearest to `target`; if several are equal, the first.

    Args:
        model (`nn.Module`): A [`Teacher`] with all its blocks, or another model that can be one. Such a model becomes
            frozen and stays in evaluation mode. It sees the images cut into its own patches.
        images (`torch.Tensor` of shape `(num_images, 3, height, width)`): Normalised as for the teacher, on any
            device. 64 are enough.
        target (`float`, *optional*, defaults to 0.09): NMI of hybrid attention.
        batch_size (`int`, *optional*, defaults to 16): Images at once.
        show_progress (`bool`, *optional*, defaults to `True`): Whether to show progress.

    Raises:
        ValueError: if there are no images, the model cannot be a teacher, or the attention of a block is not finite.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"Images must be (at least one, 3, height, width), got {tuple(images.shape)}.")
    if isinstance(model, Teacher):
        teacher = model
    else:
        teacher = Teacher(model)
        teacher.student_patch_size = teacher.patch_size
    device = next(teacher.parameters()).device
    of_blocks: list[list[torch.Tensor]] = [[] for _ in teacher.blocks]  # each (b, heads)

    def measure(block: Block) -> None:
        attention = attention_map(block.query, block.key)  # (b, heads, 1+N, 1+N)
        of_blocks[block.number - 1].append(normalized_mutual_information(attention))

    progress = Progress("NMI of all blocks, image", len(images), is_shown=show_progress)
    for batch in images.split(batch_size):
        teacher.visit(batch.to(device), measure, with_tokens=False)
        progress.update(steps=len(batch))
    progress.close()
    nmi = [torch.cat(of_block).mean(dim=0).mean().item() for of_block in of_blocks]  # over images, then heads
    return LayerChoice(nearest_block(nmi, target), nmi)


__all__ = ["LayerChoice", "select_layer"]
