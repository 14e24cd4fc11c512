"""Test 5: one cluster's energy on the other's first component (METHOD.md: cross_variance).

With two members the centred first component is their difference, whatever they share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from em_geometry.geometry.gram import Floats, divide
from em_geometry.geometry.pca import components


def explained_pct(
    gram: Floats, source: Sequence[int], target: Sequence[int], *, centre: bool
) -> Floats:
    """Percent [...] of the target cluster's energy on the source cluster's first component.

    Args:
        gram: [..., n, n] of unit vectors, or of raw ones for the raw-norm variant.
        centre: subtract each cluster's own mean first; then a single member, or members that
            are equal, leave nothing and the result is NaN.
    """
    blocks = {
        (a, b): gram[..., rows, :][..., columns]
        for a, rows in (("s", source), ("t", target))
        for b, columns in (("s", source), ("t", target))
    }
    if centre:
        blocks = {
            key: b
            - b.mean(-1, keepdims=True)
            - b.mean(-2, keepdims=True)
            + b.mean((-2, -1))[..., None, None]
            for key, b in blocks.items()
        }
    found = components(blocks["s", "s"])
    on_first = (blocks["t", "s"] @ found.loadings[..., :, :1])[..., 0]
    energy = np.trace(blocks["t", "t"], axis1=-2, axis2=-1)
    return 100.0 * divide((on_first**2).sum(-1), found.variances[..., 0] * energy)
