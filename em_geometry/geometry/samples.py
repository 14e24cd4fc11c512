"""What measured vectors are made of, drawn again as Gram matrices (docs/method.md: calibration).

A measured vector is a mean of rows. A resampled vector is another weighted sum of the same rows, so
its inner products need the rows' kernel only: G_b[i, j] = w_b' K_ij w_b; the vectors are never
built. Prompts of a topic resemble each other and are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from em_geometry.geometry.core import independent_grams
from em_geometry.stats.arrays import Floats
from em_geometry.stats.resample import drawn, first_half


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


def effective_dimension(eigenvalues: Floats) -> float:
    """Participation ratio: the dimension in which isotropic cosines spread as widely."""
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def between_dimension(rows: Floats) -> float:
    """Effective dimension of the covariance between few things, rows [k, width]; NaN below two.

    The participation ratio of a sample covariance cannot exceed k - 1. Differences of disjoint
    pairs of rows are independent, so products of their squared lengths and their squared inner
    products estimate tr(S)^2 and tr(S^2) without that bias, for k of four or more.
    """
    count = len(rows)
    if count < 2:
        return float("nan")
    centred = rows - rows.mean(0)
    if count < 4:
        values = np.maximum(np.linalg.eigvalsh(centred @ centred.T), 0.0)
        return effective_dimension(values) if values.any() else float("nan")
    pairs = np.array([*combinations(range(count), 2)])
    gaps = centred[pairs[:, 0]] - centred[pairs[:, 1]]
    inner = gaps @ gaps.T
    apart = ~(pairs[:, None, :, None] == pairs[None, :, None, :]).any((2, 3))
    squares = np.diag(inner)
    both = (squares[:, None] * squares)[apart].mean(), (inner**2)[apart].mean()
    return float(both[0] / both[1]) if both[1] > 0 else float("nan")


def finetune_draws(
    rng: np.random.Generator, benign: Floats, weights: Floats, replicates: int
) -> Floats:
    """Gram matrices [B, n, n] of vectors all of whose models are further benign fine-tunes.

    The shifts of organisms and controls alike are independent draws around a mean that all share
    and that their differences do not hold; so vectors with one control have cosines around .5 here
    too. The spread is that of the benign fine-tunes, isotropic in its effective dimension: a sample
    covariance of few has too few dimensions, and its draws lie too far from right angles.

    Args:
        benign: [k, width] shifts of benign fine-tunes: controls, their repeats, random adapters.
        weights: [n, model] of the vectors on the shifts, zero in sum: against the base, so few
            fine-tunes do not tell how far fine-tuning as such goes.
    """
    dimension = max(2, round(between_dimension(benign)))
    grams = independent_grams(rng, replicates, weights.shape[1], dimension)
    return np.asarray(weights @ grams @ weights.T)


def exchanged_draws(
    rng: np.random.Generator, models: Floats, weights: Floats, replicates: int
) -> Floats:
    """Gram matrices [B, n, n] with the fine-tunes, organisms and controls, exchanged at random.

    The null is that misaligned organisms are to each other what benign fine-tunes are to them and
    to each other. It assumes no distribution, and holds for every reference.

    Args:
        models: [m, m] Gram matrix of the organisms and controls, no repeats among them.
        weights: [n, m] of the vectors on them.
    """
    orders = rng.permuted(np.tile(np.arange(len(models)), (replicates, 1)), axis=1)
    moved = models[orders[:, :, None], orders[:, None, :]]
    return np.asarray(weights @ moved @ weights.T)
