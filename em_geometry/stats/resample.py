"""Drawing again: named random streams, clusters drawn with replacement, and sums over them.

A cluster (a question, a topic, a prompt) brings all its rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from em_geometry.hashing import stream_key
from em_geometry.stats.arrays import Floats, Ints


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
