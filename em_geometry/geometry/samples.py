"""What measured vectors are made of, drawn again (METHOD.md: calibration).

Two kinds: rows of prompts (here) for the contrasts (a), (b) and (d), labelled answers (answers.py)
for (c). What resembles each other is drawn together: prompts of a topic, answers to a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from em_geometry.geometry.gram import Floats
from em_geometry.geometry.resampling import drawn, first_half, halves, weighted_grams


class Sample(Protocol):
    """Measured vectors that can be drawn again; all Gram matrices are raw."""

    @property
    def vectors(self) -> Floats:
        """[n, width]"""

    @property
    def residuals(self) -> Floats:
        """[R, width] rows of all organisms around their means."""

    @property
    def rows(self) -> int:
        """Rows behind a vector (the fewest)."""

    @property
    def topics(self) -> int:
        """Groups of rows that are drawn together."""

    def bootstrap(self, rng: np.random.Generator, replicates: int) -> Floats:
        """Gram matrices [B, n, n], topics drawn with replacement."""

    def without_effect(self, rng: np.random.Generator, replicates: int) -> Floats:
        """Gram matrices [B, n, n] when no organism has a consistent difference."""

    def halves(self, rng: np.random.Generator, replicates: int) -> tuple[Floats, Floats]:
        """Gram matrices [2, B, n, n] of halves of the topics, and cosines [B, n] between."""


@dataclass(frozen=True)
class Prompts:
    """Vectors that are the mean of difference rows.

    Attributes:
        differences: [n, R, width], per prompt organism minus reference, or per pair of prompts
            harmful minus neutral.
        topic: [R] of each row.
    """

    differences: Floats
    topic: Sequence[str]

    @cached_property
    def _member(self) -> Floats:
        """[T, R]: 1 where a row is of a topic."""
        return np.array(
            [[t == name for t in self.topic] for name in sorted(set(self.topic))], float
        )

    @cached_property
    def kernel(self) -> Floats:
        """[n, n, T, T] inner products of the topic sums of two organisms."""
        sums = self._member @ self.differences
        found: Floats = np.einsum("itw,jsw->ijts", sums, sums, optimize=True)
        return found

    @property
    def _sizes(self) -> Floats:
        found: Floats = self._member.sum(1)
        return found

    @property
    def vectors(self) -> Floats:
        found: Floats = self.differences.mean(1)
        return found

    @property
    def residuals(self) -> Floats:
        centred = self.differences - self.differences.mean(1, keepdims=True)
        found: Floats = centred.reshape(-1, centred.shape[-1])
        return found

    @property
    def rows(self) -> int:
        return len(self.topic)

    @property
    def topics(self) -> int:
        return len(self._member)

    def bootstrap(self, rng: np.random.Generator, replicates: int) -> Floats:
        return weighted_grams(self.kernel, self._mean(drawn(rng, self.topics, replicates)))

    def without_effect(self, rng: np.random.Generator, replicates: int) -> Floats:
        """The rows of a topic change sign together, independently by topic and organism.

        For rows that are harmful minus neutral this is shuffling the two labels within pairs.
        """
        signs = rng.choice([-1.0, 1.0], (replicates, len(self.differences), self.topics))
        return weighted_grams(self.kernel, signs / self._sizes.sum())

    def halves(self, rng: np.random.Generator, replicates: int) -> tuple[Floats, Floats]:
        first = first_half(rng, self.topics, replicates)
        return halves(self.kernel, self._mean(first), self._mean(1.0 - first))

    def _mean(self, counts: Floats) -> Floats:
        """Weights [B, T] of the topic sums in a mean over rows, each topic so often."""
        weights: Floats = counts / (counts @ self._sizes)[:, None]
        return weights
