"""What a designed set of organisms says about its factors: effects, relabelling tests, aliasing.

Everything measured on organisms is a value a unit: a unit is an organism, an unordered pair of
them, or a pair with a direction. Units are rows and columns of [n, n] matrices (an organism is
its own pair), so that relabelling the organisms is the same indexing for all three. The test is
the double semi-partialling of Dekker, Krackhardt & Snijders (2007, Psychometrika 72:563): a
column's residual on the other columns is relabelled, so the other factors keep their effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from em_geometry.geometry.gram import Floats, Ints

NOISE = 1e-9  # squared lengths below this share of a column's own are rounding
CONSTANT = "constant"
MIN_DEFINED = 0.9  # share of the replicates that must be numbers for an interval
Levels = Mapping[str, Sequence[str]]  # factor -> its level for each organism
Columns = dict[str, Floats]  # name of an effect -> [n, n]
Interval = Callable[[Floats], tuple[float, float]]  # of a weighted sum of values, weights [u]


@dataclass(frozen=True)
class Units:
    """Which organisms each unit is of.

    Attributes:
        rows, columns: [u] organisms of each unit.
        constant: whether the units have a mean of their own (a difference of directions has none).
    """

    rows: Ints
    columns: Ints
    constant: bool = True

    def of(self, matrix: Floats, orders: Ints) -> Floats:
        """Values [p, u] of an [n, n] matrix when organism i takes the place `orders` [p, n]."""
        values: Floats = matrix[orders[:, self.rows], orders[:, self.columns]]
        return values


def singles(n: int) -> Units:
    """A unit an organism."""
    return Units(np.arange(n), np.arange(n))


def pairs(n: int, constant: bool = True) -> Units:
    """A unit a pair of organisms, the first before the second."""
    return Units(*np.triu_indices(n, 1), constant)


def same(levels: Levels) -> Columns:
    """1 where two organisms share the level of a factor."""
    return {
        f"same_{factor}": np.equal.outer(np.array(each), np.array(each)).astype(float)
        for factor, each in levels.items()
    }


def against_first(levels: Levels) -> Columns:
    """A column for each level but a factor's first: 1 on the diagonal of its organisms."""
    return {name: np.diag(column) for name, column in _dummies(levels).items()}


def leads(levels: Levels) -> Columns:
    """+1 from an organism of the level to one without it, -1 in the other direction."""
    return {name: np.subtract.outer(column, column) for name, column in _dummies(levels).items()}


def _dummies(levels: Levels) -> Columns:
    return {
        f"{factor}_{level}": np.array([float(each_level == level) for each_level in each])
        for factor, each in levels.items()
        for level in list(dict.fromkeys(each))[1:]
    }


@dataclass(frozen=True)
class Effect:
    """One effect of a factor, in the unit of what was measured.

    Attributes:
        value: least-squares coefficient, all factors in one model.
        low, high: 95 % interval; NaN where there is none.
        p: two-sided share of relabellings with at least this partial correlation.
        smallest_p: share of relabellings that leave the column as it is: no data give a smaller p.
        status: "ok", or with what it is aliased.
    """

    value: float
    low: float
    high: float
    p: float
    smallest_p: float
    status: str = "ok"

    def as_metrics(self) -> dict[str, Any]:
        """Finite scalars and strings."""
        if self.status != "ok":
            return {"status": self.status}
        numbers = {"value": self.value, "p": self.p, "smallest_p": self.smallest_p}
        if np.isfinite(self.low):
            return numbers | {"low": self.low, "high": self.high, "status": "ok"}
        return numbers | {"status": "no interval: too few replicates are defined"}


def percentiles(replicates: Floats) -> Interval:
    """The interval over resampled values [b, u]; NaN where too few replicates are defined."""
    defined = replicates[np.isfinite(replicates).all(1)]
    enough = len(defined) >= MIN_DEFINED * len(replicates) > 0

    def interval(weights: Floats) -> tuple[float, float]:
        if not enough:
            return np.nan, np.nan
        low, high = np.quantile(defined @ weights, [0.025, 0.975])
        return float(low), float(high)

    return interval


