"""Projections, AUROCs and first steps: cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em_geometry.monitoring.checkpoints import checkpoint_steps, mixture
from em_geometry.monitoring.detection import (
    DETECTORS,
    Detector,
    basis,
    compared,
    detectors,
    first_above,
    mean_score,
    separation,
    topic_draws,
)
from em_geometry.stats.agreement import auroc

VECTORS = {
    "a": np.array([2.0, 0, 0, 0]),
    "b": np.array([0, 3.0, 0, 0]),
    "c": np.array([0, 0, 1.0, 0]),
}
CLUSTERS = {"a": "x", "b": "y", "c": "z"}
TOPICS = ["t", "t", "u", "u", "v"]
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=5, max_size=5).map(np.array)


def test_detectors_measure_what_they_are_named_after() -> None:
    found = detectors(VECTORS, CLUSTERS, "a")
    assert tuple(found) == DETECTORS
    shift = np.array([[-1.0, 3.0, 4.0, 12.0]])
    expected = {
        "own": -1.0,
        "one": 6 / 3**0.5,
        "k": 26**0.5,
        "unseen_one": 7 / 2**0.5,
        "unseen_k": 5.0,
        "size": 170**0.5,
    }
    for name, value in expected.items():
        way = found[name]
        assert isinstance(way, Detector)
        assert way.scores(shift) == pytest.approx([value]), name


def test_the_unseen_directions_do_not_know_the_organism() -> None:
    twin = VECTORS | {"a2": np.array([1.0, 0, 0, 5.0])}
    first = detectors(twin, CLUSTERS | {"a2": "x"}, "a")
    other = detectors(twin | {"a": np.array([9.0, 1, 1, 1])}, CLUSTERS | {"a2": "x"}, "a")
    shifts = np.random.default_rng(0).standard_normal((6, 4))
    for name in ("unseen_one", "unseen_k"):
        one, two = first[name], other[name]
        assert isinstance(one, Detector) and isinstance(two, Detector)
        assert one.scores(shifts) == pytest.approx(two.scores(shifts))


def test_what_cannot_be_defined_says_why() -> None:
    alone = detectors({"a": VECTORS["a"]}, CLUSTERS, "a")
    assert alone["unseen_k"] == "undefined: no vector of another cluster"
    opposed = detectors(VECTORS | {"c": -VECTORS["b"]}, CLUSTERS, "a")
    assert opposed["unseen_one"] == "undefined: the vectors cancel out"


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_a_span_is_orthonormal_and_holds_its_vectors(count: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((count, 8))
    found = basis(np.concatenate([rows, rows[:1] * 2]))
    assert found @ found.T == pytest.approx(np.eye(count), abs=1e-9)
    assert rows @ found.T @ found == pytest.approx(rows, abs=1e-8)


@settings(deadline=None)  # scipy is imported in the first case
@given(SCORES, SCORES)
def test_auroc_is_that_of_the_ranks_and_lies_in_its_interval(
    ours: np.ndarray, control: np.ndarray
) -> None:
    times = topic_draws(TOPICS, 0, 200)
    found = separation(ours, control, times)
    positive = np.repeat([True, False], 5)
    assert found.value == pytest.approx(auroc(positive, np.concatenate([ours, control])))
    assert found.value is not None and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.high <= 1
    assert separation(control, ours, times).value == pytest.approx(1 - found.value)


def test_intervals_draw_topics_and_not_prompts() -> None:
    constant = mean_score(np.full(5, 2.0), topic_draws(TOPICS, 0, 500))
    assert (constant.value, constant.low, constant.high) == pytest.approx((2, 2, 2))
    within = mean_score(np.array([-9.0, 9, -9, 9]), topic_draws(["t", "t", "u", "u"], 0, 500))
    assert (within.low, within.high) == pytest.approx((0, 0))
    between = mean_score(np.array([0.0, 0, 1, 1]), topic_draws(["t", "t", "u", "u"], 0, 500))
    assert (between.value, between.low, between.high) == pytest.approx((0.5, 0, 1))


def test_the_first_step_above_is_by_the_interval() -> None:
    assert first_above([3, 7, 18], [0.1, 0.3, 0.5], 0.2) == 7
    assert first_above([3, 7, 18], [0.1, 0.2, 0.2], 0.2) is None


@pytest.mark.parametrize(
    ("direction", "behaviour", "said"),
    [
        (3, 7, "before the behaviour"),
        (7, 7, "at the same checkpoint"),
        (18, 7, "after the behaviour"),
        (3, None, "only the direction shows"),
        (None, 3, "only the behaviour shows"),
        (None, None, "neither shows"),
    ],
)
def test_who_is_first(direction: int | None, behaviour: int | None, said: str) -> None:
    assert compared(direction, behaviour) == said


@given(st.integers(1, 3000), st.integers(1, 12))
def test_checkpoints_end_with_the_training(total: int, count: int) -> None:
    steps = checkpoint_steps(total, count)
    assert steps[-1] == total and steps[0] >= 1
    assert steps == sorted(set(steps)) and len(steps) <= count


def test_checkpoints_are_denser_where_the_effect_comes() -> None:
    assert checkpoint_steps(46, 4) == [3, 7, 18, 46]


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 100), st.integers(0, 2**31))
def test_mixtures_are_nested_and_of_one_length(a: int, b: int, pct: int, seed: int) -> None:
    bad, benign = [("bad", i) for i in range(a)], [("benign", i) for i in range(b)]
    found, count = mixture(bad, benign, pct, seed)
    assert len(found) == min(a, b)
    assert sum(kind == "bad" for kind, _ in found) == count == round(len(found) * pct / 100)
    assert [i for _, i in found] == list(range(len(found)))  # one place, one text of the two
    more, _ = mixture(bad, benign, 100, seed)
    less, _ = mixture(bad, benign, pct // 2, seed)
    assert all(kind == "bad" for kind, _ in more)
    assert {i for k, i in less if k == "bad"} <= {i for k, i in found if k == "bad"}
