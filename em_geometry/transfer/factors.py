"""Is it the laboratory or the mechanism? What a designed set of organisms says about its factors.

docs/method.md: designs. Everything measured on organisms is a value a unit: a unit is an organism,
an unordered pair of them, or a pair with a direction. Units are rows and columns of [n, n] matrices
(an organism is its own pair), so that relabelling the organisms is the same indexing for all three.
The test is the double semi-partialling of Dekker, Krackhardt & Snijders (2007, Psychometrika
72:563): a column's residual on the other columns is relabelled, so the other factors keep their
effects.

Organisms that were trained on one text are no two samples of what texts of its kind do. So
intervals leave out one text at a time, with all its organisms, and what differs between texts is
tested by relabelling texts; with few texts no p is small, which stands beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, permutations, product
from math import factorial, prod

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.stats.contingency import association

from em_geometry.geometry.grams import PromptRows
from em_geometry.geometry.methods import angles_deg, cosines, pair_values
from em_geometry.io.results import Leaf, Nested, as_estimate
from em_geometry.stats.decisions import holm
from em_geometry.stats.estimate import Estimate, Floats, Ints
from em_geometry.stats.intervals import jackknife, t_interval
from em_geometry.stats.permutation import EXACT_ORDERS, RANDOM, Tested, said, share_as_far

NOISE = 1e-9  # squared lengths below this share of a column's own are rounding
CONSTANT = "constant"
NEEDED = 2  # texts a cell, so that its effect can be told from that of one text
ONE_TEXT_EACH = "texts_given"  # last word of the key of an interval over prompts or questions only
Levels = Mapping[str, Sequence[str]]  # factor -> its level for each organism
Columns = dict[str, Floats]  # name of an effect -> [n, n]
Interval = Callable[[Floats], Estimate]  # of a weighted sum of values, weights [u]


@dataclass(frozen=True)
class Design:
    """Which organisms [n] have which levels, and which were trained on the same text."""

    levels: Levels
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def between(self) -> list[str]:
        """Factors of which all organisms of a text have one level."""
        seen = {f: {*zip(self.texts, each, strict=True)} for f, each in self.levels.items()}
        return [factor for factor, pairs in seen.items() if len(pairs) == len({*self.texts})]

    def texts_a_cell(self) -> int:
        """Fewest texts in a cell of the factors that differ between texts."""
        cells: dict[tuple[str, ...], set[str]] = {}
        for text, *cell in zip(self.texts, *(self.levels[f] for f in self.between()), strict=True):
            cells.setdefault(tuple(cell), set()).add(text)
        return min(map(len, cells.values()))

    def orders(self, factor: str, seed: int) -> Ints:
        """Relabellings [p, n] under which a factor without effect changes nothing; the given first.

        Texts change places, all organisms of one with those of another of the same size, where
        the factor differs between texts; else the organisms of each text do. All of them, or
        `RANDOM` at random.
        """
        levels = list(zip(*self.levels.values(), strict=True))
        ordered = sorted(range(len(self)), key=levels.__getitem__)
        groups = [
            tuple(i for i in ordered if self.texts[i] == t) for t in dict.fromkeys(self.texts)
        ]
        alike: list[list[tuple[int, ...]]] = [[(i,) for i in group] for group in groups]
        if factor in self.between():
            alike = [[g for g in groups if len(g) == n] for n in {len(group) for group in groups}]
        found: Sequence[Sequence[Sequence[Sequence[int]]]]
        if prod(factorial(len(some)) for some in alike) <= EXACT_ORDERS:
            found = [*product(*map(permutations, alike))]
        else:
            rng = np.random.Generator(np.random.Philox(key=seed))
            moved = [[rng.permutation(some).tolist() for some in alike] for _ in range(RANDOM)]
            found = [alike, *moved]
        orders = np.tile(np.arange(len(self)), (len(found), 1))
        orders[:, np.concatenate([*chain(*alike)])] = [np.concatenate([*chain(*f)]) for f in found]
        return orders


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


def jackknifed(values: Floats, without: Floats) -> Interval:
    """The interval of sums of values [u], which without each of some clusters are [cluster, u]."""
    return lambda weights: jackknife(float(values @ weights), without @ weights)


def effects(
    values: Floats, interval: Interval, columns: Columns, units: Units, design: Design, seed: int
) -> tuple[dict[str, Tested], dict[str, Estimate], float]:
    """Effects by least squares, in the unit of the values, and the share of variance explained.

    An effect is undefined where its column cannot be told apart from others. Its smallest p is
    the share of relabellings that leave its column as it is.

    Args:
        values: [u] measured, one a unit.
        interval: over what was measured on (prompts or questions), the texts given.
        columns: by name, `same_<factor>` or `<factor>_<level>`.
    Returns:
        effects with intervals over texts, with those that `interval` gives, the share.
    """
    identity = np.arange(len(design))[None]
    ones = np.ones((len(design),) * 2)
    matrices = ({CONSTANT: ones} if units.constant else {}) | columns
    matrix = np.stack([units.of(m, identity)[0] for m in matrices.values()], axis=1)
    solve, without = np.linalg.pinv(matrix, rcond=1e-9), _without(values, matrix, units, design)
    found: dict[str, Tested] = {}
    given: dict[str, Estimate] = {}
    for k, (name, column) in enumerate(matrices.items()):
        if name == CONSTANT:
            continue
        others = np.delete(matrix, k, axis=1)
        shares = np.linalg.lstsq(others, matrix[:, k], rcond=1e-9)[0]
        rest = {other: m for other, m in matrices.items() if other != name}
        residual = column - sum(s * m for s, m in zip(shares, rest.values(), strict=True))
        own = units.of(residual, identity)
        if (own**2).sum() <= NOISE * len(values):
            twins = [o for o, s in zip(rest, shares, strict=True) if abs(s) > 1e-6]
            twins = [o for o in twins if o != CONSTANT] or [CONSTANT]
            status = f"aliased: cannot be told apart from {', '.join(twins)}"
            found[name] = Tested(Estimate.undefined(status))
            continue
        moved = units.of(residual, design.orders(_factor(name, design.levels), seed))
        observed, null = (partial_correlation(values, x, others) for x in (own, moved))
        alike = np.minimum(np.abs(moved - own).max(1), np.abs(moved + own).max(1)) < 1e-6
        size = jackknife(float(solve[k] @ values), without[:, k])
        p = share_as_far(float(observed[0]), null, NOISE)
        found[name] = Tested(size, p, float(alike.mean()))
        given[name] = interval(solve[k])
    total = values - values.mean() if units.constant else values
    left = values - matrix @ (solve @ values)
    explained = 1 - float(left @ left) / float(total @ total) if total @ total > 0 else 0.0
    return found, given, explained


def _factor(name: str, levels: Levels) -> str:
    """The factor that an effect is of."""
    bare = name.removeprefix("same_")
    return next(f for f in sorted(levels, key=len, reverse=True) if bare.startswith(f))


def _without(values: Floats, matrix: Floats, units: Units, design: Design) -> Floats:
    """Effects [text, k] without the units that a text is in; NaN where they cannot be told then."""
    found, rank = [], np.linalg.matrix_rank(matrix)
    for text in dict.fromkeys(design.texts):
        own = np.array([each == text for each in design.texts])
        kept = ~(own[units.rows] | own[units.columns])
        if kept.any() and np.linalg.matrix_rank(matrix[kept]) == rank:
            found.append(np.linalg.pinv(matrix[kept], rcond=1e-9) @ values[kept])
        else:
            found.append(np.full(matrix.shape[1], np.nan))
    return np.array(found)


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
    values: Floats, interval: Interval, columns: Columns, units: Units, design: Design, seed: int
) -> dict[str, Leaf | Nested]:
    """Effects as results, or why there are none."""
    if not np.isfinite(values).all():
        return {"status": "undefined: a value is not known"}
    found, given, explained = effects(values, interval, columns, units, design, seed)
    tested: dict[str, Leaf] = {}
    for key, each in found.items():
        tested |= each.as_results(key)
        tested |= {f"{key}.{ONE_TEXT_EACH}": given[key]} if key in given else {}
    return {
        "status": "ok",
        "n": len(values),
        "mean": float(values.mean()),
        "explained": explained,
        "effect": tested,
    }


def verdicts(measured: Mapping[str, Leaf], level: float) -> dict[str, Leaf]:
    """Holm's p over all effects of a design, and what each allows to say at a level.

    Args:
        measured: by dotted key, effects under `<measure>.effect`.
    """
    keys = [key.removesuffix(".p") for key in measured if key.endswith(".p")]
    p = {end: [as_estimate(measured[f"{k}.{end}"]).value or 0.0 for k in keys]
         for end in ("p", "smallest_p")}  # fmt: skip
    found: dict[str, Leaf] = {}
    for key, adjusted, smallest in zip(keys, holm(p["p"]), p["smallest_p"], strict=True):
        found[f"{key}.p_holm"] = float(adjusted)
        effect = as_estimate(measured[key])
        found[f"{key}.verdict"] = said(effect, float(adjusted), smallest, level)
    return found


def angle_effects(sample: PromptRows, design: Design, seed: int) -> dict[str, Leaf | Nested]:
    """What sharing a factor's level does to the angle of two organisms' vectors, in degrees."""
    values, *left = angles_deg(pair_values(cosines(sample.grams)))
    interval, columns = jackknifed(values, np.array(left)), same(design.levels)
    return effect_results(values, interval, columns, pairs(len(design)), design, seed)


def similarity_effects(
    samples: Sequence[PromptRows], design: Design, seed: int
) -> dict[str, Leaf | Nested]:
    """What a level does to the cosine of an organism's contrast (a) with the base's.

    Args:
        samples: of each organism, the base's vector and its own.
    """
    values, *left = np.stack([cosines(s.grams)[:, 0, 1] for s in samples], axis=1)
    interval, columns = jackknifed(values, np.array(left)), against_first(design.levels)
    return effect_results(values, interval, columns, singles(len(design)), design, seed)


def asymmetry_effects(outcome: Floats, design: Design, seed: int) -> dict[str, Leaf | Nested]:
    """What a level does to transfer given minus transfer received, in nats a token.

    A value a pair: margin that the first's vector gains on the second's model, minus the reverse.

    Args:
        outcome: [vectors, targets, questions], the targets being the vectors' own models.
    """
    n = len(outcome)
    units, columns = pairs(n, constant=False), leads(design.levels)
    differences = (outcome - np.swapaxes(outcome, 0, 1))[units.rows, units.columns]

    def interval(weights: Floats) -> Estimate:
        return t_interval(weights @ differences)

    return effect_results(differences.mean(-1), interval, columns, units, design, seed)
