"""Method 1: is a triplet captured by one or two directions? (METHOD.md: subspace)

The rank-k reconstruction is not renormalised: renormalised rank-1 reconstructions have cosines
of +-1 only, so their correlation is undefined.
"""

from __future__ import annotations

import numpy as np

from stages.geometry.gram import Floats, pair_values, pearson


def singular_values(gram: Floats) -> Floats:
    """Singular values [..., n] of the stacked vectors, largest first."""
    values = np.linalg.eigvalsh(gram)[..., ::-1]
    roots: Floats = np.sqrt(np.maximum(values, 0.0))
    return roots


def reconstructions(gram: Floats) -> Floats:
    """Gram matrices [..., n, n, n] of the best rank-k reconstructions, axis -3 is k = 1..n."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]
    columns = np.swapaxes(vectors, -1, -2)
    parts = values[..., None, None] * columns[..., :, None] * columns[..., None, :]
    cumulated: Floats = np.cumsum(parts, axis=-3)
    return cumulated


def correlations(gram: Floats) -> tuple[Floats, Floats]:
    """Pearson r [..., n] of each reconstruction with `gram`: full matrix, off-diagonal pairs.

    NaN where the entries of either matrix do not vary.
    """
    approximations = reconstructions(gram)
    original = np.broadcast_to(gram[..., None, :, :], approximations.shape)
    flat = (*approximations.shape[:-2], -1)
    full = pearson(approximations.reshape(flat), original.reshape(flat))
    off = pearson(pair_values(approximations), pair_values(original))
    return full, off
