"""Agreement: point values against scikit-learn's and scipy's, and intervals."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from em_geometry.stats.agreement import (
    agreement,
    alpha,
    auroc,
    aurocs,
    event_agreement,
    kappa,
    kappas,
    left_out,
    ranking,
)

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 11, 60) * 10.0
SCORES = np.clip(LABELS + RANDOM.integers(-4, 5, 60) * 10.0, 0, 100)
QUESTIONS = np.repeat(np.arange(12), 5)


def low(values: np.ndarray) -> np.ndarray:
    return np.asarray(values < 30)


def test_a_question_is_left_out_whole() -> None:
    times = left_out(QUESTIONS)
    truth, guess = low(LABELS), low(SCORES)
    found = aurocs(truth, -SCORES, times), kappas(truth, guess, times)
    assert len(times) == 13 and times[0].all()
    for i, (each, area, agreed) in enumerate(zip(times, *found, strict=True)):
        r = each > 0
        assert i == 0 or (r == (i - 1 != QUESTIONS)).all()
        assert area == pytest.approx(roc_auc_score(truth[r], -SCORES[r]))
        assert agreed == pytest.approx(cohen_kappa_score(truth[r], guess[r]))


def test_intervals_cover() -> None:
    """24 questions of four answers whose scores share what the question brings; AUROC .76."""
    rng, held = np.random.default_rng(1), 0
    cluster = np.repeat(np.arange(24), 4)
    for _ in range(600):
        truth = rng.random(96) < 0.4
        scores = truth + 0.5 * rng.normal(size=24)[cluster] + 0.5 * 3**0.5 * rng.normal(size=96)
        found = agreement(truth * 1.0, scores, lambda v: v > 0.5, cluster)["auroc"]
        held += found.low <= stats.norm.cdf(0.5**0.5) <= found.high
    assert 0.93 < held / 600 < 0.97


def test_agreement_holds_the_points() -> None:
    found = agreement(LABELS, SCORES, low, QUESTIONS, falling=True)
    assert found["auroc"].value == pytest.approx(roc_auc_score(low(LABELS), -SCORES))
    assert found["spearman"].value == pytest.approx(stats.spearmanr(LABELS, SCORES).statistic)
    for each in found.values():
        assert each.low < each.value < each.high
        assert each.n == 60


def test_pairs_of_one_group_only() -> None:
    truth = np.array([True, True, False, False] * 3)
    score = np.array([8.0, 8, 9, 9, 1, 1, 2, 2, 3, 4, 3, 4])  # two groups the wrong way round
    group = np.repeat([0, 1, 2], 4)
    found = float(aurocs(truth, score, np.ones((1, 12)), group)[0])
    assert found == pytest.approx((0 + 0 + 2) / 12)  # of the third, one win and two ties
    assert ranking(truth, score, np.tile([0, 1], 6), group).value == found
    assert auroc(truth, score) == pytest.approx(14 / 36)


def test_an_event_that_is_never_guessed_has_a_recall_and_no_interval_of_kappa() -> None:
    truth, none = np.tile([True, False], 10), np.zeros(20, dtype=bool)
    found = event_agreement(truth, none, np.repeat(np.arange(5), 4))
    assert (found["kappa"].value, found["kappa"].low) == (0, None)
    assert (found["recall"].value, found["recall"].low) == (0, 0)
    assert found["recall"].high is not None and found["recall"].high > 0.25  # none of ten
    assert found["precision"].status.startswith("undefined")


def test_one_class_is_undefined() -> None:
    none = np.zeros(4, dtype=bool)
    assert np.isnan([auroc(none, np.arange(4.0)), kappa(none, none), kappa(~none, ~none)]).all()
    assert kappa(none, np.array([True, False, False, False])) == 0
    found = agreement(LABELS + 50, SCORES, low, QUESTIONS)
    assert found["auroc"].status.startswith("undefined")


def test_alpha() -> None:
    assert alpha(np.array([[1.0, 2, 3, np.nan], [1.0, 2, 3, 4]])) == 1
    assert np.isnan(alpha(np.ones((2, 3))))
    # Krippendorff 2011, "Computing Krippendorff's alpha-reliability", interval data: .849
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
            [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
        ]
    )
    assert alpha(ratings) == pytest.approx(0.849, abs=5e-4)
