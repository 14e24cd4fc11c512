"""What measured vectors are made of, drawn again as Gram matrices (docs/method.md: calibration).

A measured vector is a mean of rows. A resampled vector is another weighted sum of the same rows, so
its inner products need the rows' kernel only: G_b[i, j] = w_b' K_ij w_b; the vectors are never
built. Prompts of a topic resemble each other and are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from em_geometry.stats.arrays import Floats
from em_geometry.stats.resample import drawn, first_half

BLOCK = 4_000_000  # numbers drawn at a time


@dataclass(frozen=True)
class PromptRows:
    """Vectors that are the mean of difference rows, and can be drawn again."""

    differences: Floats  # [n, R, width]: organism minus reference, or harmful minus neutral
    topic: Sequence[str]  # [R] of each row

    @cached_property
    def _member(self) -> Floats:
        """[T, R]: 1 where a row is of a topic."""
        names = sorted(set(self.topic))
        return np.array([[topic == name for topic in self.topic] for name in names], float)

    @cached_property
    def _kernel(self) -> Floats:
        """[n, n, T, T] inner products of the topic sums of two organisms."""
        sums = self._member @ self.differences
        return np.asarray(np.einsum("itw,jsw->ijts", sums, sums, optimize=True))

    @property
    def vectors(self) -> Floats:
        """[n, width]"""
        return np.asarray(self.differences.mean(1))

    @property
    def residuals(self) -> Floats:
        """[n R, width] rows of all organisms around their means."""
        centred = self.differences - self.differences.mean(1, keepdims=True)
        return np.asarray(centred.reshape(-1, centred.shape[-1]))

    @property
    def topics(self) -> int:
        """Number of topics."""
        return len(self._member)

    def bootstrap(self, rng: np.random.Generator, replicates: int) -> Floats:
        """Raw Gram matrices [B, n, n], topics drawn with replacement."""
        return self._grams(self._mean(drawn(rng, self.topics, replicates)))

    def without_topic(self) -> Floats:
        """Raw Gram matrices [T, n, n], one topic left out at a time (for the jackknife)."""
        return self._grams(self._mean(1.0 - np.eye(self.topics)))

    def _grams(self, weights: Floats) -> Floats:
        """Raw Gram matrices [B, n, n] under weights [B, T] of the topic sums."""
        n = len(self.differences)
        grams = np.empty((len(weights), n, n))
        for i in range(n):
            for j in range(i, n):
                products = (weights @ self._kernel[i, j] * weights).sum(-1)
                grams[:, i, j] = grams[:, j, i] = products
        return grams

    def reliability(self, rng: np.random.Generator, replicates: int) -> Floats:
        """Cosines [B, n] of each vector from half the topics with that from the other half."""
        half = first_half(rng, self.topics, replicates)
        a, b = self._mean(half), self._mean(1.0 - half)
        own = np.diagonal(self._kernel, axis1=0, axis2=1).transpose(2, 0, 1)
        between, first, second = (
            np.einsum("bt,nts,bs->bn", x, own, y, optimize=True)
            for x, y in ((a, b), (a, a), (b, b))
        )
        return np.asarray(between / np.sqrt(first * second))

    def _mean(self, counts: Floats) -> Floats:
        """Weights [B, T] of the topic sums in a mean over rows, each topic so often."""
        return np.asarray(counts / (counts @ self._member.sum(1))[:, None])


def spectrum(residual: Floats) -> Floats:
    """Eigenvalues [k] of the covariance of rows [R, width] that lie around their means."""
    side = residual if residual.shape[0] <= residual.shape[1] else residual.T
    values = np.linalg.eigvalsh(side @ side.T)[::-1] / len(residual)
    return np.asarray(values[values > values[0] * 1e-12])


def effective_dimension(eigenvalues: Floats) -> float:
    """Participation ratio: the dimension in which isotropic cosines spread as widely."""
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def covariance_draws(
    rng: np.random.Generator, eigenvalues: Floats, replicates: int, n: int
) -> Floats:
    """Gram matrices [B, n, n] of n independent draws from N(0, Sigma), Sigma by its spectrum."""
    roots = np.sqrt(eigenvalues)
    grams = np.empty((replicates, n, n))
    block = max(1, BLOCK // (n * len(roots)))  # 32 MB of normals at a time
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        draws = rng.standard_normal((size, n, len(roots))) * roots
        grams[start : start + size] = draws @ np.swapaxes(draws, 1, 2)
    return grams
