# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Measures where the tokens of an image look in every block of a network, as pictures and in numbers."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from ..analysis import BlockReader, attention_map, normalized_mutual_information
from ..analysis.plots import colour_attention
from ..files import write_whole
from ..inference.windows import reads_pairs
from ..modeling.image_processing_unip import UnipImageProcessor
from ..pictures import grey_picture
from .uploads import error_message


MAX_TOKENS = 1280  # 640x512 pixels in patches of 16
PICTURE_SIDE = 768  # longer side of the picture, in pixels


@dataclass(frozen=True)
class ImageAttention:
    """
    Queries and keys of every block for one image, from which the attention of any token follows.

    Args:
        picture (uint8 `np.ndarray` of shape `(rows * side, columns * side, 3)`): The image as the page shows it.
        image_size (`(height, width)`): Size of the image itself, in pixels.
        grid_size (`(rows, columns)`): Size of the grid of patches.
        query_keys (`list` of two float16 `torch.Tensor` of shape `(1, num_heads, 1 + rows * columns, head_dim)`):
            Queries and keys of each block, CLS first if the network has it, on the CPU.
        nmi (`list[float]`): Normalised mutual information of each block, the mean over its heads.
    """

    picture: np.ndarray
    image_size: tuple[int, int]
    grid_size: tuple[int, int]
    query_keys: list[tuple[torch.Tensor, torch.Tensor]]
    nmi: list[float]

    def save(self, path: Path) -> None:
        """Writes everything to a file, about 1 MB for each block of width 192 and 1280 patches."""
        with write_whole(path) as staged:
            torch.save({**vars(self), "picture": torch.from_numpy(self.picture)}, staged)

    @classmethod
    def load(cls, path: Path) -> "ImageAttention":
        """
        Reads what [`~ImageAttention.save`] wrote. Queries and keys stay in the file until they are needed.

        Raises:
            gr.Error: if the file has been deleted.
        """
        try:
            fields = torch.load(path, mmap=True, weights_only=True)
        except FileNotFoundError:
            raise error_message("This image is no longer kept here. Send it once more.") from None
        return cls(**{**fields, "picture": fields["picture"].numpy()})

    def num_heads(self, layer: int) -> int:
        """The number of heads of a block, counted from 1. The last block may have more heads than the others."""
        return self.query_keys[layer - 1][0].shape[1]

    def shares(self, layer: int, token: tuple[int, int], head: int | None = None) -> np.ndarray:
        """
        The shares of its attention that a token gives to each token.

        Args:
            layer (`int`): Block, from 1.
            token (`(row, column)`): Its place in the grid of patches, from 0.
            head (`int`, *optional*): Head, from 1. By default the mean over all heads.

        Returns:
            float32 `np.ndarray` of shape `(1 + rows * columns,)`, CLS first, 0 for a network without. The sum is 1.
        """
        query, key = self.query_keys[layer - 1]
        rows, columns = self.grid_size
        first = key.shape[2] - rows * columns  # 0 without CLS
        index = first + token[0] * columns + token[1]
        of_heads = attention_map(query[:, :, index : index + 1], key)[0, :, 0]  # (heads, first+N)
        shares = of_heads.mean(dim=0) if head is None else of_heads[head - 1]
        return nn.functional.pad(shares, (1 - first, 0)).numpy()


