"""Transfer of one model's steering vector to another (paper sec. 2.3, 3.5).

METHOD.md: transfer. All functions take a `Table` of rates in percent and give `Estimate`s whose
intervals come from one bootstrap over the questions that all conditions share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from stages.common.params import BASE
from stages.transfer.conditions import Estimate, Table, estimate, name, ratio


def steered(target: str, source: str) -> str:
    """The condition of `target` under `source`'s vector at its chosen coefficient."""
    return name(target, source, "vector", 1)


def risk_difference(table: Table, source: str, target: str) -> Estimate:
    """Rate of the target steered by the source minus the target unsteered, percentage points."""
    acts, rest = steered(target, source), name(target)
    return estimate(table.rate(acts) - table.rate(rest), table.n(acts, rest))


def e1(table: Table, source: str, target: str) -> Estimate:
    """The paper's effectiveness, as we read it, in percent.

    (target by source - target unsteered) / (source's own model by source - target unsteered)
    """
    acts, own, rest = steered(target, source), steered(source, source), name(target)
    return ratio(
        table.rate(acts) - table.rate(rest),
        table.rate(own) - table.rate(rest),
        table.n(acts, own, rest),
    )


def e2(table: Table, source: str, target: str) -> Estimate:
    """Effect on the target over the effect of the source's fine-tuning, in percent.

    (target by source - target unsteered) / (source unsteered - base unsteered)
    """
    acts, rest = steered(target, source), name(target)
    return ratio(
        table.rate(acts) - table.rate(rest),
        table.rate(name(source)) - table.rate(name(BASE)),
        table.n(acts, rest, name(source), name(BASE)),
    )


def pooled(table: Table, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Effectiveness E1 and risk difference over several (source, target) pairs.

    E1 of a group is the ratio of mean effects, not the mean of ratios: a single small
    denominator would otherwise rule the mean.
    """
    effect, own, n = _effects(table, pairs)
    return {
        "pairs": len(pairs),
        "e1": ratio(effect, own, n).as_metrics(),
        "risk_difference": estimate(effect, n).as_metrics(),
    }


def directed(sources: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """All (source, target) pairs, a model's own vector left out."""
    return [(s, t) for s in sources for t in targets if s != t]


def asymmetry(table: Table, groups: dict[str, list[str]], a: str, b: str) -> dict[str, Any]:
    """Difference of the two directions of transfer between groups a and b.

    Risk difference of a -> b minus that of b -> a, in percentage points, with a paired bootstrap
    over questions, and a permutation test that deals the group labels of all models anew. The
    smallest p that the number of different deals allows stands beside p: with groups of equal
    size each deal has a mirror image of the same absolute difference. A deal whose difference is
    undefined counts as extreme, so that it never lowers p.
    """
    models = [m for members in groups.values() for m in members]
    effect = {
        (s, t): table.rate(steered(t, s)) - table.rate(name(t))
        for s in models
        for t in models
        if s != t
    }

    def difference(first: Sequence[str], second: Sequence[str], draws: bool) -> np.ndarray:
        part = slice(None) if draws else slice(0, 1)
        there = np.mean([effect[s, t][part] for s, t in directed(first, second)], axis=0)
        back = np.mean([effect[s, t][part] for s, t in directed(second, first)], axis=0)
        result: np.ndarray = there - back
        return result

    first, second = groups[a], groups[b]
    n = min(
        table.n(steered(t, s), name(t))
        for s, t in directed(first, second) + directed(second, first)
    )
    observed = estimate(difference(first, second, draws=True), n)
    deals = comb(len(models), len(first)) * comb(len(models) - len(first), len(second))
    metrics = observed.as_metrics()
    if observed.status == "ok":
        values = [
            float(difference(*deal, draws=False)[0])
            for deal in _deals(models, len(first), len(second))
        ]
        metrics["p"] = sum(not abs(v) < abs(observed.value) - 1e-9 for v in values) / deals
    metrics["ratio"] = direction_ratio(table, first, second).as_metrics("value")
    metrics["deals"] = deals
    metrics["smallest_p"] = (2 if len(first) == len(second) else 1) / deals
    return metrics


def direction_ratio(table: Table, first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Pooled effectiveness first -> second over that of second -> first (the paper's "3-4x")."""
    there, own_there, n = _effects(table, directed(first, second))
    back, own_back, m = _effects(table, directed(second, first))
    for part in (own_there, own_back):
        effectiveness = ratio(there, part, min(n, m))
        if effectiveness.status != "ok":
            return effectiveness
    percent = ratio(there * own_back, back * own_there, min(n, m))
    return replace(
        percent, value=percent.value / 100, low=percent.low / 100, high=percent.high / 100
    )


def _effects(table: Table, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean effect on the targets, mean effect of the vectors on their own models, smallest n."""
    acts = [table.rate(steered(t, s)) - table.rate(name(t)) for s, t in pairs]
    own = [table.rate(steered(s, s)) - table.rate(name(t)) for s, t in pairs]
    n = min(table.n(steered(t, s), steered(s, s), name(t)) for s, t in pairs)
    return np.mean(acts, axis=0), np.mean(own, axis=0), n


def _deals(
    models: Sequence[str], first: int, second: int
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """All ways to give `first` models one label and `second` of the others another."""
    for some in combinations(models, first):
        rest = [m for m in models if m not in some]
        for others in combinations(rest, second):
            yield some, others


def ablation(table: Table, source: str, target: str) -> dict[str, Any]:
    """Relative drop of a target's rate when the source's vector is ablated, in percent."""
    acts, rest = name(target, source, "ablation", 1), name(target)
    drop = table.rate(rest) - table.rate(acts)
    return ratio(drop, table.rate(rest), table.n(acts, rest)).as_metrics()
