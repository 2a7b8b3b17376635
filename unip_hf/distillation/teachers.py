# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Teachers: frozen, pre-trained plain ViTs of any library that give the queries and keys of a block.

Every library can compute attention with `torch.nn.functional.scaled_dot_product_attention`. Queries and keys are taken
from this call, as they are multiplied: after rotary positions, norms and whatever else the network does before.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..hub.pretrained import is_published_file
from . import libraries
from .libraries import IMAGENET_MEAN, IMAGENET_STD


class Teacher(nn.Module):
    """
    A frozen plain ViT that gives queries and keys of its blocks, without gradient and always in evaluation mode.

    The model is not copied: its parameters are frozen, its attention is set to sdpa, and blocks are deleted from it.

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
        super().__init__()
        self.name = name or type(model).__name__
        self.model = libraries.find_encoder(model).eval().requires_grad_(False)
        self.student_patch_size = patch_size
        self.image_mean, self.image_std = image_mean, image_std

        try:
            self._blocks_name = libraries.find_block_list(self.model)
            self._num_special_tokens = libraries.count_special_tokens(self.model)
            self._patches_name, self.patch_size = libraries.find_patch_embedding(self.model)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be a teacher: {error}") from error
        libraries.set_plain_attention(self.model)
        self.layer: int | None = None
        self.num_layers = len(self.blocks)
        self._gives_one_layer = False
        if layer is not None:
            self.keep_layer(layer)
        image = next(self.model.parameters()).new_zeros(1, 3, 2 * patch_size, 3 * patch_size)
        try:  # a model that cannot be a teacher fails here
            with torch.no_grad():
                caught = self._catch(image, list(range(1, len(self.blocks) + 1)), stops=False)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{self.name} cannot be a teacher: {error}") from error
        self._heads = [query.shape[1] for query, _ in caught]  # of each block

    @property
    def blocks(self) -> Any:
        """The remaining blocks, a list of modules."""
        return self.model.get_submodule(self._blocks_name)

    @property
    def num_attention_heads(self) -> int:
        """Heads of the chosen block; of the last one if none is chosen."""
        return self._heads[(self.layer or self.num_layers) - 1]

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        patches: Any = self.model.get_submodule(self._patches_name)
        return patches.out_channels

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
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
        layer = self.layer if layer is None else layer
        if layer is None:
            raise ValueError(f"No block of {self.name} is chosen: give a layer from 1 to {self.num_layers}.")
        self._check_layer(layer)
        return self._catch(pixel_values, [layer])[0]

    @torch.no_grad()
    def query_keys(self, pixel_values: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Queries and keys of every remaining block, from one pass; see [`~Teacher.query_key`]."""
        self._check_layer(1)  # compiled or sharded teachers give the chosen block only
        return self._catch(pixel_values, list(range(1, len(self.blocks) + 1)))

    @torch.no_grad()
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
        layer = self.layer if layer is None else layer
        if layer is None:
            raise ValueError(f"No block of {self.name} is chosen: give a layer from 1 to {self.num_layers}.")
        self._check_layer(layer)
        pixel_values, grid_size = self._prepare(pixel_values)
        num_patches = math.prod(grid_size)
        found: list[torch.Tensor] = []

        def stop(_block: nn.Module, _inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)
            raise _Stop

        handle = self.blocks[layer - 1].register_forward_hook(stop)
        try:
            with suppress(_Stop):
                self.model(pixel_values, **libraries.forward_options(self.model, len(pixel_values), num_patches))
        finally:
            handle.remove()
        tokens = found[0]  # (B, special+N, D)
        return tokens if self._num_special_tokens == 1 else torch.cat([tokens[:, :1], tokens[:, -num_patches:]], dim=1)

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

    def _catch(
        self, pixel_values: torch.Tensor, layers: list[int], stops: bool = True
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Queries and keys of blocks in ascending order. Stops at the last of them."""
        modes = {layer: _AttentionInputs(stops and layer == layers[-1]) for layer in layers}
        pixel_values, grid_size = self._prepare(pixel_values)
        num_patches = math.prod(grid_size)
        options = libraries.forward_options(self.model, len(pixel_values), num_patches)
        with ExitStack() as stack:
            for layer, mode in modes.items():  # each active while its block computes, and nowhere else
                stack.enter_context(self.blocks[layer - 1].register_forward_pre_hook(mode.start))
                stack.enter_context(self.blocks[layer - 1].register_forward_hook(mode.end, always_call=True))
            with suppress(_Stop):
                self.model(pixel_values, **options)
        num_tokens = self._num_special_tokens + num_patches
        pairs = []
        for layer, mode in modes.items():
            if len(mode.found) != 1:
                raise ValueError(
                    f"block {layer} calls scaled_dot_product_attention {len(mode.found)} times instead of once. "
                    "Choose a ViT whose blocks have one self-attention each."
                )
            query, key = mode.found[0]
            if query.ndim != 4 or query.shape != key.shape or query.shape[2] != num_tokens:
                raise ValueError(
                    f"queries and keys must have the shape (batch, heads, {num_tokens}, head_dim), for "
                    f"{self._num_special_tokens} special tokens and {num_patches} patches, got {tuple(query.shape)} "
                    f"and {tuple(key.shape)}. Choose a ViT whose blocks attend to all patches and to nothing else."
                )
            if self._num_special_tokens > 1:
                query, key = (torch.cat([x[:, :, :1], x[:, :, -num_patches:]], dim=2) for x in (query, key))
            pairs.append((query, key))  # (B, heads, 1+N, head_dim)
        return pairs

    def _prepare(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """The images in the teacher's size and dtype, and rows and columns of the grid."""
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be floating point, got {pixel_values.dtype}: normalise the images.")
        height, width = pixel_values.shape[-2:]
        size = self.student_patch_size
        if height % size or width % size or not height or not width:
            raise ValueError(
                f"Images of {height}x{width} pixels cannot be cut evenly into the student's patches of {size}x{size}: "
                f"crop or resize them to multiples of {size}."
            )
        rows, columns = height // size, width // size
        if size != self.patch_size:
            new_size = (rows * self.patch_size, columns * self.patch_size)
            pixel_values = nn.functional.interpolate(pixel_values.float(), new_size, mode="bicubic", antialias=True)
        patches: Any = self.model.get_submodule(self._patches_name)
        return pixel_values.to(patches.weight.dtype), (rows, columns)


class _Stop(Exception):
    """Ends a forward pass from inside, once everything is found."""


class _AttentionInputs(TorchFunctionMode):
    """Collects queries and keys of each attention that is computed while it is active. May stop at the first."""

    def __init__(self, stops: bool):
        super().__init__()
        self.stops = stops
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def start(self, *_: object) -> None:
        self.__enter__()

    def end(self, *_: object) -> None:
        self.__exit__(None, None, None)

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is nn.functional.scaled_dot_product_attention:
            self.found.append(_query_key(*args, **kwargs))
            if self.stops:
                raise _Stop
        return function(*args, **kwargs)


def _query_key(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes what `scaled_dot_product_attention` takes. An unusual scale becomes part of the query."""
    if attn_mask is not None or is_causal:
        raise ValueError(
            "it adds a mask or relative positions to the product of queries and keys, as BEiT does, and students "
            "cannot learn that. Choose a ViT with absolute or rotary positions."
        )
    usual_scale = query.shape[-1] ** -0.5
    if scale is not None and not math.isclose(scale, usual_scale, rel_tol=1e-6):
        query = query * (scale / usual_scale)
    return query, key


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
        model, mean, std = libraries.load(name, num_attention_heads, dtype)
    except ValueError as error:
        raise ValueError(f"{name!r} cannot be a teacher: {error}") from error
    return Teacher(model.to(dtype), layer, name=name, patch_size=patch_size, image_mean=mean, image_std=std)


__all__ = ["Teacher", "load_teacher"]
