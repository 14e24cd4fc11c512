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

from stages.geometry.gram import TINY, Floats

ROUNDS = 100  # of coordinate descent; far more than six vectors need


def core_loadings(gram: Floats, members: Mapping[str, Sequence[int]]) -> Floats:
    """Least-squares loadings [B, m] of the clustered vectors, in cluster order, |a| <= 1.

    NaN for fewer than three clusters. Coordinate descent from the leading eigenvector of the
    cosines across clusters, for all matrices [B, n, n] at once.
    """
    order = [i for indices in members.values() for i in indices]
    owner = np.array([c for c, indices in enumerate(members.values()) for _ in indices])
    if len(members) < 3:
        return np.full((len(gram), len(order)), np.nan)
    across = (owner[:, None] != owner).astype(float)
    target = gram[:, order, :][:, :, order] * across
    values, vectors = np.linalg.eigh(target)
    loadings: Floats = vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0.0))
    for _ in range(ROUNDS):
        for i in range(len(order)):
            top = (target[:, i] * loadings).sum(-1)
            bottom = (across[i] * loadings**2).sum(-1)
            loadings[:, i] = np.clip(top / np.maximum(bottom, TINY), -1.0, 1.0)
    return loadings


def core_share(gram: Floats, members: Mapping[str, Sequence[int]]) -> Floats:
    """Mean share [B] of the vectors' variance on the common core; NaN below three clusters."""
    share: Floats = (core_loadings(gram, members) ** 2).mean(-1)
    return share