def grid_for(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of at most `MAX_TOKENS` patches that nearly keep the shape of an image, given in pixels."""
    scale = min(1.0, math.sqrt(MAX_TOKENS / (height * width)) * patch_size) / patch_size
    rows = min(max(2, int(height * scale + 0.5)), MAX_TOKENS // 2)
    return rows, min(max(2, int(width * scale + 0.5)), MAX_TOKENS // rows)


@torch.inference_mode()
def measure_attention(model: nn.Module, processor: UnipImageProcessor, image: np.ndarray) -> ImageAttention:
    """
    Computes queries and keys of every block in one pass of the network, and the NMI of every block.

    The image is processed as for segmentation, but resized to whole patches, at most `MAX_TOKENS`.

    Args:
        model: Segmentation model with a UNIP encoder, or with another that a [`BlockReader`] can read.
        processor: Its image processor.
        image: `(height, width)` or `(height, width, 3)`, with the depth that the camera gave.

    Raises:
        ValueError: if the model has no such encoder, or the processor cannot use the image.
    """
    if reads_pairs(model):
        raise ValueError("This model reads pairs of images. Attention is shown for models of one image.")
    try:
        reader = BlockReader(model)
    except ValueError as error:
        raise ValueError(
            f"The attention of this model, {type(model).__name__}, cannot be shown. The model must be a plain vision "
            "transformer, such as UNIP or DINOv2, and not an exported file."
        ) from error
    patch_size = reader.patch_size
    array = image if image.ndim == 3 else image[..., None]  # (H, W, 1 or 3)
    height, width = array.shape[:2]
    rows, columns = grid_for(*processor.output_size(height, width), patch_size)
    size = {"height": rows * patch_size, "width": columns * patch_size}
    inputs = processor(array, return_tensors="pt", input_data_format="channels_last", do_resize=True, size=size)
    pairs = reader.query_keys(inputs["pixel_values"].to(model.device))
    side = max(1, PICTURE_SIDE // max(rows, columns))
    grey = Image.fromarray(grey_picture(array, processor))
    picture = np.array(grey.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    return ImageAttention(
        picture,
        (height, width),
        (rows, columns),
        [(query.half().cpu().contiguous(), key.half().cpu().contiguous()) for query, key in pairs],
        [_nmi(query, key, reader.has_cls_token) for query, key in pairs],
    )


def _nmi(query: torch.Tensor, key: torch.Tensor, has_cls_token: bool) -> float:
    """The mean over heads. Only one attention map at a time is in memory."""
    of_heads = [
        normalized_mutual_information(attention_map(*pair), has_cls_token)
        for pair in zip(query.split(1, 1), key.split(1, 1))
    ]  # each (1, 1)
    return torch.cat(of_heads).mean().item()


def attention_picture(attention: ImageAttention, shares: np.ndarray, token: tuple[int, int]) -> np.ndarray:
    """
    Draws what a token gives to each patch over the darkened image, and outlines the patch of the token itself.

    Args:
        attention: Attention of the image.
        shares: Result of [`ImageAttention.shares`]. CLS is left out. The largest of the others is brightest.
        token (`(row, column)`): The token that gives these shares.

    Returns:
        uint8 `np.ndarray` of shape `(rows * side, columns * side, 3)`.
    """
    side = attention.picture.shape[0] // attention.grid_size[0]
    strength = (shares[1:] / max(shares[1:].max(), 1e-12)).reshape(attention.grid_size)  # (rows, columns)
    strength = strength.repeat(side, axis=0).repeat(side, axis=1)
    picture = Image.fromarray(_coloured(attention.picture.mean(axis=2) / 255, strength))
    top, left = token[0] * side, token[1] * side
    for colour, border, width in (("black", 2, 2), ("cyan", 0, 3), ("black", -3, 1)):
        corners = (left - border, top - border, left + side - 1 + border, top + side - 1 + border)
        ImageDraw.Draw(picture).rectangle(corners, outline=colour, width=width)
    return np.asarray(picture)


def _coloured(grey: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Strengths 0..1 over grey values 0..1, as uint8 `(..., 3)`."""
    return np.rint(255 * colour_attention(grey, strength)).astype(np.uint8)


def legend(shares: np.ndarray) -> str:
    """The colours of [`attention_picture`] and the shares that they stand for, as HTML."""
    steps = np.linspace(0, 1, 16)
    colours = ", ".join("rgb({}, {}, {})".format(*colour) for colour in _coloured(np.full(16, 0.5), steps**2))
    largest = float(shares[1:].max())
    labels = "".join(f"<span>{_percent(share)}</span>" for share in (0.0, largest / 4, largest))
    return (
        f'<div style="height: 12px; border-radius: 3px; background: linear-gradient(to right, {colours})"></div>'
        f'<div style="display: flex; justify-content: space-between">{labels}</div>'
    )


def description(
    attention: ImageAttention, shares: np.ndarray, layer: int, token: tuple[int, int], head: int | None = None
) -> str:
    """Says in numbers what the picture shows. For the arguments see [`ImageAttention.shares`]."""
    rows, columns = attention.grid_size
    grid = shares[1:].reshape(rows, columns)
    row, column = token
    around = grid[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].sum() - grid[token]
    most = divmod(int(grid.argmax()), columns)
    where = "itself" if most == token else f"the one at {_position(attention, most)}"
    return (
        f"**Block {layer} of {len(attention.nmi)}, NMI {attention.nmi[layer - 1]:.2f}"
        f"{'' if head is None else f', head {head}'}.** The token at {_position(attention, token)} gives "
        f"{_percent(shares[0])} of its attention to CLS, {_percent(grid[token])} to itself and {_percent(around)} to "
        f"the tokens next to it. Of all patches, it looks most at {where}: {_percent(grid[most])}."
    )


def _position(attention: ImageAttention, token: tuple[int, int]) -> str:
    """The middle of a patch in pixels of the image."""
    y, x = (
        int((place + 0.5) * pixels / tokens)
        for place, pixels, tokens in zip(token, attention.image_size, attention.grid_size)
    )
    return f"({x}, {y})"


def _percent(share: float) -> str:
    if 0 < share < 0.0001:
        return "less than 0.01%"
    return f"{share:.{0 if share == 0 or share >= 0.0995 else 1 if share >= 0.00995 else 2}%}"


__all__ = [
    "MAX_TOKENS",
    "ImageAttention",
    "attention_picture",
    "description",
    "grid_for",
    "legend",
    "measure_attention",
]
