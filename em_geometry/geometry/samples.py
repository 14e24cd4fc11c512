"""What measured vectors are made of, drawn again as Gram matrices (docs/method.md: calibration).

A measured vector is a weighted sum of rows. A resampled vector is another weighted sum of the same
rows, so its inner products need the rows' kernel only: G_b[i, j] = w_i' K_ij w_j; the vectors are
never built. What resembles each other is drawn together: prompts of a topic, answers to a question.
Two kinds: rows of prompts for the contrasts (a), (b) and (d), labelled answers for (c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from em_geometry.errors import UserError
from em_geometry.stats.arrays import Bools, Floats
from em_geometry.stats.resample import drawn, first_half

MIN_QUESTIONS = 4  # with misaligned, and with aligned answers, below which (c) is not drawn again
TRIES = 1000  # rounds of draws until enough of them can be used
BLOCK = 4_000_000  # numbers drawn at a time


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
class PromptRows:
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
        return np.asarray(np.einsum("itw,jsw->ijts", sums, sums, optimize=True))

    @property
    def _sizes(self) -> Floats:
        return np.asarray(self._member.sum(1))

    @property
    def vectors(self) -> Floats:
        return np.asarray(self.differences.mean(1))

    @property
    def residuals(self) -> Floats:
        centred = self.differences - self.differences.mean(1, keepdims=True)
        return np.asarray(centred.reshape(-1, centred.shape[-1]))

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
        return np.asarray(counts / (counts @ self._sizes)[:, None])


@dataclass(frozen=True)
class AnswerRows:
    """Vectors that are the mean over misaligned minus the mean over aligned answers.

    Models share the questions, not the answers: a question that is drawn brings each model's
    answers to it. Labels are shuffled within a question, so that what only the questions do stays
    in the null.

    Attributes:
        answers: of each organism [R, width], misaligned and aligned ones.
        misaligned: of each organism bool [R].
        question: of each organism [R], of which question.
    """

    answers: Sequence[Floats]
    misaligned: Sequence[Bools]
    question: Sequence[Sequence[str]]

    @cached_property
    def _members(self) -> Floats:
        """[n, 2, Q, R]: 1 where an organism's answer is misaligned (0) or aligned (1), of Q."""
        names = sorted({name for each in self.question for name in each})
        found = np.zeros((len(self.answers), 2, len(names), max(map(len, self.answers))))
        for i, (bad, asked) in enumerate(zip(self.misaligned, self.question, strict=True)):
            for r, (label, name) in enumerate(zip(bad, asked, strict=True)):
                found[i, 0 if label else 1, names.index(name), r] = 1.0
        return found

    @cached_property
    def _padded(self) -> Floats:
        """[n, R, width], zeros behind an organism's last answer."""
        longest = self._members.shape[-1]
        return np.stack([np.pad(a, ((0, longest - len(a)), (0, 0))) for a in self.answers])

    @cached_property
    def _sizes(self) -> Floats:
        """[n, 2, Q] answers."""
        return np.asarray(self._members.sum(-1))

    @cached_property
    def kernel(self) -> Floats:
        """[n, n, 2Q, 2Q] inner products of the sums by label and question of two organisms."""
        sums = self._members.reshape(len(self.answers), -1, self._members.shape[-1]) @ self._padded
        return np.asarray(np.einsum("itw,jsw->ijts", sums, sums, optimize=True))

    @property
    def questions_of_fewest(self) -> int:
        """Questions with misaligned, or with aligned answers, where these are fewest."""
        return int((self._sizes > 0).sum(-1).min())

    @property
    def vectors(self) -> Floats:
        pairs = zip(self.answers, self.misaligned, strict=True)
        return np.stack([a[bad].mean(0) - a[~bad].mean(0) for a, bad in pairs])

    @property
    def residuals(self) -> Floats:
        pairs = zip(self.answers, self.misaligned, strict=True)
        return np.concatenate([a[m] - a[m].mean(0) for a, bad in pairs for m in (bad, ~bad)])

    @property
    def rows(self) -> int:
        return min(map(len, self.answers))

    @property
    def topics(self) -> int:
        return len(self._members[0, 0])

    def bootstrap(self, rng: np.random.Generator, replicates: int) -> Floats:
        counts = self._usable(lambda b: drawn(rng, self.topics, b)[None], replicates)
        return weighted_grams(self.kernel, self._difference(counts[0]))

    def without_effect(self, rng: np.random.Generator, replicates: int) -> Floats:
        """Labels are shuffled among an organism's answers to one question."""
        n, _, _, longest = self._members.shape
        kernel = np.einsum("irw,jsw->ijrs", self._padded, self._padded, optimize=True)
        step = max(1, BLOCK // (n * longest))
        grams = []
        for start in range(0, replicates, step):
            size = min(step, replicates - start)
            weights = np.zeros((size, n, longest))
            for i, members in enumerate(self._members):
                asked = members.sum(0).argmax(0)[: len(self.answers[i])]
                order = np.argsort(asked, kind="stable")
                mixed = np.argsort(asked[order] + rng.random((size, len(order))), axis=1)
                bad = self.misaligned[i]
                share = np.where(bad, 1 / bad.sum(), -1 / (~bad).sum())
                weights[:, i, order] = share[order][mixed]
            grams.append(weighted_grams(kernel, weights))
        return np.concatenate(grams)

    def halves(self, rng: np.random.Generator, replicates: int) -> tuple[Floats, Floats]:
        def split(size: int) -> Floats:
            first = first_half(rng, self.topics, size)
            return np.stack([first, 1.0 - first])

        first, second = (self._difference(c) for c in self._usable(split, replicates))
        return halves(self.kernel, first, second)

    def _difference(self, counts: Floats) -> Floats:
        """Weights [B, n, 2Q] of the sums in a difference of means, each question so often."""
        n = np.einsum("bq,nlq->bnl", counts, self._sizes)
        weights = np.array([1.0, -1.0])[:, None] * counts[:, None, None, :] / n[..., None]
        return np.asarray(weights.reshape(*n.shape[:2], -1))

    def _usable(self, draw: Callable[[int], Floats], replicates: int) -> Floats:
        """[k, B, Q] draws that leave every organism answers of both labels.

        Args:
            draw: number of draws -> counts [k, B, Q] that belong together.
        """
        kept: list[Floats] = []
        for _ in range(TRIES):
            counts = draw(replicates)
            n = np.einsum("kbq,nlq->kbnl", counts, self._sizes)
            kept.append(counts[:, (n > 0).all((0, 2, 3))])
            if sum(k.shape[1] for k in kept) >= replicates:
                return np.concatenate(kept, axis=1)[:, :replicates]
        raise UserError(
            "misaligned or aligned answers are too few to draw the questions again",
            where="the judged unsteered answers",
            found=f"answers of one label to {self.questions_of_fewest} questions only",
            hint="raise baseline.samples, or choose another vectors.contrast",
        )


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


def _each(weights: Floats, n: int) -> Floats:
    """Weights [B, n, T] of [B, T] or [B, n, T]."""
    each = weights[:, None, :] if weights.ndim == 2 else weights
    return np.broadcast_to(each, (len(weights), n, weights.shape[-1]))


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
