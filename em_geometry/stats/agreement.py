"""How far scores agree with labels: Cohen's kappa, AUROC, rank correlation, Krippendorff's alpha.

Point values are scikit-learn's, ranks scipy's; intervals come from drawing the clusters of the
answers (questions) with replacement. A number that does not exist (one class only) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from em_geometry.stats.arrays import Bools, Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import percentiles
from em_geometry.stats.permutation import rank_correlations

ONE_CLASS = "undefined: one class only"


def kappa(truth: Bools, guess: Bools) -> float:
    """Cohen's kappa of two boolean arrays; NaN when both are constant and alike."""
    from sklearn.metrics import cohen_kappa_score

    if (truth.all() and guess.all()) or not (truth.any() or guess.any()):
        return np.nan
    return float(cohen_kappa_score(truth, guess))


def auroc(positive: Bools, score: Floats) -> float:
    """Area under the ROC curve (ties count half); NaN when one class is missing."""
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return np.nan
    return float(roc_auc_score(positive, score))


def spearman(labels: Floats, scores: Floats) -> float:
    """Rank correlation of two arrays; NaN where one side is constant."""
    return float(rank_correlations(labels[None], scores[None])[0])


def alpha(ratings: Floats) -> float:
    """Krippendorff's alpha, interval scale, of ratings [raters, items] (NaN = not rated)."""
    counts = (~np.isnan(ratings)).sum(0)
    ratings, counts = ratings[:, counts > 1], counts[counts > 1]
    pooled = ratings[~np.isnan(ratings)]
    if len(pooled) < 2 or pooled.min() == pooled.max():
        return np.nan
    # Mean squared difference of pairs = 2 * variance (n - 1 in the denominator).
    observed = (counts * 2 * np.nanvar(ratings, axis=0, ddof=1)).sum() / counts.sum()
    return float(1 - observed / (2 * pooled.var(ddof=1)))


def drawn_rows(
    cluster: np.ndarray, rng: np.random.Generator, replicates: int
) -> tuple[list[np.ndarray], Floats]:
    """Rows of each draw of clusters [replicates][rows], and times each is drawn [replicates, row].

    Args:
        cluster: [row] cluster of each row.
    """
    ids, codes = np.unique(cluster, return_inverse=True)
    members = [np.flatnonzero(codes == i) for i in range(len(ids))]
    chosen = [rng.integers(len(ids), size=len(ids)) for _ in range(replicates)]
    times = np.array([np.bincount(c, minlength=len(ids)) for c in chosen], dtype=np.float64)
    return [np.concatenate([members[i] for i in c]) for c in chosen], times[:, codes]


def kappa_draws(truth: Bools, guess: Bools, times: Floats) -> Floats:
    """Kappa of each draw of the rows; see `drawn_rows`."""
    n = times.sum(1)
    true, guessed, alike = (times @ part / n for part in (truth, guess, truth == guess))
    chance = true * guessed + (1 - true) * (1 - guessed)
    found: Floats = np.full_like(n, np.nan)
    np.divide(alike - chance, 1 - chance, out=found, where=chance < 1)
    return found


def auroc_draws(positive: Bools, score: Floats, times: Floats) -> Floats:
    """AUROC of each draw of the rows; see `drawn_rows`."""
    above, below = score[positive], score[~positive]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    up, down = times[:, positive], times[:, ~positive]
    pairs = up.sum(1) * down.sum(1)
    won = ((up @ wins) * down).sum(1)
    found: Floats = np.full_like(pairs, np.nan)
    np.divide(won, pairs, out=found, where=pairs > 0)
    return found


def agreement(
    labels: Floats,
    scores: Floats,
    positive: Callable[[Floats], Bools],
    cluster: np.ndarray,
    rng: np.random.Generator,
    replicates: int,
    falling: bool = False,
) -> dict[str, Estimate]:
    """AUROC, kappa and rank correlation of scores with labels, with intervals over clusters.

    Args:
        labels, scores: [row] on one scale.
        positive: whether a label or score is of the class looked for.
        cluster: [row] what is drawn with replacement.
        falling: low scores speak for the class.
    """
    truth, guess = positive(labels), positive(scores)
    ranking = -scores if falling else scores
    rows, times = drawn_rows(cluster, rng, replicates)
    draws = {
        "auroc": auroc_draws(truth, ranking, times),
        "kappa": kappa_draws(truth, guess, times),
        "spearman": np.array([spearman(labels[r], scores[r]) for r in rows]),
    }
    points = {
        "auroc": auroc(truth, ranking),
        "kappa": kappa(truth, guess),
        "spearman": spearman(labels, scores),
    }
    return {
        name: Estimate.from_values(value, *percentiles(draws[name], 0.0), len(labels), ONE_CLASS)
        for name, value in points.items()
    }
