"""A core that all vectors share: simulated, and estimated (docs/method.md: calibration).

Simulated: x_i = sqrt(g) s + sqrt(rho_c - g) u_c + sqrt(1 - rho_c) e_i, a core s that all vectors
share, a part u_c of their cluster, and a part of their own, all independent and isotropic. The
expected cosine is rho_c within cluster c and g across clusters.

Estimated: one factor with signed loadings. Cosines across clusters are modelled as a_i a_j; those
within clusters are left free, because a cluster's own part raises them too. With three or more
clusters the loadings are identified up to one common sign even with two members each; with two
clusters only products of loadings of different clusters are, so the share is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from em_geometry.geometry.methods import TINY, Members, block, cosines
from em_geometry.stats.arrays import Floats

ROUNDS = 100  # of coordinate descent; far more than six vectors need


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


def core_weights(n: int, members: Members, within: Mapping[str, float], share: float) -> Floats:
    """Weights [n, 1 + clusters + n] of the vectors on core, cluster parts and own parts.

    Args:
        n: number of vectors; those of no cluster have core and own part only.
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
    rng: np.random.Generator, replicates: int, dimension: int, weights: Floats
) -> Floats:
    """Cosines [replicates, n, n] of vectors with these weights on isotropic parts."""
    grams = independent_grams(rng, replicates, weights.shape[1], dimension)
    return cosines(weights @ grams @ weights.T)


def core_share(gram: Floats, members: Members) -> Floats:
    """Share [...] of variance that vectors of different clusters have on the common core.

    The mean of |a_i a_j| over pairs across clusters; g when every vector has a share g. (The
    mean of a_i^2 is no use: a vector alone can take a loading of 1 to fit noise.) It is positive
    for independent vectors too, so it is read against its null. NaN below three clusters.

    The loadings, |a| <= 1, are fitted by least squares: coordinate descent from the leading
    eigenvector of the cosines across clusters, for all matrices [..., n, n] at once.
    """
    if len(members) < 3:
        return np.full(gram.shape[:-2], np.nan)
    order = [i for indices in members.values() for i in indices]
    owner = np.array([c for c, indices in enumerate(members.values()) for _ in indices])
    across = (owner[:, None] != owner).astype(float)
    target = block(gram, order, order) * across
    values, vectors = np.linalg.eigh(target)
    loadings = vectors[..., -1] * np.sqrt(np.maximum(values[..., -1:], 0.0))
    for _ in range(ROUNDS):
        for i in range(len(order)):
            top = (target[..., i, :] * loadings).sum(-1)
            bottom = (across[i] * loadings**2).sum(-1)
            loadings[..., i] = np.clip(top / np.maximum(bottom, TINY), -1.0, 1.0)
    size = np.abs(loadings)
    implied = (size[..., :, None] * size[..., None, :] * across).sum((-2, -1))
    share: Floats = implied / across.sum()
    return share
