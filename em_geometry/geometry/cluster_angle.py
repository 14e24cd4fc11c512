"""Test 1: the angle between two clusters (METHOD.md: cluster_angle)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from em_geometry.geometry.gram import Floats, angles_deg, divide


def cluster_angle(gram: Floats, first: Sequence[int], second: Sequence[int]) -> Floats:
    """Angle [...] in degrees between the sums of two clusters; NaN where a sum vanishes.

    Unit vectors give the paper's test; a Gram matrix of raw vectors gives the raw-norm variant.
    """
    mixed = gram[..., first, :][..., second].sum((-2, -1))
    squares = [gram[..., c, :][..., c].sum((-2, -1)) for c in (first, second)]
    length = np.sqrt(np.maximum(squares[0], 0.0) * np.maximum(squares[1], 0.0))
    return angles_deg(divide(mixed, length))
