"""Transfer of one model's steering vector to another (paper sec. 2.3, 3.5).

METHOD.md: transfer. All functions take a `Table` of rates in percent and give `Estimate`s whose
intervals come from one bootstrap over the questions that all conditions share, widened where that
is narrower than the numbers of answers allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from em_geometry.settings.params import BASE
from em_geometry.transfer.conditions import name
from em_geometry.transfer.table import Estimate, Table, Weights, combined, difference, mean, ratio


def steered(target: str, source: str) -> str:
    """The condition of `target` under `source`'s vector at its chosen coefficient."""
    return name(target, source, "vector", 1)


def risk_difference(table: Table, source: str, target: str) -> Estimate:
    """Rate of the target steered by the source minus the target unsteered, percentage points."""
    acts, rest = steered(target, source), name(target)
    return table.estimate(difference(acts, rest), table.n(acts, rest))


def e1(table: Table, source: str, target: str) -> Estimate:
    """The paper's effectiveness, as we read it, in percent.

    (target by source - target unsteered) / (source's own model by source - target unsteered)
    """
    acts, own, rest = steered(target, source), steered(source, source), name(target)
    return table.ratio(difference(acts, rest), difference(own, rest), table.n(acts, own, rest))


def e2(table: Table, source: str, target: str) -> Estimate:
    """Effect on the target over the effect of the source's fine-tuning, in percent.

    (target by source - target unsteered) / (source unsteered - base unsteered)
    """
    acts, rest = steered(target, source), name(target)
    return table.ratio(
        difference(acts, rest),
        difference(name(source), name(BASE)),
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
        "e1": table.ratio(effect, own, n).as_metrics(),
        "risk_difference": table.estimate(effect, n).as_metrics(),
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
        (s, t): float(table.sum(difference(steered(t, s), name(t)))[0])
        for s, t in directed(models, models)
    }

    def dealt(first: Sequence[str], second: Sequence[str]) -> float:
        there = np.mean([effect[pair] for pair in directed(first, second)])
        return float(there - np.mean([effect[pair] for pair in directed(second, first)]))

    first, second = groups[a], groups[b]
    n = min(
        table.n(steered(t, s), name(t))
        for s, t in directed(first, second) + directed(second, first)
    )
    there, back = _effect(directed(first, second)), _effect(directed(second, first))
    observed = table.estimate(combined([(1, there), (-1, back)]), n)
    deals = comb(len(models), len(first)) * comb(len(models) - len(first), len(second))
    metrics = observed.as_metrics()
    if observed.status == "ok":
        values = [dealt(*deal) for deal in _deals(models, len(first), len(second))]
        metrics["p"] = sum(not abs(v) < abs(observed.value) - 1e-9 for v in values) / deals
    metrics["ratio"] = direction_ratio(table, first, second).as_metrics("value")
    metrics["deals"] = deals
    metrics["smallest_p"] = (2 if len(first) == len(second) else 1) / deals
    return metrics


def direction_ratio(table: Table, first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Pooled effectiveness first -> second over that of second -> first (the paper's "3-4x")."""
    there, own_there, n = _effects(table, directed(first, second))
    back, own_back, m = _effects(table, directed(second, first))
    for part in (own_there, own_back, back):
        effectiveness = table.ratio(there, part, min(n, m))
        if effectiveness.status != "ok":
            return effectiveness
    percent = ratio(
        table.sum(there) * table.sum(own_back), table.sum(back) * table.sum(own_there), min(n, m)
    )
    return replace(
        percent, value=percent.value / 100, low=percent.low / 100, high=percent.high / 100
    )


def _effect(pairs: Sequence[tuple[str, str]]) -> Weights:
    """Mean effect of the vectors on their targets."""
    return mean([difference(steered(t, s), name(t)) for s, t in pairs])


def _effects(table: Table, pairs: Sequence[tuple[str, str]]) -> tuple[Weights, Weights, int]:
    """Mean effect on the targets, mean effect of the vectors on their own models, smallest n."""
    own = mean([difference(steered(s, s), name(t)) for s, t in pairs])
    n = min(table.n(steered(t, s), steered(s, s), name(t)) for s, t in pairs)
    return _effect(pairs), own, n


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
    return table.ratio(difference(rest, acts), {rest: 1.0}, table.n(acts, rest)).as_metrics()
