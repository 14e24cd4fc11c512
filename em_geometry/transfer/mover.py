"""How far a sum or a ratio of independent proportions can be off, by their numbers of answers.

MOVER (Zou and Donner 2008, Statistics in Medicine 27): the distances from each proportion to the
ends of its Wilson interval add up in squares. A ratio's limits follow by Fieller's argument, all
ratios r for which the interval of top - r * bottom includes 0. Unlike a bootstrap, these intervals
have a width where every answer was the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]
FARTHEST = 60  # doublings in the search for a limit; beyond that there is none


def distances(weights: Floats, below: Floats, above: Floats) -> tuple[float, float]:
    """Distances from a weighted sum of proportions down and up to the ends of its interval.

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
    """Limits of (top @ rates) / (bottom @ rates); infinite where the bottom may be 0.

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
