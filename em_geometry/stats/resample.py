"""Named random streams, and sums over clusters (a question, a topic, a prompt)."""

from collections.abc import Sequence

import numpy as np

from em_geometry.hashing import stream_key
from em_geometry.stats.estimate import Floats, Ints


def stream(seed: int, *parts: str) -> np.random.Generator:
    """The random stream named by `parts`, whatever is drawn elsewhere."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *parts)))


def sum_by(parts: Sequence[np.ndarray], codes: Ints, clusters: int) -> Floats:
    """[cluster, part] sums of columns [row] over the rows of each cluster, whose `codes` [row]."""
    return np.stack([np.bincount(codes, part, clusters) for part in parts], axis=1)
