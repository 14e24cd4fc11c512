"""Clusters as trees of distances 1 - cos, and a map of them (docs/method.md: clusters)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.cluster import hierarchy

from em_geometry.geometry.methods import pair_values
from em_geometry.stats.arrays import Floats

Linkage = Literal["average", "complete", "ward", "single"]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)


def distances(gram: Floats) -> Floats:
    """1 - cos, [..., n, n], zero on the diagonal."""
    return np.maximum(1.0 - gram, 0.0) * (1.0 - np.eye(gram.shape[-1]))


def merges(distance: Floats, linkage: Linkage) -> list[Floats]:
    """Trees of distance matrices [..., n, n], as scipy has them."""
    pairs = pair_values(distance)
    return [hierarchy.linkage(row, linkage) for row in pairs.reshape(-1, pairs.shape[-1])]


def heights(distance: Floats, linkage: Linkage) -> Floats:
    """Heights [..., pairs] at which two vectors first share a cluster, as `pair_values`."""
    found = np.array([hierarchy.cophenet(tree) for tree in merges(distance, linkage)])
    return found.reshape(pair_values(distance).shape)


def silhouettes(distance: Floats, linkage: Linkage) -> Floats:
    """Mean silhouette [..., n - 2] of the cuts into k = 2 .. n - 1 clusters.

    A vector alone in its cluster has silhouette 0, as in scikit-learn.
    """
    n, lead = distance.shape[-1], distance.shape[:-2]
    cuts = [hierarchy.cut_tree(tree, range(2, n)).T for tree in merges(distance, linkage)]
    labels = np.array(cuts).reshape(*lead, n - 2, n)
    member = (labels[..., None] == np.arange(n)).astype(float)  # [..., k, item, cluster]
    size = member.sum(-2)[..., None, :]
    total = distance[..., None, :, :] @ member
    own = (size * member).sum(-1)
    inside = (total * member).sum(-1) / np.maximum(own - 1.0, 1.0)
    foreign = (member == 0.0) & (size > 0.0)
    outside = np.where(foreign, total / np.maximum(size, 1.0), np.inf).min(-1)
    scale = np.maximum(inside, outside)
    known = (own > 1.0) & (scale > 0.0)
    widths: Floats = np.where(known, (outside - inside) / np.where(known, scale, 1.0), 0.0)
    return np.asarray(widths.mean(-1))


def planar_map(gram: Floats, seed: int = 0) -> tuple[Floats, float]:
    """Metric scaling (SMACOF) of 1 - cos, [n, n], into the plane, for pictures only.

    Returns:
        coordinates [n, 2], fixed only up to rotation and reflection; and Kruskal's stress 1.
    """
    from sklearn.manifold import MDS

    distance = distances(gram)
    points = MDS(
        n_components=2, metric="precomputed", n_init=8, init="random", random_state=seed
    ).fit_transform(distance)
    shown = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return points, float(np.sqrt(((shown - distance) ** 2).sum() / (distance**2).sum()))
