# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""Training examples whose second image is missing, so that a model learns to do without it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


@dataclass(eq=False)
class ModalityDropout(Dataset):
    """
    Samples of pairs, of which some lose the auxiliary image: it becomes zeros after normalisation, as in an evaluation
    without it. Which ones depends on `seed` and the key of a sample alone, not on the process or where a run was
    resumed.

    Args:
        samples ([`~unip_hf.data.samples.TrainingSamples`]): Samples with `auxiliary_pixel_values`.
        probability (`float`): Share of the samples, 0 to 1.
        seed (`int`, *optional*, defaults to 0): Any number.
    """

    samples: Any
    probability: float
    seed: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: list[tuple[int, ...]]) -> list[dict[str, torch.Tensor]] | Exception:
        samples = self.samples.__getitems__(keys)
        if isinstance(samples, Exception):
            return samples
        for key, sample in zip(keys, samples):
            drawn_apart = np.random.SeedSequence((self.seed, *key[:2]), spawn_key=(1,))  # from the augmentation
            if np.random.default_rng(drawn_apart).random() < self.probability:
                # one channel that all share, as grey images have
                sample["auxiliary_pixel_values"] = torch.zeros(1).expand_as(sample["auxiliary_pixel_values"])
        return samples


__all__ = ["ModalityDropout"]
