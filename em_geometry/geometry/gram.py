"""Gram matrices: what every method and test of the geometry is a function of.

Shapes: `gram` is [..., n, n]; leading axes are replicates and are never looped over. Inside the
battery NaN stands for "undefined"; names and reasons are put on it at the border
(`em_geometry.geometry.battery`).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from em_geometry.stats.arrays import Floats, Ints

TINY = 1e-12  # squared lengths and variances below this are rounding noise of unit vectors


def unit_gram(vectors: npt.NDArray[np.floating]) -> Floats:
    """Cosines [..., n, n] of the rows of `vectors` [..., n, d] (docs/method.md: similarity)."""
    rows = np.asarray(vectors, dtype=np.float64)
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    products: Floats = rows @ np.swapaxes(rows, -1, -2)
    return products


def cosines(gram: Floats) -> Floats:
    """Cosines [..., n, n] of vectors with Gram matrix `gram`; NaN for vectors of no length."""
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    lengths = np.sqrt(np.where(squares > TINY, squares, np.nan))
    scaled: Floats = gram / lengths[..., :, None] / lengths[..., None, :]
    return np.clip(scaled, -1.0, 1.0)


def angles_deg(cosine: Floats) -> Floats:
    """Angles in degrees; cosines beyond +-1 by rounding are brought back."""
    angles: Floats = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    return angles


def subsets(n: int, size: int) -> Ints:
    """All index subsets [m, size] of 0..n-1, in lexicographic order."""
    return np.array(list(combinations(range(n), size)), dtype=np.int64).reshape(-1, size)


def sub_grams(gram: Floats, indices: Ints) -> Floats:
    """Gram matrices [..., m, k, k] of the subsets `indices` [m, k]."""
    return gram[..., indices[:, :, None], indices[:, None, :]]


def pair_values(matrix: Floats) -> Floats:
    """Entries above the diagonal, [..., n (n - 1) / 2], row by row."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def divide(top: Floats, bottom: Floats) -> Floats:
    """`top / bottom`, NaN where the bottom is zero or rounding noise."""
    quotient: Floats = top / np.where(np.abs(bottom) > TINY, bottom, np.nan)
    return quotient


def pearson(x: Floats, y: Floats) -> Floats:
    """Pearson correlation along the last axis; NaN where either side does not vary."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    return divide((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def remove_direction(gram: Floats, along: Floats) -> Floats:
    """Gram matrix after projecting out a unit direction.

    Args:
        gram: [..., n, n].
        along: [..., n], components of the vectors along the direction.
    """
    removed: Floats = gram - along[..., :, None] * along[..., None, :]
    return removed
