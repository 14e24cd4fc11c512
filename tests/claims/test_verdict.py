"""Verdict logic: a table of cases."""

from __future__ import annotations

import pytest

from em_geometry.claims.lookup import Measured
from em_geometry.claims.verdict import Reads, judge


def point(value: float) -> Measured:
    return Measured(value)


def interval(low: float, high: float) -> Measured:
    return Measured((low + high) / 2, low, high, 48)


NONE = Measured(None, status="undefined: denominator includes 0")


@pytest.mark.parametrize(
    ("values", "reads", "tolerance", "measured", "expected"),
    [
        ([0.853], "equal", 0.0005, [point(0.8531)], "reproduced"),
        ([0.853], "equal", 0.0005, [point(0.86)], "differs"),
        ([0.853], "equal", 0.0005, [interval(0.7, 0.9)], "reproduced"),
        ([0.853], "equal", 0.0005, [interval(0.2, 0.4)], "differs"),
        ([0.412, -0.235], "equal", 0.0005, [interval(0.3, 0.5), interval(-0.3, 0)], "reproduced"),
        ([0.412, -0.235], "equal", 0.0005, [interval(0.3, 0.5), interval(0.1, 0.2)], "differs"),
        ([57.0, 64.0], "between", 0.5, [point(60.0)], "reproduced"),
        ([57.0, 64.0], "between", 0.5, [point(64.4)], "reproduced"),
        ([57.0, 64.0], "between", 0.5, [point(12.0)], "differs"),
        ([57.0, 64.0], "between", 0.5, [interval(20.0, 58.0)], "reproduced"),
        ([57.0, 64.0], "between", 0.5, [interval(20.0, 50.0)], "differs"),
        ([12.0, 65.0], "between", 0.5, [point(20.0), point(5.0)], "differs"),
        ([0.1], "below", 0.0, [point(0.09)], "reproduced"),
        ([0.1], "below", 0.0, [point(0.2)], "differs"),
        ([0.0], "above", 0.0, [interval(-0.2, 0.1), point(0.3)], "reproduced"),
        ([0.0], "above", 0.0, [point(-0.1), point(0.3)], "differs"),
        ([57.0, 64.0], "between", 0.5, [NONE], "not measurable here"),
        ([0.4, 0.5], "equal", 0.1, [point(0.4), NONE], "not measurable here"),
        ([0.4], "equal", 0.1, [], "not measurable here"),
    ],
)
def test_verdicts(
    values: list[float], reads: Reads, tolerance: float, measured: list[Measured], expected: str
) -> None:
    assert judge(values, reads, tolerance, measured).verdict == expected


def test_the_reason_for_a_missing_number_is_given() -> None:
    assert "denominator includes 0" in judge([1.0], "equal", 0.1, [NONE]).why


def test_agreement_by_a_wide_interval_says_so() -> None:
    assert "60 wide" in judge([50.0], "equal", 0.5, [interval(10, 70)], wide=40).why
    assert "wide" not in judge([50.0], "equal", 0.5, [interval(45, 55)], wide=40).why
    assert "wide" not in judge([90.0], "equal", 0.5, [interval(10, 70)], wide=40).why


def test_a_comparison_without_interval_says_so() -> None:
    assert "no interval" in judge([50.0], "equal", 0.5, [point(50)]).why


def test_unequal_numbers_of_values_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values for 1"):
        judge([1.0, 2.0], "equal", 0.1, [point(1)])
