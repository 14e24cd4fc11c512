"""Agreement: point values against scikit-learn's and scipy's, draws against the points."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from em_geometry.stats.agreement import (
    agreement,
    alpha,
    auroc,
    auroc_draws,
    drawn_rows,
    kappa,
    kappa_draws,
)
from em_geometry.stats.resample import stream

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 11, 60) * 10.0
SCORES = np.clip(LABELS + RANDOM.integers(-4, 5, 60) * 10.0, 0, 100)
QUESTIONS = np.repeat(np.arange(12), 5)


def low(values: np.ndarray) -> np.ndarray:
    return np.asarray(values < 30)


def test_draws_are_the_points_of_the_drawn_rows() -> None:
    times = drawn_rows(QUESTIONS, stream(0), 30)
    truth, guess = low(LABELS), low(SCORES)
    drawn = auroc_draws(truth, -SCORES, times), kappa_draws(truth, guess, times)
    for each, area, agreed in zip(times, *drawn, strict=True):
        r = np.repeat(np.arange(60), each.astype(int))
        assert (each.reshape(12, 5) == each[::5, None]).all()  # questions are drawn whole
        assert area == pytest.approx(roc_auc_score(truth[r], -SCORES[r]))
        assert agreed == pytest.approx(cohen_kappa_score(truth[r], guess[r]))


def test_agreement_holds_the_points() -> None:
    found = agreement(LABELS, SCORES, low, QUESTIONS, stream(0), 200, falling=True)
    assert found["auroc"].value == pytest.approx(roc_auc_score(low(LABELS), -SCORES))
    assert found["spearman"].value == pytest.approx(stats.spearmanr(LABELS, SCORES).statistic)
    for each in found.values():
        assert each.low < each.value < each.high
        assert each.n == 60


def test_one_class_is_undefined() -> None:
    none = np.zeros(4, dtype=bool)
    assert np.isnan([auroc(none, np.arange(4.0)), kappa(none, none), kappa(~none, ~none)]).all()
    assert kappa(none, np.array([True, False, False, False])) == 0
    found = agreement(LABELS + 50, SCORES, low, QUESTIONS, stream(0), 20)
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
