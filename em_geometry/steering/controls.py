"""Control directions: random ones of the same norm, and vectors made orthogonal to another."""

from __future__ import annotations

import numpy as np

from em_geometry.hashing import stream_key


def random_direction(width: int, seed: int, name: str) -> np.ndarray:
    """A uniformly random unit vector float32 [width], fixed by seed and name."""
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "direction", name)))
    vector = random.standard_normal(width)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def orthogonalised(vector: np.ndarray, against: np.ndarray) -> np.ndarray | None:
    """`vector` without its part along `against`, brought back to unit length.

    Returns:
        float32 [width]; None when the two are parallel, so that nothing is left.
    """
    v, a = vector.astype(np.float64), against.astype(np.float64)
    rest = v - (v @ a) / (a @ a) * a
    norm = np.linalg.norm(rest)
    if norm < 1e-6 * np.linalg.norm(v):
        return None
    return (rest / norm).astype(np.float32)
