# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Everything that `unip analyze` measures of a network, in one pass over the images and block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .attention import (
    HYBRID_NMI,
    STABLE_NMI,
    attention_between_patches,
    attention_distance,
    attention_entropy,
    attention_map,
    attention_pattern,
    nearest_block,
    normalized_mutual_information,
)
from .blocks import Block, BlockReader
from .objects import PLACES, attention_to_objects
from .similarity import centred_kernel_alignment, gram_matrix
from .texture import Corruption, feature_change


MAP_ELEMENTS = 2**23  # of the attention maps that exist at once, 32 MB


@dataclass(frozen=True)
class Images:
    """
    Images of one batch as a network sees them.

    Args:
        numbers (`Sequence[int]`): Which images of the data these are, from 0.
        pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): Normalised.
        changed (`Mapping[str, torch.Tensor]`, *optional*): The same images after each corruption, by its name, or
            seen by the visible camera.
        objects (`Sequence[np.ndarray]`, *optional*): Of each image, see [`objects_of_patches`].
        queries (`Mapping[int, Sequence[tuple[int, int]]]`, *optional*): For the numbers of images whose attention maps
            are kept: rows and columns of patches that look.
    """

    numbers: Sequence[int]
    pixel_values: torch.Tensor
    changed: Mapping[str, torch.Tensor] = field(default_factory=dict)
    objects: Sequence[np.ndarray] | None = None
    queries: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)


class _OfBlock:
    """What is kept of a block: some numbers for each image."""

    def __init__(self) -> None:
        self.nmi: list[torch.Tensor] = []  # each (images, heads), as the next two
        self.distance: list[torch.Tensor] = []
        self.entropy: list[torch.Tensor] = []
        self.shares: list[torch.Tensor] = []  # each (heads, 4), of images with objects
        self.similarity: dict[str, list[torch.Tensor]] = {}  # each (images,)
        self.maps: dict[int, torch.Tensor] = {}  # by image, (heads, queries, rows, columns)


