"""Judged answers as one long table of conditions, and sums and ratios of the conditions' rates.

A condition is a target under a source: a vector, a random direction, or nothing. Every effect of
the transfer is a weighted sum of conditions' rates or a ratio of two such sums, so one estimate
serves all of them (docs/method.md: transfer).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet
from em_geometry.judging.judge import UNJUDGED, statuses
from em_geometry.judging.rates import RateMatrix, RateName, rate_matrix
from em_geometry.settings import Judging
from em_geometry.stats.estimate import OK, Estimate, Floats
from em_geometry.stats.intervals import distances, fieller, jackknife, ratio_limits
from em_geometry.steering.conditions import UNSTEERED

CLOSE = 1e-9  # sums of rates this close are the same, but for rounding
COUNTED = "coherent answers"  # what an undefined rate lacks
RANDOM = "random_"  # a random direction is called this and its number


def name(target: str, source: str = UNSTEERED) -> str:
    """The name of a condition."""
    return f"{target}|{source}"


def read_answers(files: Mapping[Path, Sequence[str]], aspects: Sequence[str]) -> pl.DataFrame:
    """Judged answers of models by folder, with the columns `condition` and `status`."""
    frame = pl.concat(
        [read_parquet(folder / f"{m}.parquet") for folder, models in files.items() for m in models]
    )
    names = [name(*row) for row in frame.select("target", "source").iter_rows()]
    return frame.with_columns(
        condition=pl.Series(names, dtype=pl.String), status=statuses(frame, aspects)
    )


@dataclass(frozen=True, eq=False)
class Table:
    """One outcome under all conditions, over questions that they share.

    A sum of rates is given by its weights [condition]. Intervals are t over the questions, that
    of a ratio Fieller's, never narrower than the numbers of answers allow.

    Attributes:
        matrix: the outcome of every condition, in percent (points for a mean score).
        counts: condition -> answers.
    """

    matrix: RateMatrix
    counts: Mapping[str, int]

    @classmethod
    def of(
        cls, answers: pl.DataFrame, judging: Judging, rate: RateName, aspect: str = "aligned"
    ) -> Self:
        """The table of a rate; "mean_aligned" gives the mean of `aspect`, in points."""
        matrix = rate_matrix(answers, judging=judging, rate=rate, aspect=aspect)
        judged = (~pl.col("status").is_in(UNJUDGED)).sum()
        counts = answers.group_by("condition").agg(judged).iter_rows()
        return cls(matrix, {str(condition): int(n) for condition, n in counts})

    def rate(self, target: str, source: str = UNSTEERED) -> Floats:
        """The rate under one condition; UserError where it was not sampled."""
        condition = name(target, source)
        if condition not in self.matrix.conditions:
            raise UserError(
                "no judged answers under this condition (target|source)",
                found=condition,
                hint="dvc repro judgements",
            )
        return np.array([float(c == condition) for c in self.matrix.conditions])

    def effect(self, source: str, target: str) -> Floats:
        """The rate of `target` under `source`'s vector minus its rate without."""
        return self.rate(target, source) - self.rate(target)

    def chance(self, target: str) -> Floats:
        """The mean rate of `target` under random directions."""
        start = name(target, RANDOM)
        sources = [c.partition("|")[2] for c in self.matrix.conditions if c.startswith(start)]
        every = [self.rate(target, source) for source in sources or [f"{RANDOM}0"]]
        return np.asarray(np.mean(every, axis=0))

    def n(self, *sums: Floats) -> int:
        """The smallest number of answers among the conditions of some sums."""
        used = zip(self.matrix.conditions, np.any(sums, axis=0), strict=True)
        return min(self.counts[condition] for condition, there in used if there)

    def sums(self, weights: Floats) -> Floats:
        """[1 + question] a sum of rates, then with each question left out; NaN where undefined."""
        used = np.flatnonzero(weights)
        rates = np.vstack([self.matrix.observed[used], self.matrix.without[:, used]])
        found: Floats = rates @ weights[used]
        return np.where(np.abs(found) < CLOSE, 0.0, found)

    def estimate(self, weights: Floats) -> Estimate:
        """A sum of rates; t over questions, widened by MOVER to what the answers allow."""
        found = self._over_questions(weights, self.n(weights))
        if self.matrix.wilson is None or found.value is None:
            return found
        down, up = distances(weights, *self._distances)
        return _widened(found, found.value - down, found.value + up)

    def ratio(self, top: Floats, bottom: Floats) -> Estimate:
        """100 x a sum of rates over another; undefined when the bottom's interval includes 0."""
        n = self.n(top, bottom)
        above, known = self._over_questions(top, n), replace(self.estimate(bottom), n=n)
        if above.value is None or known.value is None or known.low is None or known.high is None:
            return above if above.value is None else known
        if known.low <= 0 <= known.high:
            interval = f"{known.value:.1f} [{known.low:.1f}, {known.high:.1f}]"
            return Estimate.undefined(f"undefined: denominator {interval} includes 0", n)
        found = fieller(self._pseudo(top), self._pseudo(bottom)).scaled(100)
        found = replace(found, value=100 * above.value / known.value, n=n, status=OK)
        if self.matrix.wilson is None:
            return found
        rates = np.nan_to_num(self.matrix.observed)
        limits = ratio_limits(top, bottom, rates, *self._distances)
        return _widened(found, *(100 * limit for limit in limits))

    def _over_questions(self, weights: Floats, n: int) -> Estimate:
        """A sum of rates, with t over the questions' pseudo-values."""
        sums = self.sums(weights)
        if not np.isfinite(sums[0]):
            return Estimate.undefined(f"undefined: no {COUNTED}", n)
        if not np.isfinite(sums).all():
            return Estimate.undefined(f"undefined: too few {COUNTED}", n)
        return replace(jackknife(float(sums[0]), sums[1:]), n=n)

    def _pseudo(self, weights: Floats) -> Floats:
        """[question] pseudo-values of a sum of rates: their mean and spread are the sum's."""
        sums = self.sums(weights)
        return np.asarray((len(sums) - 1) * sums[0] - (len(sums) - 2) * sums[1:])

    @cached_property
    def _distances(self) -> tuple[Floats, Floats]:
        """[condition] from the observed rates down and up to the ends of the Wilson intervals."""
        assert self.matrix.wilson is not None
        observed = np.nan_to_num(self.matrix.observed)
        return observed - self.matrix.wilson[:, 0], self.matrix.wilson[:, 1] - observed


def _widened(found: Estimate, low: float, high: float) -> Estimate:
    """An interval that reaches at least from `low` to `high`."""
    return replace(
        found,
        low=low if found.low is None else min(found.low, low),
        high=high if found.high is None else max(found.high, high),
    )
