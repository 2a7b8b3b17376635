# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Teachers: frozen, pre-trained plain ViTs of any library that give the queries and keys of a block."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ..analysis.blocks import Block, BlockReader, whole_grid
from ..hub.networks import IMAGENET_MEAN, IMAGENET_STD, load_encoder
from ..hub.pretrained import is_published_file


class Teacher(BlockReader):
    """
    A frozen plain ViT that gives queries and keys of its blocks, without gradient and always in evaluation mode.

    The model is not copied: as for every [`BlockReader`], its parameters are frozen and its attention is set to sdpa.
    Blocks are deleted from it.

    Args:
        model (`nn.Module`): A plain ViT with a CLS token from `transformers`, `timm` or this library. It may have a
            head.
        layer (`int`, *optional*): Block to distil, from 1. The blocks behind it are deleted. `None` keeps all.
        name (`str`, *optional*, defaults to the name of the class): For messages.
        patch_size (`int`, *optional*, defaults to 16): Patch size of the student, in pixels.
        image_mean, image_std (`tuple[float, float, float]`, *optional*, defaults to ImageNet's): Normalisation that
            the model was trained with, for images scaled to 0..1.

    Attributes:
        num_layers (`int`): Number of blocks of the original network.
        patch_size, student_patch_size (`int`): The teacher's own patch size, and the student's.

    Raises:
        ValueError: if there is no such block, or the model has no CLS token, no single list of blocks, no token for
            each patch, or attention that is more than the product of queries and keys.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: int | None = None,
        *,
        name: str | None = None,
        patch_size: int = 16,
        image_mean: tuple[float, float, float] = IMAGENET_MEAN,
        image_std: tuple[float, float, float] = IMAGENET_STD,
    ):
        name = name or type(model).__name__
        try:
            super().__init__(model, name, needs_cls_token=True)
            if self.num_channels != 3:
                raise ValueError(f"{type(self.model).__name__} does not take images with 3 channels.")
        except ValueError as error:
            raise ValueError(f"{name} cannot be a teacher: {error}") from error
        self.student_patch_size = patch_size
        self.image_mean, self.image_std = image_mean, image_std
        self.layer: int | None = None
        self._gives_one_layer = False
        if layer is not None:
            self.keep_layer(layer)

    @property
    def num_attention_heads(self) -> int:
        """Heads of the chosen block; of the last one if none is chosen."""
        return self.num_heads[(self.layer or self.num_layers) - 1]

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self._patches.out_channels

    def visit(
        self,
        pixel_values: torch.Tensor,
        look: Callable[[Block], object],
        layers: Sequence[int] | None = None,
        with_tokens: bool = True,
    ) -> None:
        """As [`BlockReader.visit`], for images as the student gets them, see [`~Teacher.query_key`]."""
        for layer in layers or [1]:  # compiled or sharded teachers give the chosen block only
            self._check_layer(layer)
        weight = self._patches.weight
        # Autocast would only add conversions to and from float32 to a network that is in half precision already.
        is_half = weight.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(weight.device.type, enabled=False) if is_half else nullcontext():
            super().visit(self._prepare(pixel_values), look, layers, with_tokens)

    def query_key(self, pixel_values: torch.Tensor, layer: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Queries and keys of one block, after rotary positions and norms, not scaled. Nothing behind them is computed.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Normalised images as the student
                gets them; height and width are multiples of its patch size. For a teacher with another patch size
                they are resized (bicubic, with antialiasing), so that it sees the student's grid.
            layer (`int`, *optional*, defaults to the chosen one): Number of the block, from 1.

        Returns:
            Two tensors of shape `(batch_size, num_heads, 1 + rows * columns, head_dim)`, CLS first, in the dtype that
            attention is computed in. The attention is `softmax(query @ key.T / sqrt(head_dim))`. Registers and other
            special tokens are dropped, which is the same as renormalising it over the remaining tokens.

        Raises:
            ValueError: if there is no such block, or the images have a wrong size or are not normalised.
        """
        return self.query_keys(pixel_values, [self._chosen(layer)])[0]

    def output_tokens(self, pixel_values: torch.Tensor, layer: int | None = None) -> torch.Tensor:
        """
        Output of one block, without the final norm. Nothing behind the block is computed.

        Args:
            pixel_values, layer: As in [`~Teacher.query_key`].

        Returns:
            A tensor of shape `(batch_size, 1 + rows * columns, hidden_size)`, CLS first, without registers and other
            special tokens.

        Raises:
            ValueError: as [`~Teacher.query_key`].
        """
        found: list[Block] = []
        self.visit(pixel_values, found.append, [self._chosen(layer)])
        assert found[0].tokens is not None
        return found[0].tokens

    def keep_layer(self, layer: int) -> None:
        """
        Chooses a block, from 1, and deletes the blocks behind it.

        Raises:
            ValueError: if there is no such block, or it was deleted.
        """
        self._check_layer(layer)
        self.layer = layer
        del self.blocks[layer:]

    def compile(self, *args: Any, **options: Any) -> None:
        """
        Compiles each block before the chosen one in place, as `torch.nn.Module.compile` does. Equal blocks share one
        compiled function. From then on the teacher gives queries and keys of the chosen block only.
        """
        for block in self._blocks_before():
            block.compile(*args, **options)

    def shard(self, device: torch.device | str | None = None, **options: Any) -> None:
        """
        Divides the parameters of each block before the chosen one among all processes (FSDP2), for teachers that do
        not fit on one device. A block is gathered when it is needed, so all processes must ask equally often. The
        rest is small and stays whole. From then on the teacher gives queries and keys of the chosen block only.

        Args:
            device (*optional*, defaults to where the model is): Where this process computes. A model on the CPU is
                moved there block by block, so that no device ever holds it whole. Do not move it afterwards.
            options: Options of `torch.distributed.fsdp.fully_shard`. By default `reshard_after_forward` is `True` and
                `mesh` is one dimension over all processes. The plugin of `accelerate` has `reshard_after_forward` and,
                under the name `cpu_offload`, `offload_policy`.
        """
        from torch.distributed import get_world_size
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor

        device = torch.device(device or next(self.model.parameters()).device)
        if "mesh" not in options:
            options["mesh"] = init_device_mesh(device.type, (get_world_size(),))
        # Each block by itself: a pass stops early, so it would never reach the end of anything sharded around them.
        for block in self._blocks_before():
            fully_shard(block, **{"reshard_after_forward": True, **options})
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            if not isinstance(tensor, DTensor):
                tensor.data = tensor.data.to(device)

    def extra_repr(self) -> str:
        return f"{self.name!r}, layer={self.layer}, num_layers={self.num_layers}"

    def _blocks_before(self) -> Any:
        if self.layer is None:
            raise ValueError(f"No block of {self.name} is chosen: call keep_layer first.")
        self._gives_one_layer = True
        return self.blocks[: self.layer - 1]

    def _chosen(self, layer: int | None) -> int:
        """The number of a block that can be asked for."""
        layer = self.layer if layer is None else layer
        if layer is None:
            raise ValueError(f"No block of {self.name} is chosen: give a layer from 1 to {self.num_layers}.")
        self._check_layer(layer)
        return layer

    def _check_layer(self, layer: int) -> None:
        if not 1 <= layer <= self.num_layers:
            raise ValueError(f"{self.name} has no block {layer}: choose one from 1 to {self.num_layers}.")
        if layer > len(self.blocks):
            raise ValueError(
                f"Block {layer} of {self.name} was deleted, like all behind {len(self.blocks)}: load it anew."
            )
        if self._gives_one_layer and layer != self.layer:
            raise ValueError(
                f"{self.name} is compiled or sharded for block {self.layer}: ask for block {layer} before that."
            )

    def _prepare(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The images in the size in which the teacher sees the student's grid."""
        if pixel_values.is_floating_point():  # otherwise the reader says what is wrong
            rows, columns = whole_grid(pixel_values.shape[-2:], self.student_patch_size, "the student's patches")
            if self.student_patch_size != self.patch_size:
                size = (rows * self.patch_size, columns * self.patch_size)
                return nn.functional.interpolate(pixel_values.float(), size, mode="bicubic", antialias=True)
        return pixel_values


def load_teacher(
    name: str,
    layer: int | None = None,
    *,
    dtype: torch.dtype | None = None,
    num_attention_heads: int | None = None,
    patch_size: int = 16,
) -> Teacher:
    """
    Loads a teacher by name.

    Args:
        name (`str`): One of

            - `"timm:NAME"`, e.g. `"timm:vit_large_patch16_224.mae"`; `"timm:local-dir:FOLDER"` for a folder with
              `config.json` and weights from `timm`, on a machine without network;
            - a file as its authors publish it: MAE, DINO, iBOT, DeiT or UNIP;
            - a folder or Hub name of a `transformers` or `timm` model: ViT, ViT-MAE, DINO, DINOv2, DINOv3, DeiT,
              CLIP, ...
        layer (`int`, *optional*): Block to distil, from 1. The blocks behind it are deleted. `None` keeps all.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Dtype of the weights.
        num_attention_heads (`int`, *optional*): Heads of a published file of unusual width, which does not say it.
        patch_size (`int`, *optional*, defaults to 16): Patch size of the student, in pixels.

    Returns:
        The [`Teacher`], on the CPU.

    Raises:
        FileNotFoundError: if the name is that of a checkpoint file that does not exist.
        ValueError: if it cannot be loaded, its tensors do not match the model (the message lists them), or it is not a
            plain ViT with a CLS token.
    """
    if num_attention_heads is not None and not is_published_file(name):
        raise ValueError(f"num_attention_heads is for published files only: {name!r} has its own number of heads.")
    dtype = dtype or torch.float32
    try:
        model, mean, std = load_encoder(name, num_attention_heads, dtype)
    except ValueError as error:
        raise ValueError(f"{name!r} cannot be a teacher: {error}") from error
    return Teacher(model.to(dtype), layer, name=name, patch_size=patch_size, image_mean=mean, image_std=std)


__all__ = ["Teacher", "load_teacher"]
