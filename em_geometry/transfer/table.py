"""Sums and ratios of the conditions' rates, with their intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from em_geometry.errors import UserError
from em_geometry.judging.rates import RateMatrix
from em_geometry.stats import intervals as mover
from em_geometry.transfer.conditions import JUDGEMENTS, name


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or the reason why there is none.

    Attributes:
        value, low, high: same unit; NaN when undefined.
        n: answers behind it (the smallest of the conditions involved).
        status: "ok" or a reason.
    """

    value: float
    low: float
    high: float
    n: int
    status: str = "ok"

    def as_metrics(self, name: str = "value_pct") -> dict[str, Any]:
        """Finite scalars, or strings that say why not; the value stands under `name`."""
        if self.status != "ok":
            return {name: self.status, "n": self.n, "status": self.status}
        return {
            name: self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "status": self.status,
        }


MIN_DRAWS = 0.9  # share of the draws that must be defined for an interval


def estimate(values: np.ndarray, n: int) -> Estimate:
    """From [1 + replicates] values: the point, and percentiles of the defined draws."""
    draws = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]):
        return Estimate(np.nan, np.nan, np.nan, n, "undefined: no coherent answers")
    if len(draws) < MIN_DRAWS * (len(values) - 1):
        return Estimate(np.nan, np.nan, np.nan, n, "undefined: too few coherent answers")
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high), n)


def ratio(
    numerator: np.ndarray, denominator: np.ndarray, n: int, known: Estimate | None = None
) -> Estimate:
    """100 x numerator / denominator; undefined when the denominator's interval includes 0.

    `known` is the denominator with its interval, by default that of its draws.
    """
    known = known or estimate(denominator, n)
    if known.status != "ok":
        return known
    if known.low <= 0 <= known.high:
        reason = f"undefined: denominator {known.value:.1f} [{known.low:.1f}, {known.high:.1f}]"
        return Estimate(np.nan, np.nan, np.nan, n, reason + " includes 0")
    with np.errstate(divide="ignore", invalid="ignore"):
        return estimate(100 * numerator / denominator, n)


Weights = Mapping[str, float]  # condition -> weight: a sum of rates


def difference(acts: str, rest: str) -> Weights:
    """The rate under one condition minus that under another."""
    return {acts: 1.0, rest: -1.0}


def combined(sums: Iterable[tuple[float, Weights]]) -> Weights:
    """Several sums of rates, each times a factor, as one."""
    total: dict[str, float] = defaultdict(float)
    for factor, weights in sums:
        for condition, weight in weights.items():
            total[condition] += factor * weight
    return total


def mean(sums: Sequence[Weights]) -> Weights:
    """The mean of several sums of rates."""
    return combined((1 / len(sums), weights) for weights in sums)


class Table:
    """Rates of all conditions, point values and draws, in percent."""

    def __init__(self, matrix: RateMatrix, counts: Mapping[str, int]) -> None:
        self._column = {c: i for i, c in enumerate(matrix.conditions)}
        self._observed, self._draws = matrix.observed, matrix.draws
        self._wilson = matrix.wilson
        self._counts = counts

    def __contains__(self, condition: str) -> bool:
        return condition in self._column

    def parts(self, condition: str) -> Weights:
        """The sampled conditions that make up `condition`, with their weights.

        Raises:
            UserError: the condition was not sampled.
        """
        if condition not in self._column:
            raise UserError(
                "no answers under this condition (target|kind|source|multiple)",
                where=str(JUDGEMENTS),
                found=condition,
                hint="steering.doses must hold 1.0, the chosen coefficient of every vector",
            )
        return {condition: 1.0}

    def weights(self, total: Weights) -> np.ndarray:
        """[condition] weights of a sum of rates, those of one condition added up."""
        found = np.zeros(len(self._column))
        for condition, weight in total.items():
            for part, share in self.parts(condition).items():
                found[self._column[part]] += weight * share
        return found

    def sum(self, total: Weights) -> np.ndarray:
        """[1 + replicates]: the observed sum of rates, then its draws."""
        weights = self.weights(total)
        used = np.flatnonzero(weights)
        rates = np.concatenate([self._observed[None, used], self._draws[:, used]])
        joined: np.ndarray = rates @ weights[used]
        return joined

    def rate(self, condition: str) -> np.ndarray:
        """[1 + replicates]: the observed rate, then its draws."""
        return self.sum({condition: 1.0})

    def estimate(self, total: Weights, n: int) -> Estimate:
        """A sum of rates with its interval: bootstrap over questions, widened where that is
        narrower than the numbers of answers allow (`em_geometry.stats.intervals`)."""
        found = estimate(self.sum(total), n)
        if found.status != "ok" or self._wilson is None:
            return found
        down, up = mover.distances(self.weights(total), *self._distances())
        low, high = min(found.low, found.value - down), max(found.high, found.value + up)
        return replace(found, low=low, high=high)

    def ratio(self, top: Weights, bottom: Weights, n: int) -> Estimate:
        """100 x a sum of rates over another, with its interval made as that of a sum.

        Undefined when the interval of the denominator includes 0.
        """
        found = ratio(self.sum(top), self.sum(bottom), n, self.estimate(bottom, n))
        if found.status != "ok" or self._wilson is None:
            return found
        rates = np.nan_to_num(self._observed)
        limits = mover.ratio_limits(
            self.weights(top), self.weights(bottom), rates, *self._distances()
        )
        low, high = (100 * limit for limit in limits)
        return replace(found, low=min(found.low, low), high=max(found.high, high))

    def _distances(self) -> tuple[np.ndarray, np.ndarray]:
        """[condition] from the observed rates down and up to the ends of the Wilson intervals."""
        assert self._wilson is not None
        observed = np.nan_to_num(self._observed)
        return observed - self._wilson[:, 0], self._wilson[:, 1] - observed

    def n(self, *conditions: str) -> int:
        """The smallest number of answers among the conditions."""
        return min(self._counts[part] for c in conditions for part in self.parts(c))


class AtShares(Table):
    """A table in which each vector acts at a share (0 to 1) of its chosen coefficient.

    Rates between the sampled doses, and between the lowest and no steering, are interpolated
    linearly, draw by draw.
    """

    def __init__(self, table: Table, shares: Mapping[str, float]) -> None:
        self.__dict__.update(table.__dict__)
        self._shares = shares

    def parts(self, condition: str) -> Weights:
        target, kind, source, _ = condition.split("|")
        if kind != "vector":
            return super().parts(condition)
        share, grid = self._shares[source], {0.0: name(target)}
        for column in self._column:
            if column.startswith(name(target, source, kind, 0)[:-1]):
                grid[float(column.rpartition("|")[2])] = column
        below = max(m for m in grid if m <= share + 1e-9)
        above = min((m for m in grid if m >= share - 1e-9), default=below)
        part = (share - below) / (above - below) if above > below else 0.0
        return {c: w for c, w in ((grid[below], 1 - part), (grid[above], part)) if w}
