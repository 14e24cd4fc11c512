"""Vectors of contrast (c), misaligned minus aligned answers, drawn again by question.

Models share the questions, not the answers: a question that is drawn brings each model's answers
to it. Labels are shuffled within a question, so that what only the questions do stays in the null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from em_geometry.errors import UserError
from em_geometry.geometry.gram import Floats
from em_geometry.geometry.resampling import drawn, first_half, halves, weighted_grams

MIN_QUESTIONS = 4  # with misaligned, and with aligned answers, below which (c) is not drawn again
TRIES = 1000  # rounds of draws until enough of them can be used
BLOCK = 4_000_000  # numbers of one round of shuffled labels


@dataclass(frozen=True)
class Answers:
    """Vectors that are the mean over misaligned minus the mean over aligned answers.

    Attributes:
        answers: of each organism [R, width], misaligned and aligned ones.
        misaligned: of each organism bool [R].
        question: of each organism [R], of which question.
    """

    answers: Sequence[Floats]
    misaligned: Sequence[NDArray[np.bool_]]
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
        found: Floats = self._members.sum(-1)
        return found

    @cached_property
    def kernel(self) -> Floats:
        """[n, n, 2Q, 2Q] inner products of the sums by label and question of two organisms."""
        sums = self._members.reshape(len(self.answers), -1, self._members.shape[-1]) @ self._padded
        found: Floats = np.einsum("itw,jsw->ijts", sums, sums, optimize=True)
        return found

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
        found: Floats = weights.reshape(*n.shape[:2], -1)
        return found

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
            where="data/baseline/judgements",
            found=f"answers of one label to {self.questions_of_fewest} questions only",
            hint="raise baseline.samples, or choose another vectors.contrast",
        )
