"""How far scores agree with labels: Cohen's kappa, AUROC, rank correlation, Krippendorff's alpha.

Intervals come from drawing the clusters of the answers (questions) with replacement. A number that
does not exist (one class only) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from em_geometry.stats.arrays import Bools, Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import percentiles
from em_geometry.stats.permutation import divided, rank_correlations

ONE_CLASS = "undefined: one class only"


def kappa(truth: Bools, guess: Bools) -> float:
    """Cohen's kappa of two boolean arrays; NaN when both are constant and alike."""
    return float(kappa_draws(truth, guess, np.ones((1, len(truth))))[0])


def auroc(positive: Bools, score: Floats) -> float:
    """Area under the ROC curve (ties count half); NaN when one class is missing."""
    return float(auroc_draws(positive, score, np.ones((1, len(score))))[0])


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


def drawn_rows(cluster: np.ndarray, rng: np.random.Generator, replicates: int) -> Floats:
    """Times each row is drawn [1 + replicates, row] with its cluster [row]; first each once."""
    ids, codes = np.unique(cluster, return_inverse=True)
    drawn = [rng.integers(len(ids), size=len(ids)) for _ in range(replicates)]
    times = [np.ones(len(ids)), *(np.bincount(each, minlength=len(ids)) for each in drawn)]
    return np.array(times, dtype=np.float64)[:, codes]


def kappa_draws(truth: Bools, guess: Bools, times: Floats) -> Floats:
    """Kappa of each draw of the rows; see `drawn_rows`."""
    n = times.sum(1)
    true, guessed, alike = (times @ part / n for part in (truth, guess, truth == guess))
    chance = true * guessed + (1 - true) * (1 - guessed)
    return divided(alike - chance, 1 - chance)


def auroc_draws(positive: Bools, score: Floats, times: Floats) -> Floats:
    """AUROC of each draw of the rows; see `drawn_rows`."""
    above, below = score[positive], score[~positive]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    up, down = times[:, positive], times[:, ~positive]
    return divided(((up @ wins) * down).sum(1), up.sum(1) * down.sum(1))


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
    times = drawn_rows(cluster, rng, replicates)
    rows = [np.repeat(np.arange(len(labels)), each) for each in times.astype(int)]
    values = {
        "auroc": auroc_draws(truth, -scores if falling else scores, times),
        "kappa": kappa_draws(truth, guess, times),
        "spearman": np.array(
            [rank_correlations(labels[r][None], scores[r][None])[0] for r in rows]
        ),
    }
    return {
        name: Estimate.from_values(
            float(found[0]), *percentiles(found[1:], 0.0), len(labels), ONE_CLASS
        )
        for name, found in values.items()
    }
