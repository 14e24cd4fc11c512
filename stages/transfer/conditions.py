"""Judged answers as conditions: names, rates, and draws that share the questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.common.artifacts import read_parquet
from stages.common.errors import UserError
from stages.common.params import Params
from stages.judging.judge import statuses
from stages.judging.rates import RateMatrix, Rates, bootstrap_rate_matrix, rates
from stages.judging.rates_table import RateName
from stages.steering.respond import UNSTEERED

if TYPE_CHECKING:
    import polars as pl

JUDGEMENTS = Path("data/judgements")
BASELINE = Path("data/baseline/judgements")


def name(target: str, source: str = UNSTEERED, kind: str = "unsteered", multiple: float = 0) -> str:
    """The name of a condition: target, kind, source and multiple of the chosen coefficient."""
    return f"{target}|{kind}|{source}|{multiple:g}"


def read_judgements(folder: Path, params: Params) -> pl.DataFrame:
    """All targets' judged answers with the columns `condition` and `status`."""
    import polars as pl

    frame = pl.concat([read_parquet(folder / f"{m}.parquet") for m in params.targets])
    return frame.with_columns(
        condition=pl.Series(
            [name(*row) for row in frame.select("target", "source", "kind", "multiple").iter_rows()]
        ),
        status=pl.Series(statuses(frame, params.judging.aspects), dtype=pl.String),
    )


def rates_of(frame: pl.DataFrame, params: Params) -> Rates:
    """Both rates of a set of judged answers, with intervals."""
    return rates(
        frame["aligned"],
        frame["coherent"],
        frame["status"],
        frame["question_id"],
        params_judging=params.judging,
        seed=params.run.seed,
        replicates=params.transfer.bootstrap,
    )


def draws_of(
    frame: pl.DataFrame, params: Params, rate: RateName | None = None, aspect: str = "aligned"
) -> RateMatrix:
    """The compared rate of every condition, bootstrapped over shared questions.

    Args:
        rate: instead of `transfer.rate`; "mean_aligned" gives the mean of `aspect`, in points.
    """
    return bootstrap_rate_matrix(
        frame[aspect],
        frame["coherent"],
        frame["status"],
        frame["question_id"],
        frame["condition"],
        params_judging=params.judging,
        seed=params.run.seed,
        replicates=params.transfer.bootstrap,
        rate=rate or params.transfer.rate,
    )


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


class Table:
    """Rates of all conditions, point values and draws, in percent."""

    def __init__(self, matrix: RateMatrix, counts: Mapping[str, int]) -> None:
        self._column = {c: i for i, c in enumerate(matrix.conditions)}
        self._observed, self._draws = matrix.observed, matrix.draws
        self._counts = counts

    def __contains__(self, condition: str) -> bool:
        return condition in self._column

    def rate(self, condition: str) -> np.ndarray:
        """[1 + replicates]: the observed rate, then its draws.

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
        column = self._column[condition]
        joined: np.ndarray = np.concatenate([self._observed[[column]], self._draws[:, column]])
        return joined

    def n(self, *conditions: str) -> int:
        """The smallest number of answers among the conditions."""
        return min(self._counts[c] for c in conditions)


class AtShares(Table):
    """A table in which each vector acts at a share (0 to 1) of its chosen coefficient.

    Rates between the sampled doses, and between the lowest and no steering, are interpolated
    linearly, draw by draw.
    """

    def __init__(self, table: Table, shares: Mapping[str, float]) -> None:
        self.__dict__.update(table.__dict__)
        self._shares = shares

    def rate(self, condition: str) -> np.ndarray:
        target, kind, source, _ = condition.split("|")
        if kind != "vector":
            return super().rate(condition)
        share, grid = self._shares[source], {0.0: name(target)}
        for column in self._column:
            if column.startswith(name(target, source, kind, 0)[:-1]):
                grid[float(column.rpartition("|")[2])] = column
        below = max(m for m in grid if m <= share + 1e-9)
        above = min((m for m in grid if m >= share - 1e-9), default=below)
        low, high = super().rate(grid[below]), super().rate(grid[above])
        part = (share - below) / (above - below) if above > below else 0.0
        mixed: np.ndarray = low + part * (high - low)
        return mixed


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


def ratio(numerator: np.ndarray, denominator: np.ndarray, n: int) -> Estimate:
    """100 x numerator / denominator; undefined when the denominator's interval includes 0."""
    below = estimate(denominator, n)
    if below.status != "ok":
        return below
    if below.low <= 0 <= below.high:
        reason = f"undefined: denominator {below.value:.1f} [{below.low:.1f}, {below.high:.1f}]"
        return Estimate(np.nan, np.nan, np.nan, n, reason + " includes 0")
    with np.errstate(divide="ignore", invalid="ignore"):
        return estimate(100 * numerator / denominator, n)
