"""How far scores agree with labels: Cohen's kappa, AUROC, rank correlation, Krippendorff's alpha.

Intervals are jackknifed over the clusters of the answers (questions). A number that does not exist
(one class only) is NaN.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from em_geometry.stats.estimate import Bools, Estimate, Floats
from em_geometry.stats.intervals import ends, jackknife, proportion
from em_geometry.stats.permutation import divided, rank_correlations

ONE_CLASS = "undefined: one class only"


def kappa(truth: Bools, guess: Bools) -> float:
    """Cohen's kappa of two boolean arrays; NaN when both are constant and alike."""
    return float(kappas(truth, guess, np.ones((1, len(truth))))[0])


def auroc(positive: Bools, score: Floats) -> float:
    """Area under the ROC curve (ties count half); NaN when one class is missing."""
    return float(aurocs(positive, score, np.ones((1, len(score))))[0])


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


def left_out(cluster: np.ndarray) -> Floats:
    """Whether each row counts [1 + clusters, row]: all rows first, then without each cluster."""
    ids, codes = np.unique(cluster, return_inverse=True)
    return np.concatenate([np.ones((1, len(codes))), 1.0 - np.eye(len(ids))[:, codes]])


def kappas(truth: Bools, guess: Bools, times: Floats) -> Floats:
    """Kappa of each choice of rows; see `left_out`."""
    n = times.sum(1)
    true, guessed, alike = (divided(times @ part, n) for part in (truth, guess, truth == guess))
    chance = true * guessed + (1 - true) * (1 - guessed)
    return divided(alike - chance, 1 - chance)


def aurocs(
    positive: Bools, score: Floats, times: Floats, group: np.ndarray | None = None
) -> Floats:
    """AUROC of each choice of rows (see `left_out`), over the pairs of one group where given."""
    above, below = score[positive], score[~positive]
    pairs = np.ones((len(above), len(below)))
    if group is not None:
        pairs = 1.0 * (group[positive][:, None] == group[~positive])
    wins = pairs * ((above[:, None] > below) + 0.5 * (above[:, None] == below))
    up, down = times[:, positive], times[:, ~positive]
    return divided(((up @ wins) * down).sum(1), ((up @ pairs) * down).sum(1))


def ranking(
    positive: Bools, score: Floats, cluster: np.ndarray, group: np.ndarray | None = None
) -> Estimate:
    """AUROC with its interval over clusters; of pairs of one group where there are groups."""
    return _within(aurocs(positive, score, left_out(cluster), group), len(score), 0.0)


def event_agreement(truth: Bools, guess: Bools, cluster: np.ndarray) -> dict[str, Estimate]:
    """Kappa, recall and precision of a guessed event, with intervals over clusters.

    The two shares' intervals are never narrower than Wilson's. Recall has as n the events that
    there are, precision those that were guessed.
    """
    times = left_out(cluster)
    found = {"kappa": _within(kappas(truth, guess, times), len(truth), -1.0)}
    if not (truth.any() and guess.any()):  # it is 0 without any question too
        found["kappa"] = replace(found["kappa"], low=None, high=None)
    for name, of in (("recall", truth), ("precision", guess)):
        hits, n = times @ (truth & guess), times @ of
        over = _within(divided(hits, n), int(n[0]), 0.0)
        alone = proportion(float(hits[0]), int(n[0]), 1.0, ONE_CLASS)
        (low, high), (least, most) = ends(over), ends(alone)
        if alone.value is not None:
            alone = replace(alone, low=float(np.fmin(low, least)), high=float(np.fmax(high, most)))
        found[name] = alone
    return found


def agreement(
    labels: Floats,
    scores: Floats,
    positive: Callable[[Floats], Bools],
    cluster: np.ndarray,
    falling: bool = False,
) -> dict[str, Estimate]:
    """AUROC, kappa and rank correlation of scores with labels, with intervals over clusters.

    Args:
        labels, scores: [row] on one scale.
        positive: whether a label or score is of the class looked for.
        cluster: [row] what is left out together.
        falling: low scores speak for the class.
    """
    truth, guess = positive(labels), positive(scores)
    times = left_out(cluster)
    values = {
        "auroc": aurocs(truth, -scores if falling else scores, times),
        "kappa": kappas(truth, guess, times),
        "spearman": np.array(
            [rank_correlations(labels[r][None], scores[r][None])[0] for r in times > 0]
        ),
    }
    least = {"auroc": 0.0}
    return {k: _within(found, len(labels), least.get(k, -1.0)) for k, found in values.items()}


def _within(values: Floats, n: int, least: float) -> Estimate:
    """The first of `values`, with what the others, a cluster left out of each, say of it."""
    found = jackknife(float(values[0]), values[1:], ONE_CLASS)
    return replace(found, n=n).within(least, 1.0)
