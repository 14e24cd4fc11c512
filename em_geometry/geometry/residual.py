"""Method 5 and test 3: cosines after removing the mean direction (METHOD.md: residual).

Three vectors of equal cosine rho have residual cosines of exactly -1/2, so the reduction is
1 - 1/(2 rho) and never above 50 %, however strong their common core.
"""

from __future__ import annotations

import numpy as np

from em_geometry.geometry.gram import Floats, cosines, divide, pair_values, remove_direction

MIN_ORIGINAL = 0.02  # a ratio to a smaller original cosine says nothing (METHOD.md: residual)


def residual_cosines(gram: Floats) -> Floats:
    """Cosines [..., k, k] of v - (v.m) m, m the mean direction; NaN where nothing is left."""
    sums = gram.sum(-1)
    length = np.sqrt(np.maximum(sums.sum(-1), 0.0))
    return cosines(remove_direction(gram, divide(sums, length[..., None])))


def reduction_pct(gram: Floats, residual: Floats) -> Floats:
    """Mean over pairs [...] of (1 - |residual| / |original|) in percent.

    NaN where an original cosine is below `MIN_ORIGINAL` or a residual is undefined.
    """
    original = np.abs(pair_values(gram))
    ratio = np.abs(pair_values(residual)) / np.where(original < MIN_ORIGINAL, np.nan, original)
    mean: Floats = 100.0 * (1.0 - ratio).mean(-1)
    return mean


def mean_drop(gram: Floats, residual: Floats) -> Floats:
    """Mean original cosine minus mean residual cosine [...]."""
    drop: Floats = pair_values(gram).mean(-1) - pair_values(residual).mean(-1)
    return drop
