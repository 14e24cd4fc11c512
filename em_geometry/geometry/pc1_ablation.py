"""Test 4: cosines after ablating the centred first component (METHOD.md: pc1_ablation).

Centring removes what all vectors share, so the ablated direction is always a contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from em_geometry.geometry.gram import Floats, cosines, divide, remove_direction
from em_geometry.geometry.pca import Components, along_first


def ablated_cosines(gram: Floats, found: Components) -> Floats:
    """Cosines [..., n, n] of v - (v.p) p, renormalised; p the first of the centred components.

    NaN for a vector that lies along p, and where the vectors are all equal.
    """
    return cosines(remove_direction(gram, along_first(gram, found)))


def within_pairs(members: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of positions inside clusters."""
    return [pair for indices in members.values() for pair in combinations(indices, 2)]


def changes(gram: Floats, after: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Cosine after minus before [..., pairs]."""
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    change: Floats = after[..., rows, columns] - gram[..., rows, columns]
    return change


def size_ratio(change: Floats) -> Floats:
    """Largest over smallest absolute change [...]; NaN for fewer than two pairs."""
    if change.shape[-1] < 2:
        return np.full(change.shape[:-1], np.nan)
    size = np.abs(change)
    return divide(size.max(-1), size.min(-1))
