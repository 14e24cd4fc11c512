"""Variance components against closed forms, and against the variances they were drawn with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from em_geometry.vectors.components import between, component, crossed


def test_one_organism_s_component_is_the_sample_variance_with_its_chi_square_interval() -> None:
    values = np.array([3.0, 5.0, 10.0])
    found = crossed(values, ["a"])
    variance = values.var(ddof=1)
    assert found["seed_a"]["value"] == pytest.approx(variance**0.5)
    assert found["seed_a"]["low"] == pytest.approx((2 * variance / chi2.ppf(0.975, 2)) ** 0.5)
    assert found["seed_a"]["high"] == pytest.approx((2 * variance / chi2.ppf(0.025, 2)) ** 0.5)
    assert found["interaction"] == 0
    assert found["seed_total"] == pytest.approx(variance**0.5)


def test_two_crossed_seeds_without_interaction_give_each_its_own_variance() -> None:
    a, b = np.array([0.0, 1.0, 5.0]), np.array([2.0, -2.0, 3.0, 9.0])
    found = crossed(a[:, None] + b, ["a", "b"])
    assert found["seed_a"]["value"] ** 2 == pytest.approx(a.var(ddof=1))
    assert found["seed_b"]["value"] ** 2 == pytest.approx(b.var(ddof=1))
    assert found["interaction"] == pytest.approx(0, abs=1e-7)


def test_pure_interaction_is_nobody_s_seed() -> None:
    found = crossed(np.array([[1.0, -1.0], [-1.0, 1.0]]), ["a", "b"])
    assert found["seed_a"]["value"] == found["seed_b"]["value"] == 0
    assert found["interaction"] == pytest.approx(2.0)


def test_components_are_unbiased_over_draws() -> None:
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(3000):
        a, b, rest = rng.normal(0, 3, 4), rng.normal(0, 1, 4), rng.normal(0, 2, (4, 4))
        found = crossed(a[:, None] + b + rest, ["a", "b"])
        squares.append([found["seed_a"]["value"] ** 2, found["interaction"] ** 2])
    assert np.mean(squares, axis=0) == pytest.approx([9, 4], rel=0.05)


def test_interval_covers_about_95_percent() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        found = crossed(rng.normal(0, 2, 3), ["a"])["seed_a"]
        hits += found["low"] <= 2 <= found["high"]
    assert hits / 1000 == pytest.approx(0.95, abs=0.025)


def test_between_is_the_gap_less_what_seeds_make_of_it() -> None:
    first, second = np.array([10.0, 12.0, 14.0]), np.array([20.0])
    chance = 4.0 * (1 / 3 + 1) / 2
    assert between(first, second)["value"] ** 2 == pytest.approx(8.0**2 / 2 - chance)
    assert between(first, second)["low"] < between(first, second)["value"]
    assert between(np.array([1.0, 3.0]), np.array([2.0, 2.0]))["value"] == 0
    assert "not identified" in between(np.array([1.0]), np.array([2.0]))["status"]


def test_component_is_never_negative() -> None:
    found = component(1.0, 2, 5.0, 3.0)
    assert (found["value"], found["low"]) == (0.0, 0.0)
