"""Permutation tests: rank correlation against scipy, exact p against all relabellings."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from em_geometry.stats.permutation import (
    EXACT,
    n_splits,
    null_p,
    partition_test,
    partitions,
    rank_test,
    share_as_far,
    splits,
)


@pytest.mark.parametrize("n", [3, 4, 6, 8, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_rho_is_that_of_scipy(n: int, ties: bool) -> None:
    random = np.random.default_rng(n)
    x, y = random.normal(size=n), random.normal(size=n)
    if ties:
        y[1] = y[0]
    found = rank_test(x, y, seed=0).estimate
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.n == n


@pytest.mark.parametrize("seed", range(4))
def test_exact_p_is_that_of_all_orders(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=5), random.normal(size=5)
    null = [stats.spearmanr(x[list(order)], y).statistic for order in permutations(range(5))]
    observed = abs(stats.spearmanr(x, y).statistic)
    assert rank_test(x, y, seed=0).p == pytest.approx(np.mean(np.abs(null) >= observed - 1e-12))


@pytest.mark.parametrize("n", [3, 5, EXACT])
def test_perfect_order_has_the_smallest_p(n: int) -> None:
    x = np.arange(n) ** 2.0
    for y in (x, -x):
        found = rank_test(x, y, seed=0)
        assert abs(found.estimate.value or 0) == pytest.approx(1)
        assert found.p == pytest.approx(found.smallest_p)
    assert EXACT == 8  # the last exact one
    assert found.smallest_p == pytest.approx({3: 1 / 3, 5: 2 / 120, 8: 2 / 40320}[n])


@pytest.mark.parametrize("n", [EXACT + 1, EXACT + 4])
def test_random_orders_keep_their_seed_and_never_give_p_zero(n: int) -> None:
    x = np.arange(float(n))
    found = rank_test(x, x, seed=0)
    assert found.smallest_p == 1 / 20_001
    assert 0.001 > (found.p or 0) >= found.smallest_p
    y = np.random.default_rng(1).permutation(x)
    first, again, other = (rank_test(x, y, seed).p for seed in (0, 0, 1))
    assert first == again != other
    assert first == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.02)


def test_models_without_a_number_are_left_out() -> None:
    x, y = np.array([1.0, 2.0, np.nan, 4.0, 5.0]), np.array([1.0, 4.0, 2.0, np.nan, 3.0])
    found = rank_test(x, y, seed=0).estimate
    assert (found.value, found.n) == (pytest.approx(0.5), 3)


@pytest.mark.parametrize(
    ("x", "y"),
    [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([np.nan] * 4, [1.0] * 4)],
)
def test_undefined(x: list[float], y: list[float]) -> None:
    found = rank_test(np.array(x), np.array(y), seed=0)
    assert found.estimate.status.startswith("undefined")
    assert found.as_results("rho") == {"rho": found.estimate}


def test_partitions_are_all_or_some() -> None:
    random = np.random.default_rng(0)
    every = partitions([[0, 1], [3, 4]], 5, 100, random)
    assert len(every) == n_splits([2, 2]) == len(set(map(tuple, every))) == 6
    assert every[0].tolist() == [0, 1, 2, 3, 4]
    assert (every[:, 2] == 2).all()
    pairs = [[0, 1], [2, 3], [4, 5]]
    orders = partitions(pairs, 6, 1000, random)
    assert len(orders) == len(np.unique(orders, axis=0)) == 90
    groups = {frozenset(frozenset(o[i : i + 2]) for i in (0, 2, 4)) for o in orders.tolist()}
    assert len(groups) == 15
    few = partitions(pairs, 6, 20, random)
    assert few.shape == (20, 6) and few[0].tolist() == list(range(6))
    assert list(splits((0, 1, 2), [1, 2])) == [(0, 1, 2), (1, 0, 2), (2, 0, 1)]


def test_an_undefined_deal_never_lowers_p() -> None:
    assert share_as_far(1.0, np.array([1.0, 0.0, np.nan, -1.0]), 1e-9) == 0.75


def test_null_p() -> None:
    null = np.arange(-49.0, 50)
    assert null_p(0.0, null) == 1
    assert null_p(50.0, null) == 0.01
    assert null_p(0.0, np.full(99, np.nan)) is None


def test_the_smallest_p_of_partitions_is_the_share_that_ties_with_the_farthest() -> None:
    found = partition_test(2.0, np.array([2.0, 2.0, 0.0, 0.0, -1.0, 1.0]))
    assert found.p == found.smallest_p == 0.5