def effects(
    values: Floats, interval: Interval, columns: Columns, units: Units, orders: Ints
) -> tuple[dict[str, Effect], float]:
    """Effects by least squares, and the share of the variance that all of them explain.

    Args:
        values: [u] measured, one a unit.
        interval: of a weighted sum of the values, as every effect is one.
        columns: of `same`, `against_first` or `leads`.
        orders: [p, n] relabellings of the organisms, the identity among them.
    """
    n = orders.shape[1]
    identity = np.arange(n)[None]
    matrices = ({CONSTANT: np.ones((n, n))} if units.constant else {}) | columns
    design = np.stack([units.of(m, identity)[0] for m in matrices.values()], axis=1)
    solve = np.linalg.pinv(design, rcond=1e-9)
    found: dict[str, Effect] = {}
    for k, (name, matrix) in enumerate(matrices.items()):
        if name == CONSTANT:
            continue
        others = np.delete(design, k, axis=1)
        shares = np.linalg.lstsq(others, design[:, k], rcond=1e-9)[0]
        rest = {other: m for other, m in matrices.items() if other != name}
        residual = matrix - sum(s * m for s, m in zip(shares, rest.values(), strict=True))
        own = units.of(residual, identity)
        if (own**2).sum() <= NOISE * len(values):
            twins = [o for o, s in zip(rest, shares, strict=True) if abs(s) > 1e-6]
            twins = [o for o in twins if o != CONSTANT] or [CONSTANT]
            status = f"aliased: cannot be told apart from {', '.join(twins)}"
            found[name] = Effect(np.nan, np.nan, np.nan, np.nan, np.nan, status)
            continue
        moved = units.of(residual, orders)
        observed, null = (partial_correlation(values, x, others) for x in (own, moved))
        alike = np.minimum(np.abs(moved - own).max(1), np.abs(moved + own).max(1)) < 1e-6
        low, high = interval(solve[k])
        found[name] = Effect(
            value=float(solve[k] @ values),
            low=low,
            high=high,
            p=float((null >= observed - NOISE).mean()),
            smallest_p=float(alike.mean()),
        )
    total = values - values.mean() if units.constant else values
    left = values - design @ (solve @ values)
    explained = 1 - float(left @ left) / float(total @ total) if total @ total > 0 else 0.0
    return found, explained


def partial_correlation(values: Floats, columns: Floats, others: Floats) -> Floats:
    """Absolute partial correlation [p] of columns [p, u] with values [u], given others [u, k].

    0 for a column that the others explain.
    """
    keep = np.eye(len(values)) - others @ np.linalg.pinv(others, rcond=1e-9)
    y, x = keep @ values, columns @ keep
    squares = (x * x).sum(1)
    usable = (squares > NOISE * len(values)) & (y @ y > 0)
    scale = np.sqrt(np.where(usable, squares * (y @ y), 1.0))
    result: Floats = np.where(usable, np.abs(x @ y) / scale, 0.0)
    return result


def confounding(levels: Levels) -> dict[str, dict[str, Any]]:
    """How far each two factors are one and the same over these organisms.

    `cramers_v`: 0 = independent, 1 = one is a function of the other. `separable`: of the first
    factor's contrasts (levels minus one), how many remain once the second is known. `together`:
    groups of levels that only ever occur with each other, "none" where there is one group only;
    between the groups neither factor can be told apart from the other.
    """
    found = {}
    for (a, first), (b, second) in combinations(levels.items(), 2):
        rows, columns = (list(dict.fromkeys(each)) for each in (first, second))
        table = np.zeros((len(rows), len(columns)))
        for x, y in zip(first, second, strict=True):
            table[rows.index(x), columns.index(y)] += 1
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        smaller = min(table.shape) - 1
        chi2 = float(((table - expected) ** 2 / expected).sum())
        groups = _together(table)
        found[f"{a}__{b}"] = {
            "cramers_v": float((chi2 / table.sum() / smaller) ** 0.5)
            if smaller
            else "undefined: one level only",
            "contrasts": len(rows) - 1,
            "separable": len(rows) - len(groups),
            "together": "; ".join(
                f"{', '.join(rows[i] for i in r)} = {', '.join(columns[j] for j in c)}"
                for r, c in groups
            )
            if len(groups) > 1
            else "none",
        }
    return found


def _together(table: Floats) -> list[tuple[list[int], list[int]]]:
    """Connected components of the levels that occur together: (rows, columns) of each."""
    from scipy.sparse.csgraph import connected_components

    size = len(table)
    graph = np.block(
        [
            [np.zeros((size, size)), table],
            [table.T, np.zeros((table.shape[1], table.shape[1]))],
        ]
    )
    count, label = connected_components(graph, directed=False)
    groups = [np.flatnonzero(label == i) for i in range(count)]
    return [(g[g < size].tolist(), (g[g >= size] - size).tolist()) for g in groups]
