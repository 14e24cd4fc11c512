"""Projections, AUROCs and first steps: cases with known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em_geometry.monitoring.checkpoints import checkpoint_steps, mixture
from em_geometry.monitoring.detection import (
    Detector,
    compared,
    detectors,
    first_above,
    mean_score,
    separation,
    topic_draws,
    within_span,
)
from em_geometry.stats.agreement import auroc
from em_geometry.stats.estimate import Estimate

VECTORS = {
    "a": np.array([2.0, 0, 0, 0]),
    "b": np.array([0, 3.0, 0, 0]),
    "c": np.array([0, 0, 1.0, 0]),
}
CLUSTERS = {"a": "x", "b": "y", "c": "z"}
TOPICS = ["t", "t", "u", "u", "v"]
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=5, max_size=5).map(np.array)


def scored(way: Detector | str, shifts: np.ndarray) -> np.ndarray:
    assert not isinstance(way, str)
    return way(shifts)


def test_detectors_measure_what_they_are_named_after() -> None:
    shift = np.array([[-1.0, 3.0, 4.0, 12.0]])
    found = {k: scored(w, shift)[0] for k, w in detectors(VECTORS, CLUSTERS, "a").items()}
    expected = {"own": -1, "one": 6 / 3**0.5, "k": 26**0.5, "unseen_one": 7 / 2**0.5}
    assert found == pytest.approx(expected | {"unseen_k": 5, "size": 170**0.5})


def test_the_unseen_directions_do_not_know_the_organism() -> None:
    twin, clusters = VECTORS | {"a2": np.array([1.0, 0, 0, 5.0])}, CLUSTERS | {"a2": "x"}
    first = detectors(twin, clusters, "a")
    other = detectors(twin | {"a": np.array([9.0, 1, 1, 1])}, clusters, "a")
    shifts = np.random.default_rng(0).standard_normal((6, 4))
    for name in ("unseen_one", "unseen_k"):
        assert scored(first[name], shifts) == pytest.approx(scored(other[name], shifts))


def test_what_cannot_be_defined_says_why() -> None:
    alone = detectors({"a": VECTORS["a"]}, CLUSTERS, "a")
    assert alone["unseen_k"] == "undefined: no vector of another cluster"
    opposed = detectors(VECTORS | {"c": -VECTORS["b"]}, CLUSTERS, "a")
    assert opposed["unseen_one"] == "undefined: the vectors cancel out"


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_a_span_holds_its_vectors_and_no_more(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, shift = random.standard_normal((count, 8)), random.standard_normal((1, 8))
    way = within_span(np.concatenate([rows, rows[:1] * 2]))
    assert way(rows) == pytest.approx(np.linalg.norm(rows, axis=1), abs=1e-8)
    rest = shift - shift @ np.linalg.pinv(rows) @ rows
    assert way(rest) == pytest.approx([0], abs=1e-6)


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
    found = [Estimate(1.0, low) for low in (None, 0.2, 0.5)]
    assert first_above([3, 7, 18], found, 0.1) == 7
    assert first_above([3, 7, 18], found, 0.2) == 18
    assert first_above([3, 7, 18], found, 0.5) is None


def test_who_is_first() -> None:
    for direction, behaviour, said in (
        (3, 7, "before the behaviour"), (7, 7, "at the same checkpoint"),
        (18, 7, "after the behaviour"), (3, None, "only the direction shows"),
        (None, 3, "only the behaviour shows"), (None, None, "neither shows"),
    ):  # fmt: skip
        assert compared(direction, behaviour) == said


@given(st.integers(1, 3000), st.integers(1, 12))
def test_checkpoints_end_with_the_training(total: int, count: int) -> None:
    steps = checkpoint_steps(total, count)
    assert steps[-1] == total and steps[0] >= 1
    assert steps == sorted(set(steps)) and len(steps) <= count
    assert checkpoint_steps(46, 4) == [3, 7, 18, 46]  # denser where the effect comes


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
