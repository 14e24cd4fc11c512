"""Rank correlation against scipy, orders, partitions, and p from them."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from em_geometry.stats import permutation


@pytest.mark.parametrize("n", [3, 4, 6, 8, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_rho_is_that_of_scipy(n: int, ties: bool) -> None:
    x, y = np.random.default_rng(n).normal(size=(2, n))
    if ties:
        y[1] = y[0]
    found = permutation.rank_correlations(np.stack([x, np.ones(n)]), y[None])
    assert found == pytest.approx([stats.spearmanr(x, y).statistic, np.nan], nan_ok=True)


def test_orders_are_all_or_random_ones_that_keep_their_seed() -> None:
    assert permutation.orders(4, 0).tolist() == [list(each) for each in permutations(range(4))]
    assert len(permutation.orders(permutation.EXACT, 0)) == 40_320
    first, again, other = (permutation.orders(permutation.EXACT + 1, seed) for seed in (0, 0, 1))
    assert first[0].tolist() == list(range(permutation.EXACT + 1))
    assert len(first) == 20_001
    assert (first == again).all() and (first != other).any()
    assert (np.sort(first) == np.arange(permutation.EXACT + 1)).all()


def test_partitions_are_all_or_some() -> None:
    random = np.random.default_rng(0)
    every = permutation.partitions([[0, 1], [3, 4]], 5, 100, random)
    assert len(every) == permutation.n_splits([2, 2]) == len(set(map(tuple, every))) == 6
    assert every[0].tolist() == [0, 1, 2, 3, 4]
    assert (every[:, 2] == 2).all()
    pairs = [[0, 1], [2, 3], [4, 5]]
    table = permutation.partitions(pairs, 6, 1000, random)
    assert len(table) == len(np.unique(table, axis=0)) == 90
    groups = {frozenset(frozenset(o[i : i + 2]) for i in (0, 2, 4)) for o in table.tolist()}
    assert len(groups) == 15
    few = permutation.partitions(pairs, 6, 20, random)
    assert few.shape == (20, 6) and few[0].tolist() == list(range(6))
    assert list(permutation.splits((0, 1, 2), [1, 2])) == [(0, 1, 2), (1, 0, 2), (2, 0, 1)]


def test_null_p() -> None:
    null = np.arange(-49.0, 50)
    assert permutation.null_p(0.0, null) == 1
    assert permutation.null_p(50.0, null) == 0.01
    assert permutation.null_p(0.0, np.full(99, np.nan)) is None
    assert permutation.null_p(1.0 + 1e-12, np.repeat([0.0, 1.0], [60, 39])) == 0.4  # they tie
    assert (
        permutation.share_as_far(1.0, np.array([1.0, 0.0, np.nan, -1.0]), 1e-9) == 0.75
    )  # nor is p lowered


def test_the_smallest_p_of_partitions_is_the_share_that_ties_with_the_farthest() -> None:
    found = permutation.partition_test(2.0, np.array([2.0, 2.0, 0.0, 0.0, -1.0, 1.0]))
    assert found.p == found.smallest_p == 0.5
