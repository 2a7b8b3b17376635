# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Attention against objects: the paper's "near and foreground" (section 3.2) as shares of the attention."""

from collections.abc import Collection

import numpy as np
import torch

from .attention import attention_between_patches


PLACES = ("near", "own_object", "other_foreground", "background")
IGNORED = -1


def objects_of_patches(
    ids: np.ndarray,
    grid_size: tuple[int, int],
    background: Collection[int] = (0,),
    ignore_index: int = 255,
    least_cover: float = 0.25,
) -> np.ndarray:
    """
    Which object each patch belongs to. An object is a connected region of one class that is not background; regions
    that touch at a corner are one.

    Args:
        ids (`np.ndarray` of shape `(height, width)`): Class ids of an image.
        grid_size (`(rows, columns)`): Grid of the patches, which cover the whole image.
        background (`Collection[int]`, *optional*, defaults to `(0,)`): Ids that are not objects.
        ignore_index (`int`, *optional*, defaults to 255): Id of pixels without a class.
        least_cover (`float`, *optional*, defaults to 0.25): A patch belongs to the object that covers most of it if
            this is at least so large a share of its pixels.

    Returns:
        int64 `np.ndarray` of shape `(rows, columns)`: numbers of objects from 1; 0 is background; -1 are patches with
        more pixels without a class than with one.

    Raises:
        ValueError: if the image has fewer pixels than the grid has patches in height or width.
    """
    from scipy.ndimage import label

    height, width = ids.shape
    rows, columns = grid_size
    if height < rows or width < columns:
        raise ValueError(f"A mask of {height}x{width} pixels is too small for a grid of {rows}x{columns} patches.")
    objects = np.zeros(ids.shape, dtype=np.int64)  # (H, W)
    for class_id in np.unique(ids):
        if class_id != ignore_index and class_id not in background:
            numbered, _ = label(ids == class_id, structure=np.ones((3, 3)))
            objects += np.where(numbered > 0, numbered + objects.max(), 0)
    patches = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width  # (H, W)
    num_objects = int(objects.max()) + 1
    pixels = np.bincount((patches * num_objects + objects).ravel(), minlength=rows * columns * num_objects)
    pixels = pixels.reshape(rows * columns, num_objects)  # of each object in each patch, 0: everything else
    of_patch = pixels.sum(axis=1)
    ignored = np.bincount(patches.ravel(), weights=(ids == ignore_index).ravel(), minlength=rows * columns)
    pixels[:, 0] = 0
    largest = pixels.argmax(axis=1)
    covered = pixels[np.arange(rows * columns), largest]
    found = np.where((covered > 0) & (covered >= least_cover * of_patch), largest, 0)
    found[(found == 0) & (2 * ignored > of_patch)] = IGNORED
    return found.reshape(rows, columns)


def attention_to_objects(
    attention: torch.Tensor, objects: np.ndarray, near: int = 1, has_cls_token: bool = True
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """
    Where the queries that lie on objects look: near themselves, on the rest of their own object, on other objects, or
    on background. Ignored patches are left out.

    Args:
        attention (`torch.Tensor` of shape `(num_heads, queries, keys)`): Of one image and block, after softmax.
        objects (`np.ndarray` of shape `(rows, columns)`): What [`objects_of_patches`] returned.
        near (`int`, *optional*, defaults to 1): Patches in each direction that count as near, the query included.
        has_cls_token (`bool`, *optional*, defaults to `True`): Whether the first token is CLS, which is left out.

    Returns:
        The shares of the attention, float32 `(num_heads, 4)` in the order of `PLACES`, and the shares of the patches,
        `(4,)`: what attention that is spread evenly would give. Both are means over queries, and each sums to 1.
        `None` if there is no object in the image.

    Raises:
        ValueError: if the attention has another shape than the objects.
    """
    flat = torch.from_numpy(objects.ravel()).to(attention.device)  # (N,)
    rows = attention_between_patches(attention[None], has_cls_token)[0]  # (heads, N, N)
    if rows.shape[-1] != len(flat):
        raise ValueError(
            f"There are {rows.shape[-1]} patches in the attention, but {len(flat)} in the grid of objects."
        )
    queries = flat.gt(0).nonzero()[:, 0]  # (Q,)
    if not len(queries):
        return None
    row, column = (torch.from_numpy(places.ravel()).to(flat.device) for places in np.indices(objects.shape))
    distance = torch.maximum(
        (row[queries, None] - row).abs(), (column[queries, None] - column).abs()
    )  # (Q, N), in patches along the farther direction
    is_near, is_own, is_object = distance <= near, flat[queries, None] == flat, (flat > 0).expand(len(queries), -1)
    places = torch.stack([is_near, ~is_near & is_own, ~is_near & ~is_own & is_object, ~is_near & ~is_object], dim=-1)
    places = (places & (flat != IGNORED)[:, None]).float()  # (Q, N, 4)
    shares = torch.einsum("hqn,qnp->hqp", rows[:, queries], places)
    shares = (shares / shares.sum(dim=-1, keepdim=True).clamp_min(1e-12)).mean(dim=1)  # (heads, 4)
    areas = places.mean(dim=1)  # (Q, 4)
    return shares, (areas / areas.sum(dim=-1, keepdim=True)).mean(dim=0)


__all__ = ["PLACES", "attention_to_objects", "objects_of_patches"]
