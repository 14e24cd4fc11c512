"""Ratios and differences of rates, on numbers that can be checked by hand."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from em_geometry.errors import UserError
from em_geometry.stats.intervals import t_interval
from em_geometry.steering.conditions import Selected
from em_geometry.transfer.conditions import Table, name
from em_geometry.transfer.effects import (
    Models,
    asymmetries,
    conventions,
    direction_ratio,
    pooled,
    transfer,
)
from tests.invented import effects, steered, table

REST = {"base": 5.0, "finance": 20.0, "sports": 40.0, "medical": 30.0, "profanity": 10.0}
BY_SOURCE = {
    "finance": {"finance": 50, "sports": 15, "base": 25, "medical": 20, "profanity": 8},
    "sports": {"sports": 20, "finance": 10, "medical": 30, "profanity": 1},
    "medical": {"medical": 30, "finance": 12, "sports": 14, "profanity": 3},
    "profanity": {"profanity": 60, "finance": 40, "sports": 35, "medical": 25},
}
GAINS = {(s, t): float(gain) for s, row in BY_SOURCE.items() for t, gain in row.items()}
RATES = effects(GAINS, REST)


def compared(rates: Table, groups: dict[str, list[str]], a: str, b: str) -> dict[str, Any]:
    """An asymmetry with its difference under that name."""
    found = asymmetries(rates, [(groups, a, b)])
    return {k.removeprefix(f"{a}__{b}").lstrip(".") or "difference": v for k, v in found.items()}


@pytest.mark.parametrize(
    ("measure", "target", "expected"),
    [
        (Table.change, "sports", 15),
        (Table.e1, "sports", 100 * 15 / (70 - 40)),
        (Table.e1, "base", 100 * 25 / (70 - 5)),
    ],
)
def test_effects_of_one_vector_by_hand(measure: Any, target: str, expected: float) -> None:
    found = measure(table(RATES), "finance", target)
    assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3)
    assert found.n == 48


def test_n_is_that_of_the_smallest_condition() -> None:
    rates = replace(table(RATES), counts={c: 10 if c == name("sports") else 48 for c in RATES})
    assert Table.change(rates, "finance", "sports").n == 10
    assert Table.change(rates, "sports", "finance").n == 48
    assert Table.e1(rates, "sports", "sports").n == 10


def test_ratios_and_why_there_is_none() -> None:
    """A denominator of 2 that questions spread by 20 is undefined, one of -30 is not."""
    rates = RATES | {steered("finance", "finance"): 22.0}
    few = Table.e1(table(rates, 20.0), "finance", "base")
    assert few.status.startswith("undefined: denominator 17.0 [")
    assert few.status.endswith("includes 0") and few.value is None and few.n == 48
    down = Table.e1(table(RATES | {steered("finance", "finance"): 1.0}), "finance", "sports")
    assert down.value == pytest.approx(100 * 15 / (1 - 40))  # a negative denominator is one
    for missing in (steered("sports", "finance"), steered("finance", "finance"), name("sports")):
        gone = table(RATES | {missing: np.nan})
        assert Table.e1(gone, "finance", "sports").status == "undefined: no coherent answers"
    one = table(RATES)
    one.matrix.without[0, one.matrix.conditions.index(name("sports"))] = np.nan
    assert Table.e1(one, "finance", "sports").status == "undefined: too few coherent answers"


def test_intervals_are_t_over_questions() -> None:
    """Pseudo-values of rates with as many answers to each question are the questions' rates."""
    rates, w = table(RATES, 9.0), Table.effect(table(RATES), "finance", "sports")
    by_question = 8 * rates.value(w) - 7 * rates.without(w)
    found, expected = Table.change(rates, "finance", "sports"), t_interval(by_question)
    assert (found.value, found.low, found.high) == pytest.approx((15, expected.low, expected.high))


