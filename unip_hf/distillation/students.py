# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Students: networks that learn the attention of one block of a teacher, several at once if wanted."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from ..inference.loading import is_random_start, load_config
from ..modeling.configuration_unip import UNIP_SIZES, UnipConfig
from ..modeling.modeling_unip_pretraining import UnipForPreTraining, chunked_attention_distillation_loss


def load_student(
    name: str,
    num_teacher_heads: int,
    image_size: int = 224,
    drop_path_rate: float = 0.1,
    num_channels: int = 3,
) -> UnipForPreTraining:
    """
    A student whose last block has the teacher's heads (paper section 4.1).

    Args:
        name (`str`): `"tiny"`, `"small"`, `"base"` or `"large"` for a random start with a fixed sine-cosine position
            table; or the folder or Hub name of a UNIP model that is trained further.
        num_teacher_heads (`int`): Heads of the teacher's block, and so of the student's last block.
        image_size (`int`, *optional*, defaults to 224): Side of the training crops in pixels.
        drop_path_rate (`float`, *optional*, defaults to 0.1): Drop path rate of every block.
        num_channels (`int`, *optional*, defaults to 3): Channels of a random start. Checkpoints keep theirs.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it is not a UNIP model, or its width cannot be divided by the heads.
    """
    fields: dict[str, Any] = {
        "last_layer_num_attention_heads": num_teacher_heads,
        "drop_path_rate": drop_path_rate,
        "drop_path_schedule": "constant",
    }
    try:
        if is_random_start(name):
            config = UnipConfig.from_size(name, image_size=image_size, num_channels=num_channels, **fields)
            return UnipForPreTraining(config)
        found: Any = load_config(name)
        if found.model_type != "unip":
            raise ValueError(
                f"The student {name!r} is a {found.model_type} model: choose {', '.join(UNIP_SIZES)}, or a UNIP model."
            )
        if found.fusion is not None:
            raise ValueError(f"The student {name!r} reads pairs of images: choose a model that reads one.")
        config = UnipConfig.from_pretrained(name, **fields)
        config.validate()  # from_pretrained validates before it changes the fields
        model, loading = UnipForPreTraining.from_pretrained(name, config=config, output_loading_info=True)
    except StrictDataclassError as error:
        raise ValueError(f"The student {name!r} does not fit this teacher: {error.__cause__ or error}") from error
    except SafetensorError as error:
        raise ValueError(f"The weights of the student {name!r} are damaged: {error}.") from error
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("unip.layernorm."))
    if missing:
        raise ValueError(
            f"The student {name!r} is not a UNIP encoder: it lacks {missing[:3]} ({len(missing)} in all)."
        )
    if model.config.image_size != image_size:
        model.resize_position_embeddings(image_size)
    return model


class Students(nn.ModuleDict):
    """
    Students that learn from the same pass of a teacher. They share nothing else: each gets the gradients that it would
    get alone from the same images.

    Args:
        models (`dict[str, UnipForPreTraining]`): By name. All take the same number of channels.
        loss (`Callable`, *optional*, defaults to [`chunked_attention_distillation_loss`]): Takes the student's query
            and key and the teacher's query and key, and returns a scalar; see [`attention_distillation_loss`].

    Raises:
        ValueError: if there are no students, or their channels differ.
    """

    def __init__(
        self,
        models: dict[str, UnipForPreTraining],
        loss: Callable[..., torch.Tensor] = chunked_attention_distillation_loss,
    ):
        channels = {model.config.num_channels for model in models.values()}
        if len(channels) != 1:
            raise ValueError(
                f"Students that learn together must take the same number of channels, got {sorted(channels)}."
            )
        super().__init__(models)
        self.loss = partial(loss)  # a loss that is a module must not become one of the students

    def compare(
        self, pixel_values: torch.Tensor, teacher_query: torch.Tensor, teacher_key: torch.Tensor
    ) -> Iterator[tuple[str, Any, torch.Tensor]]:
        """Takes what [`~Students.forward`] takes. Yields the name, the output and the loss of each student."""
        for name, student in self.items():
            output = student(pixel_values)
            # Outside of the student, which may be compiled: compilation would unroll the loop over chunks.
            yield name, output, self.loss(output.query, output.key, teacher_query, teacher_key)

    def forward(
        self, pixel_values: torch.Tensor, teacher_query: torch.Tensor, teacher_key: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            teacher_query, teacher_key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_dim)`): Of
                the teacher's block for the same images.

        Returns:
            The loss of each student, float32 of shape `(number of students,)`.
        """
        return torch.stack([loss for _, _, loss in self.compare(pixel_values, teacher_query, teacher_key)])


RESERVED_NAMES = {*dir(Students), *vars(nn.ModuleDict()), "loss", "teacher"}


def student_names(checkpoints: list[str]) -> list[str]:
    """
    Names of the students in logs and folders: a size, or the end of the checkpoint's path, as much of it as is needed
    to tell them apart.

    Raises:
        ValueError: if two students are the same.
    """
    paths = [path.resolve() if path.exists() else path for path in map(Path, checkpoints)]
    for length in range(1, 1 + max(len(path.parts) for path in paths)):
        names = [re.sub(r"[^\w-]+", "_", "-".join(path.parts[-length:])) for path in paths]
        if len(set(names)) == len(names) and not any(name in RESERVED_NAMES for name in names):
            return names
    raise ValueError(f"Students must have names of their own, got {', '.join(checkpoints)}.")


__all__ = ["Students", "load_student", "student_names"]
