# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""From grey crops to the students' pixel values and the teacher's queries and keys."""

import torch

from ..data.grey_crops import to_pixel_values
from ..modeling.image_processing_unip import UnipImageProcessor
from .teachers import Teacher


class DistillationInput:
    """
    Normalises images on their device, and asks the teacher.

    Args:
        teacher: A teacher whose layer is chosen.
        processor: Image processor of the students.
        teacher_normalization (`str`, *optional*, defaults to `"student"`): With `"student"`, as in the paper, the
            teacher sees the students' pixel values. With `"teacher"` it sees the normalisation it was trained with.

    Raises:
        ValueError: if the normalisation is neither of the two.
    """

    def __init__(self, teacher: Teacher, processor: UnipImageProcessor, teacher_normalization: str = "student"):
        if teacher_normalization not in ("student", "teacher"):
            raise ValueError(f'teacher_normalization must be "student" or "teacher", got {teacher_normalization!r}.')
        self.teacher = teacher
        self.processor = processor
        self.of_teacher = teacher if teacher_normalization == "teacher" else processor

    def for_teacher(self, images: torch.Tensor) -> torch.Tensor:
        """Takes uint8 `(B, 1, H, W)` and returns what the teacher sees, float32 `(B, 3, H, W)`."""
        return to_pixel_values(images, self.of_teacher.image_mean, self.of_teacher.image_std, num_channels=3)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            images (`torch.Tensor` of shape `(B, 1, H, W)`): uint8.

        Returns:
            The students' `pixel_values`, float32 `(B, num_channels, H, W)`, and queries and keys of the teacher's
            block, `(B, num_heads, num_tokens, head_dim)`.
        """
        query, key = self.teacher.query_key(self.for_teacher(images))
        mean, std = self.processor.image_mean, self.processor.image_std
        return to_pixel_values(images, mean, std, self.processor.num_channels), query, key


__all__ = ["DistillationInput"]
