"""Two-dimensional maps of the vectors, for pictures only (METHOD.md: clusters).

Outside the replicated battery: coordinates are fixed only up to rotation and reflection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from em_geometry.geometry.clusters import distances
from em_geometry.geometry.gram import Floats
from em_geometry.geometry.pca import centred, components


@dataclass(frozen=True)
class Maps:
    """Coordinates [n, 2] and normalised stress (Kruskal's stress 1) of both kinds of map."""

    classical: Floats
    classical_stress: float
    smacof: Floats
    smacof_stress: float


def mds(gram: Floats, seed: int = 0) -> Maps:
    """Classical and metric (SMACOF) scaling of 1 - cos, [n, n], into the plane."""
    from sklearn.manifold import MDS

    distance = distances(gram)
    classical = components(centred(-(distance**2) / 2)).scores[:, :2]
    smacof = MDS(
        n_components=2, metric="precomputed", n_init=8, init="random", random_state=seed
    ).fit_transform(distance)
    return Maps(classical, _stress(distance, classical), smacof, _stress(distance, smacof))


def _stress(distance: Floats, points: Floats) -> float:
    shown = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(np.sqrt(((shown - distance) ** 2).sum() / (distance**2).sum()))
