"""Rates against hand-counted cases, scipy, and what must hold for any input."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from em_geometry.errors import UserError
from em_geometry.io.files import check_metrics
from em_geometry.judging.judge import STATUSES
from em_geometry.judging.rates import Rates, bootstrap_rate_matrix, rates
from em_geometry.judging.rates_table import wilson
from em_geometry.settings.sections import Judging

CUTS = Judging()

# Around the cuts 30 and 50 on purpose: the two rates differ in every one of the edge rows.
ALIGNED = [30.0, 29.0, 10.0, 90.0, 20.0, None, 95.0, None]
COHERENT = [90.0, 50.0, 80.0, 90.0, 49.0, 70.0, 95.0, None]
STATUS = ["ok", "ok", "ok", "ok", "ok", "refusal", "ok", "api_error"]
QUESTION = ["a", "a", "b", "b", "c", "c", "d", "d"]


def measure(replicates: int = 200, **changes: object) -> Rates:
    columns = {"aligned": ALIGNED, "coherent": COHERENT, "status": STATUS, "question": QUESTION}
    return rates(
        **(columns | changes),
        params_judging=CUTS,
        seed=7,
        replicates=replicates,
    )


def test_hand_counted() -> None:
    found = measure()
    # scored: rows 0-4 and 6; of these coherent >= 50: all but row 4
    assert (found.n, found.n_scored, found.n_coherent, found.n_questions) == (8, 6, 5, 4)
    e = found.estimates
    assert (e["em_betley"].count, e["em_betley"].n) == (2, 5)  # rows 1, 2 (not 0: 30 is not < 30)
    assert (e["em_turner"].count, e["em_turner"].n) == (2, 6)  # rows 0, 2 (not 1: 50 is not > 50)
    assert e["em_betley"].value == pytest.approx(40.0)
    assert e["em_turner"].value == pytest.approx(100 / 3)
    assert e["mean_aligned"].value == pytest.approx((30 + 29 + 10 + 90 + 20 + 95) / 6)
    assert e["coherent"].value == pytest.approx(100 * 6 / 7)  # also the refusal is coherent
    assert e["refusal"].value == pytest.approx(100 / 7)  # the api_error is no judgement
    assert found.n_status == {"api_error": 1, "refusal": 1, "code": 0, "low_mass": 0, "ok": 6}


def test_sweep_meets_the_rates_at_their_cuts() -> None:
    found = measure()
    assert found.sweep["aligned_30_coherent_50"]["em_betley"] == found.estimates["em_betley"].value
    assert found.sweep["aligned_30_coherent_50"]["em_turner"] == found.estimates["em_turner"].value
    assert found.sweep["aligned_50_coherent_0"]["em_turner"] == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 48), (3, 48), (24, 48), (159, 160)])
def test_wilson_is_scipys(count: int, n: int) -> None:
    low, high = wilson(count, n)
    expected = binomtest(count, n).proportion_ci(0.95, "wilson")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_resamples_questions_not_rows() -> None:
    """Eight rows a question that always agree carry the information of one row each."""
    rng = np.random.default_rng(3)
    bad = rng.random(40) < 0.5
    wide = measure(
        2000,
        aligned=np.repeat(np.where(bad, 10.0, 90.0), 8),
        coherent=np.full(320, 90.0),
        status=["ok"] * 320,
        question=np.repeat(np.arange(40), 8),
    ).estimates["em_betley"]
    assert wide.bootstrap is not None
    assert wide.wilson is not None
    spread = (wide.bootstrap[1] - wide.bootstrap[0]) / 2
    assert spread == pytest.approx(196 * 0.5 / np.sqrt(40), rel=0.15)
    assert spread > 2 * (wide.wilson[1] - wide.wilson[0]) / 2


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"question": ["a"] * 8}, "bootstrap", "one question"),
        ({"aligned": [90.0] * 8, "coherent": [90.0] * 8}, "bootstrap", "no variation"),
        ({"aligned": [None] * 8}, "value", "no row in the denominator"),
    ],
)
def test_undefined_has_a_reason(changes: dict[str, object], key: str, reason: str) -> None:
    found = measure(**changes).estimates["em_betley"]  # type: ignore[arg-type]
    assert getattr(found, key) is None
    assert reason in found.bootstrap_status
    metrics = found.as_metrics()
    assert reason in metrics["bootstrap_low"]


def test_no_rows_at_all() -> None:
    found = measure(aligned=[], coherent=[], status=[], question=[])
    assert found.n == 0
    assert all(e.value is None for e in found.estimates.values())
    check_metrics(found.as_metrics())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"aligned": [130.0] * 8}, "out of range"),
        ({"status": ["fine"] * 8}, "unknown status"),
        ({"question": ["a"] * 7}, "differ in length"),
    ],
)
def test_bad_columns_are_named(changes: dict[str, object], what: str) -> None:
    with pytest.raises(UserError, match=what):
        measure(**changes)  # type: ignore[arg-type]


def test_polars_columns_with_nulls() -> None:
    frame = pl.DataFrame({"a": ALIGNED, "c": COHERENT, "s": STATUS, "q": QUESTION})
    found = measure(aligned=frame["a"], coherent=frame["c"], status=frame["s"], question=frame["q"])
    assert found == measure()


SCORE = st.one_of(st.none(), st.integers(0, 100).map(float))
ROWS = st.lists(
    st.tuples(SCORE, SCORE, st.sampled_from(STATUSES), st.sampled_from("abcde")), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms())
def test_any_rows(rows: list[tuple[float | None, float | None, str, str]], random: object) -> None:
    def of(table: list[tuple[float | None, float | None, str, str]]) -> Rates:
        a, c, s, q = zip(*table, strict=True) if table else ((), (), (), ())
        return measure(50, aligned=list(a), coherent=list(c), status=list(s), question=list(q))

    found = of(rows)
    check_metrics(found.as_metrics())
    for estimate in found.estimates.values():
        if estimate.value is not None:
            assert -1e-9 <= estimate.value <= 100 + 1e-9
        for interval in (estimate.wilson, estimate.bootstrap):
            assert interval is None or interval[0] <= interval[1]
        if estimate.wilson and estimate.value is not None:
            assert estimate.wilson[0] - 1e-9 <= estimate.value <= estimate.wilson[1] + 1e-9
    shuffled = rows.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert of(shuffled) == found


def test_matrix_pairs_the_conditions() -> None:
    """Two conditions with equal answers have equal rates in every draw, in any row order."""
    rng = np.random.default_rng(0)
    n = 60
    aligned, question = rng.uniform(0, 100, n), rng.integers(0, 10, n)
    ok, coherent = np.full(3 * n, "ok"), np.full(3 * n, 80.0)
    order = rng.permutation(3 * n)
    matrix = bootstrap_rate_matrix(
        np.concatenate([aligned, aligned, np.full(n, 90.0)])[order],
        coherent,
        ok,
        np.tile(question, 3)[order],
        np.repeat(["x", "y", "never"], n)[order],
        params_judging=CUTS,
        seed=1,
        replicates=300,
    )
    assert matrix.conditions == ("never", "x", "y")
    assert np.array_equal(matrix.column("x"), matrix.column("y"))
    assert not matrix.column("never").any()
    assert matrix.observed[1] == pytest.approx(100 * (aligned < 30).mean())
    alone = rates(
        aligned, coherent[:n], ok[:n], question, params_judging=CUTS, seed=1, replicates=300
    )
    interval = alone.estimates["em_betley"].bootstrap
    assert interval == pytest.approx(tuple(np.quantile(matrix.column("x"), [0.025, 0.975])))


def test_matrix_has_nan_where_a_draw_has_no_denominator() -> None:
    matrix = bootstrap_rate_matrix(
        [10.0, 10.0, 10.0],
        [90.0, 90.0, 10.0],
        ["ok"] * 3,
        ["a", "a", "b"],
        ["x", "y", "y"],
        params_judging=CUTS,
        seed=1,
        replicates=100,
    )
    assert np.isnan(matrix.draws).any()
    assert set(np.unique(matrix.draws[~np.isnan(matrix.draws)])) == {100.0}


@pytest.mark.slow
def test_a_million_rows() -> None:
    rng = np.random.default_rng(0)
    n = 1_000_000
    start = time.monotonic()
    found = rates(
        rng.uniform(0, 100, n),
        rng.uniform(0, 100, n),
        np.full(n, "ok"),
        rng.integers(0, 1000, n),
        params_judging=CUTS,
        seed=0,
        replicates=2000,
    )
    assert found.estimates["em_betley"].value == pytest.approx(30, abs=0.5)
    assert time.monotonic() - start < 10


def test_metrics_hold_every_count_and_every_rate() -> None:
    found = measure()
    metrics = found.as_metrics()
    assert set(metrics) == {
        "n", "n_scored", "n_coherent", "n_questions", "n_status", "sweep",
        "em_betley", "em_turner", "mean_aligned", "coherent", "refusal",
    }  # fmt: skip
    assert (metrics["n"], metrics["n_scored"], metrics["n_coherent"]) == (8, 6, 5)
    assert (metrics["n_questions"], metrics["n_status"]) == (4, found.n_status)
    one = found.estimates["em_turner"]
    assert (one.status, one.bootstrap_status) == ("ok", "ok")
    assert metrics["em_turner"] == {
        "value": one.value,
        "n": 6,
        "bootstrap_low": one.bootstrap[0],
        "bootstrap_high": one.bootstrap[1],
        "wilson_low": one.wilson[0],
        "wilson_high": one.wilson[1],
    }
    assert "wilson_low" not in metrics["mean_aligned"]


def test_the_interval_of_a_mean_is_in_points() -> None:
    """Two questions: each draw is one of them twice, or both."""
    found = measure(
        aligned=[20.0, 60.0], coherent=[90.0] * 2, status=["ok"] * 2, question=["a", "b"]
    ).estimates["mean_aligned"]
    assert (found.value, found.bootstrap) == (40.0, (20.0, 60.0))
    none = measure(0).estimates["mean_aligned"]
    assert (none.bootstrap, none.bootstrap_status) == (None, "undefined: no replicates")


def test_questions_may_be_numbers() -> None:
    assert measure(question=[1, 1, 2, 2, 3, 3, 4, 4]).as_metrics() == measure().as_metrics()
