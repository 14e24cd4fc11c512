"""95 % intervals: of proportions, of sums and ratios of them, of means, of resampled values.

docs/method.md: intervals. Over few clusters (questions, topics, texts) a mean has a t interval, a
ratio of means that of Fieller with the quantile of t, and any other statistic that of the
jackknife: a bootstrap's percentiles over eight clusters cover .84 to .89 where they promise .95.

MOVER (Zou and Donner 2008, Statistics in Medicine 27): a weighted sum of independent proportions;
the distances from each to the ends of its Wilson interval add up in squares. A ratio's limits
follow by Fieller's argument, all ratios r for which the interval of top - r * bottom includes 0.
Unlike a bootstrap, these intervals have a width where every answer was the same.
"""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import t

from em_geometry.stats.estimate import Estimate, Floats

CONFIDENCE = 0.95
TAILS = (0.025, 0.975)
DEFINED = 0.9  # share of the draws that must be numbers for an interval
FARTHEST = 60  # doublings in the search for a ratio's limit; beyond that there is none


def wilson(count: npt.ArrayLike, n: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Ends of the Wilson score interval of proportions, as fractions; arrays broadcast; n > 0."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    n = np.asarray(n, dtype=np.float64)
    share = np.asarray(count, dtype=np.float64) / n
    centre = share + z * z / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    low = np.where(share == 0, 0.0, (centre - half) / scale)
    return low, np.where(share == 1, 1.0, (centre + half) / scale)


def proportion(count: float, n: float, scale: float = 100.0, why: str = "undefined") -> Estimate:
    """A share of n things with its Wilson interval, times `scale`; undefined of none."""
    if n == 0:
        return Estimate.undefined(why, 0)
    low, high = wilson(count, n)
    return Estimate(scale * count / n, scale * float(low), scale * float(high), n)


def percentiles(draws: Floats, defined: float = DEFINED) -> tuple[float, float]:
    """Ends of the interval of draws [b]; NaN where fewer than a share `defined` are numbers."""
    finite = draws[np.isfinite(draws)]
    if not finite.size or finite.size < defined * draws.size:
        return np.nan, np.nan
    low, high = np.quantile(finite, TAILS)
    return float(low), float(high)


def t_interval(values: Floats) -> Estimate:
    """Mean of values [n], one a cluster, with the interval by Student's t; none for one cluster."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Estimate(mean, n=n)
    half = float(t.ppf(TAILS[1], n - 1) * values.std(ddof=1) / n**0.5)
    return Estimate(mean, mean - half, mean + half, n)


def jackknife(value: float, without: Floats, why: str = "undefined") -> Estimate:
    """A statistic of clusters with its bias-corrected interval (Tukey 1958): t over pseudo-values.

    For a mean this is `t_interval`.

    Args:
        without: [n] the statistic with one cluster left out at a time; NaN where it is undefined
            then, which leaves the statistic without an interval.
        why: status of a value that is not finite.
    """
    n = len(without)
    low, high = ends(t_interval(n * value - (n - 1) * without))
    return Estimate.from_values(value, min(low, value), max(high, value), n, why)


def ends(found: Estimate) -> tuple[float, float]:
    """Ends of an interval; NaN where there is none."""
    if found.low is None or found.high is None:
        return np.nan, np.nan
    return found.low, found.high


def fieller(top: Floats, bottom: Floats) -> Estimate:
    """Ratio of the means of paired values [n], one a cluster, by Fieller's theorem with t.

    Undefined where the interval of the bottom's mean includes 0.
    """
    n, low_high = len(top), t_interval(bottom)
    if n < 2:
        return Estimate.undefined("undefined: one cluster only", n)
    a, b = float(top.mean()), float(bottom.mean())
    low, high = ends(low_high)
    if low <= 0 <= high:
        why = f"undefined: denominator {b:.3g} [{low:.3g}, {high:.3g}] includes 0"
        return Estimate.undefined(why, n)
    squared = float(t.ppf(TAILS[1], n - 1)) ** 2 / n
    (aa, ab), (_, bb) = squared * np.cov(top, bottom)
    square, middle = b * b - bb, a * b - ab  # the limits are the roots of a quadratic
    root = max(middle * middle - square * (a * a - aa), 0.0) ** 0.5
    return Estimate(a / b, (middle - root) / square, (middle + root) / square, n)


def distances(weights: Floats, below: Floats, above: Floats) -> tuple[float, float]:
    """MOVER: distances from a weighted sum of proportions down and up to its interval's ends.

    Args:
        weights: [condition] of the sum.
        below, above: [condition] distances of each proportion to the ends of its own interval.
    """
    down = np.where(weights > 0, below, above)
    up = np.where(weights > 0, above, below)
    return float(np.linalg.norm(weights * down)), float(np.linalg.norm(weights * up))


def ratio_limits(
    top: Floats, bottom: Floats, rates: Floats, below: Floats, above: Floats
) -> tuple[float, float]:
    """MOVER: limits of (top @ rates) / (bottom @ rates); infinite where the bottom may be 0.

    Args:
        top, bottom: [condition] weights; a condition may be in both.
        rates: [condition] proportions, in the unit of `below` and `above`.
    """
    middle = float(top @ rates) / float(bottom @ rates)

    def excess(ratio: float) -> float:
        """Above 0 where top - ratio * bottom can be told from 0."""
        weights = top - ratio * bottom
        value = float(weights @ rates)
        down, up = distances(weights, below, above)
        return value - down if value > 0 else -value - up

    def limit(sign: int) -> float:
        inside, step = middle, sign * max(abs(middle), 1e-6)
        for _ in range(FARTHEST):
            outside = inside + step
            if excess(outside) > 0:
                return float(brentq(excess, inside, outside))
            inside, step = outside, 2 * step
        return sign * float("inf")

    return limit(-1), limit(1)
