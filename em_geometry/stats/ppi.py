"""Rates of many judged answers, corrected by the labels of a few that were drawn at random.

docs/method.md: corrected rates. Prediction-powered inference with power tuning (PPI++:
Angelopoulos, Duchi and Zrnic 2023, https://arxiv.org/abs/2311.01453): what a judge says of all
answers, plus the mean error that the labels show. Unbiased whatever the judge is worth.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from em_geometry.stats.estimate import Bools, Estimate, Floats
from em_geometry.stats.intervals import TAILS, proportion

FEW = 2  # labels of a stratum, below which its spread is not known
Z = float(norm.ppf(TAILS[1]))


@dataclass(frozen=True)
class Corrected:
    """A share in percent, and what it owes to labels.

    Attributes:
        estimate: n is the number of labels.
        power: of the judge, from 0 (its scores are left aside) to 1 (taken as they are).
        a_label: variance (of the share) that n labels leave is `a_label` / n ...
        answers: ... and this, which only more answers make smaller.
    """

    estimate: Estimate
    power: float
    a_label: float
    answers: float

    def labels_for(self, half: float) -> float:
        """Labels that bring the interval to +-`half` percent; NaN of too few answers."""
        left = (half / 100 / Z) ** 2 - self.answers
        return float(np.ceil(self.a_label / left)) if left > 0 else np.nan


def prediction_powered(labels: Floats, scores: Floats, strata: np.ndarray) -> Corrected:
    """The share of answers that a label would call positive, strata weighted by their answers.

    The interval is Wilson's for as many answers as would give the estimate's variance: with scores
    that say nothing that of the labels, with perfect ones that of all answers.

    Args:
        labels: [answer] 0 or 1, NaN without one; those with one are drawn at random within strata.
        scores: [answer] what the judge says, the higher the likelier.
        strata: [answer]; each has at least `FEW` labels.
    """
    _, code, size = np.unique(strata, return_inverse=True, return_counts=True)
    known = np.flatnonzero(~np.isnan(labels))
    n, weight = np.bincount(code[known], minlength=len(size)), size / size.sum()

    def mean(values: Floats, of: np.ndarray) -> Floats:
        sums: Floats = np.bincount(of, values, len(size)) / np.bincount(of, minlength=len(size))
        return sums

    def spread(one: Floats, other: Floats, of: np.ndarray) -> Floats:
        """[stratum] covariances."""
        count = np.bincount(of, minlength=len(size))
        apart = (one - mean(one, of)[of]) * (other - mean(other, of)[of])
        return mean(apart, of) * count / (count - 1)

    here, truth, said = code[known], labels[known], scores[known]
    share = weight**2 * (1 / n - 1 / size)  # of a stratum in what labels add to the variance
    both, alone = (float(share @ spread(each, said, here)) for each in (truth, said))
    power = float(np.clip(both / alone, 0, 1)) if alone > 0 else 0.0
    rest = truth - power * said
    value = float(weight @ (mean(rest, here) + power * mean(scores, code)))
    error = spread(rest, rest, here)
    judged = power**2 * spread(scores, scores, code) + 2 * power * spread(rest, said, here)
    answers = float(weight**2 / size @ judged)
    variance = max(float(weight**2 / n @ error) + answers, 0.0)
    value = min(max(value, 0.0), 1.0)
    fewest = 1 / float((weight**2 / n).sum())
    worth = value * (1 - value) / variance if variance else 0.0
    worth = min(max(worth, fewest), float(size.sum()))
    found = proportion(value * worth, worth)
    return Corrected(
        Estimate(found.value, found.low, found.high, len(known)),
        power,
        float(weight @ error),
        answers,
    )


def rogan_gladen(counted: Bools, truth: Bools, said: Bools) -> Estimate:
    """A share in percent, corrected by sensitivity and specificity (Rogan and Gladen 1978).

    It takes both as the same everywhere, and ignores in whom they were measured; its interval is by
    the delta method.

    Args:
        counted: [answer] what the judge counts.
        truth, said: [labelled] labels, and what the judge says of the same answers.
    """
    hit, clear = said[truth], ~said[~truth]
    if not len(hit) or not len(clear):
        return Estimate.undefined("undefined: one class only", len(truth))
    found, right, wrong = counted.mean(), hit.mean(), clear.mean()
    (of, n), (of_hit, n_hit), (of_clear, n_clear) = (
        (x.mean() * (1 - x.mean()), len(x)) for x in (counted, hit, clear)
    )
    apart = float(right + wrong - 1)
    if apart <= Z * float(np.sqrt(of_hit / n_hit + of_clear / n_clear)):
        return Estimate.undefined("undefined: the judge may find the event by chance", len(truth))
    share = float(np.clip((found + wrong - 1) / apart, 0, 1))
    parts = of / n, share**2 * of_hit / n_hit, (1 - share) ** 2 * of_clear / n_clear
    half = Z * float(np.sqrt(sum(parts))) / apart
    return Estimate(share, max(share - half, 0.0), min(share + half, 1.0), len(truth)).scaled(100)


def labels_alone(share: float, half: float) -> int:
    """Labels that bring a share in percent to +-`half` without a judge."""
    return int(np.ceil((Z / half) ** 2 * share * (100 - share)))
