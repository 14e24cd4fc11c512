"""Method 3: principal components of the unit vectors (METHOD.md: pca).

Sign convention: the entry of largest magnitude of every component is positive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from em_geometry.geometry.gram import Floats, divide


@dataclass(frozen=True)
class Components:
    """Principal components of n vectors.

    Attributes:
        variances: [..., n] eigenvalues, largest first.
        loadings: [..., n, n] eigenvectors of the (centred) Gram matrix, a component a column.
    """

    variances: Floats
    loadings: Floats

    @property
    def shares(self) -> Floats:
        """Share [..., n] of the variance on each component; NaN when there is none."""
        return divide(self.variances, self.variances.sum(-1, keepdims=True))

    @property
    def scores(self) -> Floats:
        """Coordinates [..., n, n] of the vectors on the components."""
        scaled: Floats = self.loadings * np.sqrt(self.variances)[..., None, :]
        return scaled


def centred(gram: Floats) -> Floats:
    """Gram matrix of the vectors minus their mean: H G H."""
    rows = gram - gram.mean(-1, keepdims=True)
    columns: Floats = rows - rows.mean(-2, keepdims=True)
    return columns


def components(gram: Floats) -> Components:
    """Eigenvalues and sign-fixed eigenvectors of `gram` (pass `centred(gram)` for centred PCA)."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[..., ::-1], 0.0), vectors[..., ::-1]
    largest = np.abs(vectors).argmax(-2)[..., None, :]
    signs = np.sign(np.take_along_axis(vectors, largest, axis=-2))
    return Components(values, vectors * signs)


def along_first(gram: Floats, found: Components) -> Floats:
    """Components [..., n] of the (uncentred) vectors along the first principal direction."""
    weights = found.loadings[..., :, :1]
    length = np.sqrt(found.variances[..., :1])
    return divide((gram @ weights)[..., 0], length)
