"""Resampled vectors as Gram matrices, without ever building the vectors (METHOD.md: calibration).

A measured vector is a weighted sum of rows. A resampled vector is another weighted sum of the same
rows, so its inner products need the rows' kernel only: G_b[i, j] = w_i' K_ij w_j.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import factorial, prod

import numpy as np

from em_geometry.geometry.gram import Floats, Ints
from em_geometry.hashing import stream_key


def stream(seed: int, *parts: str) -> np.random.Generator:
    """The random stream named by `parts`, whatever is drawn elsewhere."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *parts)))


def weighted_grams(kernel: Floats, weights: Floats) -> Floats:
    """Raw Gram matrices [B, n, n] of weighted sums of rows.

    Args:
        kernel: [n, n, T, T] inner products of the rows of two organisms.
        weights: [B, T] the same for all organisms, or [B, n, T] one set each.
    """
    n = kernel.shape[0]
    each = _each(weights, n)
    grams = np.empty((len(weights), n, n))
    for i in range(n):
        for j in range(i, n):
            products = (each[:, i] @ kernel[i, j] * each[:, j]).sum(-1)
            grams[:, i, j] = grams[:, j, i] = products
    return grams


def _each(weights: Floats, n: int) -> Floats:
    """Weights [B, n, T] of [B, T] or [B, n, T]."""
    each = weights[:, None, :] if weights.ndim == 2 else weights
    return np.broadcast_to(each, (len(weights), n, weights.shape[-1]))


def drawn(rng: np.random.Generator, count: int, replicates: int) -> Floats:
    """[B, count]: how often each of `count` things is drawn, with replacement."""
    return rng.multinomial(count, np.full(count, 1.0 / count), replicates).astype(float)


def first_half(rng: np.random.Generator, count: int, replicates: int) -> Floats:
    """[B, count]: 1 for what is in the first of two random halves, else 0."""
    order = rng.permuted(np.tile(np.arange(count), (replicates, 1)), axis=1)
    return (order < count // 2).astype(float)


def halves(kernel: Floats, first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Raw Gram matrices [2, B, n, n] of two halves, and cosines [B, n] between them.

    The second result is each organism's vector from one half against that from the other.
    """
    n = kernel.shape[0]
    grams = [weighted_grams(kernel, weights) for weights in (first, second)]
    own = np.diagonal(kernel, axis1=0, axis2=1).transpose(2, 0, 1)
    a, b = (_each(weights, n) for weights in (first, second))
    between = np.einsum("bnt,nts,bns->bn", a, own, b, optimize=True)
    lengths = [np.sqrt(np.diagonal(g, axis1=1, axis2=2)) for g in grams]
    return np.stack(grams), between / (lengths[0] * lengths[1])


def spectrum(residual: Floats) -> Floats:
    """Eigenvalues [k] of the covariance of rows [R, width] that lie around their means."""
    side = residual if residual.shape[0] <= residual.shape[1] else residual.T
    values = np.linalg.eigvalsh(side @ side.T)[::-1] / len(residual)
    kept: Floats = values[values > values[0] * 1e-12]
    return kept


def effective_dimension(eigenvalues: Floats) -> float:
    """Participation ratio: the dimension in which isotropic cosines spread as widely."""
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def covariance_draws(
    rng: np.random.Generator, eigenvalues: Floats, replicates: int, n: int
) -> Floats:
    """Gram matrices [B, n, n] of n independent draws from N(0, Sigma), Sigma by its spectrum."""
    roots = np.sqrt(eigenvalues)
    grams = np.empty((replicates, n, n))
    block = max(1, 4_000_000 // (n * len(roots)))  # 32 MB of normals at a time
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        draws = rng.standard_normal((size, n, len(roots))) * roots
        grams[start : start + size] = draws @ np.swapaxes(draws, 1, 2)
    return grams


def partitions(
    members: Sequence[Sequence[int]], n: int, limit: int, rng: np.random.Generator
) -> Ints:
    """Reassignments [m, n] of the clustered vectors to clusters of the same sizes.

    Row p says which vector stands where; the observed assignment is among them. All of them when
    they are at most `limit`, else that many at random.
    """
    slots = [i for indices in members for i in indices]
    sizes = [len(indices) for indices in members]
    if _assignments(sizes) <= limit:
        found = list(_splits(tuple(slots), sizes))
    else:
        found = [tuple(slots), *(tuple(rng.permutation(slots)) for _ in range(limit - 1))]
    table = np.tile(np.arange(n), (len(found), 1))
    table[:, slots] = np.array(found, dtype=np.int64).reshape(len(found), len(slots))
    return table


def _assignments(sizes: Sequence[int]) -> int:
    """Number of ways to fill clusters of these sizes."""
    return factorial(sum(sizes)) // prod(factorial(size) for size in sizes)


def _splits(left: tuple[int, ...], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Orders of `left` that differ in which cluster some member is in."""
    if not sizes:
        yield ()
        return
    for chosen in combinations(left, sizes[0]):
        rest = tuple(i for i in left if i not in chosen)
        for tail in _splits(rest, sizes[1:]):
            yield chosen + tail
