"""Is it the laboratory or the mechanism? What a designed set of organisms says about its factors.

Everything measured on organisms is a value a unit: a unit is an organism, an unordered pair of
them, or a pair with a direction. Units are rows and columns of [n, n] matrices (an organism is
its own pair), so that relabelling the organisms is the same indexing for all three. The test is
the double semi-partialling of Dekker, Krackhardt & Snijders (2007, Psychometrika 72:563): a
column's residual on the other columns is relabelled, so the other factors keep their effects.
Intervals are over prompts or questions; p is over relabellings of the organisms, of which each is
one trained model: neither speaks for further texts or seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.stats.contingency import association

from em_geometry.geometry.methods import angles_deg, cosines, pair_values, unit_gram
from em_geometry.geometry.samples import PromptRows
from em_geometry.io.results import Leaf, Nested
from em_geometry.stats.arrays import Floats, Ints
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import percentiles
from em_geometry.stats.permutation import Tested, share_as_far
from em_geometry.stats.resample import stream
from em_geometry.transfer.conditions import Table

NOISE = 1e-9  # squared lengths below this share of a column's own are rounding
CONSTANT = "constant"
Levels = Mapping[str, Sequence[str]]  # factor -> its level for each organism
Columns = dict[str, Floats]  # name of an effect -> [n, n]
Interval = Callable[[Floats], tuple[float, float]]  # of a weighted sum of values, weights [u]


@dataclass(frozen=True)
class Units:
    """Which organisms [u] each unit is of, and whether the units have a mean of their own.

    A difference of directions has none.
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
    arrays = {factor: np.array(each) for factor, each in levels.items()}
    return {f"same_{k}": np.equal.outer(each, each).astype(float) for k, each in arrays.items()}


def against_first(levels: Levels) -> Columns:
    """A column for each level but a factor's first: 1 on the diagonal of its organisms."""
    return {name: np.diag(column) for name, column in _dummies(levels).items()}


def leads(levels: Levels) -> Columns:
    """+1 from an organism of the level to one without it, -1 in the other direction."""
    return {name: np.subtract.outer(column, column) for name, column in _dummies(levels).items()}


def _dummies(levels: Levels) -> Columns:
    return {
        f"{factor}_{level}": np.array([float(one == level) for one in each])
        for factor, each in levels.items()
        for level in list(dict.fromkeys(each))[1:]
    }


def resampled(replicates: Floats) -> Interval:
    """The interval over resampled values [b, u]; NaN where too few replicates are defined."""
    return lambda weights: percentiles(replicates @ weights)


def effects(
    values: Floats, interval: Interval, columns: Columns, units: Units, orders: Ints
) -> tuple[dict[str, Tested], float]:
    """Effects by least squares, in the unit of the values, and the share of variance explained.

    An effect is undefined where its column cannot be told apart from others. Its smallest p is
    the share of relabellings that leave its column as it is.

    Args:
        values: [u] measured, one a unit.
        orders: [p, n] relabellings of the organisms, the identity among them.
    """
    n = orders.shape[1]
    identity = np.arange(n)[None]
    matrices = ({CONSTANT: np.ones((n, n))} if units.constant else {}) | columns
    design = np.stack([units.of(m, identity)[0] for m in matrices.values()], axis=1)
    solve = np.linalg.pinv(design, rcond=1e-9)
    found: dict[str, Tested] = {}
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
            found[name] = Tested(Estimate.undefined(status))
            continue
        moved = units.of(residual, orders)
        observed, null = (partial_correlation(values, x, others) for x in (own, moved))
        alike = np.minimum(np.abs(moved - own).max(1), np.abs(moved + own).max(1)) < 1e-6
        size = Estimate.from_values(float(solve[k] @ values), *interval(solve[k]))
        p = share_as_far(float(observed[0]), null, NOISE)
        found[name] = Tested(size, p, float(alike.mean()))
    total = values - values.mean() if units.constant else values
    left = values - design @ (solve @ values)
    explained = 1 - float(left @ left) / float(total @ total) if total @ total > 0 else 0.0
    return found, explained


def partial_correlation(values: Floats, columns: Floats, others: Floats) -> Floats:
    """Absolute partial correlation [p] of columns [p, u] with values [u], given others [u, k]."""
    keep = np.eye(len(values)) - others @ np.linalg.pinv(others, rcond=1e-9)
    y, x = keep @ values, columns @ keep
    squares = (x * x).sum(1)
    usable = (squares > NOISE * len(values)) & (y @ y > 0)  # else the others explain it
    scale = np.sqrt(np.where(usable, squares * (y @ y), 1.0))
    result: Floats = np.where(usable, np.abs(x @ y) / scale, 0.0)
    return result


