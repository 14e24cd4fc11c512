"""How much variance a common core holds: one factor, signed loadings (METHOD.md: calibration).

Cosines across clusters are modelled as a_i a_j; those within clusters are left free, because a
cluster's own part raises them too. With three or more clusters the loadings are identified up
to one common sign even with two members each; with two clusters only products of loadings of
different clusters are, so the share is undefined. The cluster parts are not identified with two
members, and are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from em_geometry.geometry.gram import TINY, Floats

ROUNDS = 100  # of coordinate descent; far more than six vectors need


def core_loadings(gram: Floats, members: Mapping[str, Sequence[int]]) -> Floats:
    """Least-squares loadings [B, m] of the clustered vectors, in cluster order, |a| <= 1.

    NaN for fewer than three clusters. Coordinate descent from the leading eigenvector of the
    cosines across clusters, for all matrices [B, n, n] at once; the sum of loadings is positive.
    """
    order, across = _layout(members)
    if len(members) < 3:
        return np.full((len(gram), len(order)), np.nan)
    target = gram[:, order, :][:, :, order] * across
    values, vectors = np.linalg.eigh(target)
    loadings: Floats = vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0.0))
    for _ in range(ROUNDS):
        for i in range(len(order)):
            top = (target[:, i] * loadings).sum(-1)
            bottom = (across[i] * loadings**2).sum(-1)
            loadings[:, i] = np.clip(top / np.maximum(bottom, TINY), -1.0, 1.0)
    return np.where(loadings.sum(-1, keepdims=True) < 0.0, -loadings, loadings)


def core_share(gram: Floats, members: Mapping[str, Sequence[int]]) -> Floats:
    """Share [B] of variance that vectors of different clusters have on the common core.

    The mean of |a_i a_j| over pairs across clusters; g when every vector has a share g. (The
    mean of a_i^2 is no use: a vector alone can take a loading of 1 to fit noise.) It is positive
    for independent vectors too, so it is read against its null. NaN below three clusters.
    """
    if len(members) < 3:
        return np.full(len(gram), np.nan)
    _, across = _layout(members)
    size = np.abs(core_loadings(gram, members))
    implied = (size[:, :, None] * size[:, None, :] * across).sum((-2, -1))
    share: Floats = implied / across.sum()
    return share


def _layout(members: Mapping[str, Sequence[int]]) -> tuple[list[int], Floats]:
    """Clustered vectors in cluster order, and [m, m] ones where two are of different clusters."""
    order = [i for indices in members.values() for i in indices]
    owner = np.array([c for c, indices in enumerate(members.values()) for _ in indices])
    return order, (owner[:, None] != owner).astype(float)
