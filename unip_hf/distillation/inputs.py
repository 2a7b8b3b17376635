# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""From grey crops to the students' pixel values and what they are compared with."""

from collections.abc import Callable

import torch

from ..data.grey_crops import to_pixel_values
from ..modeling.image_processing_unip import UnipImageProcessor
from .teachers import Teacher


class StudentInput:
    """
    Normalises images on their device, for students without a teacher.

    Args:
        processor: Image processor of the students.
    """

    teacher: Teacher | None = None

    def __init__(self, processor: UnipImageProcessor):
        self.processor = processor

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Takes uint8 `(B, 1 or 3, H, W)`, gives a tuple of `pixel_values`, float32 `(B, num_channels, H, W)`."""
        mean, std = self.processor.image_mean, self.processor.image_std
        return (to_pixel_values(images, mean, std, self.processor.num_channels),)


class DistillationInput(StudentInput):
    """
    Normalises images on their device, and asks the teacher.

    Args:
        teacher: A teacher whose layer is chosen.
        processor: Image processor of the students.
        teacher_normalization (`str`, *optional*, defaults to `"student"`): With `"student"`, as in the paper, the
            teacher sees the students' pixel values. With `"teacher"` it sees the normalisation it was trained with.
        ask (`Callable`, *optional*, defaults to [`Teacher.query_key`]): Takes the teacher and what it sees, and
            returns the tensors that the students are compared with.

    Raises:
        ValueError: if the normalisation is neither of the two.
    """

    teacher: Teacher

    def __init__(
        self,
        teacher: Teacher,
        processor: UnipImageProcessor,
        teacher_normalization: str = "student",
        ask: Callable[[Teacher, torch.Tensor], tuple[torch.Tensor, ...]] = Teacher.query_key,
    ):
        if teacher_normalization not in ("student", "teacher"):
            raise ValueError(f'teacher_normalization must be "student" or "teacher", got {teacher_normalization!r}.')
        super().__init__(processor)
        self.teacher = teacher
        self.of_teacher = teacher if teacher_normalization == "teacher" else processor
        self.ask = ask

    def for_teacher(self, images: torch.Tensor) -> torch.Tensor:
        """Takes uint8 `(B, 1 or 3, H, W)` and returns what the teacher sees, float32 `(B, 3, H, W)`."""
        return to_pixel_values(images, self.of_teacher.image_mean, self.of_teacher.image_std, num_channels=3)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Args:
            images (`torch.Tensor` of shape `(B, 1 or 3, H, W)`): uint8.

        Returns:
            The students' `pixel_values`, float32 `(B, num_channels, H, W)`, and what the teacher was asked for: by
            default queries and keys of its block, `(B, num_heads, num_tokens, head_dim)`.
        """
        answers = self.ask(self.teacher, self.for_teacher(images))
        return (*super().__call__(images), *answers)


__all__ = ["DistillationInput", "StudentInput"]
