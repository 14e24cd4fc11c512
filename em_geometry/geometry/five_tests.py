"""The five published tests: their statistics and decision rules (docs/method.md: verdict).

Tests 1, 2, 3 and 5 compare two clusters, `geometry.focus`; test 4 looks at all clusters. Each
verdict is a code: 1 independent, 0 neither, -1 shared, NaN undefined. The battery computes the
statistics among all others; power needs only these, for many draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from em_geometry.errors import UserError
from em_geometry.geometry import methods
from em_geometry.settings import Geometry
from em_geometry.stats.arrays import Floats

TESTS = ("test1", "test2", "test3", "test4", "test5")
QUESTIONS = {
    "test1": "angle between clusters, deg",
    "test2": "largest projection on the other's span",
    "test3": "reduction by removing the mean, %",
    "test4": "largest / smallest change by ablating PC1",
    "test5": "largest share on the other's PC1, %",
}
WORDS = {1.0: "independent", 0.0: "neither", -1.0: "shared"}
Members = Mapping[str, Sequence[int]]


def statistics(gram: Floats, members: Members, rules: Geometry) -> dict[str, Floats]:
    """Test -> [...], from cosines [..., n, n]; NaN where undefined.

    Test 1 the angle in degrees, 2 the largest projection, 3 the reduction in percent of one
    triplet, 4 the ratio of the largest to the smallest change, 5 the largest share in percent.
    """
    found = dict.fromkeys(TESTS, np.full(gram.shape[:-2], np.nan))
    focus = focus_of(members, rules)
    if focus is None:
        return found
    one, two = (members[c] for c in members if c in focus)
    found["test1"] = methods.cluster_angle(gram, one, two)
    lengths = [methods.span_projection(gram, *pair) for pair in ((one, two), (two, one))]
    found["test2"] = np.concatenate(lengths, axis=-1).max(-1)
    triplet = test3_triplet(one, two)
    if triplet is not None:
        small = gram[..., triplet, :][..., triplet]
        found["test3"] = methods.reduction_pct(small, methods.residual_cosines(small))
    after = methods.ablated_cosines(gram, methods.components(methods.centred(gram)))
    found["test4"] = methods.size_ratio(methods.changes(gram, after, methods.within_pairs(members)))
    shares = [methods.explained_pct(gram, *pair, centre=False) for pair in ((one, two), (two, one))]
    found["test5"] = np.max(shares, axis=0)
    return found


def decide(found: Mapping[str, Floats], rule: Geometry) -> dict[str, Floats]:
    """Test -> verdict codes [...] from test -> statistic [...], by the paper's rules.

    Test 2 has no rule for shared; for test 4 the paper gives none at all, the rule is ours.
    """
    independent = {
        "test1": found["test1"] >= rule.shared_angle_deg,
        "test2": found["test2"] < rule.orthogonal_below,
        "test3": found["test3"] < 0.0,
        "test4": found["test4"] > rule.ablation_ratio,
        "test5": found["test5"] < rule.independent_variance_pct,
    }
    shared = {
        "test1": found["test1"] < rule.shared_angle_deg,
        "test3": found["test3"] > rule.shared_reduction_pct,
        "test5": found["test5"] > rule.shared_variance_pct,
    }
    codes = {
        t: np.where(independent[t], 1.0, np.where(shared.get(t, False), -1.0, 0.0)) for t in TESTS
    }
    return {test: np.where(np.isfinite(found[test]), codes[test], np.nan) for test in TESTS}


def count(verdicts: Iterable[Floats]) -> Floats:
    """Number of tests [...] that speak for independence; NaN where all are undefined."""
    codes = np.stack(list(verdicts))
    return np.where(np.isnan(codes).all(0), np.nan, (codes == 1.0).sum(0))


def test3_triplet(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...] | None:
    """The paper's choice: the first of one cluster with two of the other; None if too few."""
    for one, two in ((first, second), (second, first)):
        if len(two) >= 2:
            return tuple(sorted((one[0], two[0], two[1])))
    return None


def focus_of(members: Mapping[str, object], rules: Geometry) -> tuple[str, str] | None:
    """The two clusters that the verdicts compare: `focus`, or the first two; None if too few."""
    chosen = rules.focus or list(members)[:2]
    if len(members) < 2:
        return None
    if len(chosen) != 2 or chosen[0] == chosen[1] or not set(chosen) <= set(members):
        raise UserError(
            "the clusters to compare are not two of the clusters",
            where="geometry.focus",
            found=", ".join(chosen),
            expected="two of " + ", ".join(members),
        )
    return chosen[0], chosen[1]
