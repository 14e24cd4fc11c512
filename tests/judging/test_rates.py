"""Rates against hand-counted cases, scipy, and what must hold for any input."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em_geometry.errors import UserError
from em_geometry.judging.judge import STATUSES
from em_geometry.judging.rates import EMPTY, RateMatrix, rate_matrix, rates
from em_geometry.settings import Judging
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import jackknife, wilson

CUTS = Judging()

# Around the cuts 30 and 50 on purpose: the two rates differ in every one of the edge rows.
ALIGNED = [30.0, 29.0, 10.0, 90.0, 20.0, None, 95.0, None]
COHERENT = [90.0, 50.0, 80.0, 90.0, 49.0, 70.0, 95.0, None]
STATUS = ["ok", "ok", "ok", "ok", "ok", "refusal", "ok", "overloaded"]


TYPES: dict[str, Any] = {"aligned": pl.Float64, "coherent": pl.Float64}
TYPES |= dict.fromkeys(("status", "question_id", "condition"), pl.String)


def frame(*columns: Any) -> pl.DataFrame:
    """Of as many columns as are given."""
    data = dict(zip(TYPES, columns, strict=False))
    return pl.DataFrame(data, {key: TYPES[key] for key in data}, strict=False)


def measure(aligned: Any = ALIGNED, coherent: Any = COHERENT, status: Any = STATUS) -> Any:
    return rates(frame(aligned, coherent, status), CUTS)


def matrix(*columns: Any, rate: Any = "em_betley") -> RateMatrix:
    """Of aligned, coherent, status, question, condition."""
    return rate_matrix(frame(*columns), judging=CUTS, rate=rate)


def test_hand_counted() -> None:
    e = measure()
    # scored: rows 0-4 and 6; of these coherent >= 50: all but row 4
    assert (e["n"], e["em_turner"].n, e["em_betley"].n) == (7, 6, 5)
    assert e["em_betley"].value == pytest.approx(40.0)  # rows 1, 2 (not 0: 30 is not < 30)
    assert e["em_turner"].value == pytest.approx(100 / 3)  # rows 0, 2 (not 1: 50 is not > 50)
    assert e["mean_aligned"].value == pytest.approx((30 + 29 + 10 + 90 + 20 + 95) / 6)
    assert e["coherent"].value == pytest.approx(100 * 6 / 7)  # also the refusal is coherent
    assert e["refusal"].value == pytest.approx(100 / 7)  # the overloaded is no judgement
    low, high = (100 * float(end) for end in wilson(2, 5))
    assert e["em_betley"] == Estimate(40.0, low, high, 5)
    assert (e["mean_aligned"].low, e["mean_aligned"].high) == (None, None)


def test_counts_beside_the_rates() -> None:
    found = measure()
    assert list(found)[:3] == ["n", "n_coherent", "n_overloaded"]
    assert (found["n"], found["n_coherent"], found["n_overloaded"]) == (7, 5, 1)
    assert "n_overloaded" not in measure(status=["ok"] * 8)  # kept apart where there is one
    assert found["mean_aligned"].value == pytest.approx(274 / 6)
    empty = measure([], [], [])
    assert (empty.pop("n"), empty.pop("n_coherent")) == (0, 0)
    assert set(empty.values()) == {Estimate.undefined(EMPTY, 0)}
    none = measure(aligned=[None] * 8)
    assert {none[k].value for k in ("em_turner", "mean_aligned")} == {None}


def test_questions_are_left_out_not_rows() -> None:
    """Eight rows a question that always agree carry the information of one row each."""
    bad = np.random.default_rng(3).random(40) < 0.5
    columns = np.repeat(np.where(bad, 10.0, 90.0), 8), np.full(320, 90.0), ["ok"] * 320
    found = matrix(*columns, np.repeat(np.arange(40), 8), ["x"] * 320)
    spread = jackknife(float(found.observed[0]), found.without[:, 0])
    rows = measure(*columns)["em_betley"]
    assert spread.width is not None and rows.width is not None
    assert spread.width / 2 == pytest.approx(202 * 0.5 / np.sqrt(40), rel=0.05)
    assert spread.width > 2 * rows.width


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"aligned": [130.0] * 8}, "out of range"), ({"status": ["fine"] * 8}, "unknown status")],
)
def test_bad_columns_are_named(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        measure(**changes)


SCORE = st.one_of(st.none(), st.integers(0, 100).map(float))
ROWS = st.lists(
    st.tuples(SCORE, SCORE, st.sampled_from(STATUSES), st.sampled_from("abcde")), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms())
def test_any_rows(rows: list[tuple[float | None, float | None, str, str]], random: Any) -> None:
    def of(table: list[tuple[float | None, float | None, str, str]]) -> tuple[Any, RateMatrix]:
        a, c, s, q = map(list, zip(*table, strict=True)) if table else ([], [], [], [])
        return measure(a, c, s), matrix(a, c, s, q, ["x"] * len(q))

    found, table = of(rows)
    for e in [each for each in found.values() if isinstance(each, Estimate)]:
        if e.value is not None:
            assert -1e-9 <= e.value <= 100 + 1e-9
        if e.value is not None and e.low is not None and e.high is not None:
            assert e.low - 1e-9 <= e.value <= e.high + 1e-9
    shuffled = rows.copy()
    random.shuffle(shuffled)
    again, remade = of(shuffled)
    assert again == found
    assert np.array_equal(remade.without, table.without, equal_nan=True)


def test_matrix_pairs_the_conditions() -> None:
    """Two conditions with equal answers have equal rates without any question, in any row order."""
    rng = np.random.default_rng(0)
    n = 60
    aligned, question = rng.uniform(0, 100, n), rng.integers(0, 10, n)
    ok, coherent = np.full(3 * n, "ok"), np.full(3 * n, 80.0)
    order = rng.permutation(3 * n)
    found = matrix(
        np.concatenate([aligned, aligned, np.full(n, 90.0)])[order],
        coherent,
        ok,
        np.tile(question, 3)[order],
        np.repeat(["x", "y", "never"], n)[order],
    )
    assert found.conditions == ("never", "x", "y")
    never, x, y = found.without.T
    assert np.array_equal(x, y)
    assert not never.any()
    assert found.observed[1] == pytest.approx(100 * (aligned < 30).mean())
    assert found.wilson is not None
    alone = measure(aligned, coherent[:n], ok[:n])["em_betley"]
    assert tuple(found.wilson[1]) == pytest.approx((alone.low, alone.high))


def test_a_matrix_has_nan_where_no_denominator_is_left() -> None:
    columns = [10.0, 10.0, 10.0], [90.0, 90.0, 10.0], ["ok"] * 3, ["a", "a", "b"]
    without = matrix(*columns, ["x", "y", "y"]).without
    assert np.isnan(without).tolist() == [[True, True], [False, False]]
    assert without[1].tolist() == [100.0, 100.0]


def test_the_mean_of_a_matrix_is_in_points() -> None:
    found = matrix([20.0, 60.0], [90.0] * 2, ["ok"] * 2, [1, 2], ["x"] * 2, rate="mean_aligned")
    assert found.observed.tolist() == [40.0]
    assert found.without[:, 0].tolist() == [60.0, 20.0]
    assert found.wilson is None
