"""Rank correlation of few models, against scipy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from em_geometry.transfer.rank import EXACT, spearman


@pytest.mark.parametrize("n", [3, 4, 6, 8, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_rho_is_that_of_scipy(n: int, ties: bool) -> None:
    random = np.random.default_rng(n)
    x, y = random.normal(size=n), random.normal(size=n)
    if ties:
        y[1] = y[0]
    found = spearman(x, y, seed=0)
    assert found["rho"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["n"] == n


@pytest.mark.parametrize("seed", range(4))
def test_exact_p_is_that_of_all_orders(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=5), random.normal(size=5)
    null = [stats.spearmanr(x[list(order)], y).statistic for order in permutations(range(5))]
    observed = abs(stats.spearmanr(x, y).statistic)
    expected = np.mean(np.abs(null) >= observed - 1e-12)
    assert spearman(x, y, seed=0)["p"] == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_perfect_order_has_the_smallest_p(n: int) -> None:
    x = np.arange(n) ** 2.0
    for y in (x, -x):
        found = spearman(x, y, seed=0)
        assert abs(found["rho"]) == pytest.approx(1)
        assert found["p"] == pytest.approx(found["smallest_p"])


def test_random_orders_never_give_p_zero() -> None:
    x = np.arange(EXACT + 4.0)
    found = spearman(x, x, seed=0)
    assert found["p"] >= found["smallest_p"] > 0
    assert found["p"] < 0.001
    unrelated = spearman(x, np.random.default_rng(0).permutation(x), seed=0)
    exact = stats.spearmanr(x, np.random.default_rng(0).permutation(x)).pvalue
    assert unrelated["p"] == pytest.approx(exact, abs=0.02)


def test_models_without_a_number_are_left_out() -> None:
    x, y = np.array([1.0, 2.0, np.nan, 4.0, 5.0]), np.array([1.0, 4.0, 2.0, np.nan, 3.0])
    found = spearman(x, y, seed=0)
    assert found["n"] == 3
    assert found["rho"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("x", "y"),
    [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([np.nan] * 4, [1.0] * 4)],
)
def test_undefined(x: list[float], y: list[float]) -> None:
    found = spearman(np.array(x), np.array(y), seed=0)
    assert found["status"].startswith("undefined")
    assert "rho" not in found


def test_the_last_exact_and_the_first_random() -> None:
    x = np.arange(EXACT + 1.0)
    exact, sampled = spearman(x[:-1], x[:-1], seed=0), spearman(x, x, seed=0)
    assert exact == {
        "rho": pytest.approx(1),
        "p": pytest.approx(2 / 40320),
        "smallest_p": pytest.approx(2 / 40320),
        "n": 8,
        "status": "ok",
    }
    assert sampled["smallest_p"] == 1 / 20_001
    y = np.random.default_rng(1).permutation(x)
    first, again, other = (spearman(x, y, seed)["p"] for seed in (0, 0, 1))
    assert first == again != other


def test_undefined_says_n() -> None:
    reason = "undefined: fewer than 3 models, or all alike"
    assert spearman(np.arange(3.0), np.ones(3), seed=0) == {"n": 3, "status": reason}