@pytest.mark.parametrize(
    "few", [steered("sports", "finance"), steered("finance", "finance"), name("sports")]
)
def test_pooled_is_a_ratio_of_means_and_n_the_smallest_behind_any_number(few: str) -> None:
    rates = replace(table(RATES), counts={c: 10 if c == few else 48 for c in RATES})
    found = pooled(rates, [("finance", "sports"), ("profanity", "finance")])
    assert (found["e1"].n, found["risk_difference"].n) == (10, 10)
    # effects 15 and 40; own effects 70 - 40 and 70 - 20
    assert found["pairs"] == 2
    assert found["risk_difference"].value == pytest.approx((15 + 40) / 2)
    assert found["e1"].value == pytest.approx(100 * (15 + 40) / (30 + 50))


@pytest.mark.parametrize("rest", [20.0, 0.0])
def test_e2_and_ablation_by_hand(rest: float) -> None:
    rates = {name("base"): 5.0, name("finance"): rest, steered("finance", "finance"): 70.0}
    rates |= {steered("base", "finance"): 30.0, name("finance", "finance", "ablation", 1): 5.0}
    vector = Selected(np.array([1.0], np.float32), 3, 0.2, 8.0, 2.0)
    who = Models(["finance"], ["base"], ["base", "finance"], {}, {})
    found: Any = transfer(table(rates), who, [], {"finance": vector})
    e2, drop = found["effectiveness"]["e2"], found["ablation"]["finance"]
    assert e2["finance__base"].value == pytest.approx(100 * 25 / (rest - 5))
    assert e2["finance__finance"].value == pytest.approx(100 * (70 - rest) / (rest - 5))
    assert drop.value == pytest.approx(75) if rest else "includes 0" in drop.status


def test_a_condition_that_was_not_sampled() -> None:
    with pytest.raises(UserError, match="no judged answers under this condition") as caught:
        Table.change(table(RATES), "base", "finance")
    assert caught.value.found == "finance|vector|base|1"


# -- asymmetry

GROUPS = {"risk": ["finance", "sports"], "medical": ["medical"], "persona": ["profanity"]}


def brute(groups: dict[str, list[str]], a: str, b: str) -> tuple[float, float]:
    """Difference and p over all orders of the models, the group sizes kept."""
    models = [m for members in groups.values() for m in members]

    def difference(dealt: dict[str, list[str]]) -> float:
        pairs = [(s, t) for s in dealt[a] for t in dealt[b]]
        return float(np.mean([GAINS[s, t] - GAINS[t, s] for s, t in pairs]))

    observed, extreme = difference(groups), []
    for order in permutations(models):
        rest, dealt = list(order), {}
        for label, members in groups.items():
            dealt[label], rest = rest[: len(members)], rest[len(members) :]
        extreme.append(abs(difference(dealt)) >= abs(observed) - 1e-9)
    return observed, float(np.mean(extreme))


@pytest.mark.parametrize(
    ("a", "b"), [("risk", "persona"), ("persona", "risk"), ("medical", "persona")]
)
def test_asymmetry_against_brute_force(a: str, b: str) -> None:
    rates = table(RATES, spread=2.0)
    found, back = compared(rates, GROUPS, a, b), compared(rates, GROUPS, b, a)
    observed, p = brute(GROUPS, a, b)
    one, other = found["difference"], back["difference"]
    assert one.value == pytest.approx(observed)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert (found["p"], back["p"]) == pytest.approx((p, p))
    assert found["deals"] == 12


@pytest.mark.parametrize(
    ("a", "b", "smallest"), [("medical", "persona", 2 / 12), ("risk", "persona", 1 / 12)]
)
def test_the_smallest_p_is_reached_and_never_passed(a: str, b: str, smallest: float) -> None:
    """Groups of equal size: exchanging them only turns the sign, so no p is below 2 / deals."""
    reached = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=len(GAINS))
        gains = {pair: float(x) for pair, x in zip(GAINS, 10 * noise, strict=True)}
        found = compared(table(effects(gains, REST)), GROUPS, a, b)
        assert found["smallest_p"] == pytest.approx(smallest)
        reached.append(found["p"])
    assert min(reached) == pytest.approx(smallest)


def test_an_undefined_effect_elsewhere_does_not_lower_p() -> None:
    rates: dict[str, Any] = dict(RATES)
    whole = compared(table(rates), GROUPS, "medical", "persona")["p"]
    rates[name("sports", "finance", "vector", 1)] = np.nan
    found = compared(table(rates), GROUPS, "medical", "persona")
    assert found["difference"].status == "ok"
    assert found["p"] >= whole


