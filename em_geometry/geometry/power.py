"""Which tests can tell a common core from none (docs/method.md: calibration, power).

Vectors are simulated with the observed tightness of the clusters and a common core of variance
share g. A core cannot exceed the loosest cluster's cosine; a second sweep goes on from there
with tighter clusters. For each test two rules are looked at: the paper's, and the threshold that
independent vectors cross in 5 % of draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from em_geometry.geometry.core import core_grams
from em_geometry.geometry.five_tests import TESTS, Members, count, decide, statistics
from em_geometry.geometry.gram import TINY
from em_geometry.geometry.methods import across_mean, cluster_angle, within
from em_geometry.io.results import Leaf
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Bools, Floats

POINTS, LARGEST = 11, 0.95  # shares in each sweep; the last share of the second
LEVEL, POWER = 0.05, 0.8  # false positives and power that count as telling apart
REPLACEMENT = "cross_mean"  # mean cosine across clusters, the statistic proposed instead
MIN_DEFINED = 0.5  # share of independent draws that must define a statistic for a threshold
SLACK = 0.02  # simulation error of a probability of 5 %
Z = 1.96  # half width of the 95 % range of a normal variable
SHARED_IS_LARGE = {
    "test1": False,
    "test2": True,
    "test3": True,
    "test4": False,
    "test5": True,
    REPLACEMENT: True,
}


@dataclass(frozen=True)
class Sweep:
    """Probabilities over shares of the common core.

    Attributes:
        shares: [S] variance shares, ascending from 0.
        tighter: [S] whether clusters were made tighter than observed to hold the core.
        independent: test -> [S] probability of the paper's "independent", of defined draws.
        defined: test -> [S] probability that the test is defined.
        all_five: [S] probability that five tests say independent, of draws that define all five.
        threshold: statistic -> value that 5 % of independent draws cross on the shared side;
            NaN, with its curves, where too few independent draws define the statistic.
        crossed: statistic -> [S] probability of crossing it.
        opposite: statistic -> [S] probability of crossing its 5 % counterpart on the other side.
    """

    shares: Floats
    tighter: Bools
    independent: dict[str, Floats]
    defined: dict[str, Floats]
    all_five: Floats
    threshold: dict[str, float]
    crossed: dict[str, Floats]
    opposite: dict[str, Floats]

    def attainable(self, curve: Floats) -> Floats:
        """The part of a curve for cores that the observed clusters can hold."""
        part: Floats = curve[~self.tighter]
        return part


def sweep(
    rng: np.random.Generator,
    replicates: int,
    dimension: int,
    n: int,
    members: Members,
    tightness: Mapping[str, float],
    rules: Geometry,
) -> Sweep:
    """Simulates both sweeps; `replicates` draws at each share, `dimension` isotropic dimensions."""
    largest = min([LARGEST, *tightness.values()])
    shares = np.unique(
        np.concatenate([np.linspace(0.0, largest, POINTS), np.linspace(largest, LARGEST, POINTS)])
    )
    found = []
    for share in shares:
        grams = core_grams(rng, replicates, dimension, members, tightness, float(share), n)
        found.append(statistics(grams, members, rules) | {REPLACEMENT: across_mean(grams, members)})
    draws = {name: np.stack([each[name] for each in found]) for name in SHARED_IS_LARGE}
    codes = decide(draws, rules)
    whole = np.isfinite(np.sum(list(codes.values()), axis=0))
    threshold, crossed, opposite = {}, {}, {}
    for name, values in draws.items():
        sign = 1.0 if SHARED_IS_LARGE[name] else -1.0
        null = sign * values[0][np.isfinite(values[0])]
        if null.size < MIN_DEFINED * replicates:
            null = np.full(1, np.nan)  # and so are threshold and curves
        high, low = np.quantile(null, 1.0 - LEVEL), np.quantile(null, LEVEL)
        threshold[name] = float(sign * high)
        defined = np.isfinite(values)
        crossed[name] = _share(sign * values > high, defined) + 0.0 * high
        opposite[name] = _share(sign * values < low, defined) + 0.0 * high
    return Sweep(
        shares=shares,
        tighter=shares > largest,
        independent={t: _share(codes[t] == 1.0, np.isfinite(codes[t])) for t in TESTS},
        defined={t: np.isfinite(codes[t]).mean(-1) for t in TESTS},
        all_five=_share(count(codes.values()) == len(TESTS), whole),
        threshold=threshold,
        crossed=crossed,
        opposite=opposite,
    )


def _share(hits: Bools, defined: Bools) -> Floats:
    """Share [S] of hits, bool [S, B], among defined draws; 0 when none is defined."""
    share: Floats = (hits & defined).sum(-1) / np.maximum(defined.sum(-1), 1)
    return share


def judge(shares: Floats, detected: Floats, opposite: Floats) -> tuple[str, float | str]:
    """Verdict on one rule, and the smallest share it finds with 80 % power.

    Args:
        shares: [S] shares that the observed clusters can hold, from 0.
        detected: [S] probability of not calling the vectors independent.
        opposite: [S] probability of calling them more independent than independent ones.
    """
    reached = np.flatnonzero(detected >= POWER)
    if detected[0] <= LEVEL + SLACK and reached.size:
        return "discriminates", float(shares[reached[0]])
    if opposite[-1] >= POWER:
        return "reversed", "never"
    return "cannot discriminate", "never"


def verdicts_of(found: Sweep) -> dict[str, Leaf]:
    """Results by dotted key: per test the verdict at the paper's and at the 5 % threshold."""
    shares = found.attainable(found.shares)
    results: dict[str, Leaf] = {}
    for name in SHARED_IS_LARGE:
        opposite = found.attainable(found.opposite[name])
        crossed = found.attainable(found.crossed[name])
        if np.isfinite(found.threshold[name]):
            results |= _rule(f"{name}.{{}}_5pct", shares, crossed, opposite)
            results[f"{name}.threshold_5pct"] = found.threshold[name]
        else:
            results[f"{name}.verdict_5pct"] = "no threshold"
            results[f"{name}.smallest_share_5pct"] = "never"
        if name in TESTS:
            detected = 1.0 - found.attainable(found.independent[name])
            results |= _rule(f"{name}.{{}}_paper", shares, detected, opposite)
            results[f"{name}.false_alarm_paper"] = float(detected[0])
            results[f"{name}.defined_at_zero"] = float(found.defined[name][0])
    results["largest_share"] = float(shares[-1])
    results["all_five_at_zero"] = float(found.all_five[0])
    results["all_five_at_largest"] = float(found.attainable(found.all_five)[-1])
    return results


