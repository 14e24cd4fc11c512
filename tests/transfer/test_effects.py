"""Ratios and differences of rates, on numbers that can be checked by hand."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from em_geometry.errors import UserError
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import t_interval
from em_geometry.transfer.judged import changes, told, transfer
from em_geometry.transfer.rate_table import Table, name
from tests.invented import effects, table

REST = {"base": 5.0, "finance": 20.0, "sports": 40.0}
BY_SOURCE = {
    "finance": {"finance": 50, "sports": 15, "base": 25},
    "sports": {"sports": 20, "base": 2},
    "random_0": {"finance": 4, "sports": 1, "base": 3},
    "random_1": {"finance": 0, "sports": 1, "base": 1},
}
GAINS = {(s, t): float(gain) for s, row in BY_SOURCE.items() for t, gain in row.items()}
RATES = effects(GAINS, REST)
ORGANISMS, NAMED = ("finance", "sports"), [("finance", "sports")]
PAIR = "named_pair.finance__sports"


def found(rates: Table) -> Mapping[str, Estimate]:
    every = transfer(rates, ORGANISMS, NAMED, 5.0)
    return {key: each for key, each in every.items() if isinstance(each, Estimate)}


def change(rates: Table, source: str = "finance", target: str = "sports") -> Estimate:
    return rates.estimate(rates.effect(source, target))


def test_effects_by_hand() -> None:
    rows = found(table(RATES))
    assert {key: each.value for key, each in rows.items()} == pytest.approx({
        "own.finance": 50, "own.finance.beyond_random": 50 - 2,
        "own.sports": 20, "own.sports.beyond_random": 20 - 1,
        "base.finance": 25, "base.finance.beyond_random": 25 - 2,
        "base.sports": 2, "base.sports.beyond_random": 0,
        f"{PAIR}.risk_difference": 15, f"{PAIR}.risk_difference.beyond_random": 15 - 1,
        f"{PAIR}.e1": 100 * 15 / (70 - 40), f"{PAIR}.e2": 100 * 15 / (20 - 5),
        "random.base": 2, "random.finance": 2, "random.sports": 1,
    })  # fmt: skip
    for each in rows.values():
        assert (each.low, each.high, each.n) == (*[pytest.approx(each.value)] * 2, 48)


def test_what_changes_say_is_by_their_intervals_and_p_by_all_of_them() -> None:
    rates = table(RATES, spread=3.0)
    rows = changes(rates, ORGANISMS, NAMED)
    assert [*rows] == [*(k.replace(".risk_difference", "") for k in found(rates) if ".e" not in k)]
    says = told(rows, 5.0, 7)
    plain = {key: says[key] for key in says if key.endswith(".p")}
    assert len(plain) == 5 and all(key.endswith(".beyond_random.p") for key in plain)
    for key, p in plain.items():
        each = rows[key.removesuffix(".p")]
        assert (p < 0.05) == (each.low is not None and each.high is not None
                              and not each.low <= 0 <= each.high)  # fmt: skip
        assert says[f"{key}_holm"] >= p
    assert says["own.finance.beyond_random.says"] == "effect"
    assert says["base.sports.beyond_random.says"] == "no effect"


@pytest.mark.parametrize("gone", [name("sports", "finance"), name("sports")])
def test_n_is_that_of_the_smallest_condition(gone: str) -> None:
    rates = replace(table(RATES), counts={c: 10 if c == gone else 48 for c in RATES})
    rows = found(rates)
    assert rows[f"{PAIR}.risk_difference"].n == rows[f"{PAIR}.e1"].n == 10
    assert rows["own.finance"].n == 48


def test_ratios_and_why_there_is_none() -> None:
    """A denominator of 2 that questions spread by 20 is undefined, one of -39 is not."""
    weak = RATES | {name("finance", "finance"): 42.0}
    few = found(table(weak, 20.0))[f"{PAIR}.e1"]
    assert few.status.startswith("undefined: denominator 2.0 [")
    assert few.status.endswith("includes 0") and few.value is None and few.n == 48
    down = found(table(RATES | {name("finance", "finance"): 1.0}))[f"{PAIR}.e1"]
    assert down.value == pytest.approx(100 * 15 / (1 - 40))  # a negative denominator is one
    for missing in (name("sports", "finance"), name("finance", "finance"), name("sports")):
        gone = found(table(RATES | {missing: np.nan}))
        assert gone[f"{PAIR}.e1"].status == "undefined: no coherent answers"
    one = table(RATES)
    one.matrix.without[0, one.matrix.conditions.index(name("sports"))] = np.nan
    assert found(one)[f"{PAIR}.e1"].status == "undefined: too few coherent answers"


def test_intervals_are_t_over_questions() -> None:
    """Pseudo-values of rates with as many answers to each question are the questions' rates."""
    rates = table(RATES, 9.0)
    w = rates.effect("finance", "sports")
    expected = t_interval(8 * rates.sums(w)[0] - 7 * rates.sums(w)[1:])
    each = change(rates)
    assert (each.value, each.low, each.high) == pytest.approx((15, expected.low, expected.high))


@pytest.mark.parametrize(("source", "target"), [("sports", "finance"), ("random_0", "sports")])
def test_a_condition_that_was_not_sampled(source: str, target: str) -> None:
    rates = table({c: r for c, r in RATES.items() if "random" not in c})
    with pytest.raises(UserError, match="no judged answers under this condition") as caught:
        rates.chance(target) if source == "random_0" else change(rates, source, target)
    assert caught.value.found == f"{target}|{source}"


# -- intervals by numbers of answers

FEW = {name("finance"): 0.0, name("base"): 0.0, name("base", "finance"): 0.0}
FEW[name("finance", "finance")] = 75.0


def e1(rates: Table) -> Estimate:
    own = rates.rate("finance", "finance") - rates.rate("base")
    return rates.ratio(rates.effect("finance", "base"), own)


def test_equal_answers_leave_a_width() -> None:
    """0 of 8 against 0 of 8 says little; questions that do not differ would say 0 to 0."""
    bare = change(table(FEW), "finance", "base")
    assert (bare.low, bare.high) == (0, 0)
    each = change(table(FEW, answers=8), "finance", "base")
    assert (each.value, each.low, each.high) == pytest.approx((0, -32.44, 32.44), abs=0.01)
    ratio = e1(table(FEW, answers=8))
    assert ratio.status == "ok"
    assert (ratio.low or 0) < -30 and (ratio.high or 0) > 30
    wide, narrow = (change(table(FEW, 90.0, answers=a), "finance", "base") for a in (8, None))
    assert (wide.low, wide.high) == (narrow.low, narrow.high)  # what questions differ by is kept
    assert (wide.high or 0) > 60


def test_a_little_denominator_becomes_undefined() -> None:
    rates = FEW | {name("finance", "finance"): 12.5}
    assert e1(table(rates)).status == "ok"
    assert "includes 0" in e1(table(rates, answers=8)).status
