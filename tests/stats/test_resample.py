"""Streams, draws of clusters, and sums over them."""

import numpy as np

from em_geometry.stats.resample import drawn, first_half, stream, sum_by


def test_streams_have_names() -> None:
    one, again, other = (stream(0, *parts).random() for parts in ("ab", "ab", "ba"))
    assert one == again != other


def test_draws_count_what_was_drawn() -> None:
    times = drawn(stream(0), 5, 100)
    assert times.shape == (100, 5)
    assert (times.sum(1) == 5).all()
    assert (first_half(stream(0), 5, 100).sum(1) == 2).all()


def test_sums_over_clusters() -> None:
    found = sum_by([np.ones(3), np.array([1.0, 2, 3])], np.array([0, 2, 2]), 3)
    assert found.tolist() == [[1, 1], [0, 0], [2, 5]]