def _rule(key: str, shares: Floats, detected: Floats, opposite: Floats) -> dict[str, Leaf]:
    verdict, smallest = judge(shares, detected, opposite)
    return {
        key.format("verdict"): verdict,
        key.format("smallest_share"): smallest,
        f"{key.format('power')}_at_largest": float(detected[-1]),
    }


def curves(found: Sweep) -> tuple[list[str], list[list[object]]]:
    """Header and rows of plots/power.csv: one line a share; empty where there is no threshold."""
    columns = {"share": found.shares, "tighter_clusters": found.tighter.astype(np.float64)}
    columns |= {f"{test}_independent": found.independent[test] for test in TESTS}
    columns |= {"all_five": found.all_five}
    columns |= {f"{name}_crosses_5pct": curve for name, curve in found.crossed.items()}
    rows = zip(*(curve.astype(float).tolist() for curve in columns.values()), strict=True)
    return [*columns], [["" if np.isnan(cell) else cell for cell in row] for row in rows]


def dimensions_needed(gram: Floats, members: Members) -> dict[str, Leaf]:
    """Effective dimension above which the angle between two clusters is no accident, by pair.

    Cosines of independent isotropic directions in D dimensions have standard deviation
    1 / sqrt(D); beyond the returned D the cosine lies outside their 95 % range.
    """
    needed: dict[str, Leaf] = {}
    for a, b in combinations(members, 2):
        cosine = float(np.cos(np.radians(cluster_angle(gram, members[a], members[b]))))
        if not np.isnan(cosine):
            right = abs(cosine) <= TINY
            needed[f"{a}__{b}"] = "undefined: a right angle" if right else (Z / cosine) ** 2
    return needed


def tightness_of(gram: Floats, members: Members) -> dict[str, float]:
    """Mean cosine within each cluster of two or more; negative ones count as 0."""
    return {
        cluster: max(0.0, float(within(gram, indices)))
        for cluster, indices in members.items()
        if len(indices) > 1
    }
