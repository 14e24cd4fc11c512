"""Rates corrected by labels: coverage, and what good, bad and biased judges give."""

import numpy as np
import pytest

from em_geometry.stats.intervals import ends, proportion
from em_geometry.stats.ppi import labels_alone, prediction_powered, rogan_gladen

STRATA, N, EACH = 4, 96, 20
RATES = np.array([0.05, 0.1, 0.2, 0.3])  # by stratum
STRATUM = np.repeat(np.arange(STRATA), N)


def draw(rng: np.random.Generator, skill: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and scores of all answers, and labels of 20 answers of each stratum."""
    truth = (rng.random(STRATA * N) < RATES[STRATUM]).astype(float)
    scores = 1 / (1 + np.exp(2 - skill * truth - rng.normal(size=len(truth))))
    chosen = np.argsort(rng.random((STRATA, N)), axis=1)[:, :EACH] + N * np.arange(STRATA)[:, None]
    labels = np.full(len(truth), np.nan)
    labels[chosen] = truth[chosen]
    return truth, scores, labels


@pytest.mark.parametrize("skill", [0.0, 1.5, 4.0])
def test_intervals_cover_and_a_planted_bias_is_taken_out(skill: float) -> None:
    rng, rate, found = np.random.default_rng(5), 100 * RATES.mean(), []
    for _ in range(600):
        _, scores, labels = draw(rng, skill)
        found.append(prediction_powered(labels, scores + 0.3, STRATUM).estimate)
    held = np.mean([low <= rate <= high for low, high in map(ends, found)])
    assert 0.93 < held < 0.97
    assert np.mean([e.value or 0.0 for e in found]) == pytest.approx(rate, abs=0.6)


def test_a_judge_that_knows_nothing_leaves_the_labels_own_interval() -> None:
    rng = np.random.default_rng(0)
    _, _, labels = draw(rng, 0.0)
    alone = prediction_powered(labels, np.zeros(len(labels)), STRATUM)
    assert (alone.power, alone.estimate.n) == (0, STRATA * EACH)
    noise = prediction_powered(labels, rng.random(len(labels)), STRATUM).estimate
    assert noise.width == pytest.approx(alone.estimate.width, rel=0.1)
    some = np.where(np.arange(400) < 50, np.arange(400) % 5 == 0, np.nan)  # 10 of 50
    found, own = prediction_powered(some, np.full(400, 0.5), np.zeros(400)), proportion(10, 50)
    assert found.estimate.value == pytest.approx(own.value)
    assert ends(found.estimate) == pytest.approx(ends(own), abs=0.3)


def test_a_perfect_judge_gives_the_interval_of_all_answers() -> None:
    truth, _, labels = draw(np.random.default_rng(1), 0.0)
    found = prediction_powered(labels, truth, np.zeros(len(truth)))
    whole = proportion(truth.sum(), len(truth))
    assert found.power == pytest.approx(1)
    assert found.estimate.value == pytest.approx(whole.value)
    assert ends(found.estimate) == pytest.approx(ends(whole), abs=0.05)


def test_labels_that_are_all_alike_keep_an_interval() -> None:
    labels = np.where(np.arange(100) < 12, 0.0, np.nan)
    found = prediction_powered(labels, np.linspace(0, 1, 100), np.zeros(100))
    assert (found.estimate.value, found.a_label) == (0, 0)
    assert ends(found.estimate) == pytest.approx(ends(proportion(0, 12)))


def test_as_many_labels_as_are_said_to_be_needed_do() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.random(20_000) < 0.2).astype(float)
    scores = 0.5 * truth + rng.normal(size=len(truth))

    def by_labels(n: int) -> tuple[float, float]:
        labels = np.where(np.arange(len(truth)) < n, truth, np.nan)
        found = prediction_powered(labels, scores, np.zeros(len(truth)))
        return (found.estimate.width or 0.0) / 2, found.labels_for(4.0)

    needed = int(by_labels(300)[1])
    assert by_labels(needed)[0] == pytest.approx(4.0, rel=0.1)
    assert needed < 1.2 * labels_alone(20, 4.0) == pytest.approx(1.2 * 385)
    few = np.where(np.arange(40) < 20, truth[:40], np.nan)
    assert np.isnan(prediction_powered(few, truth[:40], np.zeros(40)).labels_for(0.1))


def test_rogan_gladen_by_hand_and_where_it_is_undefined() -> None:
    counted = np.arange(100) < 30  # the judge counts 30 %
    truth = np.repeat([True, False], [50, 100])
    said = np.concatenate([np.arange(50) < 40, np.arange(100) < 10])  # finds .8, spares .9
    found = rogan_gladen(counted, truth, said)
    assert found.value == pytest.approx(100 * (0.3 - 0.1) / 0.7)
    low, high = ends(found)
    assert low < 100 * 0.2 / 0.7 < high and found.n == 150
    assert rogan_gladen(counted, truth, ~said).status.startswith("undefined")
    assert rogan_gladen(counted, truth[:50], said[:50]).status.startswith("undefined")
