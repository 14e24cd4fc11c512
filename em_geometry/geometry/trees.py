"""Clusters as trees of many distance matrices at once, and a map (docs/method.md: geometry)."""

from typing import Literal, get_args

import numpy as np
from scipy.cluster import hierarchy

from em_geometry.geometry.methods import pair_values
from em_geometry.stats.estimate import Floats, Ints

Linkage = Literal["average", "complete", "ward", "single"]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)


def distances(gram: Floats) -> Floats:
    """1 - cos, [..., n, n], zero on the diagonal."""
    return np.maximum(1.0 - gram, 0.0) * (1.0 - np.eye(gram.shape[-1]))


def merges(distance: Floats, linkage: Linkage) -> Floats:
    """The tree [n - 1, 4] of one distance matrix [n, n], as scipy's dendrogram takes it."""
    return np.asarray(hierarchy.linkage(pair_values(distance), linkage))


def agglomerate(distance: Floats, linkage: Linkage) -> tuple[Floats, Ints]:
    """Merges the nearest two clusters until one is left, for all matrices [..., n, n] at once.

    Lance-Williams updates, a loop over the n - 1 merges and none over replicates; trees are those
    of `scipy.cluster.hierarchy.linkage`.

    Returns:
        [..., n, n] heights at which two vectors first share a cluster; 0 for itself.
        [..., n - 1, n] labels of the clusters before each merge: n, n - 1, ..., 2 clusters.
    """
    n, lead = distance.shape[-1], distance.shape[:-2]
    current = distance.reshape(-1, n, n).copy()
    rows = np.arange(len(current))
    current[:, np.arange(n), np.arange(n)] = np.inf
    size, label = np.ones((len(current), n)), np.tile(np.arange(n), (len(current), 1))
    shared, labels = np.zeros_like(current), np.empty((len(current), n - 1, n), dtype=np.int64)
    for step in range(n - 1):
        labels[:, step] = label
        flat = current.reshape(len(current), -1).argmin(1)
        i, j = np.minimum(flat // n, flat % n), np.maximum(flat // n, flat % n)
        height = current[rows, i, j][:, None]
        in_i, in_j = label == i[:, None], label == j[:, None]
        joined = in_i[:, :, None] & in_j[:, None, :]
        shared = np.where(joined | joined.swapaxes(1, 2), height[:, :, None], shared)
        sizes = size[rows, i][:, None], size[rows, j][:, None], size
        merged = _update(linkage, current[rows, i], current[rows, j], height, *sizes)
        merged[rows, i] = np.inf
        current[rows, i] = current[rows, :, i] = merged
        current[rows, j] = current[rows, :, j] = np.inf
        size[rows, i] += size[rows, j]
        label = np.where(in_j, i[:, None], label)
    return shared.reshape(*lead, n, n), labels.reshape(*lead, n - 1, n)


def _update(
    linkage: Linkage, to_i: Floats, to_j: Floats, height: Floats, ni: Floats, nj: Floats, nk: Floats
) -> Floats:
    """Lance-Williams distances [m, n] of the merged clusters to all others (inf stays inf)."""
    if linkage == "single":
        return np.minimum(to_i, to_j)
    if linkage == "complete":
        return np.maximum(to_i, to_j)
    if linkage == "average":
        return np.asarray((ni * to_i + nj * to_j) / (ni + nj))
    squares = ((ni + nk) * to_i**2 + (nj + nk) * to_j**2 - nk * height**2) / (ni + nj + nk)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def heights(distance: Floats, linkage: Linkage) -> Floats:
    """Heights [..., pairs] at which two vectors first share a cluster, as `pair_values`."""
    return pair_values(agglomerate(distance, linkage)[0])


def silhouettes(distance: Floats, linkage: Linkage) -> Floats:
    """Mean silhouette [..., n - 2] of the cuts into k = 2 .. n - 1 clusters.

    A vector alone in its cluster has silhouette 0, as in scikit-learn.
    """
    n = distance.shape[-1]
    labels = agglomerate(distance, linkage)[1][..., :0:-1, :]
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
