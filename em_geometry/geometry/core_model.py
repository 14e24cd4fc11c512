"""Vectors with and without a common core, simulated as Gram matrices (METHOD.md: calibration).

x_i = sqrt(g) s + sqrt(rho_c - g) u_c + sqrt(1 - rho_c) e_i: a core s that all vectors share, a
part u_c of their cluster, and a part of their own, all independent and isotropic in `dimension`
dimensions. The expected cosine is rho_c within cluster c and g across clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from em_geometry.geometry.gram import Floats, cosines


def independent_grams(
    rng: np.random.Generator, replicates: int, count: int, dimension: int
) -> Floats:
    """Gram matrices [replicates, count, count] of independent isotropic normal vectors.

    Drawn through Bartlett's decomposition, so the cost does not depend on the dimension.
    Divided by the dimension: the expected diagonal is 1.
    """
    columns = min(count, dimension)
    lower = np.tril(rng.standard_normal((replicates, count, columns)), -1)
    freedom = dimension - np.arange(columns)
    diagonal = np.arange(columns)
    lower[:, diagonal, diagonal] = np.sqrt(rng.chisquare(freedom, (replicates, columns)))
    grams: Floats = lower @ np.swapaxes(lower, -1, -2) / dimension
    return grams


def core_loadings(
    n: int, members: Mapping[str, Sequence[int]], within: Mapping[str, float], share: float
) -> Floats:
    """Weights [n, 1 + clusters + n] of the vectors on core, cluster parts and own parts.

    Args:
        n: number of vectors.
        members: cluster -> positions; vectors of no cluster have core and own part only.
        within: cluster -> expected cosine within; raised to `share` where it is smaller.
        share: g, the part of every vector's variance that lies on the core.
    """
    weights = np.zeros((n, 1 + len(members) + n))
    own = np.full(n, 1.0 - share)
    weights[:, 0] = np.sqrt(share)
    for c, (cluster, indices) in enumerate(members.items()):
        tightness = max(within.get(cluster, share), share)
        weights[indices, 1 + c] = np.sqrt(tightness - share)
        own[list(indices)] = 1.0 - tightness
    weights[:, 1 + len(members) :] = np.diag(np.sqrt(own))
    return weights


def core_grams(
    rng: np.random.Generator,
    replicates: int,
    dimension: int,
    members: Mapping[str, Sequence[int]],
    within: Mapping[str, float],
    share: float,
    n: int,
) -> Floats:
    """Cosines [replicates, n, n] of vectors with a common core of variance share `share`."""
    weights = core_loadings(n, members, within, share)
    grams = independent_grams(rng, replicates, weights.shape[1], dimension)
    return cosines(weights @ grams @ weights.T)
