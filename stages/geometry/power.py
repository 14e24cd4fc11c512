"""Which tests can tell a common core from none (METHOD.md: calibration, power).

Vectors are simulated with the observed tightness of the clusters and a common core of variance
share g. A core cannot exceed the loosest cluster's cosine; a second sweep goes on from there
with tighter clusters. For each test two rules are looked at: the paper's, and the threshold that
independent vectors cross in 5 % of draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from stages.common.params import Geometry
from stages.geometry.cluster_angle import cluster_angle
from stages.geometry.core_model import core_grams
from stages.geometry.gram import TINY, Floats
from stages.geometry.similarity import across_mean, within
from stages.geometry.verdict import TESTS, count, decide, statistics

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
    tighter: np.ndarray
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
    members: Mapping[str, Sequence[int]],
    tightness: Mapping[str, float],
    rules: Geometry,
) -> Sweep:
    """Simulates both sweeps; `replicates` draws at each share, `dimension` isotropic dimensions."""
    largest = min([LARGEST, *tightness.values()])
    shares = np.unique(
        np.concatenate([np.linspace(0.0, largest, POINTS), np.linspace(largest, LARGEST, POINTS)])
    )
    draws: dict[str, list[Floats]] = {name: [] for name in SHARED_IS_LARGE}
    codes: dict[str, list[Floats]] = {test: [] for test in TESTS}
    all_five = []
    for share in shares:
        grams = core_grams(rng, replicates, dimension, members, tightness, float(share), n)
        found = statistics(grams, members, rules)
        verdicts = decide(found, rules)
        whole = np.isfinite(np.stack(list(verdicts.values()))).all(0)
        all_five.append(
            _share(count(verdicts.values()) == len(TESTS), np.where(whole, 1.0, np.nan))
        )
        for test in TESTS:
            codes[test].append(verdicts[test])
        for name, value in {**found, REPLACEMENT: across_mean(grams, members)}.items():
            draws[name].append(value)
    threshold, crossed, opposite = {}, {}, {}
    for name, values in draws.items():
        sign = 1.0 if SHARED_IS_LARGE[name] else -1.0
        null = sign * values[0][np.isfinite(values[0])]
        if null.size < MIN_DEFINED * replicates:
            null = np.full(1, np.nan)  # and so are threshold and curves
        high, low = np.quantile(null, 1.0 - LEVEL), np.quantile(null, LEVEL)
        threshold[name] = float(sign * high)
        crossed[name] = np.array([_share(sign * v > high, v) for v in values])
        opposite[name] = np.array([_share(sign * v < low, v) for v in values])
        if np.isnan(high):
            crossed[name][:] = opposite[name][:] = np.nan
    return Sweep(
        shares=shares,
        tighter=shares > largest,
        independent={t: np.array([_share(v == 1.0, v) for v in codes[t]]) for t in TESTS},
        defined={t: np.array([np.isfinite(v).mean() for v in codes[t]]) for t in TESTS},
        all_five=np.array(all_five),
        threshold=threshold,
        crossed=crossed,
        opposite=opposite,
    )


def _share(hits: np.ndarray, values: Floats) -> float:
    """Share of hits among defined values; 0 when none is defined."""
    defined = np.isfinite(values)
    return float(hits[defined].mean()) if defined.any() else 0.0


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


def verdicts_of(found: Sweep) -> dict[str, object]:
    """Metrics: per test the verdict at the paper's threshold and at the 5 % threshold."""
    shares = found.attainable(found.shares)
    metrics: dict[str, object] = {}
    for name in SHARED_IS_LARGE:
        opposite = found.attainable(found.opposite[name])
        crossed = found.attainable(found.crossed[name])
        entry: dict[str, object] = {"verdict_5pct": "no threshold", "smallest_share_5pct": "never"}
        if np.isfinite(found.threshold[name]):
            verdict, smallest = judge(shares, crossed, opposite)
            entry = {
                "verdict_5pct": verdict,
                "smallest_share_5pct": smallest,
                "threshold_5pct": found.threshold[name],
                "power_5pct_at_largest": float(crossed[-1]),
            }
        if name in TESTS:
            detected = 1.0 - found.attainable(found.independent[name])
            verdict, smallest = judge(shares, detected, opposite)
            entry |= {
                "verdict_paper": verdict,
                "smallest_share_paper": smallest,
                "false_alarm_paper": float(detected[0]),
                "power_paper_at_largest": float(detected[-1]),
                "defined_at_zero": float(found.defined[name][0]),
            }
        metrics[name] = entry
    metrics["largest_share"] = float(shares[-1])
    metrics["all_five_at_zero"] = float(found.all_five[0])
    metrics["all_five_at_largest"] = float(found.attainable(found.all_five)[-1])
    return metrics


def curves(found: Sweep) -> tuple[list[str], list[list[object]]]:
    """Header and rows of plots/power.csv: one line a share."""
    header = ["share", "tighter_clusters", *(f"{t}_independent" for t in TESTS), "all_five"]
    header += [f"{name}_crosses_5pct" for name in found.crossed]
    rows: list[list[object]] = []
    for s, share in enumerate(found.shares.tolist()):
        row: list[object] = [share, int(found.tighter[s])]
        row += [float(found.independent[t][s]) for t in TESTS]
        row += [float(found.all_five[s])]
        crossed = (float(curve[s]) for curve in found.crossed.values())
        rows.append(row + ["" if np.isnan(value) else value for value in crossed])
    return header, rows


def dimensions_needed(gram: Floats, members: Mapping[str, Sequence[int]]) -> dict[str, float | str]:
    """Effective dimension above which the angle between two clusters is no accident, by pair.

    Cosines of independent isotropic directions in D dimensions have standard deviation
    1 / sqrt(D); beyond the returned D the cosine lies outside their 95 % range.
    """
    needed: dict[str, float | str] = {}
    for a, b in combinations(members, 2):
        cosine = float(np.cos(np.radians(cluster_angle(gram, members[a], members[b]))))
        if not np.isnan(cosine):
            right = abs(cosine) <= TINY
            needed[f"{a}__{b}"] = "undefined: a right angle" if right else (Z / cosine) ** 2
    return needed


def tightness_of(gram: Floats, members: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Mean cosine within each cluster of two or more; negative ones count as 0."""
    return {
        cluster: max(0.0, float(within(gram, indices)))
        for cluster, indices in members.items()
        if len(indices) > 1
    }
