# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""UNIP pre-training: a student that learns the attention of one block of a teacher (NMI-HAD)."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from .configuration_unip import UnipConfig
from .modeling_unip import UnipModel, UnipPreTrainedModel


def attention_distillation_loss(
    student_query: torch.Tensor, student_key: torch.Tensor, teacher_query: torch.Tensor, teacher_key: torch.Tensor
) -> torch.Tensor:
    """
    NMI-HAD loss (paper section 4.1): KL(teacher ‖ student) between attention rows, head by head, in float32 whatever
    the inputs are.

    This is the equation as it stands; it keeps every attention map. Training uses
    [`chunked_attention_distillation_loss`], which gives the same numbers in less memory.

    Args:
        student_query, student_key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, student_head_dim)`):
            Queries and keys of the student's last block, CLS included, not scaled.
        teacher_query, teacher_key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, teacher_head_dim)`):
            Queries and keys of the distilled block of the teacher. The head width may differ from the student's. They
            get no gradient.

    Returns:
        Scalar float32 `torch.Tensor`: the divergence summed over keys, averaged over images, heads and queries.

    Raises:
        ValueError: if batch size, heads or tokens differ.
    """
    _check_shapes(student_query, teacher_query)
    student = _log_attention(student_query, student_key)  # (B, heads, N, N)
    teacher = _log_attention(teacher_query.detach(), teacher_key.detach())  # (B, heads, N, N)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=-1)  # (B, heads, N)
    return divergence.mean()


