"""Test 2: how much of a vector lies in the span of a cluster (METHOD.md: orthogonality)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from em_geometry.geometry.gram import TINY, Floats


def span_projection(gram: Floats, vectors: Sequence[int], basis: Sequence[int]) -> Floats:
    """Length [..., len(vectors)] of each unit vector's projection on the span of `basis`.

    sqrt(b' Gss^+ b) with b the cosines with the basis; collinear members span a smaller space.
    """
    cosine = gram[..., vectors, :][..., basis]
    values, directions = np.linalg.eigh(gram[..., basis, :][..., basis])
    kept = values > np.sqrt(TINY)
    weights = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    squares = ((cosine @ directions) ** 2 * weights[..., None, :]).sum(-1)
    lengths: Floats = np.sqrt(np.clip(squares, 0.0, 1.0))
    return lengths
