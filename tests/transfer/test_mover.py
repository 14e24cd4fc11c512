"""Intervals by numbers of answers: published examples, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invented_judgements import table

from em_geometry.judging.rates import wilson
from em_geometry.transfer.conditions import name
from em_geometry.transfer.effectiveness import e1, pooled, risk_difference, steered
from em_geometry.transfer.mover import distances, ratio_limits

COUNTS = st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda c: (min(c), max(c)))


def margins(count: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates and their distances to the ends of the Wilson intervals, as fractions."""
    low, high = wilson(count, n)
    return count / n, count / n - low, high - count / n


# Newcombe 1998 (Statistics in Medicine 17), table II, method 10.
@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_a_difference_is_newcombes(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    rate, below, above = margins(*np.array([one, other], dtype=float).T)
    down, up = distances(np.array([1.0, -1.0]), below, above)
    value = rate[0] - rate[1]
    assert (value - down, value + up) == pytest.approx((low, high), abs=6e-5)


@given(st.lists(COUNTS, min_size=3, max_size=3))
def test_a_ratio_holds_all_that_cannot_be_told_from_it(counts: list[tuple[int, int]]) -> None:
    """(a - c) / (b - c), as effectiveness is: c stands above and below."""
    rate, below, above = margins(*np.array(counts, dtype=float).T)
    top, bottom = np.array([1.0, 0, -1]), np.array([0.0, 1, -1])
    value = bottom @ rate
    down, up = distances(bottom, below, above)
    if value - down <= 1e-3 and value + up >= -1e-3:
        return  # undefined
    low, high = ratio_limits(top, bottom, rate, below, above)
    assert low < top @ rate / value < high
    assert np.isfinite([low, high]).all()
    for ratio, inside in ((low, True), (high, True), (low - 0.01, False), (high + 0.01, False)):
        weights = top - ratio * bottom
        down, up = distances(weights, below, above)
        total = weights @ rate
        assert (total - down <= 1e-9 and total + up >= -1e-9) == inside


def test_a_denominator_that_may_be_zero_has_no_limits() -> None:
    rate, below, above = margins(np.array([5.0, 1]), np.array([10.0, 10]))
    low, high = ratio_limits(np.array([1.0, 0]), np.array([1.0, -3.0]), rate, below, above)
    assert not np.isfinite([low, high]).all()


@pytest.mark.parametrize("n", [8, 48])
def test_intervals_hold_what_they_should(n: int) -> None:
    """Differences of rates like those of a small model: 95 in 100 at least, as they promise."""
    random, draws = np.random.default_rng(n), 4000
    for true in ([0.02, 0.02], [0.3, 0.1], [0.5, 0.45]):
        counts = random.binomial(n, true, size=(draws, 2)).astype(float)
        rate, below, above = margins(counts, np.full(2, float(n)))
        hits = 0
        for r, b, a in zip(rate, below, above, strict=True):
            down, up = distances(np.array([1.0, -1.0]), b, a)
            hits += r[0] - r[1] - down <= true[0] - true[1] <= r[0] - r[1] + up
        assert hits / draws > 0.935


RATES = {
    name("finance"): 0.0, name("base"): 0.0, name("sports"): 0.0,
    steered("base", "finance"): 0.0, steered("sports", "finance"): 0.0,
    steered("finance", "finance"): 75.0,
}  # fmt: skip


def test_equal_answers_leave_a_width() -> None:
    """0 of 8 against 0 of 8 says little; a bootstrap over questions would say 0 to 0."""
    bare = risk_difference(table(RATES), "finance", "base")
    assert (bare.low, bare.high) == (0, 0)
    found = risk_difference(table(RATES, answers=8), "finance", "base")
    assert (found.value, found.low, found.high) == pytest.approx((0, -32.44, 32.44), abs=0.01)
    ratio = e1(table(RATES, answers=8), "finance", "base")
    assert ratio.status == "ok"
    assert ratio.low < -30
    assert ratio.high > 30


def test_a_mean_of_pairs_is_known_better_than_each() -> None:
    rates = table(RATES, answers=8)
    both = pooled(rates, [("finance", "base"), ("finance", "sports")])["risk_difference"]
    one = risk_difference(rates, "finance", "base")
    assert both["high"] == pytest.approx(one.high / 2**0.5)


def test_wide_draws_are_kept() -> None:
    wide, bare = (
        risk_difference(table(RATES, 30.0, answers=a), "finance", "base") for a in (8, None)
    )
    assert (wide.low, wide.high) == (bare.low, bare.high)
    assert wide.high > 60


def test_a_little_denominator_becomes_undefined() -> None:
    rates = RATES | {steered("finance", "finance"): 12.5}
    assert e1(table(rates), "finance", "base").status == "ok"
    assert "includes 0" in e1(table(rates, answers=8), "finance", "base").status
