"""Vectors drawn again are those that the rows themselves give."""

from __future__ import annotations

import numpy as np
import pytest

from em_geometry.geometry.samples import PromptRows
from em_geometry.stats.arrays import Floats

TOPICS = [f"t{i % 8}" for i in range(40)]
TOPIC = np.array([int(name[1]) for name in TOPICS])
ROWS = np.random.default_rng(0).standard_normal((6, 40, 30)) + 0.3
SAMPLE = PromptRows(ROWS, TOPICS)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def by_hand(weights: Floats) -> Floats:
    """Vectors from the rows themselves, each counted as often as its topic [topic]."""
    return np.average(ROWS, axis=1, weights=weights[TOPIC])


def test_bootstrap_draws_topics() -> None:
    assert SAMPLE.vectors == pytest.approx(by_hand(np.ones(8)))
    drawn = rng(3).multinomial(8, np.full(8, 1 / 8), 5)
    for weights, found in zip(drawn, SAMPLE.bootstrap(rng(3), 5), strict=True):
        vectors = by_hand(weights.astype(float))
        assert found == pytest.approx(vectors @ vectors.T, abs=1e-9)


def test_reliability_is_that_of_halves_of_the_topics() -> None:
    order = rng(5).permuted(np.tile(np.arange(8), (3, 1)), axis=1)
    for places, found in zip(order, SAMPLE.reliability(rng(5), 3), strict=True):
        first = (places < 4).astype(float)
        one, two = by_hand(first), by_hand(1 - first)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        assert found == pytest.approx((one * two).sum(1) / lengths)
