"""Projections, AUROCs and first steps: cases with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from em_geometry.errors import UserError
from em_geometry.monitoring import detection
from em_geometry.settings import Monitoring, Params, Training
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.retraining import total_distance
from tests.invented import params

VECTORS = {
    "a": np.array([2.0, 0, 0, 0]),
    "b": np.array([0, 3.0, 0, 0]),
    "c": np.array([0, 0, 1.0, 0]),
}
CLUSTERS = {"a": "x", "b": "y", "c": "z"}


def scored(way: detection.Detector | str, shifts: np.ndarray) -> np.ndarray:
    assert not isinstance(way, str)
    return way(shifts)


def test_detectors_measure_what_they_are_named_after() -> None:
    shift = np.array([[-1.0, 3.0, 4.0, 12.0]])
    found = {k: scored(w, shift)[0] for k, w in detection.detectors(VECTORS, CLUSTERS, "a").items()}
    expected = {"own": -1, "one": 6 / 3**0.5, "k": 26**0.5, "unseen_one": 7 / 2**0.5}
    assert found == pytest.approx(expected | {"unseen_k": 5, "size": 170**0.5})


def test_the_unseen_directions_do_not_know_the_organism() -> None:
    twin, clusters = VECTORS | {"a2": np.array([1.0, 0, 0, 5.0])}, CLUSTERS | {"a2": "x"}
    first = detection.detectors(twin, clusters, "a")
    other = detection.detectors(twin | {"a": np.array([9.0, 1, 1, 1])}, clusters, "a")
    shifts = np.random.default_rng(0).standard_normal((6, 4))
    for name in ("unseen_one", "unseen_k"):
        assert scored(first[name], shifts) == pytest.approx(scored(other[name], shifts))


def test_what_cannot_be_defined_says_why() -> None:
    alone = detection.detectors({"a": VECTORS["a"]}, {"a": "x"}, "a")
    assert alone["unseen_k"] == "undefined: no vector of another cluster"
    opposed = detection.detectors(VECTORS | {"c": -VECTORS["b"]}, CLUSTERS, "a")
    assert opposed["unseen_one"] == "undefined: the vectors cancel out"


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_a_span_holds_its_vectors_and_no_more(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, shift = random.standard_normal((count, 8)), random.standard_normal((1, 8))
    way = detection.within_span(np.concatenate([rows, rows[:1] * 2]))
    assert way(rows) == pytest.approx(np.linalg.norm(rows, axis=1), abs=1e-8)
    rest = shift - shift @ np.linalg.pinv(rows) @ rows
    assert way(rest) == pytest.approx([0], abs=1e-6)


def test_an_excess_by_hand() -> None:
    benign = np.array([[1.0, 1, 1, 1], [3, 3, 3, 3]])
    found = detection.excess(np.array([6.0, 6, 8, 8]), benign, ["t", "t", "u", "u"])
    assert [found[k] for k in ("mean", "benign_mean", "benign_highest")] == [7, 2, 3]
    assert (found["p"], found["auroc"]) == (1 / 3, 1.0)
    estimate = found[""]
    assert isinstance(estimate, Estimate) and estimate.low is not None
    # rows: topics 4 and 6, variance 2 / 2 = 1; trainings: variance 2, 3 / 2 of it is 3
    assert (estimate.value, estimate.n) == (5, 2)
    assert estimate.value - estimate.low == pytest.approx(total_distance([(1.0, 1), (3.0, 1)]))


def test_the_interval_of_a_benign_training_holds_0() -> None:
    """In 95 of 100 draws, whatever the share of rows and of trainings in the scatter."""
    rng, groups = np.random.default_rng(0), [f"t{i // 4}" for i in range(40)]
    for rows, trainings in ((1.0, 0.1), (0.3, 1.0), (1.0, 0.5)):
        held = 0
        for _ in range(1000):
            means = trainings * rng.standard_normal((5, 1))
            texts = 0.5 * rng.standard_normal(40)  # the same in all
            scores = means + texts + rows * rng.standard_normal((5, 40))
            found = detection.beyond(scores[0], scores[1:], groups)
            assert found.low is not None and found.high is not None
            held += found.low <= 0 <= found.high
        assert held >= 930, (rows, trainings, held)


def test_rows_of_one_topic_and_a_single_benign_training_have_no_interval() -> None:
    own, benign = np.arange(4.0), np.zeros((2, 4))
    for rows, groups in ((benign, ["t"] * 4), (benign[:1], list("abcd"))):
        found = detection.beyond(own, rows, groups)
        assert (found.value, found.low) == (1.5, None)


def test_benign_trainings_that_a_detectors_vectors_do_not_subtract_are_apart() -> None:
    organisms = invented().organisms
    assert detection.benign(organisms) == ["control", "style"]
    assert detection.apart(organisms, "control_contrast", ["finance"]) == ["style"]
    assert detection.apart(organisms, "control_contrast", []) == ["control", "style"]
    assert detection.apart(organisms, "model_contrast", ["finance"]) == ["control", "style"]


def test_a_detector_knows_the_organisms_that_it_is_made_of() -> None:
    of = detection.made_of(CLUSTERS | {"a2": "x"}, "a")
    assert (of["own"], of["unseen_k"], of["size"]) == (["a"], ["b", "c"], [])
    assert of["one"] == of["k"] == ["a", "b", "c", "a2"]


def invented() -> Params:
    """An organism with its repeat, its control with its repeat, and another control."""
    plain = {"lab": "one", "role": "control", "data": "c.jsonl"}
    bad = {"lab": "one", "cluster": "risk", "data": "f.jsonl"}
    organisms = {
        "finance": bad, "control": plain, "control_b": plain | {"seed": 1, "repeats": "control"},
        "finance_b": bad | {"seed": 1, "repeats": "finance"}, "style": plain | {"data": "s.jsonl"},
    }  # fmt: skip
    monitored = {"organisms": ["finance_b"]}
    rest = {"transfer": {"pairs": []}, "training": {"checkpoints": [2]}, "monitoring": monitored}
    return params(organisms=organisms, **rest)


def test_what_is_not_measured_says_why() -> None:
    whole = invented()

    def without(**changes: object) -> str | None:
        changed = whole.model_copy(update=changes)
        return detection.unmeasured(changed.monitoring, changed.training, changed.organisms)

    assert without() is None
    assert without(monitoring=Monitoring()) == "not measured: monitoring.organisms is empty"
    nothing = without(training=Training(checkpoints=[]))
    assert nothing == "not measured: training.checkpoints is empty"
    one = {slug: o for slug, o in whole.organisms.items() if slug != "style"}
    assert without(organisms=one) == "not measurable: 1 benign trainings here, 2 needed"
    given = {s: o.model_copy(update={"source": "path:x"}) for s, o in whole.organisms.items()}
    assert without(organisms=given) == "not measurable: organisms are loaded, not trained"
    with pytest.raises(UserError, match="only organisms of the run"):
        without(monitoring=Monitoring(organisms=["control"]))


@pytest.mark.parametrize(
    ("lows", "first"),
    [
        ((None, -0.2, 0.5), 18),
        ((0.1, 0.2, 0.5), 3),
        ((0.1, -0.2, 0.5), 18),
        ((0.1, 0.2, -0.5), None),
    ],
)
def test_a_direction_shows_from_the_step_on_from_which_its_interval_stays_above_0(
    lows: tuple[float | None, ...], first: int | None
) -> None:
    found = [Estimate(1.0, low) for low in lows]
    assert detection.first_above([3, 7, 18], found) == first
    assert detection.first_above([3, 7, 18], [*found[:2], "undefined: why"]) is None


def test_results_say_when_each_shows() -> None:
    rows, benign_rows = np.zeros((2, 6)), np.zeros((3, 2, 6))
    benign_rows += 0.1 * np.arange(6) + np.array([0.0, 0.1, 0.2])[:, None, None]
    topics = list("aabbcc")
    late, never = rows.copy(), rows
    late[1] = 9.0
    courses = {
        "own": detection.course([4, 46], late, benign_rows, topics),
        detection.MARGIN: detection.course([4, 46], never, benign_rows, topics),
    }
    found = detection.results_of("m", [4, 46], courses, {"k": "undefined: no vectors"})
    assert found["m.detector.own.first_step"] == 46
    assert found["m.detector.own.warns"] == "only the direction shows"
    assert found["m.behaviour.first_step"] == "never"
    assert found["m.detector.k"] == "undefined: no vectors"
    assert found["m.checkpoint.step_46.own"] == courses["own"][1][""]
    assert found["m.checkpoint.step_4.margin.benign_highest"] == pytest.approx(0.45)
    columns = dict(detection.series([4, 46], courses))
    assert list(columns) == ["own", detection.MARGIN] and list(columns["own"]) == [4, 46]


def test_who_is_first() -> None:
    for direction, behaviour, said in (
        (3, 7, "before the behaviour"), (7, 7, "at the same checkpoint"),
        (18, 7, "after the behaviour"), (3, None, "only the direction shows"),
        (None, 3, "only the behaviour shows"), (None, None, "neither shows"),
    ):  # fmt: skip
        assert detection.compared(direction, behaviour) == said
