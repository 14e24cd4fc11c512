"""Clusters as trees of distances 1 - cos, and a map of them (docs/method.md: clusters)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy.cluster import hierarchy

from em_geometry.geometry.methods import pair_values
from em_geometry.stats.arrays import Floats, Ints

Linkage = Literal["average", "complete", "ward", "single"]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)


def distances(gram: Floats) -> Floats:
    """1 - cos, [..., n, n], zero on the diagonal."""
    apart: Floats = (1.0 - gram) * (1.0 - np.eye(gram.shape[-1]))
    return apart


def agglomerate(distance: Floats, linkage: Linkage) -> tuple[Floats, Ints]:
    """Trees of distance matrices [..., n, n] by scipy.

    Returns:
        [..., pairs] heights at which two vectors first share a cluster, as `pair_values`.
        [..., n - 2, n] cluster labels of the cuts into 2 .. n - 1 clusters.
    """
    n, lead = distance.shape[-1], distance.shape[:-2]
    condensed = pair_values(distance).reshape(-1, n * (n - 1) // 2)
    merges = [hierarchy.linkage(row, linkage) for row in condensed]
    heights = np.array([hierarchy.cophenet(tree) for tree in merges])
    cuts = np.array([hierarchy.cut_tree(tree, range(2, n)).T for tree in merges])
    return heights.reshape(*lead, -1), cuts.reshape(*lead, n - 2, n)


def silhouettes(distance: Floats, labels: Ints) -> Floats:
    """Mean silhouette [..., k] of cuts; 0 for a vector alone in its cluster, as in scikit-learn.

    Args:
        distance: [..., n, n].
        labels: [..., k, n] clusters of each cut, from 0.
    """
    member = (labels[..., None] == np.arange(distance.shape[-1])).astype(float)  # k, item, cluster
    size = member.sum(-2)[..., None, :]
    total = distance[..., None, :, :] @ member
    own = (size * member).sum(-1)
    inside = (total * member).sum(-1) / np.maximum(own - 1.0, 1.0)
    foreign = (member == 0.0) & (size > 0.0)
    outside = np.where(foreign, total / np.maximum(size, 1.0), np.inf).min(-1)
    scale = np.maximum(inside, outside)
    known = (own > 1.0) & (scale > 0.0)
    widths: Floats = np.where(known, (outside - inside) / np.where(known, scale, 1.0), 0.0)
    mean: Floats = widths.mean(-1)
    return mean


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
