"""Numbers and foreign texts as people read them."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from em_geometry.report.text import decimals, joined, short, visible, with_interval
from em_geometry.stats.estimate import Estimate


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(0.0049, 2, "0.00"), (-0.0049, 2, "0.00"), (-1.25, 1, "\u22121.2"), (3, 0, "3")],
)
def test_decimals(value: float, digits: int, expected: str) -> None:
    assert decimals(value, digits) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "\u2013"),
        (48.0, "48"),
        (0.12345, "0.123"),
        (-256.68, "\u2212257"),
        (1e-9, "1e\u221209"),
    ],
)
def test_short(value: float | None, expected: str) -> None:
    assert short(value) == expected


def test_an_interval_does_not_break_inside() -> None:
    assert with_interval(Estimate(12.5, 3.14, 30.2), " %") == "12.5 % [3.1,\u00a030.2]"
    assert with_interval(Estimate(12.5)) == "12.5"
    assert with_interval(Estimate.undefined("undefined: why")) == "undefined: why"


def test_lists() -> None:
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_control_characters_and_surrogates_become_visible() -> None:
    assert visible("a\x00b\x1b\x7f\x85\ud800\n\tc") == "a\u2400b\u241b\u2421\ufffd\ufffd\n\tc"
    assert visible(3) == 3
    assert visible(Markup("<b>")) == Markup("<b>")
    "".join(str(visible(chr(c))) for c in range(0x110000)).encode()
