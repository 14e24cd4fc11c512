"""The cluster bootstrap: shared draws, the same in any chunks."""

import numpy as np
import pytest

from em_geometry.stats import resample as module
from em_geometry.stats.resample import drawn, first_half, resample, stream, sum_by


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


def test_all_groups_share_the_draws_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((1, 6, 2)).repeat(2, axis=0)
    whole = resample(sums, stream(0, "x"), 50)
    assert (whole[:, 0] == whole[:, 1]).all()
    assert whole[:, 0] == pytest.approx(drawn(stream(0, "x"), 6, 50) @ sums[0])
    monkeypatch.setattr(module, "CHUNK", 20)
    assert resample(sums, stream(0, "x"), 50) == pytest.approx(whole)
    assert not resample(np.empty((2, 0, 2)), stream(0), 3).any()
