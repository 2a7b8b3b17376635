# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What is trained around a student and thrown away when the student is saved."""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEModelOutput

from ..modeling.configuration_unip import UnipConfig
from ..modeling.modeling_unip_pretraining import UnipForPreTraining


class FeatureOutput(NamedTuple):
    """Mapped `tokens` of the last block, `(batch_size, num_tokens, teacher_width)`, CLS first."""

    tokens: torch.Tensor


class FeatureStudent(nn.Module):
    """
    A student with a linear map from the output of its last block to the width of a teacher, as in feature distillation
    (arXiv 2205.14141). The whole last block is trained.

    Args:
        student ([`UnipForPreTraining`]): Is not copied.
        teacher_width (`int`): Width of the teacher's tokens.
    """

    def __init__(self, student: UnipForPreTraining, teacher_width: int):
        super().__init__()
        student.unip.layers[-1].requires_grad_(True)
        self.student = student
        self.map = nn.Linear(student.config.hidden_size, teacher_width)
        nn.init.xavier_uniform_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    @property
    def config(self) -> UnipConfig:
        return self.student.config

    def forward(self, pixel_values: torch.Tensor) -> FeatureOutput:
        """Takes scaled images `(batch_size, num_channels, height, width)`."""
        encoder = self.student.unip
        tokens = encoder.block_outputs(pixel_values, len(encoder.layers))[-1]  # (B, 1+N, D)
        return FeatureOutput(self.map(encoder.without_distillation_token(tokens[:, None])[:, 0]))


class MaskedEncoder(nn.Module):
    """A student that sees some patches of an image, in place of the encoder of [`ViTMAEForPreTraining`]."""

    def __init__(self, student: UnipForPreTraining, mask_ratio: float):
        super().__init__()
        student.unip.layers[-1].requires_grad_(True)
        if student.unip.layernorm is not None:
            student.unip.layernorm.requires_grad_(True)
        self.student = student
        self.mask_ratio = mask_ratio

    def forward(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None, **_: Any) -> ViTMAEModelOutput:
        encoder = self.student.unip
        embeddings: Any = encoder.embeddings
        tokens = embeddings(pixel_values)  # (B, special+N, D)
        num_special = embeddings.num_special_tokens
        special, patches = tokens[:, :num_special], tokens[:, num_special:]
        if noise is None:
            noise = torch.rand(patches.shape[:2], device=patches.device)  # (B, N)
        order = noise.argsort(dim=1)
        ids_restore = order.argsort(dim=1)
        num_kept = int(patches.shape[1] * (1 - self.mask_ratio))
        kept = order[:, :num_kept, None].expand(-1, -1, patches.shape[2])
        hidden_states = torch.cat([special, patches.gather(1, kept)], dim=1)  # (B, special+kept, D)
        for layer in encoder.layers:
            hidden_states = layer(hidden_states)
        if encoder.layernorm is not None:
            hidden_states = encoder.layernorm(hidden_states)
        hidden_states = encoder.without_distillation_token(hidden_states[:, None])[:, 0]  # (B, 1+kept, D)
        output: Any = ViTMAEModelOutput
        mask = (ids_restore >= num_kept).float()  # (B, N), 1 where a patch is hidden
        return output(last_hidden_state=hidden_states, mask=mask, ids_restore=ids_restore)


class MaskedStudent(ViTMAEForPreTraining):
    """
    A student as the encoder of MAE (arXiv 2111.06377), with MAE's decoder and loss as `transformers` have them: the
    mean squared error over the hidden patches, each normalised with its own mean and deviation. The whole student is
    trained, except fixed positions.

    Args:
        student ([`UnipForPreTraining`]): Is not copied.
        image_size (`int`): Side of the training crops in pixels.
        mask_ratio (`float`, *optional*, defaults to 0.75): Share of the patches that are hidden, above 0 and below 1.
        decoder_num_hidden_layers, decoder_hidden_size, decoder_num_attention_heads (`int`, *optional*): Default to
            MAE's 8 blocks of width 512 with 16 heads.

    Raises:
        ValueError: if no patch, or every patch, would be hidden, or the decoder is impossible.
    """

    def __init__(
        self,
        student: UnipForPreTraining,
        image_size: int,
        mask_ratio: float = 0.75,
        decoder_num_hidden_layers: int = 8,
        decoder_hidden_size: int = 512,
        decoder_num_attention_heads: int = 16,
    ):
        of_student = student.config
        num_patches = (image_size // of_student.patch_size) ** 2
        if not 0 < mask_ratio < 1 or not 0 < int(num_patches * (1 - mask_ratio)) < num_patches:
            raise ValueError(
                f"mask_ratio must be above 0 and below 1, and leave some of {num_patches} patches on each side, got "
                f"{mask_ratio}."
            )
        if min(decoder_num_hidden_layers, decoder_hidden_size, decoder_num_attention_heads) < 1:
            raise ValueError("Blocks, width and heads of the decoder must be at least 1.")
        if decoder_hidden_size % 4 or decoder_hidden_size % decoder_num_attention_heads:
            raise ValueError(
                "The width of the decoder must be a multiple of 4 and of its heads, got "
                f"decoder_hidden_size={decoder_hidden_size} and "
                f"decoder_num_attention_heads={decoder_num_attention_heads}."
            )
        config = ViTMAEConfig(
            hidden_size=of_student.hidden_size,
            num_hidden_layers=0,  # the student takes their place
            num_attention_heads=of_student.num_attention_heads,
            layer_norm_eps=of_student.layer_norm_eps,
            image_size=image_size,
            patch_size=of_student.patch_size,
            num_channels=of_student.num_channels,
            decoder_num_hidden_layers=decoder_num_hidden_layers,
            decoder_hidden_size=decoder_hidden_size,
            decoder_intermediate_size=4 * decoder_hidden_size,
            decoder_num_attention_heads=decoder_num_attention_heads,
            mask_ratio=mask_ratio,
            norm_pix_loss=True,
        )
        super().__init__(config)
        encoder: Any = MaskedEncoder(student, mask_ratio)
        self.vit = encoder

    @property
    def student(self) -> UnipForPreTraining:
        """The student alone."""
        encoder: Any = self.vit
        return encoder.student


__all__ = ["FeatureOutput", "FeatureStudent", "MaskedEncoder", "MaskedStudent"]
