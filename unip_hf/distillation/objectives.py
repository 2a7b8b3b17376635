# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What students learn: attention or features of a teacher, or to fill in what is hidden of an image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..modeling.modeling_unip_pretraining import UnipForPreTraining, chunked_attention_distillation_loss
from .heads import FeatureStudent, MaskedStudent
from .teachers import Teacher


@dataclass(frozen=True)
class Objective:
    """
    What is asked of the teacher, what of a student, and how the answers are compared.

    Args:
        ask (`Callable`, *optional*): Takes a [`Teacher`] and what it sees, and returns a tuple of tensors. `None`:
            there is no teacher.
        prepare (`Callable`): Takes a [`UnipForPreTraining`] and the teacher, and returns the network that is trained:
            the student itself, or a network that has it as `student`.
        answers (`tuple[str, ...]`): Names of what is read of the network's output.
        loss (`Callable`): Takes these answers, then those of the teacher, and returns a scalar.
        shares_heads (`bool`, *optional*, defaults to `False`): Whether the student's last block has the teacher's
            heads.
        drop_path_rate (`float`, *optional*, defaults to 0.1): The usual one.
    """

    ask: Callable[[Teacher, torch.Tensor], tuple[torch.Tensor, ...]] | None
    prepare: Callable[[UnipForPreTraining, Teacher | None], nn.Module]
    answers: tuple[str, ...]
    loss: Callable[..., torch.Tensor]
    shares_heads: bool = False
    drop_path_rate: float = 0.1


def feature_distillation_loss(student_tokens: torch.Tensor, teacher_tokens: torch.Tensor) -> torch.Tensor:
    """
    Loss of feature distillation (arXiv 2205.14141, section 3): smooth L1 with beta 2 between the student's mapped
    tokens and the teacher's, which are normalised by a layer norm without weights. In float32 whatever the inputs are.

    Args:
        student_tokens, teacher_tokens (`torch.Tensor` of shape `(batch_size, num_tokens, teacher_width)`): The
            teacher's get no gradient.

    Returns:
        Scalar float32 `torch.Tensor`, the mean over all values.

    Raises:
        ValueError: if the shapes differ.
    """
    if student_tokens.shape != teacher_tokens.shape:
        raise ValueError(
            "Student and teacher must have tokens of the same shape, got "
            f"{tuple(student_tokens.shape)} and {tuple(teacher_tokens.shape)}."
        )
    target = nn.functional.layer_norm(teacher_tokens.detach().float(), teacher_tokens.shape[-1:])
    return nn.functional.smooth_l1_loss(student_tokens.float(), target, beta=2.0)


def _with_map(student: UnipForPreTraining, teacher: Teacher | None) -> FeatureStudent:
    assert teacher is not None
    return FeatureStudent(student, teacher.hidden_size)


ATTENTION = Objective(
    ask=Teacher.query_key,
    prepare=lambda student, teacher: student,
    answers=("query", "key"),
    loss=chunked_attention_distillation_loss,
    shares_heads=True,
)
FEATURES = Objective(
    ask=lambda teacher, pixel_values: (teacher.output_tokens(pixel_values),),
    prepare=_with_map,
    answers=("tokens",),
    loss=feature_distillation_loss,
)


def masked_reconstruction(image_size: int, mask_ratio: float = 0.75, **decoder: int) -> Objective:
    """Masked pre-training without a teacher; arguments as those of [`MaskedStudent`], which has the loss."""
    return Objective(
        ask=None,
        prepare=lambda student, teacher: MaskedStudent(student, image_size, mask_ratio, **decoder),
        answers=("loss",),
        loss=torch.Tensor.float,  # it is computed already
        drop_path_rate=0.0,
    )


__all__ = ["ATTENTION", "FEATURES", "Objective", "feature_distillation_loss", "masked_reconstruction"]
