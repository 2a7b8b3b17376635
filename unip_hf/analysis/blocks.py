# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Looks into the blocks of a plain ViT of any library: queries, keys and output of each, while the network computes them.

Every library can compute attention with `torch.nn.functional.scaled_dot_product_attention`. Queries and keys are taken
from this call, as they are multiplied: after rotary positions, norms and whatever else the network does before.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..training.optimization import find_blocks


# Last part of the names of parameters that are tokens, in transformers, timm and here: CLS, and others.
CLS_TOKENS = ("cls_token", "class_embedding")
OTHER_TOKENS = ("register_tokens", "reg_token", "distillation_token", "dist_token")


class Block(NamedTuple):
    """
    What a block computed. Special tokens other than CLS are left out.

    Args:
        number (`int`): From 1.
        query, key (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, head_dim)`): After rotary positions
            and norms, not scaled. The attention is `softmax(query @ key.T / sqrt(head_dim))`. CLS is first, if the
            network has it.
        tokens (`torch.Tensor` of shape `(batch_size, num_tokens, hidden_size)`, *optional*): The block's output.
    """

    number: int
    query: torch.Tensor
    key: torch.Tensor
    tokens: torch.Tensor | None = None


class BlockReader(nn.Module):
    """
    A frozen plain ViT whose blocks can be looked at, without gradient and always in evaluation mode.

    The model is not copied: its parameters are frozen, and its attention is set to sdpa.

    Args:
        model (`nn.Module`): A plain ViT from `transformers`, `timm` or this library, with or without a head, CLS and
            registers.
        name (`str`, *optional*, defaults to the name of the class): For messages.
        needs_cls_token (`bool`, *optional*, defaults to `False`): Whether to refuse networks without CLS.

    Attributes:
        has_cls_token (`bool`): Whether the first token is CLS.
        num_channels, num_layers, patch_size (`int`): Of the network.
        num_heads (`list[int]`): Heads of each block.

    Raises:
        ValueError: if it has no single list of blocks, no token for each patch, or no attention that is the product of
            queries and keys of all patches.
    """

    def __init__(self, model: nn.Module, name: str | None = None, needs_cls_token: bool = False):
        super().__init__()
        self.name = name or type(model).__name__
        self.model = find_encoder(model).eval().requires_grad_(False)
        self._blocks_name = find_block_list(self.model)
        self._num_special_tokens, self.has_cls_token = count_special_tokens(self.model)
        if needs_cls_token and not self.has_cls_token:
            raise ValueError(
                f"{type(self.model).__name__} has no CLS token, but the student learns how CLS attends. SigLIP and "
                "networks that average over patches have none. Choose a ViT with one, e.g. from MAE, DINO or iBOT."
            )
        self._patches_name = find_patch_embedding(self.model)
        self.num_channels, self.patch_size = self._patches.in_channels, self._patches.stride[0]
        set_plain_attention(self.model)
        self.num_layers = len(self.blocks)
        self.num_heads: list[int] = []  # of each block
        image = self._patches.weight.new_zeros(1, self.num_channels, 2 * self.patch_size, 3 * self.patch_size)
        try:  # a model that cannot be looked at fails here
            look = lambda block: self.num_heads.append(block.query.shape[1])  # noqa: E731
            BlockReader.visit(self, image, look, with_tokens=False)
        except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
            raise ValueError(str(error)) from error

    @property
    def blocks(self) -> Any:
        """The blocks, a list of modules."""
        return self.model.get_submodule(self._blocks_name)

    def train(self, mode: bool = True) -> "BlockReader":
        """Stays in evaluation mode."""
        return super().train(False)

    @property
    def _patches(self) -> Any:
        return self.model.get_submodule(self._patches_name)

    @torch.no_grad()
    def visit(
        self,
        pixel_values: torch.Tensor,
        look: Callable[[Block], object],
        layers: Sequence[int] | None = None,
        with_tokens: bool = True,
    ) -> None:
        """
        Calls `look` with one block after the other while the network computes. Nothing behind the last of them is
        computed, and nothing is kept, so memory does not grow with depth.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Normalised images;
                height and width are multiples of the patch size.
            look (`Callable`): Takes a [`Block`].
            layers (`Sequence[int]`, *optional*): Numbers of the blocks, from 1 and rising; all by default.
            with_tokens (`bool`, *optional*, defaults to `True`): Whether to give the output of each block, too.

        Raises:
            ValueError: if the images have a wrong size or type, or a block does not compute the attention of a plain
                ViT.
        """
        layers = range(1, len(self.blocks) + 1) if layers is None else layers
        num_patches = math.prod(self.grid_size(pixel_values))

        def see(number: int, pairs: list[tuple[torch.Tensor, torch.Tensor]], output: Any = None) -> None:
            query, key = self._check(number, pairs, num_patches)
            tokens = output[0] if isinstance(output, tuple) else output  # (B, special + N, D)
            pairs.clear()  # which would be kept until the last block
            look(Block(number, *(self._kept(x, num_patches) for x in (query, key, tokens if with_tokens else None))))
            if number == layers[-1]:
                raise _Stop

        with ExitStack() as stack:
            for number in layers:
                block, stops = self.blocks[number - 1], number == layers[-1] and not with_tokens
                attention = _AttentionInputs(partial(see, number) if stops else None)
                # Active while its block computes, and nowhere else.
                stack.enter_context(block.register_forward_pre_hook(attention.start))
                stack.enter_context(block.register_forward_hook(attention.end, always_call=True))
                if not stops:
                    after = partial(_with_output, see, number, attention.found)
                    stack.enter_context(block.register_forward_hook(after))
            with suppress(_Stop):
                self.model(
                    pixel_values.to(self._patches.weight.dtype), **self.forward_options(len(pixel_values), num_patches)
                )

    def query_keys(
        self, pixel_values: torch.Tensor, layers: Sequence[int] | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Queries and keys of blocks, by default of all, from one pass; see [`Block`]."""
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.visit(pixel_values, lambda block: pairs.append((block.query, block.key)), layers, with_tokens=False)
        return pairs

    def grid_size(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """
        Rows and columns of the patches of images.

        Raises:
            ValueError: if images are not floating point, or cannot be cut evenly into patches.
        """
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values must be floating point, got {pixel_values.dtype}: normalise the images.")
        return whole_grid(pixel_values.shape[-2:], self.patch_size, "patches")

    def _check(
        self, number: int, pairs: list[tuple[torch.Tensor, torch.Tensor]], num_patches: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The queries and keys that a block gave to its attention."""
        if len(pairs) != 1:
            raise ValueError(
                f"block {number} calls scaled_dot_product_attention {len(pairs)} times instead of once. "
                "Choose a ViT whose blocks have one self-attention each."
            )
        query, key = pairs[0]
        num_tokens = self._num_special_tokens + num_patches
        if query.ndim != 4 or query.shape != key.shape or query.shape[2] != num_tokens:
            raise ValueError(
                f"queries and keys must have the shape (batch, heads, {num_tokens}, head_dim), for "
                f"{self._num_special_tokens} special tokens and {num_patches} patches, got {tuple(query.shape)} "
                f"and {tuple(key.shape)}. Choose a ViT whose blocks attend to all patches and to nothing else."
            )
        return query, key

    def _kept(self, tokens: torch.Tensor | None, num_patches: int) -> Any:
        """CLS and patches alone of `(..., num_tokens, width)`."""
        if tokens is None or self._num_special_tokens == int(self.has_cls_token):
            return tokens
        patches = tokens[..., -num_patches:, :]
        return torch.cat([tokens[..., :1, :], patches], dim=-2) if self.has_cls_token else patches

    def forward_options(self, batch_size: int, num_patches: int) -> dict[str, Any]:
        """Arguments beside the images that make `model` take any size and keep all patches in order."""
        accepted = inspect.signature(self.model.forward).parameters
        options: dict[str, Any] = {}
        if "interpolate_pos_encoding" in accepted:
            options["interpolate_pos_encoding"] = True
        if "noise" in accepted:  # MAE shuffles its patches by it
            device = next(self.model.parameters()).device
            options["noise"] = torch.arange(num_patches, dtype=torch.float32, device=device).expand(batch_size, -1)
        return options


def whole_grid(size: Sequence[int], patch_size: int, what: str) -> tuple[int, int]:
    """
    Rows and columns of patches of this size in images of `size` (height and width).

    Raises:
        ValueError: if they do not fill the images.
    """
    height, width = size
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(
            f"Images of {height}x{width} pixels cannot be cut evenly into {what} of {patch_size}x{patch_size}: crop "
            f"or resize them to multiples of {patch_size}."
        )
    return height // patch_size, width // patch_size


def find_encoder(model: nn.Module) -> nn.Module:
    """The part of a model that sees images: no head, and no text tower of CLIP."""
    for name in ("base_model", "vision_model", "backbone"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module) and "pixel_values" in inspect.signature(part.forward).parameters:
            model = part
    return model


def find_block_list(model: nn.Module) -> str:
    """Name of the list of blocks."""
    name = find_blocks(model)
    if name is None and isinstance(getattr(model, "blocks", None), nn.Sequential):
        name = "blocks"  # as timm keeps them
    if name is None:
        raise ValueError(
            f"{type(model).__name__} is not one list of equal blocks that attend to all patches. Swin attends within "
            "windows, convolutional networks not at all. Choose a plain ViT, e.g. from MAE, DINO or iBOT."
        )
    return name


def count_special_tokens(model: nn.Module) -> tuple[int, bool]:
    """How many tokens are not patches (CLS, registers and the like), and whether CLS is among them."""
    counts = {}
    for path, parameter in model.named_parameters():
        name = path.rpartition(".")[2]
        if name in CLS_TOKENS + OTHER_TOKENS:
            counts[name] = parameter.numel() // parameter.shape[-1]
    return sum(counts.values()), bool(counts.keys() & CLS_TOKENS)


def find_patch_embedding(model: nn.Module) -> str:
    """Name of the convolution that embeds the patches."""
    convolutions = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    name, first = next(convolutions, ("", None))
    if first is None or first.kernel_size != first.stride or len({*first.stride}) > 1:
        raise ValueError(
            f"{type(model).__name__} does not cut images into adjacent square patches. Choose a plain ViT, e.g. from "
            "MAE, DINO or iBOT."
        )
    return name


def set_plain_attention(model: nn.Module) -> None:
    """Makes each attention one call of `scaled_dot_product_attention` over all patches."""
    network: Any = model
    if hasattr(network, "set_attn_implementation"):  # transformers
        network.set_attn_implementation("sdpa")
    if hasattr(getattr(network, "config", None), "mask_ratio"):  # MAE
        network.config.mask_ratio = 0.0
    for module in network.modules():  # timm
        if hasattr(module, "fused_attn"):
            module.fused_attn = True


class _Stop(Exception):
    """Ends a forward pass from inside, once everything is found."""


def _with_output(see: Callable, number: int, found: list, module: nn.Module, inputs: Any, output: Any) -> None:
    """A forward hook."""
    see(number, found, output)


class _AttentionInputs(TorchFunctionMode):
    """
    Collects queries and keys of each attention that is computed while it is active. Gives the first to `see` before it
    is computed, if there is one.
    """

    def __init__(self, see: Callable[[list[tuple[torch.Tensor, torch.Tensor]]], None] | None = None):
        super().__init__()
        self.see = see
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
            if self.see is not None:
                self.see(self.found)
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
            "it adds a mask or relative positions to the product of queries and keys, as BEiT does, which UNIP's "
            "attention has not. Choose a ViT with absolute or rotary positions."
        )
    usual_scale = query.shape[-1] ** -0.5
    if scale is not None and not math.isclose(scale, usual_scale, rel_tol=1e-6):
        query = query * (scale / usual_scale)
    return query, key


__all__ = ["Block", "BlockReader", "find_encoder", "whole_grid"]
