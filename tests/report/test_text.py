"""Numbers and foreign texts as people read them."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from em_geometry.report.text import decimals, joined, short, visible, with_interval
from em_geometry.stats.estimate import Estimate


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (decimals(0.0049, 2), "0.00"),
        (decimals(-0.0049, 2), "0.00"),
        (decimals(-1.25, 1), "\u22121.2"),
        (decimals(3, 0), "3"),
        (short(None), "\u2013"),
        (short(48.0), "48"),
        (short(0.12345), "0.123"),
        (short(-256.68), "\u2212257"),
        (short(1e-9), "1e\u221209"),
        (with_interval(Estimate(12.5, 3.14, 30.2), " %"), "12.5 % [3.1,\u00a030.2]"),
        (with_interval(Estimate(12.5)), "12.5"),
        (with_interval(Estimate.undefined("undefined: why")), "undefined: why"),
        (joined(["a"]), "a"),
        (joined(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_intervals_and_lists(said: str, expected: str) -> None:
    assert said == expected


def test_control_characters_and_surrogates_become_visible() -> None:
    assert visible("a\x00b\x1b\x7f\x85\ud800\n\tc") == "a\u2400b\u241b\u2421\ufffd\ufffd\n\tc"
    assert visible(3) == 3
    assert visible(Markup("<b>")) == Markup("<b>")
    "".join(str(visible(chr(c))) for c in range(0x110000)).encode()
