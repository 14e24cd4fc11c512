"""Decisions: published and hand-made numbers, and the rates of errors by simulation."""

import numpy as np
import pytest
from scipy import stats

from em_geometry.stats import decisions
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import t_interval


def test_holm_by_hand() -> None:
    assert decisions.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert decisions.holm([0.5, np.nan, 0.6]) == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert len(decisions.holm([])) == 0


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    p = np.random.default_rng(0).uniform(size=(4000, 12))
    alarms = np.mean([decisions.holm(row).min() < 0.05 for row in p])
    assert alarms == pytest.approx(0.05, abs=0.012)


def test_where_an_interval_lies() -> None:
    assert decisions.place(Estimate(0.0, -0.1, 0.1), -0.2, 0.2) == "inside"
    assert decisions.place(Estimate(0.5, 0.4, 0.6), -0.2, 0.2) == "outside"
    assert decisions.place(Estimate(0.2, 0.1, 0.3), -0.2, 0.2) == "open"
    assert decisions.place(Estimate(0.0), -0.2, 0.2) == "open"


def test_words_for_an_effect() -> None:
    assert decisions.effect(Estimate(0.0, -0.1, 0.1), 0.2) == "no effect"
    assert (
        decisions.effect(Estimate(0.1, 0.05, 0.15), 0.2) == "no effect"
    )  # there, and too small to count
    assert decisions.effect(Estimate(0.5, 0.1, 0.9), 0.2) == "effect"
    assert decisions.effect(Estimate(0.1, -0.3, 0.5), 0.2) == "cannot tell"
    assert decisions.effect(Estimate(0.5), 0.2) == "cannot tell"


def test_no_effect_is_two_one_sided_t_tests() -> None:
    rng, said = np.random.default_rng(1), []
    for _ in range(100):
        values = rng.normal(0.1, 1, size=20)
        low = stats.ttest_1samp(values, -0.6, alternative="greater").pvalue
        high = stats.ttest_1samp(values, 0.6, alternative="less").pvalue
        said.append(decisions.effect(t_interval(values), 0.6) == "no effect")
        assert said[-1] == (max(low, high) < 0.025)
    assert 0 < np.mean(said) < 1


def test_at_the_edge_of_the_margin_no_effect_is_said_in_one_of_forty() -> None:
    values = np.random.default_rng(2).normal(1, 1, size=(4000, 24))
    found = [t_interval(row) for row in values]
    said = np.mean([decisions.effect(each, 1.0) == "no effect" for each in found])
    assert said == pytest.approx(0.025, abs=0.008)


def test_power_of_a_t_test_is_cohens() -> None:
    """Cohen 1988, one sample, two-sided .05: d = .5 needs 34 values for .8, d = .8 needs 15."""
    assert decisions.power(0.5, 34**-0.5, 33) == pytest.approx(0.808, abs=1e-3)
    assert decisions.power(0.5, 33**-0.5, 32) < 0.8
    assert decisions.power(-0.8, 15**-0.5, 14) == pytest.approx(decisions.power(0.8, 15**-0.5, 14))
    assert decisions.power(0.8, 15**-0.5, 14) > 0.8 > decisions.power(0.8, 14**-0.5, 13)
    assert decisions.power(0, 10**-0.5, 9) == pytest.approx(0.05)
    assert decisions.power(2.8016, 1) == pytest.approx(0.8, abs=1e-3)
    assert decisions.power(1, 0) == 1


def test_what_a_null_result_could_have_shown() -> None:
    values = np.random.default_rng(3).normal(size=16)
    found = decisions.detectable(t_interval(values))
    assert decisions.power(found, float(values.std(ddof=1)) / 4, 15) == pytest.approx(0.8)
    assert np.isnan(decisions.detectable(Estimate(1.0)))


def test_many_estimates_say_what_they_allow() -> None:
    rng = np.random.default_rng(4)
    values = {
        "near": rng.normal(0, 0.1, 20),
        "far": rng.normal(9, 1, 20),
        "wide": rng.normal(0, 9, 20),
    }
    found = {key: t_interval(each) for key, each in values.items()}
    assert decisions.t_test(found["far"]) == pytest.approx(
        stats.ttest_1samp(values["far"], 0).pvalue
    )
    rows = decisions.decided(found | {"none": Estimate(1.0)}, margin=1.0, df=19)
    words = [rows[f"{key}.says"] for key in values]
    assert words == ["no effect", "effect", "cannot tell"]
    assert rows["far.p_holm"] == pytest.approx(3 * float(rows["far.p"]))
    assert float(rows["wide.detectable"]) > 1 and "none.p" not in rows
