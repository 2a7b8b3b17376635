# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Where the tokens of an image look, in every block of a network, as pictures and in numbers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..analysis import attention_map, normalized_mutual_information
from ..distillation import Teacher
from ..files import write_whole
from ..modeling.image_processing_unip import UnipImageProcessor
from ..modeling.modeling_unip import UnipModel
from ..pictures import grey_picture
from .uploads import error_message


MAX_TOKENS = 1280  # 640x512 pixels in patches of 16
PICTURE_SIDE = 768  # longer side of the picture, in pixels


@dataclass(frozen=True)
class ImageAttention:
    """
    Queries and keys of every block for one image, from which the attention of any token follows.

    Args:
        picture (uint8 `np.ndarray` of shape `(rows * side, columns * side, 3)`): The image as it is looked at.
        image_size (`(height, width)`): Of the image itself, in pixels.
        grid_size (`(rows, columns)`): Of the patches.
        query_keys (`list` of two float16 `torch.Tensor` of shape `(1, num_heads, 1 + rows * columns, head_dim)`): Of
            each block, CLS first, on the CPU.
        nmi (`list[float]`): Normalised mutual information of each block, the mean over its heads.
    """

    picture: np.ndarray
    image_size: tuple[int, int]
    grid_size: tuple[int, int]
    query_keys: list[tuple[torch.Tensor, torch.Tensor]]
    nmi: list[float]

    def save(self, path: Path) -> None:
        """Writes all of it to a file, about 1 MB for each block of width 192 and 1280 patches."""
        tensors = {"picture": torch.from_numpy(self.picture)}
        for layer, pair in enumerate(self.query_keys, start=1):
            tensors |= {f"{name}.{layer}": tensor for name, tensor in zip(("query", "key"), pair)}
        numbers = {"image_size": self.image_size, "grid_size": self.grid_size, "nmi": self.nmi}
        with write_whole(path) as staged:
            save_file(tensors, staged, {name: json.dumps(number) for name, number in numbers.items()})

    @classmethod
    def load(cls, path: Path) -> "ImageAttention":
        """
        What [`~ImageAttention.save`] wrote. Queries and keys stay in the file until they are needed.

        Raises:
            gr.Error: if it is there no more.
        """
        try:
            with safe_open(path, "pt") as file:
                numbers = {name: json.loads(number) for name, number in file.metadata().items()}
                pairs = [
                    (file.get_tensor(f"query.{layer}"), file.get_tensor(f"key.{layer}"))
                    for layer in range(1, len(numbers["nmi"]) + 1)
                ]
                return cls(
                    file.get_tensor("picture").numpy(),
                    tuple(numbers["image_size"]),
                    tuple(numbers["grid_size"]),
                    pairs,
                    numbers["nmi"],
                )
        except FileNotFoundError:
            raise error_message("This image is no longer kept here: send it once more.") from None

    def num_heads(self, layer: int) -> int:
        """Of a block, counted from 1; the last one may have more than the others."""
        return self.query_keys[layer - 1][0].shape[1]

    def shares(self, layer: int, token: tuple[int, int], head: int | None = None) -> np.ndarray:
        """
        What a token gives to each token of its attention.

        Args:
            layer (`int`): Block, from 1.
            token (`(row, column)`): In the grid of patches, from 0.
            head (`int`, *optional*): From 1; by default the mean over all heads.

        Returns:
            float32 `np.ndarray` of shape `(1 + rows * columns,)`, CLS first, with the sum 1.
        """
        query, key = self.query_keys[layer - 1]
        index = 1 + token[0] * self.grid_size[1] + token[1]
        of_heads = attention_map(query[:, :, index : index + 1], key)[0, :, 0]  # (heads, 1+N)
        return (of_heads.mean(dim=0) if head is None else of_heads[head - 1]).numpy()


