"""How far a judge can be believed: its scores against labels given by reading.

METHOD.md: Judge, validation. Labels and scores are 0-100, a missing score is NaN; the cuts are
those of the rates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from em_geometry.hashing import stream_key
from em_geometry.settings.sections import Judging

REPLICATES = 1000  # bootstrap over questions of AUROC and kappa
BINS = 10  # of the calibration curve
MIDDLE = 50.0  # cut of every further aspect, where its scale says that it is there
ONE_CLASS = "undefined: one class only"


def kappa(truth: np.ndarray, guess: np.ndarray) -> float:
    """Cohen's kappa of two boolean arrays; NaN when both are constant and alike."""
    agreement = float((truth == guess).mean())
    chance = float(truth.mean() * guess.mean() + (1 - truth.mean()) * (1 - guess.mean()))
    return (agreement - chance) / (1 - chance) if chance < 1 else float("nan")


def alpha(ratings: np.ndarray) -> float:
    """Krippendorff's alpha, interval scale, of ratings [raters, items] (NaN = not rated)."""
    counts = (~np.isnan(ratings)).sum(0)
    ratings, counts = ratings[:, counts > 1], counts[counts > 1]
    pooled = ratings[~np.isnan(ratings)]
    if len(pooled) < 2 or pooled.min() == pooled.max():
        return float("nan")
    # Mean squared difference of pairs = 2 * variance (n - 1 in the denominator).
    observed = (counts * 2 * np.nanvar(ratings, axis=0, ddof=1)).sum() / counts.sum()
    return float(1 - observed / (2 * pooled.var(ddof=1)))


def auroc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve (ties count half); NaN when one class is missing."""
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(score)[positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def spearman(labels: np.ndarray, scores: np.ndarray) -> float:
    """Rank correlation; NaN where one side is constant."""
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(labels), rankdata(scores)])
    if (ranks.max(1) == ranks.min(1)).any():
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def positive(values: np.ndarray, aspect: str, params: Judging) -> np.ndarray:
    """What is looked for: misaligned (below its cut), or coherent and the like (from a cut on)."""
    if aspect == "aligned":
        return np.asarray(values < params.aligned_below)
    return np.asarray(values >= (params.coherent_above if aspect == "coherent" else MIDDLE))


def aspect_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    question: np.ndarray,
    aspect: str,
    params: Judging,
    seed: int,
) -> dict[str, Any]:
    """AUROC, kappa and rank correlation (95 % intervals over questions), calibration.

    Only scored rows count; `n_scored` says how many those are.
    """
    n = len(labels)
    scored = ~np.isnan(scores)
    labels, scores, question = labels[scored], scores[scored], question[scored]
    if not scored.any():
        return {
            "n": n,
            "n_scored": 0,
            "auroc": "undefined: no scores",
            "kappa": "undefined: no scores",
        }
    truth, guess = (positive(values, aspect, params) for values in (labels, scores))
    ranking = -scores if aspect == "aligned" else scores
    ids, codes = np.unique(question, return_inverse=True)
    members = [np.flatnonzero(codes == i) for i in range(len(ids))]
    random = np.random.Generator(np.random.Philox(key=stream_key(seed, "validate", aspect)))
    draws = []
    for _ in range(REPLICATES):
        index = np.concatenate([members[i] for i in random.integers(len(ids), size=len(ids))])
        draws.append(
            (
                auroc(truth[index], ranking[index]),
                kappa(truth[index], guess[index]),
                spearman(labels[index], scores[index]),
            )
        )
    found = (auroc(truth, ranking), kappa(truth, guess), spearman(labels, scores))
    values: dict[str, float] = {}
    for name, value, drawn in zip(
        ("auroc", "kappa", "spearman"), found, np.array(draws).transpose(), strict=True
    ):
        low, high = _percentiles(drawn)
        values |= {name: value, f"{name}_low": low, f"{name}_high": high}
    values |= {
        "calibration_error": calibration_error(labels, scores),
        "mean_label": float(labels.mean()),
        "mean_score": float(scores.mean()),
    }
    return {
        "n": n,
        "n_scored": len(labels),
        "n_positive": int(truth.sum()),
        **finite(values),
        "curve": curve(labels, scores),
    }


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    """95 % interval of the draws that are defined; NaN when none is."""
    there = draws[~np.isnan(draws)]
    if not len(there):
        return float("nan"), float("nan")
    low, high = np.quantile(there, [0.025, 0.975])
    return float(low), float(high)


def finite(values: dict[str, float], why: str = ONE_CLASS) -> dict[str, Any]:
    """NaN as a status string."""
    return {k: float(v) if np.isfinite(v) else why for k, v in values.items()}


def curve(labels: np.ndarray, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean label and mean score in each tenth of the scale that has scores."""
    index = np.minimum((scores / 100 * BINS).astype(int), BINS - 1)
    return {
        f"from_{b * 100 // BINS:02d}": {
            "n": int((index == b).sum()),
            "mean_label": float(labels[index == b].mean()),
            "mean_score": float(scores[index == b].mean()),
        }
        for b in np.unique(index)
    }


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error: mean |mean label - mean score| over the curve, in points."""
    bins = curve(labels, scores).values()
    return float(sum(abs(b["mean_label"] - b["mean_score"]) * b["n"] for b in bins) / len(labels))
