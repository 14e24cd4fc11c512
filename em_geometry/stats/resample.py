"""Drawing again: named random streams, and the cluster bootstrap with draws that are shared.

A cluster (a question, a topic, a prompt) is drawn with replacement and brings all its rows. What
is compared is summed over the same draws, so that differences and ratios are paired.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from em_geometry.hashing import stream_key
from em_geometry.stats.arrays import Floats, Ints

CHUNK = 4_000_000  # numbers of drawn clusters in memory at once


def stream(seed: int, *parts: str) -> np.random.Generator:
    """The random stream named by `parts`, whatever is drawn elsewhere."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *parts)))


def drawn(rng: np.random.Generator, count: int, replicates: int) -> Floats:
    """[replicates, count]: how often each of `count` things is drawn, with replacement."""
    return rng.multinomial(count, np.full(count, 1.0 / count), replicates).astype(np.float64)


def first_half(rng: np.random.Generator, count: int, replicates: int) -> Floats:
    """[replicates, count]: 1 for what is in the first of two random halves, else 0."""
    order = rng.permuted(np.tile(np.arange(count), (replicates, 1)), axis=1)
    return (order < count // 2).astype(np.float64)


def sum_by(parts: Sequence[np.ndarray], codes: Ints, clusters: int) -> Floats:
    """[cluster, part] sums of columns [row] over the rows of each cluster, whose `codes` [row]."""
    return np.stack([np.bincount(codes, part, clusters) for part in parts], axis=1)


def resample(sums: Floats, rng: np.random.Generator, replicates: int) -> Floats:
    """[replicate, group, part] sums over clusters drawn with replacement; 0 without clusters.

    Args:
        sums: [group, cluster, part]; all groups share each draw.
    """
    groups, clusters, parts = sums.shape
    draws = np.zeros((replicates, groups, parts))
    if clusters == 0:
        return draws
    flat = sums.transpose(1, 0, 2).reshape(clusters, groups * parts)
    step = max(1, CHUNK // clusters)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        times = drawn(rng, clusters, size)
        draws[start : start + size] = (times @ flat).reshape(size, groups, parts)
    return draws
