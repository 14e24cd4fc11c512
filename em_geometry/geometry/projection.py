"""Method 4: projections on the mean direction of a reference pair (METHOD.md: projection)."""

from __future__ import annotations

import numpy as np

from em_geometry.geometry.gram import Floats, Ints, divide


def on_pair_means(gram: Floats, pairs: Ints) -> Floats:
    """Projections [..., m, n] of all vectors on the mean direction of each pair [m, 2].

    NaN where the two vectors of the pair cancel.
    """
    first, second = pairs[:, 0], pairs[:, 1]
    sums = gram[..., first, :] + gram[..., second, :]
    squares = gram[..., first, first] + gram[..., second, second] + 2 * gram[..., first, second]
    return divide(sums, np.sqrt(np.maximum(squares, 0.0))[..., None])
