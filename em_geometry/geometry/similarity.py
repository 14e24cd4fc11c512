"""Cosines within and across clusters (METHOD.md: similarity)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from em_geometry.geometry.gram import Floats, pair_values


def within(gram: Floats, members: Sequence[int]) -> Floats:
    """Mean cosine [...] over pairs of one cluster; NaN for a single member."""
    pairs = pair_values(gram[..., members, :][..., members])
    if pairs.shape[-1] == 0:
        return np.full(gram.shape[:-2], np.nan)
    mean: Floats = pairs.mean(-1)
    return mean


def across(gram: Floats, first: Sequence[int], second: Sequence[int]) -> Floats:
    """Mean cosine [...] between members of two clusters."""
    mean: Floats = gram[..., first, :][..., second].mean((-2, -1))
    return mean


def across_mean(gram: Floats, members: Mapping[str, Sequence[int]]) -> Floats:
    """Mean cosine [...] over all pairs across clusters; NaN for fewer than two clusters."""
    _, outside = cluster_pairs(gram.shape[-1], list(members.values()))
    if not outside:
        return np.full(gram.shape[:-2], np.nan)
    mean: Floats = pair_values(gram)[..., outside].mean(-1)
    return mean


def cluster_pairs(n: int, clusters: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Positions among `pair_values` of within-cluster pairs and of cross-cluster pairs.

    Vectors of no cluster are in neither.
    """
    owner = {i: c for c, members in enumerate(clusters) for i in members}
    inside: list[int] = []
    outside: list[int] = []
    for position, (i, j) in enumerate(combinations(range(n), 2)):
        if i in owner and j in owner:
            (inside if owner[i] == owner[j] else outside).append(position)
    return inside, outside
