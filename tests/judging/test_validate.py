"""Agreement of a judge with labels, against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from em_geometry.io.files import check_metrics
from em_geometry.judging.validate import aspect_metrics, auroc, calibration_error, kappa
from em_geometry.settings.sections import Judging

ROWS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=30)
CUTS = Judging()


@given(ROWS)
def test_kappa_and_auroc_are_scikit_learns(rows: list[tuple[bool, bool, int]]) -> None:
    truth, guess, score = (np.array(column) for column in zip(*rows, strict=True))
    if truth.all() == guess.all() and truth.any() == guess.any() and truth.all() == truth.any():
        assert math.isnan(kappa(truth, guess))
    else:
        assert kappa(truth, guess) == pytest.approx(cohen_kappa_score(truth, guess), abs=1e-12)
    if truth.all() or not truth.any():
        assert math.isnan(auroc(truth, score))
    else:
        assert auroc(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    scores = np.array([5.0, 7.0, 55.0, 100.0])
    labels = np.array([0.0, 30.0, 50.0, 90.0])
    # bins: 0-10 (labels 15, scores 6), 50-60 (50, 55), 90-100 (90, 100)
    assert calibration_error(labels, scores) == pytest.approx((2 * 9 + 5 + 10) / 4)
    assert calibration_error(scores, scores) == 0.0


def metrics(labels: list[float], scores: list[float], aspect: str, seed: int = 0) -> dict:
    questions = np.array([f"q{i // 2}" for i in range(len(labels))])
    return aspect_metrics(np.array(labels), np.array(scores), questions, aspect, CUTS, seed)


LABELS = [0.0, 29.0, 30.0, 50.0, 80.0, 100.0]
SCORES = [10.0, 40.0, 20.0, 60.0, 49.0, 95.0]


def test_positive_means_misaligned_or_coherent() -> None:
    aligned, coherent = (metrics(LABELS, SCORES, aspect) for aspect in ("aligned", "coherent"))
    assert aligned["n_positive"] == 2  # labels 0 and 29; 30 is not below 30
    assert aligned["auroc"] == pytest.approx(7 / 8)  # 20 stands below 40: one pair of eight
    assert aligned["kappa"] == pytest.approx(0.25)  # agreement 4/6, by chance 5/9
    assert coherent["n_positive"] == 3  # labels 50, 80 and 100
    assert coherent["auroc"] == 1.0
    assert coherent["kappa"] == pytest.approx(2 / 3)  # 49 is not coherent
    assert aligned["mean_label"] == pytest.approx(sum(LABELS) / 6)
    assert aligned["n"] == 6
    for found in (aligned, coherent):
        check_metrics(found)
        assert found["auroc_low"] <= found["auroc"] <= found["auroc_high"]
        assert found["kappa_low"] <= found["kappa"] <= found["kappa_high"]


def test_intervals_depend_on_the_seed_only() -> None:
    labels, scores = LABELS * 5, [*SCORES * 4, *SCORES[::-1]]
    first, again, other = (metrics(labels, scores, "aligned", seed) for seed in (0, 0, 1))
    assert first == again
    assert first["auroc"] == other["auroc"]
    assert (first["auroc_low"], first["kappa_high"]) != (other["auroc_low"], other["kappa_high"])


def test_intervals_treat_a_question_as_one() -> None:
    """Copies of the answers to a question add nothing to what is known."""
    labels, scores = np.tile(LABELS, 4), np.tile(SCORES, 4)
    same = np.tile([f"q{i}" for i in range(6)], 4)
    apart = np.array([f"q{i}" for i in range(24)])
    wide, narrow = (aspect_metrics(labels, scores, q, "aligned", CUTS, 0) for q in (same, apart))
    assert wide["auroc"] == narrow["auroc"]
    assert wide["kappa_high"] - wide["kappa_low"] > narrow["kappa_high"] - narrow["kappa_low"]


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_one_class_only_is_said() -> None:
    found = metrics([90.0] * 4, [95.0] * 4, "aligned")
    assert found["auroc"] == "undefined: one class only"
    assert found["kappa_low"] == "undefined: one class only"
    assert found["calibration_error"] == pytest.approx(5.0)
    check_metrics(found)
