# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Centred kernel alignment (CKA): how alike the representations of blocks and of networks are."""

from collections.abc import Sequence

import torch


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """
    Products of the features of each image with those of each other image of a batch.

    Args:
        features (`torch.Tensor` of shape `(batch_size, ...)`): Representations, in any shape and precision.

    Returns:
        float64 `torch.Tensor` of shape `(batch_size, batch_size)`, on the CPU.

    Raises:
        ValueError: if there are fewer than four images, which the estimator needs.
    """
    if len(features) < 4:
        raise ValueError(f"CKA needs batches of at least 4 images, got {len(features)}.")
    flat = features.detach().flatten(1).float()  # (B, D)
    return (flat @ flat.T).double().cpu()


def centred_kernel_alignment(gram_matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """
    Linear CKA between all representations, with the unbiased estimator of the Hilbert-Schmidt independence criterion,
    averaged over batches (Nguyen, Raghu, Kornblith 2021, https://arxiv.org/abs/2010.15327, section 3). It does not
    depend on the size of the batches, nor on rotations and scales of a representation.

    Args:
        gram_matrices (`Sequence[torch.Tensor]` of shape `(num_representations, batch_size, batch_size)`): For each
            batch, what [`gram_matrix`] returned for every representation of the same images.

    Returns:
        float64 `torch.Tensor` of shape `(num_representations, num_representations)`: 1 for the same representation,
        near 0, also below, for independent ones. NaN where a representation is the same for all images.
    """
    independence = torch.stack([_independence(grams) for grams in gram_matrices]).mean(dim=0)  # (R, R)
    own = independence.diagonal()
    return independence / (own[:, None] * own[None]).sqrt()


def _independence(grams: torch.Tensor) -> torch.Tensor:
    """The unbiased estimate for all pairs of `(R, n, n)` (Song et al. 2012): `(R, R)`."""
    count = grams.shape[-1]
    without_diagonal = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    sums = without_diagonal.sum(dim=-1)  # (R, n)
    totals = sums.sum(dim=-1)  # (R,)
    products = torch.einsum("aij,bij->ab", without_diagonal, without_diagonal)
    products = products + totals[:, None] * totals[None] / ((count - 1) * (count - 2))
    products = products - 2 / (count - 2) * sums @ sums.T
    return products / (count * (count - 3))


__all__ = ["centred_kernel_alignment", "gram_matrix"]