class NetworkMeasures:
    """
    Measures one network: NMI, attention distance and entropy of every block, attention against objects,
    representations for [`centred_kernel_alignment`], and how far features follow corruptions. It keeps a few numbers
    of each image and block, no features, so memory hardly depends on how many there are.

    Args:
        reader ([`BlockReader`]): The network.
        corruptions (`Sequence[Corruption]`, *optional*): Those in [`Images`], to undo what they move.
        near (`int`, *optional*, defaults to 1): See [`attention_to_objects`].
        with_grams (`bool`, *optional*, defaults to `True`): Whether to keep what CKA needs; batches then need at least
            four images.
    """

    def __init__(
        self, reader: BlockReader, corruptions: Sequence[Corruption] = (), near: int = 1, with_grams: bool = True
    ):
        self.reader = reader
        self.corruptions = {corruption.name: corruption for corruption in corruptions}
        self.near, self.with_grams = near, with_grams
        self.blocks = [_OfBlock() for _ in range(reader.num_layers)]
        self.areas: list[torch.Tensor] = []  # each (4,), of images with objects
        self.grams: list[torch.Tensor] = []  # of each batch, (blocks, batch_size, batch_size)

    def add(self, images: Images) -> None:
        """
        Raises:
            ValueError: if the images do not fit the network, its attention is not finite, or tiles are not whole
                patches.
        """
        grams: list[torch.Tensor] = []
        grid_size = self.reader.grid_size(images.pixel_values)
        # All in one pass, so that no features of the clean images have to be kept.
        pixel_values = torch.cat([images.pixel_values, *images.changed.values()])  # ((1+changes) * B, C, H, W)
        pixel_values = pixel_values.to(next(self.reader.parameters()).device)

        def look(block: Block) -> None:
            assert block.tokens is not None
            self._look_at_attention(block, images, grid_size)
            first = int(self.reader.has_cls_token)
            clean, *changed = block.tokens[:, first:].split(len(images.pixel_values))  # each (B, N, D)
            if self.with_grams:
                grams.append(gram_matrix(clean))
            for name, tokens in zip(images.changed, changed):
                if name in self.corruptions:
                    tokens = self.corruptions[name].undo_in_features(tokens, grid_size, images.numbers)
                of_block = self.blocks[block.number - 1]
                of_block.similarity.setdefault(name, []).append(feature_change(clean, tokens).cpu())

        self.reader.visit(pixel_values, look)
        if grams:
            self.grams.append(torch.stack(grams))

    def _look_at_attention(self, block: Block, images: Images, grid_size: tuple[int, int]) -> None:
        of_block, has_cls_token = self.blocks[block.number - 1], self.reader.has_cls_token
        count = len(images.pixel_values)
        elements = block.query.shape[1] * block.query.shape[2] ** 2
        at_once = max(1, MAP_ELEMENTS // elements)
        for start in range(0, count, at_once):
            part = slice(start, min(start + at_once, count))
            attention = attention_map(block.query[part], block.key[part])  # (b, heads, 1+N, 1+N)
            of_block.nmi.append(normalized_mutual_information(attention, has_cls_token).cpu())
            of_block.entropy.append(attention_entropy(attention, has_cls_token).cpu())
            distance = attention_distance(attention, self.reader.patch_size, has_cls_token, grid_size)
            of_block.distance.append(distance.cpu())
            for index, of_image in enumerate(attention, start=start):
                number = images.numbers[index]
                if images.objects is not None:
                    found = attention_to_objects(of_image, images.objects[index], self.near, has_cls_token)
                    if found is not None:
                        of_block.shares.append(found[0].cpu())
                        if block.number == 1:
                            self.areas.append(found[1].cpu())
                if number in images.queries:
                    rows = attention_between_patches(of_image[None], has_cls_token)[0]  # (heads, N, N)
                    places = [row * grid_size[1] + column for row, column in images.queries[number]]
                    of_block.maps[number] = rows[:, places].unflatten(2, grid_size).cpu()  # (heads, Q, rows, columns)

    def report(self, hybrid: tuple[float, float] = STABLE_NMI) -> dict[str, Any]:
        """
        The numbers: `blocks`, a list with, for each block, its number, pattern, and NMI, distance (in pixels) and
        entropy as the mean over heads of the mean over images, by head, and (of NMI) the standard deviation over
        images of the mean over heads; `objects`, the shares of each block, and `object_areas`, or `None`; `texture`,
        the similarity of features by corruption and block, or `None`.

        Args:
            hybrid (`tuple[float, float]`, *optional*, defaults to `(0.06, 0.12)`): NMI of hybrid attention.
        """
        blocks = []
        for number, of_block in enumerate(self.blocks, start=1):
            nmi = torch.cat(of_block.nmi)  # (images, heads)
            row: dict[str, Any] = {"block": number, "pattern": attention_pattern(nmi.mean(0).mean().item(), hybrid)}
            for name, values in (("nmi", nmi), ("distance", of_block.distance), ("entropy", of_block.entropy)):
                by_head = (values if torch.is_tensor(values) else torch.cat(values)).mean(dim=0)
                row |= {name: by_head.mean().item(), f"{name}_of_heads": by_head.tolist()}
            row["nmi_deviation"] = nmi.mean(dim=1).std(correction=int(len(nmi) > 1)).item()
            blocks.append(row)
        objects = areas = None
        if self.areas:
            shares = [torch.stack(of_block.shares).mean(dim=(0, 1)).tolist() for of_block in self.blocks]
            objects = [{"block": n, **dict(zip(PLACES, values))} for n, values in enumerate(shares, start=1)]
            areas = dict(zip(PLACES, torch.stack(self.areas).mean(dim=0).tolist()))
        features = {
            name: [torch.cat(of_block.similarity[name]).mean().item() for of_block in self.blocks]
            for name in self.blocks[0].similarity
        }
        texture = {"features": features, "mean_iou": None} if features else None
        return {"blocks": blocks, "objects": objects, "object_areas": areas, "texture": texture}

    def nearest_block(self, target: float = HYBRID_NMI) -> int:
        """See [`nearest_block`] of `unip_hf.analysis.attention`."""
        nmi = [torch.cat(of_block.nmi).mean(dim=0).mean().item() for of_block in self.blocks]
        return nearest_block(nmi, target)


def compare_networks(networks: Mapping[str, NetworkMeasures]) -> dict[str, Any]:
    """
    CKA between all blocks of networks that have seen the same images in the same batches, for [`write_report`].

    Args:
        networks (`dict`): Measures by name.
    """
    grams = [torch.cat(of_batch) for of_batch in zip(*(measures.grams for measures in networks.values()))]
    blocks = [(index, name, n + 1) for index, name in enumerate(networks) for n in range(len(networks[name].blocks))]
    return {
        "names": [f"{name}, block {number}" for _, name, number in blocks],
        "models": [index for index, _, _ in blocks],
        "values": centred_kernel_alignment(grams).tolist(),
    }


__all__ = ["Images", "NetworkMeasures", "compare_networks"]