def test_direction_ratio_by_hand() -> None:
    gains = {("a", "b"): 6.0, ("b", "a"): 2.0, ("a", "a"): 10.0, ("b", "b"): 10.0}
    rates = table(effects(gains, {"a": 10.0, "b": 10.0}))
    found = direction_ratio(rates, ["a"], ["b"])
    assert found.status == "ok"
    assert found.value == pytest.approx(3.0)  # (6 / 10) / (2 / 10)
    assert found.high == pytest.approx(found.value)  # questions do not differ
    assert compared(rates, {"x": ["a"], "y": ["b"]}, "x", "y")["ratio"] == found
    none = table(effects({**gains, ("b", "a"): 0.0}, {"a": 10.0, "b": 10.0}))
    assert direction_ratio(none, ["a"], ["b"]).status.startswith("undefined")


def test_rates_at_a_share_of_the_dose_are_interpolated() -> None:
    rates = {name("base"): 10.0, name("base", "finance", "vector", 0.5): 20.0}
    rates |= {steered("base", "finance"): 60.0, name("base", "finance", "vector", -1): 90.0}
    sampled, condition = table(rates, 3.0), ("base", "finance", "vector", 1)
    for share, rate in [(0.0, 10), (0.25, 15), (0.5, 20), (0.75, 40), (1.0, 60)]:
        found = replace(sampled, shares={"finance": share})
        assert found.value(found.rate(*condition)) == pytest.approx(rate)
        assert found.value(found.rate("base")) == 10
    whole = replace(sampled, shares={"finance": 1.0}).rate(*condition)
    np.testing.assert_array_equal(whole, sampled.rate(*condition))


def test_conventions_differ_by_what_they_hold_equal() -> None:
    vector = np.array([1.0, 0.0], dtype=np.float32)
    selected = {
        "finance": Selected(vector, 3, 0.2, 8.0, 2.0),
        "sports": Selected(vector, 5, 0.4, 10.0, 5.0),
    }
    found = conventions(selected)
    assert found["unit_multiple"] == {"finance": 1.0, "sports": pytest.approx(0.8)}
    assert found["relative_dose"] == {"finance": 1.0, "sports": pytest.approx(0.5)}
    assert found["raw_norm"] == {"finance": pytest.approx(0.5), "sports": 1.0}


# -- intervals by numbers of answers

FEW = {
    name("finance"): 0.0, name("base"): 0.0, name("sports"): 0.0,
    steered("base", "finance"): 0.0, steered("sports", "finance"): 0.0,
    steered("finance", "finance"): 75.0,
}  # fmt: skip


def test_equal_answers_leave_a_width() -> None:
    """0 of 8 against 0 of 8 says little; questions that do not differ would say 0 to 0."""
    bare = Table.change(table(FEW), "finance", "base")
    assert (bare.low, bare.high) == (0, 0)
    found = Table.change(table(FEW, answers=8), "finance", "base")
    assert (found.value, found.low, found.high) == pytest.approx((0, -32.44, 32.44), abs=0.01)
    ratio = Table.e1(table(FEW, answers=8), "finance", "base")
    assert ratio.status == "ok"
    assert ratio.low < -30
    assert ratio.high > 30
    wide, narrow = (Table.change(table(FEW, 90.0, answers=a), "finance", "base") for a in (8, None))
    assert (wide.low, wide.high) == (narrow.low, narrow.high)  # what questions differ by is kept
    assert wide.high > 60


def test_a_mean_of_pairs_is_known_better_than_each() -> None:
    rates = table(FEW, answers=8)
    both = pooled(rates, [("finance", "base"), ("finance", "sports")])["risk_difference"]
    one = Table.change(rates, "finance", "base")
    assert both.high == pytest.approx(one.high / 2**0.5)


def test_a_little_denominator_becomes_undefined() -> None:
    rates = FEW | {steered("finance", "finance"): 12.5}
    assert Table.e1(table(rates), "finance", "base").status == "ok"
    assert "includes 0" in Table.e1(table(rates, answers=8), "finance", "base").status
