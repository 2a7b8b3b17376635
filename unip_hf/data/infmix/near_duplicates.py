# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""
Finds images that look nearly the same by the Hamming distance of their perceptual hashes, without comparing all pairs.

What distances mean was determined on real frames (HIT-UAV from drones, LLVIP from fixed cameras, RoadScene from cars).
A hash has 32 of its 64 bits set, so distances are even. Frames up to distance 4 showed the same view with people who
had moved, those up to 12 the same place with the camera moved a little, and from 14 on there were different streets as
well. The default of 4 removes 62 of 580 HIT-UAV frames, 5 of 44 LLVIP frames, and none of 221 RoadScene frames. Among
a million unrelated images, less than one pair has distance 4 by chance, but about 300 have 8 and ten thousand have 10.
"""

import itertools
from collections.abc import Callable

import imagehash
import numpy as np
from PIL import Image


NUM_BANDS, BAND_BITS = 4, 16
BLOCK = 4096  # hashes that are looked up at once
MAX_CANDIDATES = 1 << 22  # compared at once, which bounds the memory


def perceptual_hash(image: np.ndarray) -> int:
    """
    The 64 signs of the lowest frequencies (`imagehash.phash`). They survive scaling, compression and small changes of
    contrast, but not mirroring or other crops.

    Args:
        image (`np.ndarray` of shape `(height, width)`): uint8.
    """
    bits = imagehash.phash(Image.fromarray(image)).hash  # (8, 8), bool
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class HashIndex:
    """
    Looks up hashes within a Hamming distance by multi-index hashing (Norouzi et al., CVPR 2012): two hashes that
    differ in at most `distance` bits differ in at most `distance // 4` bits of at least one of their four parts. So
    only hashes with nearly the same part are compared.

    Args:
        hashes (`np.ndarray` of shape `(N,)`): uint64.
        distance (`int`): 0 to 15.
    """

    def __init__(self, hashes: np.ndarray, distance: int):
        self.distance = distance
        num_flips = range(distance // NUM_BANDS + 1)
        flips = [sum(1 << bit for bit in bits) for n in num_flips for bits in itertools.combinations(range(16), n)]
        self.flips = np.array(flips, dtype=np.uint16)
        self.hashes, self.starts = [], []
        for band in _bands(hashes):
            self.hashes.append(hashes[np.argsort(band, kind="stable")])  # (N,)
            counts = np.bincount(band, minlength=1 << BAND_BITS)
            self.starts.append(np.concatenate([[0], counts.cumsum()]))  # (65537,)

    def contains_near(self, queries: np.ndarray) -> np.ndarray:
        """
        Whether any hash of the index lies within the distance of each query.

        Args:
            queries (`np.ndarray` of shape `(n,)`): uint64.

        Returns:
            bool `np.ndarray` of shape `(n,)`.
        """
        is_near = np.zeros(len(queries), dtype=bool)
        for band, starts, hashes in zip(_bands(queries), self.starts, self.hashes):
            for flip in self.flips:
                open_queries = np.flatnonzero(~is_near)
                keys = band[open_queries] ^ flip
                first, counts = starts[keys], starts[keys.astype(np.int64) + 1] - starts[keys]
                parts = np.searchsorted(counts.cumsum(), np.arange(MAX_CANDIDATES, counts.sum(), MAX_CANDIDATES))
                for part in np.split(np.arange(len(open_queries)), parts):
                    ends = counts[part].cumsum()
                    owners = np.repeat(part, counts[part])
                    within = np.arange(len(owners)) - np.repeat(ends - counts[part], counts[part])
                    candidates = hashes[np.repeat(first[part], counts[part]) + within]
                    differing = np.bitwise_count(candidates ^ queries[open_queries[owners]])
                    is_near[open_queries[owners[differing <= self.distance]]] = True
        return is_near


def find_near_duplicates(
    hashes: np.ndarray, distance: int, progress: Callable[[int], None] | None = None
) -> np.ndarray:
    """
    Marks every hash within a Hamming distance of an earlier one that is not marked itself. So the first of a group
    stays, and a slow pan over a scene keeps a frame whenever it has moved on by more than `distance`.

    Args:
        hashes (`np.ndarray` of shape `(N,)`): uint64.
        distance (`int`): 0 to 15.
        progress (*optional*): Called from time to time with the number of hashes done since the last call.

    Returns:
        bool `np.ndarray` of shape `(N,)`.
    """
    is_duplicate = np.zeros(len(hashes), dtype=bool)
    for start in range(0, len(hashes), BLOCK):
        block = hashes[start : start + BLOCK]
        kept = hashes[:start][~is_duplicate[:start]]
        marked = HashIndex(kept, distance).contains_near(block)
        new = np.flatnonzero(~marked)
        for number, position in enumerate(new):  # against those of the same block
            if not marked[position]:
                later = new[number + 1 :]
                marked[later] |= np.bitwise_count(block[later] ^ block[position]) <= distance
        is_duplicate[start : start + len(block)] = marked
        if progress is not None:
            progress(len(block))
    return is_duplicate


def _bands(hashes: np.ndarray) -> list[np.ndarray]:
    """Four parts of 16 bits, uint16 of shape (N,), in which rows of frequencies alternate, or they would be uneven."""
    octets = hashes.astype(">u8").view(np.uint8).reshape(-1, 8).astype(np.uint16)  # (N, 8)
    return [octets[:, band] << 8 | octets[:, band + 4] for band in range(NUM_BANDS)]


__all__ = ["HashIndex", "find_near_duplicates", "perceptual_hash"]
