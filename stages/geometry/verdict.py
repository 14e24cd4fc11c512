"""The published decision rules (METHOD.md: verdict).

Tests 1, 2, 3 and 5 compare two clusters, `geometry.focus`; test 4 looks at all clusters. Each
verdict is a code: 1 independent, 0 neither, -1 shared, NaN undefined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stages.common.errors import UserError
from stages.common.params import Geometry
from stages.geometry.gram import Floats

WORDS = {1.0: "independent", 0.0: "neither", -1.0: "shared"}


def _code(statistic: Floats, independent: np.ndarray, shared: np.ndarray) -> Floats:
    value = np.where(independent, 1.0, np.where(shared, -1.0, 0.0))
    return np.where(np.isfinite(statistic), value, np.nan)


def _test1(angle_deg: Floats, rule: Geometry) -> Floats:
    """Shared below the threshold, independent otherwise."""
    shared = angle_deg < rule.shared_angle_deg
    return _code(angle_deg, ~shared, shared)


def _test2(largest_projection: Floats, rule: Geometry) -> Floats:
    """Independent when every projection is below the threshold; no rule for shared is given."""
    independent = largest_projection < rule.orthogonal_below
    return _code(largest_projection, independent, np.zeros_like(independent))


def _test3(reduction_pct: Floats, rule: Geometry) -> Floats:
    """Independent when negative, shared above the threshold."""
    return _code(reduction_pct, reduction_pct < 0.0, reduction_pct > rule.shared_reduction_pct)


def _test4(ratio: Floats, rule: Geometry) -> Floats:
    """Independent when the ablation changes clusters unequally: a rule of ours, none is given."""
    independent = ratio > rule.ablation_ratio
    return _code(ratio, independent, np.zeros_like(independent))


def _test5(largest_pct: Floats, rule: Geometry) -> Floats:
    """Independent when both shares are below one threshold, shared when one is above the other."""
    return _code(
        largest_pct,
        largest_pct < rule.independent_variance_pct,
        largest_pct > rule.shared_variance_pct,
    )


RULES = {"test1": _test1, "test2": _test2, "test3": _test3, "test4": _test4, "test5": _test5}
TESTS = tuple(RULES)


def decide(statistics: Mapping[str, Floats], rule: Geometry) -> dict[str, Floats]:
    """Test -> verdict codes [...] from test -> statistic [...]."""
    return {test: RULES[test](statistic, rule) for test, statistic in statistics.items()}


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


def focus_of(members: Mapping[str, object], thresholds: Geometry) -> tuple[str, str] | None:
    """The two clusters that the verdicts compare: `focus`, or the first two; None if too few."""
    chosen = thresholds.focus or list(members)[:2]
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
