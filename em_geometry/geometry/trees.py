"""Clusters as trees of many distance matrices at once, and maps of one (docs/method.md: clusters).

The merges are found by Lance-Williams updates, one loop over the n - 1 merges and none over
replicates. Distances are 1 - cos; trees agree with `scipy.cluster.hierarchy.linkage`. Maps are for
pictures only: their coordinates are fixed only up to rotation and reflection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from em_geometry.geometry.gram import pair_values, pearson
from em_geometry.geometry.methods import centred, components
from em_geometry.stats.arrays import Floats, Ints

Linkage = Literal["average", "complete", "ward", "single"]
LINKAGES: tuple[Linkage, ...] = get_args(Linkage)


@dataclass(frozen=True)
class Tree:
    """Dendrograms of distance matrices over n vectors.

    Attributes:
        cophenetic: [..., n, n] height at which two vectors first share a cluster; 0 for itself.
        labels: [..., n - 1, n] cluster labels before each merge: n, n - 1, ..., 2 clusters.
    """

    cophenetic: Floats
    labels: Ints


def distances(gram: Floats) -> Floats:
    """1 - cos, [..., n, n], zero on the diagonal."""
    n = gram.shape[-1]
    apart: Floats = (1.0 - gram) * (1.0 - np.eye(n))
    return apart


def agglomerate(distance: Floats, linkage: Linkage) -> Tree:
    """Merges the nearest two clusters until one is left, for all matrices [..., n, n] at once."""
    n = distance.shape[-1]
    current = distance.reshape(-1, n, n).copy()
    count = len(current)
    rows = np.arange(count)
    current[:, np.arange(n), np.arange(n)] = np.inf
    size = np.ones((count, n))
    label = np.tile(np.arange(n), (count, 1))
    cophenetic = np.zeros_like(current)
    labels = np.empty((count, n - 1, n), dtype=np.int64)
    for step in range(n - 1):
        labels[:, step] = label
        flat = current.reshape(count, -1).argmin(1)
        i, j = np.minimum(flat // n, flat % n), np.maximum(flat // n, flat % n)
        height = current[rows, i, j]
        in_i, in_j = label == i[:, None], label == j[:, None]
        joined = in_i[:, :, None] & in_j[:, None, :]
        joined |= np.swapaxes(joined, 1, 2)
        cophenetic = np.where(joined, height[:, None, None], cophenetic)
        sizes = (size[rows, i][:, None], size[rows, j][:, None], size)
        merged = _update(linkage, current[rows, i], current[rows, j], height[:, None], *sizes)
        merged[rows, i] = np.inf
        current[rows, i] = current[rows, :, i] = merged
        current[rows, j] = current[rows, :, j] = np.inf
        size[rows, i] += size[rows, j]
        label = np.where(in_j, i[:, None], label)
    lead = distance.shape[:-2]
    return Tree(cophenetic.reshape(*lead, n, n), labels.reshape(*lead, n - 1, n))


def _update(
    linkage: Linkage, to_i: Floats, to_j: Floats, height: Floats, ni: Floats, nj: Floats, nk: Floats
) -> Floats:
    """Lance-Williams distances [..., n] of the merged cluster to all others (inf stays inf)."""
    if linkage == "single":
        return np.minimum(to_i, to_j)
    if linkage == "complete":
        return np.maximum(to_i, to_j)
    if linkage == "average":
        mean: Floats = (ni * to_i + nj * to_j) / (ni + nj)
        return mean
    squares = ((ni + nk) * to_i**2 + (nj + nk) * to_j**2 - nk * height**2) / (ni + nj + nk)
    root: Floats = np.sqrt(np.maximum(squares, 0.0))
    return root


def cophenetic_r(distance: Floats, tree: Tree) -> Floats:
    """Pearson r [...] of distances and merge heights; NaN where either does not vary."""
    return pearson(pair_values(distance), pair_values(tree.cophenetic))


def silhouettes(distance: Floats, tree: Tree) -> Floats:
    """Mean silhouette [..., n - 2] of the cuts into k = 2 .. n - 1 clusters.

    A vector alone in its cluster has silhouette 0, as in scikit-learn.
    """
    n = distance.shape[-1]
    labels = tree.labels[..., :0:-1, :]  # [..., n - 2, n]: 2 .. n - 1 clusters
    member = (labels[..., None] == np.arange(n)).astype(float)  # [..., k, item, cluster]
    size = member.sum(-2)  # [..., k, cluster]
    total = distance[..., None, :, :] @ member  # [..., k, item, cluster]
    own = (size[..., None, :] * member).sum(-1)
    inside = (total * member).sum(-1) / np.maximum(own - 1.0, 1.0)
    foreign = (member == 0.0) & (size[..., None, :] > 0.0)
    means = np.where(foreign, total / np.maximum(size[..., None, :], 1.0), np.inf)
    outside = means.min(-1)
    scale = np.maximum(inside, outside)
    value = np.where(
        (own > 1.0) & (scale > 0.0), (outside - inside) / np.where(scale > 0, scale, 1), 0.0
    )
    mean: Floats = value.mean(-1)
    return mean


def flat_labels(tree: Tree, k: int) -> Ints:
    """Labels [..., n] of the cut into k clusters, 2 <= k <= n."""
    return tree.labels[..., tree.labels.shape[-1] - k, :]


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