def confounding(levels: Levels) -> dict[str, dict[str, Leaf]]:
    """How far each two factors are one and the same over these organisms.

    `cramers_v`: 0 = independent, 1 = one is a function of the other. `separable`: of the first
    factor's contrasts (levels minus one), how many remain once the second is known. `together`:
    groups of levels that only ever occur with each other, "none" where there is one group only;
    between the groups neither factor can be told apart from the other.
    """
    found: dict[str, dict[str, Leaf]] = {}
    for (a, first), (b, second) in combinations(levels.items(), 2):
        rows, columns = (list(dict.fromkeys(each)) for each in (first, second))
        table = np.zeros((len(rows), len(columns)), dtype=np.int64)
        np.add.at(table, ([rows.index(x) for x in first], [columns.index(y) for y in second]), 1)
        graph = np.block(
            [[np.zeros((len(rows),) * 2), table], [table.T, np.zeros((len(columns),) * 2)]]
        )
        count, group = connected_components(graph, directed=False)
        together = [
            " = ".join(
                ", ".join(level for level, g in zip(names, of, strict=True) if g == i)
                for names, of in ((rows, group[: len(rows)]), (columns, group[len(rows) :]))
            )
            for i in range(count)
        ]
        found[f"{a}__{b}"] = {
            "cramers_v": float(association(table))
            if min(table.shape) > 1
            else "undefined: one level only",
            "contrasts": len(rows) - 1,
            "separable": len(rows) - count,
            "together": "; ".join(together) if count > 1 else "none",
        }
    return found


def effect_results(
    values: Floats, interval: Interval, columns: Columns, units: Units, orders: Ints
) -> dict[str, Leaf | Nested]:
    """Effects as results, or why there are none."""
    if not np.isfinite(values).all():
        return {"status": "undefined: no coherent answers under some condition"}
    found, explained = effects(values, interval, columns, units, orders)
    tested: dict[str, Leaf] = {}
    for key, each in found.items():
        tested |= each.as_results(key)
    return {
        "status": "ok",
        "n": len(values),
        "mean": float(values.mean()),
        "explained": explained,
        "relabellings": len(orders),
        "effect": tested,
    }


def angle_effects(
    sample: PromptRows, levels: Levels, orders: Ints, seed: int, replicates: int
) -> dict[str, Leaf | Nested]:
    """What sharing a factor's level does to the angle of two organisms' vectors, in degrees."""
    grams = cosines(sample.bootstrap(stream(seed, "factorial"), replicates))
    values, drawn = (angles_deg(pair_values(g)) for g in (unit_gram(sample.vectors), grams))
    units = pairs(len(sample.vectors))
    return effect_results(values, resampled(drawn), same(levels), units, orders)


def similarity_effects(
    samples: Sequence[PromptRows], levels: Levels, orders: Ints, seed: int, replicates: int
) -> dict[str, Leaf | Nested]:
    """What a level does to the cosine of an organism's contrast (a) with the base's.

    Args:
        samples: of each organism, the base's vector and its own.
    """
    values = np.array([unit_gram(sample.vectors)[0, 1] for sample in samples])
    grams = (cosines(s.bootstrap(stream(seed, "factorial"), replicates)) for s in samples)
    drawn = np.stack([g[:, 0, 1] for g in grams], axis=1)
    columns, units = against_first(levels), singles(len(values))
    return effect_results(values, resampled(drawn), columns, units, orders)


def asymmetry_effects(
    table: Table, organisms: Sequence[str], levels: Levels, orders: Ints
) -> dict[str, Leaf | Nested]:
    """What a level does to transfer given minus transfer received, in percentage points.

    A value a pair: risk difference of the first's vector on the second, minus the reverse.
    """
    pairs_of = list(combinations(organisms, 2))
    sums = np.array([table.effect(a, b) - table.effect(b, a) for a, b in pairs_of])

    def interval(weights: Floats) -> tuple[float, float]:
        found = table.estimate(weights @ sums)
        if found.low is None or found.high is None:
            return np.nan, np.nan
        return found.low, found.high

    values = np.array([table.value(each) for each in sums])
    units = pairs(len(organisms), constant=False)
    return effect_results(values, interval, leads(levels), units, orders)