def grid_for(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches, `MAX_TOKENS` at most, for an image of a size in pixels, its shape nearly kept."""
    scale = min(1.0, math.sqrt(MAX_TOKENS / (height * width)) * patch_size) / patch_size
    rows = min(max(2, int(height * scale + 0.5)), MAX_TOKENS // 2)
    return rows, min(max(2, int(width * scale + 0.5)), MAX_TOKENS // rows)


@torch.inference_mode()
def measure_attention(model: nn.Module, processor: UnipImageProcessor, image: np.ndarray) -> ImageAttention:
    """
    Queries and keys of every block from one pass of the network, and the NMI of each.

    The image is processed as for segmentation, but resized to whole patches, `MAX_TOKENS` of them at most.

    Args:
        model: Segmentation model with a UNIP encoder, or with another that can be a [`Teacher`].
        processor: Its image processor.
        image: `(height, width)` or `(height, width, 3)`, with the depth that the camera gave.

    Raises:
        ValueError: if the model has no such encoder, or the processor cannot use the image.
    """
    encoder = _find_encoder(model)
    patch_size = encoder.embeddings.patch_size if isinstance(encoder, UnipModel) else encoder.patch_size
    array = image if image.ndim == 3 else image[..., None]  # (H, W, 1 or 3)
    height, width = array.shape[:2]
    rows, columns = grid_for(*processor.output_size(height, width), patch_size)
    size = {"height": rows * patch_size, "width": columns * patch_size}
    inputs = processor(array, return_tensors="pt", input_data_format="channels_last", do_resize=True, size=size)
    parameter = next(encoder.parameters())
    pairs = _query_keys(encoder, inputs["pixel_values"].to(parameter.device, parameter.dtype))
    side = max(1, PICTURE_SIDE // max(rows, columns))
    grey = Image.fromarray(grey_picture(array, processor))
    picture = np.array(grey.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    return ImageAttention(
        picture,
        (height, width),
        (rows, columns),
        [(query.half().cpu().contiguous(), key.half().cpu().contiguous()) for query, key in pairs],
        [_nmi(query, key) for query, key in pairs],
    )


def _find_encoder(model: nn.Module) -> UnipModel | Teacher:
    """UNIP's encoder, which may take one channel, or another plain ViT as distillation knows them."""
    for module in model.modules():
        if isinstance(module, UnipModel):
            return module
    try:
        teacher = Teacher(getattr(model, "backbone", model))  # of UPerNet, say
    except ValueError as error:
        raise ValueError(
            f"The attention of this model, {type(model).__name__}, cannot be shown: only that of plain vision "
            "transformers with a CLS token can, as UNIP's. Exported files do not give it away either."
        ) from error
    teacher.student_patch_size = teacher.patch_size
    return teacher


def _query_keys(encoder: UnipModel | Teacher, pixel_values: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    if isinstance(encoder, Teacher):
        return encoder.query_keys(pixel_values)
    pairs = []
    hidden_states = encoder.embeddings(pixel_values)  # (1, 1+N, D)
    for block in encoder.layers:
        _, query, key = block(hidden_states, only_query_key=True)
        pairs.append((query, key))
        hidden_states = block(hidden_states)
    return pairs


def _nmi(query: torch.Tensor, key: torch.Tensor) -> float:
    """The mean over heads, of which one map at a time is in memory."""
    of_heads = [
        normalized_mutual_information(attention_map(*pair)) for pair in zip(query.split(1, 1), key.split(1, 1))
    ]  # each (1, 1)
    return torch.cat(of_heads).mean().item()


def attention_picture(attention: ImageAttention, shares: np.ndarray, token: tuple[int, int]) -> np.ndarray:
    """
    The darkened image with what a token gives to each patch laid over it, and the token's own square outlined.

    Args:
        attention: Of the image.
        shares: Of [`ImageAttention.shares`]; CLS is left out, the largest of the others is brightest.
        token (`(row, column)`): Whose they are.

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
    """Strengths 0..1 as colours over grey values 0..1, the more opaque the stronger they are; uint8 `(..., 3)`."""
    from matplotlib import colormaps

    strength = np.sqrt(strength)[..., None]  # weak attention to many patches counts as well
    opacity = 0.85 * strength
    colours = (1 - opacity) * 0.6 * grey[..., None] + opacity * colormaps["inferno"](strength[..., 0])[..., :3]
    return np.rint(colours * 255).astype(np.uint8)


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
    """What the picture shows, in numbers; for arguments see [`ImageAttention.shares`]."""
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
        f"the tokens next to it; of all patches, it looks most at {where}: {_percent(grid[most])}."
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
