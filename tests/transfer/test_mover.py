"""Intervals by numbers of answers: published examples, and coverage by simulation."""

from __future__ import annotations

import pytest
from invented_judgements import table

from em_geometry.transfer.conditions import name
from em_geometry.transfer.effectiveness import e1, pooled, risk_difference, steered

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
