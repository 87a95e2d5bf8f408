"""Near duplicates by MinHash (Broder 1997, "On the resemblance and containment of documents")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpo.data.tokens import TokenPair

GRAM, HASHES, BANDS = 5, 32, 8
ALIKE = 0.8
"""Jaccard similarity of token 5-grams from which two pairs are near duplicates."""


def near_duplicates(pairs: Sequence[TokenPair]) -> int:
    """Pairs whose token 5-grams (prompt and both answers) overlap with an earlier pair's by ALIKE, but are not equal.

    Candidates share a band of 4 of 32 hashes (a pair at 0.8 is found with probability 0.985); each is compared
    exactly with the first pair of its band.
    """
    rows_per_band = HASHES // BANDS
    multipliers = np.random.default_rng(0).integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
    buckets: list[dict[bytes, int]] = [{} for _ in range(BANDS)]
    found = 0
    for i, pair in enumerate(pairs):
        grams = shingles(pair)
        signature = ((grams[:, None] * multipliers) >> np.uint64(32)).min(0)
        candidates = set()
        for band, bucket in enumerate(buckets):
            slot = signature[band * rows_per_band : (band + 1) * rows_per_band].tobytes()
            candidates.add(bucket.setdefault(slot, i))
        found += any(near(pair, grams, pairs[j]) for j in candidates - {i})
    return found


def near(pair: TokenPair, grams: NDArray[np.uint64], other: TokenPair) -> bool:
    """Whether the pairs' grams overlap by ALIKE while their ids differ."""
    theirs = shingles(other)
    both = len(np.intersect1d(grams, theirs, assume_unique=True))
    return both >= ALIKE * (len(grams) + len(theirs) - both) and ids(pair) != ids(other)


def shingles(pair: TokenPair) -> NDArray[np.uint64]:
    """Distinct hashes of the 5-grams of prompt, chosen and rejected end to end; of the whole where it is shorter."""
    flat = np.array([*pair.prompt_ids, *pair.chosen_ids, *pair.rejected_ids], dtype=np.uint64) + np.uint64(1)
    width = min(GRAM, len(flat))
    count = len(flat) - width + 1
    hashed = np.zeros(count, dtype=np.uint64)
    for offset in range(width):
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + flat[offset : offset + count]
    return np.unique(hashed ^ (hashed >> np.uint64(29)))


def ids(pair: TokenPair) -> tuple[tuple[int, ...], ...]:
    """The token ids of a pair without its name."""
    return pair.prompt_ids, pair.chosen_ids, pair.rejected_ids
