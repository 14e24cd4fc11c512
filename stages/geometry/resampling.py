"""Resampled vectors as Gram matrices, without ever building the vectors (METHOD.md: calibration).

A measured vector is the mean of difference rows: per prompt, organism minus reference; or per
pair of prompts, harmful minus neutral. A resampled vector is another weighted sum of the same
rows, so its inner products need the rows' kernel only: G_b[i, j] = w_i' K_ij w_j. Rows of one
topic are resampled together, because prompts of a topic resemble each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial, prod

import numpy as np

from stages.common.hashing import stream_key
from stages.geometry.gram import Floats, Ints


def stream(seed: int, *parts: str) -> np.random.Generator:
    """The random stream named by `parts`, whatever is drawn elsewhere."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *parts)))


@dataclass(frozen=True)
class Topics:
    """Rows summed by topic: all that resampling by topic needs.

    Attributes:
        kernel: [n, n, T, T] inner products of the topic sums of two organisms.
        sizes: [T] rows in each topic.
    """

    kernel: Floats
    sizes: Floats

    @property
    def count(self) -> int:
        """Number of topics T."""
        return len(self.sizes)


def by_topic(rows: Floats, topics: Sequence[str]) -> Topics:
    """Topic sums of difference rows [n, R, width], `topics` [R]."""
    names = sorted(set(topics))
    member = np.array([[topic == name for topic in topics] for name in names], dtype=float)
    sums = member @ rows
    return Topics(np.einsum("itw,jsw->ijts", sums, sums, optimize=True), member.sum(1))


def weighted_grams(topics: Topics, weights: Floats) -> Floats:
    """Raw Gram matrices [B, n, n].

    Args:
        weights: [B, T] the same for all organisms, or [B, n, T] one set each.
    """
    n = topics.kernel.shape[0]
    each = weights[:, None, :] if weights.ndim == 2 else weights
    each = np.broadcast_to(each, (len(weights), n, topics.count))
    grams = np.empty((len(weights), n, n))
    for i in range(n):
        for j in range(i, n):
            products = (each[:, i] @ topics.kernel[i, j] * each[:, j]).sum(-1)
            grams[:, i, j] = grams[:, j, i] = products
    return grams


def bootstrap(rng: np.random.Generator, topics: Topics, replicates: int) -> Floats:
    """Raw Gram matrices of means over topics drawn with replacement."""
    share = np.full(topics.count, 1.0 / topics.count)
    drawn = rng.multinomial(topics.count, share, replicates).astype(float)
    return weighted_grams(topics, drawn / (drawn @ topics.sizes)[:, None])


def sign_flips(rng: np.random.Generator, topics: Topics, replicates: int) -> Floats:
    """Raw Gram matrices when no organism has a consistent difference.

    The rows of a topic change sign together, independently by topic and organism. For rows that
    are harmful minus neutral this is shuffling the two labels within pairs.
    """
    n = topics.kernel.shape[0]
    signs = rng.choice([-1.0, 1.0], (replicates, n, topics.count))
    return weighted_grams(topics, signs / topics.sizes.sum())


def halves(rng: np.random.Generator, topics: Topics, replicates: int) -> tuple[Floats, Floats]:
    """Raw Gram matrices [B, n, n] of random halves of the topics, and cosines [B, n] between.

    The second result is each organism's vector from one half against that from the other.
    """
    order = rng.permuted(np.tile(np.arange(topics.count), (replicates, 1)), axis=1)
    first = (order < topics.count // 2).astype(float)
    weights = [half / (half @ topics.sizes)[:, None] for half in (first, 1.0 - first)]
    grams = [weighted_grams(topics, w) for w in weights]
    own = np.diagonal(topics.kernel, axis1=0, axis2=1).transpose(2, 0, 1)
    between = np.einsum("bt,nts,bs->bn", weights[0], own, weights[1], optimize=True)
    lengths = [np.sqrt(np.diagonal(g, axis1=1, axis2=2)) for g in grams]
    return np.stack(grams), between / (lengths[0] * lengths[1])


def spectrum(rows: Floats) -> Floats:
    """Eigenvalues [k] of the covariance of difference rows [n, R, width] around their means."""
    residual = (rows - rows.mean(1, keepdims=True)).reshape(-1, rows.shape[-1])
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
