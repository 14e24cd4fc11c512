"""Agreement: point values against scikit-learn's and scipy's, and intervals."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from em_geometry.stats.agreement import agreement, alpha, auroc, aurocs, kappa, kappas, left_out

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
