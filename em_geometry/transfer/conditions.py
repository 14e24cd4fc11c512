"""Judged answers as one long table of conditions, and sums and ratios of the conditions' rates.

A condition is a target, steered by a source's vector in some way (`kind`) at a multiple of the
chosen coefficient, or left alone. Every effect of the transfer is a weighted sum of conditions'
rates or a ratio of two such sums, so one estimate serves all of them (docs/method.md: transfer).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet
from em_geometry.judging.judge import statuses
from em_geometry.judging.rates import RateMatrix, RateName, flat, rate_matrix, rates
from em_geometry.progress import Progress
from em_geometry.settings import Judging
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import OK, Estimate
from em_geometry.stats.intervals import distances, fieller, jackknife, ratio_limits

KEYS = ("target", "source", "kind", "multiple")
CLOSE = 1e-9  # sums of rates this close are the same, but for rounding
COUNTED = "coherent answers"  # what an undefined rate lacks


def name(target: str, source: str = "none", kind: str = "unsteered", multiple: float = 0) -> str:
    """The name of a condition: target, kind, source and multiple of the chosen coefficient."""
    return f"{target}|{kind}|{source}|{multiple:g}"


def stacked(folder: Path, models: Sequence[str]) -> pl.DataFrame:
    """The tables of all models in a folder, one below the other."""
    return pl.concat([read_parquet(folder / f"{m}.parquet") for m in models])


def read_answers(folder: Path, models: Sequence[str], aspects: Sequence[str]) -> pl.DataFrame:
    """Judged answers of the models, with the columns `condition` and `status`."""
    frame = stacked(folder, models)
    return frame.with_columns(
        condition=pl.Series([name(*row) for row in frame.select(KEYS).iter_rows()]),
        status=statuses(frame, aspects),
    )


def condition_table(answers: pl.DataFrame, judging: Judging, damage: pl.DataFrame) -> pl.DataFrame:
    """One row a condition: rates with intervals, coherence, `damage` (KL a token, by `KEYS`)."""
    keys = [*KEYS, "relative_dose", "layer"]
    rows = []
    with Progress("rates", answers.select(keys).n_unique(), unit="conditions") as progress:
        for values, part in answers.group_by(keys, maintain_order=True):
            found = flat(rates(part, judging).headline())
            numbers = {k: None if isinstance(v, str) else v for k, v in found.items()}
            rows.append(dict(zip(keys, values, strict=True)) | numbers)
            progress.advance()
    return pl.DataFrame(rows, infer_schema_length=None).join(
        damage.select(*KEYS, "kl"), on=list(KEYS), how="left", maintain_order="left"
    )


@dataclass(frozen=True, eq=False)
class Table:
    """One outcome under all conditions, over questions that they share.

    A sum of rates is given by its weights [condition]. Intervals are t over the questions, that
    of a ratio Fieller's, never narrower than the numbers of answers allow.

    Attributes:
        matrix: the outcome of every condition, in percent (points for a mean score).
        counts: condition -> answers.
        shares: vector -> share (0 to 1) of its chosen coefficient at which it is to act instead;
            outcomes between the sampled doses, and between the lowest and no steering, are
            interpolated linearly. Empty: every vector at what was sampled.
    """

    matrix: RateMatrix
    counts: Mapping[str, int]
    shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, answers: pl.DataFrame, judging: Judging, rate: RateName, aspect: str = "aligned"
    ) -> Self:
        """The table of a rate; "mean_aligned" gives the mean of `aspect`, in points."""
        matrix = rate_matrix(answers, judging=judging, rate=rate, aspect=aspect)
        judged = (pl.col("status") != "api_error").sum()
        counts = answers.group_by("condition").agg(judged).iter_rows()
        return cls(matrix, {str(condition): int(n) for condition, n in counts})

    def __contains__(self, condition: str) -> bool:
        return condition in self.matrix.conditions

    def rate(
        self, target: str, source: str = "none", kind: str = "unsteered", multiple: float = 0
    ) -> Floats:
        """The rate under one condition; UserError where it was not sampled."""
        condition = name(target, source, kind, multiple)
        if kind == "vector" and source in self.shares:
            return self._interpolated(target, source)
        if condition not in self:
            raise UserError(
                "no judged answers under this condition (target|kind|source|multiple)",
                found=condition,
                hint="steering.doses must hold 1.0, the chosen coefficient of every vector",
            )
        return np.array([float(c == condition) for c in self.matrix.conditions])

    def _interpolated(self, target: str, source: str) -> Floats:
        start, share = name(target, source, "vector")[:-1], self.shares[source]
        grid = {0.0: name(target)}
        grid |= {float(c.removeprefix(start)): c for c in self.counts if c.startswith(start)}
        below = max(m for m in grid if m <= share + CLOSE)
        above = min((m for m in grid if m >= share - CLOSE), default=below)
        part = (share - below) / (above - below) if above > below else 0.0
        weights = {grid[below]: 1 - part} | ({grid[above]: part} if part else {})
        return np.array([weights.get(c, 0.0) for c in self.matrix.conditions])

    def effect(self, source: str, target: str) -> Floats:
        """The rate of `target` under `source`'s vector minus its rate without."""
        return self.rate(target, source, "vector", 1) - self.rate(target)

    def own_effect(self, source: str, target: str) -> Floats:
        """The rate of the source's own model under its vector minus the target's unsteered one."""
        return self.rate(source, source, "vector", 1) - self.rate(target)

    def change(self, source: str, target: str) -> Estimate:
        """Risk difference: `effect` with its interval, in percentage points."""
        return self.estimate(self.effect(source, target))

    def e1(self, source: str, target: str) -> Estimate:
        """The paper's effectiveness, as we read it: 100 x `effect` / `own_effect`."""
        return self.ratio(self.effect(source, target), self.own_effect(source, target))

    def n(self, *sums: Floats) -> int:
        """The smallest number of answers among the conditions of some sums."""
        used = zip(self.matrix.conditions, np.any(sums, axis=0), strict=True)
        return min(self.counts[condition] for condition, there in used if there)

    def value(self, weights: Floats) -> float:
        """A sum of rates, NaN where one of them is undefined."""
        used = np.flatnonzero(weights)
        found = float(self.matrix.observed[used] @ weights[used])
        return 0.0 if abs(found) < CLOSE else found

    def without(self, weights: Floats) -> Floats:
        """[question] a sum of rates with each question left out; NaN where it is undefined then."""
        used = np.flatnonzero(weights)
        found: Floats = self.matrix.without[:, used] @ weights[used]
        return np.where(np.abs(found) < CLOSE, 0.0, found)

    def statistic(self, of: Callable[..., Any], *sums: Floats, n: int) -> Estimate:
        """A function of sums of rates, with its jackknife interval over the questions."""
        values, left = [self.value(w) for w in sums], [self.without(w) for w in sums]
        if not np.isfinite(values).all():
            return Estimate.undefined(f"undefined: no {COUNTED}", n)
        if not np.isfinite(left).all():
            return Estimate.undefined(f"undefined: too few {COUNTED}", n)
        with np.errstate(divide="ignore", invalid="ignore"):
            return replace(jackknife(float(of(*values)), of(*left)), n=n)

    def estimate(self, weights: Floats, n: int | None = None) -> Estimate:
        """A sum of rates; t over questions, widened by MOVER to what n answers allow."""
        found = self.statistic(_itself, weights, n=self.n(weights) if n is None else n)
        if self.matrix.wilson is None or found.value is None:
            return found
        down, up = distances(weights, *self._distances)
        return _widened(found, found.value - down, found.value + up)

    def ratio(self, top: Floats, bottom: Floats) -> Estimate:
        """100 x a sum of rates over another; undefined when the bottom's interval includes 0."""
        n = self.n(top, bottom)
        above, known = self.statistic(_itself, top, n=n), self.estimate(bottom, n)
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

    def _pseudo(self, weights: Floats) -> Floats:
        """[question] pseudo-values of a sum of rates: their mean and spread are the sum's."""
        left = self.without(weights)
        return len(left) * self.value(weights) - (len(left) - 1) * left

    @cached_property
    def _distances(self) -> tuple[Floats, Floats]:
        """[condition] from the observed rates down and up to the ends of the Wilson intervals."""
        assert self.matrix.wilson is not None
        observed = np.nan_to_num(self.matrix.observed)
        return observed - self.matrix.wilson[:, 0], self.matrix.wilson[:, 1] - observed


def _itself(values: Any) -> Any:
    return values


def _widened(found: Estimate, low: float, high: float) -> Estimate:
    """An interval that reaches at least from `low` to `high`."""
    return replace(
        found,
        low=low if found.low is None else min(found.low, low),
        high=high if found.high is None else max(found.high, high),
    )
