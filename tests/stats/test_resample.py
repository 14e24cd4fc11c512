"""Streams, and sums over clusters."""

import numpy as np

from em_geometry.stats.resample import stream, sum_by


def test_streams_have_names() -> None:
    one, again, other = (stream(0, *parts).random() for parts in ("ab", "ab", "ba"))
    assert one == again != other


def test_sums_over_clusters() -> None:
    found = sum_by([np.ones(3), np.array([1.0, 2, 3])], np.array([0, 2, 2]), 3)
    assert found.tolist() == [[1, 1], [0, 0], [2, 5]]
