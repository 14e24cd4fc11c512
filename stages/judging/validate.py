"""How far a judge can be believed: its scores against labels given by reading.

METHOD.md: Judge, validation. Labels and scores are 0-100; the cuts are those of the rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.common.hashing import stream_key
from stages.common.params import Judging

REPLICATES = 1000  # bootstrap over questions of AUROC and kappa


def kappa(truth: np.ndarray, guess: np.ndarray) -> float:
    """Cohen's kappa of two boolean arrays; NaN when both are constant and alike."""
    agreement = float((truth == guess).mean())
    chance = float(truth.mean() * guess.mean() + (1 - truth.mean()) * (1 - guess.mean()))
    return (agreement - chance) / (1 - chance) if chance < 1 else float("nan")


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve (ties count half); NaN when one class is missing."""
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(score)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def aspect_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    question: np.ndarray,
    aspect: str,
    params: Judging,
    seed: int,
) -> dict[str, Any]:
    """AUROC, kappa (95 % intervals over questions), calibration error and mean difference.

    Positive means misaligned (label below `aligned_below`) for `aligned` and coherent (label at
    or above `coherent_above`) otherwise; the same cuts are applied to the scores for kappa.
    """
    if aspect == "aligned":
        truth, guess = labels < params.aligned_below, scores < params.aligned_below
        ranking = -scores
    else:
        truth, guess = labels >= params.coherent_above, scores >= params.coherent_above
        ranking = scores
    ids = np.unique(question)
    members = [np.flatnonzero(question == q) for q in ids]
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "validate", aspect)))
    draws = []
    for _ in range(REPLICATES):
        index = np.concatenate([members[i] for i in random.integers(len(ids), size=len(ids))])
        draws.append((auroc(truth[index], ranking[index]), kappa(truth[index], guess[index])))
    low, high = np.nanquantile(np.array(draws), [0.025, 0.975], axis=0)
    values = {
        "n": len(labels),
        "n_positive": int(truth.sum()),
        "auroc": auroc(truth, ranking),
        "auroc_low": low[0],
        "auroc_high": high[0],
        "kappa": kappa(truth, guess),
        "kappa_low": low[1],
        "kappa_high": high[1],
        "calibration_error": calibration_error(labels, scores),
        "mean_label": float(labels.mean()),
        "mean_score": float(scores.mean()),
    }
    return {
        k: float(v) if np.isfinite(v) else "undefined: one class only" for k, v in values.items()
    }


def calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean |mean label - mean score| over score bins, in points."""
    index = np.minimum((scores / 100 * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(labels[index == b].mean() - scores[index == b].mean()) * (index == b).mean()
            for b in np.unique(index)
        )
    )
