"""Effects of a design: planted ones are found, absent ones are not, aliased ones are named."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from em_geometry.stats.permutation import orders as model_orders
from em_geometry.transfer.factors import (
    against_first,
    confounding,
    effects,
    leads,
    pairs,
    partial_correlation,
    resampled,
    same,
    singles,
)

CELLS = list(product(("m", "p"), ("h", "o"), ("n", "b")))
LEVELS = {k: [c[i] for c in CELLS] for i, k in enumerate(("content", "recipe", "range"))}
ORDERS = model_orders(8, 0)
NONE = resampled(np.empty((0, 28)))


def pair_values(content: float, recipe: float, spread: float, seed: int = 0) -> np.ndarray:
    columns, units = same(LEVELS), pairs(8)
    rows, cols = units.rows, units.columns
    noise = np.random.default_rng(seed).normal(size=28)
    planted = content * columns["same_content"] + recipe * columns["same_recipe"]
    return 60.0 + planted[rows, cols] + spread * noise


def test_planted_effects_on_pairs_are_recovered_and_significant() -> None:
    values = pair_values(-20.0, 5.0, 0.5)
    found, explained = effects(values, NONE, same(LEVELS), pairs(8), ORDERS)
    assert found["same_content"].estimate.value == pytest.approx(-20, abs=0.8)
    assert found["same_recipe"].estimate.value == pytest.approx(5, abs=0.8)
    assert found["same_range"].estimate.value == pytest.approx(0, abs=0.8)
    assert found["same_content"].p < 0.01
    assert found["same_recipe"].p < 0.01
    assert found["same_range"].p > 0.05
    assert explained > 0.98


def test_without_replicates_there_is_no_interval_and_with_them_it_is_that_of_the_fit() -> None:
    values = pair_values(-20.0, 5.0, 0.0)
    found, _ = effects(values, NONE, same(LEVELS), pairs(8), ORDERS)
    assert found["same_content"].estimate.low is None
    scales = np.linspace(0.9, 1.1, 201)
    found, _ = effects(values, resampled(scales[:, None] * values), same(LEVELS), pairs(8), ORDERS)
    low, high = np.quantile(-20 * scales, [0.025, 0.975])
    assert found["same_content"].estimate.low == pytest.approx(low)
    assert found["same_content"].estimate.high == pytest.approx(high)


def test_p_never_falls_below_the_smallest_attainable() -> None:
    values = pair_values(-20.0, 0.0, 0.0)
    found, _ = effects(values, NONE, same(LEVELS), pairs(8), ORDERS)
    effect = found["same_content"]
    # 2^3 swaps of levels and the exchange of the two other factors leave the column alone.
    assert effect.smallest_p == pytest.approx(16 / 40320)
    assert (effect.p or 0) >= (effect.smallest_p or 1)
    means = np.array([1.0] * 4 + [0.0] * 4)
    found, _ = effects(
        means, resampled(np.empty((0, 8))), against_first(LEVELS), singles(8), ORDERS
    )
    assert found["content_p"].estimate.value == pytest.approx(-1)
    assert found["content_p"].smallest_p == pytest.approx(2 / 70)
    assert found["content_p"].p == pytest.approx(2 / 70)


def test_p_is_uniform_where_nothing_has_an_effect() -> None:
    rng = np.random.default_rng(1)
    orders = ORDERS[rng.permutation(len(ORDERS))[:400]]
    orders[0] = np.arange(8)
    found = [
        effects(rng.normal(size=28), NONE, same(LEVELS), pairs(8), orders)[0]["same_content"].p
        for _ in range(300)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.055)


def test_a_strong_factor_does_not_hide_or_feign_another() -> None:
    rng = np.random.default_rng(2)
    orders = ORDERS[:: len(ORDERS) // 400]
    found = []
    for _ in range(200):
        values = pair_values(-50.0, 0.0, 1.0, int(rng.integers(1 << 30)))
        found.append(effects(values, NONE, same(LEVELS), pairs(8), orders)[0]["same_recipe"].p)
    assert np.mean(np.array(found) <= 0.1) < 0.2


def test_directions_have_no_mean_and_recover_what_leads() -> None:
    given = np.array([3.0 if c == "p" else 0.0 for c in LEVELS["content"]])
    units = pairs(8, constant=False)
    values = given[units.rows] - given[units.columns]
    found, explained = effects(values, NONE, leads(LEVELS), units, ORDERS)
    assert found["content_p"].estimate.value == pytest.approx(3)
    assert found["recipe_o"].estimate.value == pytest.approx(0, abs=1e-9)
    assert explained == pytest.approx(1)
    turned, _ = effects(-values, NONE, leads(LEVELS), units, ORDERS)
    assert turned["content_p"].estimate.value == pytest.approx(-3)
    assert turned["content_p"].p == pytest.approx(found["content_p"].p)


def test_aliased_factors_get_a_status_that_names_the_other() -> None:
    levels = {"lab": list("aaaabbbb"), "kind": list("xxxxyyyy"), "range": list("nbnbnbnb")}
    found, _ = effects(np.arange(28.0), NONE, same(levels), pairs(8), ORDERS)
    assert found["same_lab"].estimate.status == "aliased: cannot be told apart from same_kind"
    assert found["same_lab"].p is None
    assert found["same_range"].estimate.status == "ok"


def test_partial_correlation_is_that_of_residuals() -> None:
    rng = np.random.default_rng(3)
    y, x = rng.normal(size=28), rng.normal(size=(4, 28))
    others = np.stack([np.ones(28), rng.normal(size=28)], axis=1)
    hat = others @ np.linalg.solve(others.T @ others, others.T)
    expected = [abs(np.corrcoef(y - hat @ y, each - hat @ each)[0, 1]) for each in x]
    assert partial_correlation(y, x, others) == pytest.approx(expected)
    assert partial_correlation(y, others.T, others) == pytest.approx([0, 0])


def test_the_paper_s_laboratory_and_mechanism_share_a_contrast() -> None:
    """hunter made both persona models and no other: one contrast of two is lost."""
    levels = {
        "lab": ["mo", "mo", "mo", "andyrdt", "hunter", "hunter"],
        "cluster": ["risk", "risk", "medical", "medical", "persona", "persona"],
    }
    found = confounding(levels)["lab__cluster"]
    assert found["cramers_v"] == pytest.approx((8 / 12) ** 0.5)
    assert (found["contrasts"], found["separable"]) == (2, 1)
    assert found["together"] == "mo, andyrdt = risk, medical; hunter = persona"
    ones = np.ones((6, 1))
    a, b = (
        np.array([[x == level for level in dict.fromkeys(each)] for x in each], dtype=float)
        for each in levels.values()
    )
    rank = np.linalg.matrix_rank
    assert found["separable"] == rank(np.hstack([ones, a, b])) - rank(np.hstack([ones, b]))


def test_a_crossed_design_has_nothing_confounded() -> None:
    for found in confounding(LEVELS).values():
        assert found["cramers_v"] == pytest.approx(0)
        assert found["separable"] == found["contrasts"] == 1
        assert found["together"] == "none"
