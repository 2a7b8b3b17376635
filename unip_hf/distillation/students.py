# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Students: networks that learn from a teacher or from images alone, several at once if wanted."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from ..hub.plain_vits import find_plain_vit, load_plain_vit
from ..hub.pretrained import TIMM_PREFIX
from ..inference.loading import is_random_start, load_config
from ..modeling.configuration_unip import UNIP_SIZES, UnipConfig
from ..modeling.modeling_unip_pretraining import UnipForPreTraining, chunked_attention_distillation_loss


def load_student(
    name: str,
    num_teacher_heads: int | None = None,
    image_size: int = 224,
    drop_path_rate: float = 0.1,
    num_channels: int = 3,
) -> UnipForPreTraining:
    """
    A student. To learn attention, its last block has the teacher's heads (paper section 4.1).

    Args:
        name (`str`): `"tiny"`, `"small"`, `"base"` or `"large"` for a random start with a fixed sine-cosine position
            table; or the folder or Hub name of a UNIP model, or the name of a plain ViT as [`find_plain_vit`] takes
            it, such as MAE's, that is trained further.
        num_teacher_heads (`int`, *optional*): Heads of the teacher's block, and so of the student's last block. By
            default the student keeps its own.
        image_size (`int`, *optional*, defaults to 224): Side of the training crops in pixels.
        drop_path_rate (`float`, *optional*, defaults to 0.1): Drop path rate of every block.
        num_channels (`int`, *optional*, defaults to 3): Channels of a random start. Checkpoints keep theirs.

    Raises:
        OSError: if there is no such checkpoint.
        ValueError: if it is neither a UNIP model nor a plain ViT, or its width cannot be divided by the heads.
    """
    fields: dict[str, Any] = {"drop_path_rate": drop_path_rate, "drop_path_schedule": "constant"}
    if num_teacher_heads is not None:
        fields["last_layer_num_attention_heads"] = num_teacher_heads
    try:
        if is_random_start(name):
            config = UnipConfig.from_size(name, image_size=image_size, num_channels=num_channels, **fields)
            return UnipForPreTraining(config)
        if (vit := find_plain_vit(name)) is not None:
            return _as_student(vit.model, image_size, fields)
        found: Any = load_config(name)
        if found.model_type != "unip":
            raise ValueError(
                f"The student {name!r} is a {found.model_type} model: choose {', '.join(UNIP_SIZES)}, a UNIP model, "
                "or a plain ViT such as MAE's."
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


def _as_student(encoder: Any, image_size: int, fields: dict[str, Any]) -> UnipForPreTraining:
    """A [`UnipModel`] with some fields of its configuration changed, as a student."""
    config = UnipConfig.from_dict({**encoder.config.to_dict(), **fields})
    config.validate()
    model = UnipForPreTraining(config)
    model.unip.load_state_dict(encoder.state_dict())
    model.resize_position_embeddings(image_size)
    return model


def student_patch_size(name: str) -> int:
    """Patch size of what [`load_student`] would load, in pixels."""
    if name.startswith(TIMM_PREFIX):
        encoder: Any = load_plain_vit(name).model
        return encoder.config.patch_size
    return getattr(load_config(name), "patch_size", 16)


class Students(nn.ModuleDict):
    """
    Students that learn from the same pass of a teacher. They share nothing else: each gets the gradients that it would
    get alone from the same images.

    Args:
        models (`dict[str, nn.Module]`): By name. Each is a [`UnipForPreTraining`], or a network with one as `student`,
            which is what is saved. All take the same number of channels.
        loss (`Callable`, *optional*, defaults to [`chunked_attention_distillation_loss`]): Takes what is read of a
            student's output, then the teacher's answers, and returns a scalar. By default these are the student's
            query and key and the teacher's query and key; see [`attention_distillation_loss`].
        answers (`Sequence[str]`, *optional*, defaults to `("query", "key")`): Names of what is read of the output.

    Raises:
        ValueError: if there are no students, or their channels differ.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        loss: Callable[..., torch.Tensor] = chunked_attention_distillation_loss,
        answers: Sequence[str] = ("query", "key"),
    ):
        channels = {model.config.num_channels for model in models.values()}
        if len(channels) != 1:
            raise ValueError(
                f"Students that learn together must take the same number of channels, got {sorted(channels)}."
            )
        super().__init__(dict(models))
        self.loss = partial(loss)  # a loss that is a module must not become one of the students
        self.answers = tuple(answers)

    def checkpoints(self) -> dict[str, UnipForPreTraining]:
        """What is saved of each student: without what is trained around it."""
        networks: dict[str, Any] = dict(self.items())
        return {name: getattr(network, "student", network) for name, network in networks.items()}

    def compare(
        self, pixel_values: torch.Tensor, *of_teacher: torch.Tensor
    ) -> Iterator[tuple[str, Any, torch.Tensor]]:
        """Takes what [`~Students.forward`] takes. Yields the name, the output and the loss of each student."""
        for name, student in self.items():
            output = student(pixel_values)
            # Outside of the student, which may be compiled: compilation would unroll the loop over chunks.
            yield name, output, self.loss(*(getattr(output, answer) for answer in self.answers), *of_teacher)

    def forward(self, pixel_values: torch.Tensor, *of_teacher: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            of_teacher (`torch.Tensor`): The teacher's answers for the same images. By default queries and keys of its
                block, each `(batch_size, num_heads, num_tokens, head_dim)`.

        Returns:
            The loss of each student, float32 of shape `(number of students,)`.
        """
        return torch.stack([loss for _, _, loss in self.compare(pixel_values, *of_teacher)])


RESERVED_NAMES = {*dir(Students), *vars(nn.ModuleDict()), "answers", "loss", "teacher"}


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