def _log_attention(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    with torch.autocast(query.device.type, enabled=False):  # which would multiply in half precision
        logits = query.float() @ key.float().transpose(2, 3) * query.shape[-1] ** -0.5
        return torch.log_softmax(logits, dim=-1)


def _check_shapes(student_query: torch.Tensor, teacher_query: torch.Tensor) -> None:
    if student_query.shape[:3] != teacher_query.shape[:3]:
        raise ValueError(
            "Student and teacher must have the same batch size, heads and tokens, but the student has "
            f"{tuple(student_query.shape[:3])} and the teacher {tuple(teacher_query.shape[:3])}. Give the student's "
            f"last block the teacher's heads (last_layer_num_attention_heads={teacher_query.shape[1]}) and both the "
            "same grid."
        )


@dataclass
class UnipForPreTrainingOutput(ModelOutput):
    """
    Output of [`UnipForPreTraining`].

    Args:
        loss (`torch.Tensor` of shape `()`): Distillation loss, if the teacher's queries and keys were given.
        query, key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_dim)`): Of the last block.
        hidden_states (`tuple[torch.Tensor]`): Embeddings and block outputs up to the input of the last block.
        attentions (`tuple[torch.Tensor]`): Attention of the blocks before the last.
    """

    loss: torch.Tensor | None = None
    query: torch.Tensor | None = None
    key: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class UnipForPreTraining(UnipPreTrainedModel):
    """
    A student for hybrid-attention distillation (NMI-HAD, paper section 4.1): its last block learns the attention of
    one block of a teacher.

    What lies behind the last block's queries and keys (its output projection, second norm and MLP, and the final norm)
    is saved with the model, as in the published checkpoints, but neither computed nor trained.
    """

    def __init__(self, config: UnipConfig):
        super().__init__(config)
        self.unip = UnipModel(config)
        self.post_init()

    def _freeze(self) -> None:
        super()._freeze()
        encoder: Any = self.unip
        last = encoder.layers[-1]
        behind = [last.attention.projection, last.layer_scale1, last.layernorm_after, last.mlp, last.layer_scale2]
        for module in [*behind, encoder.layernorm]:
            if module is not None:
                module.requires_grad_(False)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        teacher_query: torch.Tensor | None = None,
        teacher_key: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> UnipForPreTrainingOutput:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Scaled images.
            teacher_query, teacher_key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_dim)`,
                *optional*): Queries and keys of the teacher's block for the same images, CLS included, not scaled.
            output_attentions (`bool`, *optional*): Return attention after softmax; needs the eager attention.

        Raises:
            ValueError: if only one of the two is given, or their shape does not fit the student's last block.
        """
        self._check_output_attentions(output_attentions)
        if (teacher_query is None) != (teacher_key is None):
            raise ValueError("Give both teacher_query and teacher_key, or neither.")
        query, key = self.unip.query_key(pixel_values)
        loss = None
        if teacher_query is not None and teacher_key is not None:
            loss = chunked_attention_distillation_loss(query, key, teacher_query, teacher_key)
        return UnipForPreTrainingOutput(loss=loss, query=query, key=key)


def chunked_attention_distillation_loss(
    student_query: torch.Tensor, student_key: torch.Tensor, teacher_query: torch.Tensor, teacher_key: torch.Tensor
) -> torch.Tensor:
    """
    [`attention_distillation_loss`] in memory that does not grow with batch size and heads, apart from the gradients:
    a few attention maps exist at a time. Arguments, result and errors are the same.
    """
    _check_shapes(student_query, teacher_query)
    return _AttentionDivergence.apply(student_query, student_key, teacher_query, teacher_key)


class _AttentionDivergence(torch.autograd.Function):
    """
    The divergence summed over keys and averaged over the rows of all maps, a few maps at a time. The gradients of
    student queries and keys are computed in the same pass, so that no map has to be kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student_query: torch.Tensor,
        student_key: torch.Tensor,
        teacher_query: torch.Tensor,
        teacher_key: torch.Tensor,
    ) -> torch.Tensor:
        batch_size, num_heads, num_tokens, _ = student_query.shape
        # Elements of the maps that exist at once: 1 MB, which a CPU's cache holds, or 64 MB, which keep a GPU busy.
        num_maps = max(1, (2**24 if student_query.is_cuda else 2**18) // num_tokens**2)
        num_heads_at_once = min(num_heads, num_maps)
        num_images_at_once = max(1, num_maps // num_heads)
        scales = [tensor.shape[-1] ** -0.5 for tensor in (student_query, teacher_query)]
        gradients = []
        if any(ctx.needs_input_grad[:2]):
            gradients = [torch.empty_like(student_query), torch.empty_like(student_key)]
        total = torch.zeros((), device=student_query.device)
        with torch.autocast(student_query.device.type, enabled=False):
            for image, head in product(
                range(0, batch_size, num_images_at_once), range(0, num_heads, num_heads_at_once)
            ):
                part = slice(image, image + num_images_at_once), slice(head, head + num_heads_at_once)
                inputs = [t[part].float() for t in (student_query, student_key, teacher_query, teacher_key)]
                query, key = inputs[0] * scales[0], inputs[1]
                log_student = torch.log_softmax(query @ key.transpose(2, 3), dim=-1)  # (images, heads, N, N)
                log_teacher = torch.log_softmax(inputs[2] * scales[1] @ inputs[3].transpose(2, 3), dim=-1)
                teacher = log_teacher.exp()
                total += log_teacher.sub_(log_student).mul_(teacher).sum()
                if gradients:  # of the sum: divided by the number of rows, half precision could not hold them
                    of_logits = log_student.exp_().sub_(teacher)  # (images, heads, N, N)
                    gradients[0][part] = of_logits @ key * scales[0]
                    gradients[1][part] = of_logits.transpose(2, 3) @ query
        ctx.num_rows = batch_size * num_heads * num_tokens
        ctx.save_for_backward(*gradients)
        return total / ctx.num_rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_gradient, key_gradient = ctx.saved_tensors
        factor = loss_gradient / ctx.num_rows
        return query_gradient * factor, key_gradient * factor, None, None


UnipForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = [
    "UnipForPreTraining",
    "UnipForPreTrainingOutput",
    "attention_distillation_loss",
    "chunked_attention_distillation_loss",
]
