"""Intervals with retraining cover what they should, with two repeats of each role."""

import numpy as np
import pytest

from em_geometry.stats.estimate import Estimate, Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.stats.retraining import Trained, both, total_distance, with_retraining

RUNS, QUESTIONS = 2000, 16


def parts(rng: np.random.Generator, models: int, sd: float, own: int) -> tuple[float, Floats]:
    """What the trainings of a role add to a statistic, and its changes under two repeats.

    Args:
        models: of this role in the statistic; each training moves it by `sd`.
        own: how many of the two repeats are of models in the statistic; others are borrowed.
    """
    error = sd * rng.standard_normal(models)
    old = np.concatenate([error[:own], sd * rng.standard_normal(2 - own)])
    return float(error.sum()), sd * rng.standard_normal(2) - old


@pytest.mark.parametrize(
    ("organisms", "controls", "own"),
    [(1, 1, 0), (2, 1, 1), (4, 3, 2), (6, 3, 2)],
    ids=["margin", "cosine", "angle of clusters", "mean across clusters"],
)
@pytest.mark.parametrize(
    ("sampling", "training"), [(1.0, 0.0), (1.0, 0.3), (0.5, 1.0), (0.05, 1.0)]
)
def test_intervals_cover(
    organisms: int, controls: int, own: int, sampling: float, training: float
) -> None:
    """The true value is 0. Two repeats of organisms, two of controls, as in the default profile."""
    rng = np.random.default_rng(organisms)
    held = 0
    for _ in range(RUNS):
        moved, of_organisms = parts(rng, organisms, training, own)
        shifted, of_controls = parts(rng, controls, 0.7 * training, min(own, controls))
        noise = sampling * QUESTIONS**0.5 * rng.standard_normal(QUESTIONS)
        sampled = t_interval(noise + moved + shifted)
        trained = [Trained(organisms, of_organisms), Trained(controls, of_controls)]
        found = with_retraining(sampled, QUESTIONS - 1, trained)
        assert found.low is not None and found.high is not None
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / RUNS <= 0.97


def test_one_part_alone_is_student() -> None:
    assert total_distance([(4.0, 2.0)]) == pytest.approx(4.3026528 * 2)
    assert total_distance([(4.0, 2.0), (0.0, 5.0)]) == pytest.approx(4.3026528 * 2)
    assert total_distance([]) == 0.0


def test_the_rule_is_the_one_described() -> None:
    trained = [Trained(4, np.array([1.0, -3.0])), Trained(3, np.array([0.5, 0.5]))]
    assert [part.variance for part in trained] == pytest.approx([4 * 10 / 4, 3 * 0.25 / 2])
    sampled = Estimate(1.0, 1.0 - 2.1314495, 1.0 + 2 * 2.1314495, 16)
    rows = both("angle", sampled, 15, trained)
    assert rows["angle.prompts_only"] is sampled
    found = rows["angle"]
    below = total_distance([(1.0, 15), (10.0, 2), (0.375, 2)])
    above = total_distance([(4.0, 15), (10.0, 2), (0.375, 2)])
    assert (found.low, found.high) == pytest.approx((1 - below, 1 + above))
    assert (found.value, found.n) == (1.0, 16)


def test_without_repeats_or_interval_nothing_is_added() -> None:
    sampled = Estimate(1.0, 0.5, 1.5, 9)
    none = [Trained(3, np.empty(0))]
    found = with_retraining(sampled, 8, none)
    assert (found.low, found.high) == pytest.approx((0.5, 1.5))
    assert with_retraining(Estimate(1.0), 8, none) == Estimate(1.0)
    assert with_retraining(Estimate.undefined("no"), 8, none).status == "no"
