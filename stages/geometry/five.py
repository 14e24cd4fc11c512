"""The statistics of the five published tests, and nothing else (METHOD.md: verdict).

The battery computes them among all others; power needs only these, for many draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from stages.common.params import Geometry
from stages.geometry import pca
from stages.geometry.cluster_angle import cluster_angle
from stages.geometry.cross_variance import explained_pct
from stages.geometry.gram import Floats, divide
from stages.geometry.orthogonality import span_projection
from stages.geometry.pc1_ablation import ablated_cosines
from stages.geometry.residual import reduction_pct, residual_cosines
from stages.geometry.verdict import TESTS, focus_of, test3_triplet

Members = Mapping[str, Sequence[int]]


def statistics(gram: Floats, members: Members, thresholds: Geometry) -> dict[str, Floats]:
    """Test -> [...], from cosines [..., n, n]; NaN where undefined.

    Test 1 the angle in degrees, 2 the largest projection, 3 the reduction in percent of one
    triplet, 4 the ratio of the largest to the smallest change, 5 the largest share in percent.
    """
    undefined = np.full(gram.shape[:-2], np.nan)
    found = dict.fromkeys(TESTS, undefined)
    focus = focus_of(members, thresholds)
    if focus is None:
        return found
    one, two = (members[c] for c in members if c in focus)
    found["test1"] = cluster_angle(gram, one, two)
    lengths = [span_projection(gram, *pair) for pair in ((one, two), (two, one))]
    found["test2"] = np.concatenate(lengths, axis=-1).max(-1)
    triplet = test3_triplet(one, two)
    if triplet is not None:
        small = gram[..., triplet, :][..., triplet]
        found["test3"] = reduction_pct(small, residual_cosines(small))
    after = ablated_cosines(gram, pca.components(pca.centred(gram)))
    found["test4"] = size_ratio(ablation_changes(gram, after, within_pairs(members)))
    shares = [explained_pct(gram, *pair, centre=False) for pair in ((one, two), (two, one))]
    found["test5"] = np.max(shares, axis=0)
    return found


def within_pairs(members: Members) -> list[tuple[int, int]]:
    """Pairs of positions inside clusters."""
    return [pair for indices in members.values() for pair in combinations(indices, 2)]


def ablation_changes(gram: Floats, after: Floats, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Cosine after minus before [..., pairs]."""
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    change: Floats = after[..., rows, columns] - gram[..., rows, columns]
    return change


def mean_size(changes: Floats) -> Floats:
    """Mean absolute change [...]; NaN without pairs."""
    if changes.shape[-1] == 0:
        return np.full(changes.shape[:-1], np.nan)
    mean: Floats = np.abs(changes).mean(-1)
    return mean


def size_ratio(changes: Floats) -> Floats:
    """Largest over smallest absolute change [...]; NaN for fewer than two pairs."""
    if changes.shape[-1] < 2:
        return np.full(changes.shape[:-1], np.nan)
    size = np.abs(changes)
    return divide(size.max(-1), size.min(-1))
