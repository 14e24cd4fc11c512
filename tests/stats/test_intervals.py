"""Intervals: published examples, other programs' numbers, and coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from em_geometry.stats import intervals
from em_geometry.stats.estimate import Floats

COUNTS = st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda c: (min(c), max(c)))


def margins(count: Floats, n: Floats) -> tuple[Floats, Floats, Floats]:
    """Rates and their distances to the ends of the Wilson intervals, as fractions."""
    low, high = intervals.wilson(count, n)
    return count / n, count / n - low, high - count / n


@given(COUNTS)
def test_wilson_is_that_of_scipy(counts: tuple[int, int]) -> None:
    count, n = counts
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    found = intervals.proportion(count, n, scale=1)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (found.value, found.n) == (count / n, n)


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
    down, up = intervals.distances(np.array([1.0, -1.0]), below, above)
    value = rate[0] - rate[1]
    assert (value - down, value + up) == pytest.approx((low, high), abs=6e-5)


@given(st.lists(COUNTS, min_size=3, max_size=3))
def test_a_ratio_holds_all_that_cannot_be_told_from_it(counts: list[tuple[int, int]]) -> None:
    """(a - c) / (b - c), as effectiveness is: c stands above and below."""
    rate, below, above = margins(*np.array(counts, dtype=float).T)
    top, bottom = np.array([1.0, 0, -1]), np.array([0.0, 1, -1])
    value = bottom @ rate
    down, up = intervals.distances(bottom, below, above)
    if value - down <= 1e-3 and value + up >= -1e-3:
        return  # undefined
    low, high = intervals.ratio_limits(top, bottom, rate, below, above)
    assert low < top @ rate / value < high
    assert np.isfinite([low, high]).all()
    for ratio, inside in ((low, True), (high, True), (low - 0.01, False), (high + 0.01, False)):
        weights = top - ratio * bottom
        down, up = intervals.distances(weights, below, above)
        total = weights @ rate
        assert (total - down <= 1e-9 and total + up >= -1e-9) == inside


def test_a_denominator_that_may_be_zero_has_no_limits() -> None:
    rate, below, above = margins(np.array([5.0, 1]), np.array([10.0, 10]))
    low, high = intervals.ratio_limits(
        np.array([1.0, 0]), np.array([1.0, -3.0]), rate, below, above
    )
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
            down, up = intervals.distances(np.array([1.0, -1.0]), b, a)
            hits += r[0] - r[1] - down <= true[0] - true[1] <= r[0] - r[1] + up
        assert hits / draws > 0.935


def test_the_t_interval_is_that_of_scipy_and_nothing_has_none() -> None:
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    found = intervals.t_interval(values)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert intervals.t_interval(values[:1]).low is None
    assert intervals.proportion(0, 0, why="no answers").status == "no answers"


def test_percentiles_need_enough_draws() -> None:
    draws = np.arange(101.0)
    assert intervals.percentiles(draws) == (2.5, 97.5)
    draws[:20] = np.nan
    assert np.isnan(intervals.percentiles(draws)).all()
    assert intervals.percentiles(draws, 0.8) == pytest.approx((22, 98))
    assert np.isnan(intervals.percentiles(np.array([]))).all()


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(4).exponential(size=9)
    without = (values.sum() - values) / 8
    found, expected = (
        intervals.jackknife(float(values.mean()), without),
        intervals.t_interval(values),
    )
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    without[0] = np.nan
    assert intervals.jackknife(1.0, without).low is None


def test_fieller_is_the_set_of_ratios_that_t_does_not_reject() -> None:
    random = np.random.default_rng(5)
    top, bottom = random.normal(1, 1, 12), random.normal(3, 1, 12)
    found = intervals.fieller(top, bottom)
    assert found.value == pytest.approx(top.mean() / bottom.mean())
    for ratio in (found.low, found.high):
        assert ratio is not None
        assert stats.ttest_1samp(top - ratio * bottom, 0).pvalue == pytest.approx(0.05)
    assert "includes 0" in intervals.fieller(bottom, top - top.mean()).status


def angles(means: Floats) -> Floats:
    """Between pairs of vectors [..., 2, width], in degrees."""
    a, b = means[..., 0, :], means[..., 1, :]
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos((a * b).sum(-1) / lengths))


def coverage(kind: str, n: int, skewed: bool) -> float:
    """Share of 4000 samples of n clusters whose interval holds the truth."""
    noise = np.random.default_rng(n).normal(size=(4000, n, 2, 4))
    if skewed:
        noise = np.exp(0.5 * noise) - np.exp(0.125)
    x, y = 1 + noise[..., 0, 0], 4 + noise[..., 1, 0] + 0.5 * noise[..., 0, 0]
    rows = np.array([[2.0, 0, 0, 0], [1, 3**0.5, 0, 0]]) + noise  # at 60 degrees
    whole, without = rows.sum(1), rows.sum(1, keepdims=True) - rows
    found, truth = {
        "t": (map(intervals.t_interval, x), 1.0),
        "ratio": (map(intervals.fieller, x, y), 1 / 4),
        "jackknife": (map(intervals.jackknife, angles(whole), angles(without)), 60.0),
    }[kind]
    return float(np.mean([low <= truth <= high for low, high in map(intervals.ends, found)]))


@pytest.mark.parametrize("kind", ["t", "ratio", "jackknife"])
@pytest.mark.parametrize(("n", "skewed"), [(8, False), (24, False), (24, True)])
def test_coverage_over_clusters(kind: str, n: int, skewed: bool) -> None:
    assert 0.93 < coverage(kind, n, skewed) < 0.97


@pytest.mark.parametrize(("n", "share"), [(12, 0.5), (48, 0.1), (96, 0.3), (204, 0.15)])
def test_coverage_of_wilson(n: int, share: float) -> None:
    """Exact, by summing over all counts; Wilson moves around its level (Brown et al. 2001)."""
    counts = np.arange(n + 1)
    low, high = intervals.wilson(counts, n)
    held = (low <= share) & (share <= high)
    assert 0.93 < stats.binom.pmf(counts, n, share)[held].sum() < 0.975
