"""Method 1: is a triplet captured by one or two directions? (METHOD.md: subspace)

The rank-k reconstruction is not renormalised: renormalised rank-1 reconstructions have cosines
of +-1 only, so their correlation is undefined.
"""

from __future__ import annotations

import numpy as np

from em_geometry.geometry.gram import Floats, pair_values, pearson

RANKS = (1, 2)


def low_rank(gram: Floats) -> tuple[Floats, Floats, Floats]:
    """Singular values [..., n] of the stacked vectors, and Pearson r [..., 2] for ranks 1 and 2.

    r is that of the Gram matrix of the best rank-k reconstruction with `gram`, first over the
    full matrix, then over the pairs; NaN where the entries of either do not vary.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]
    flat = (*gram.shape[:-2], -1)
    full, off, approximation = [], [], np.zeros_like(gram)
    for k in RANKS:
        part = vectors[..., :, k - 1]
        weighted = part * values[..., k - 1, None]
        approximation = approximation + weighted[..., :, None] * part[..., None, :]
        full.append(pearson(approximation.reshape(flat), gram.reshape(flat)))
        off.append(pearson(pair_values(approximation), pair_values(gram)))
    return np.sqrt(values), np.stack(full, axis=-1), np.stack(off, axis=-1)
