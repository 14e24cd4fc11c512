"""Intervals that hold what another training of the models would have changed.

A statistic s rests on prompts and on trained models. A *repeat* is a second training of one of the
models under another seed; s' is the statistic with the repeat in its original's place. Of s' - s,
half the square is what this model's training adds to the variance of s. Its mean over the repeats
of a role (organisms, controls), times the number of models of this role in s, is the role's part;
the parts and the sampling variance add up (docs/method.md: retraining).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from em_geometry.stats.estimate import PROMPTS_ONLY, Estimate, Floats
from em_geometry.stats.intervals import TAILS


@dataclass(frozen=True)
class Trained:
    """The models of one role in a statistic, and what training some of them again changed.

    Attributes:
        models: number of trained models of this role that the statistic rests on.
        changes: [repeats] the statistic with a repeat in its original's place, minus without. A
            statistic that rests on no model with a repeat takes those of its kind that do.
    """

    models: float
    changes: Floats

    @property
    def variance(self) -> float:
        """What the training of these models adds to the variance of the statistic."""
        changes = np.asarray(self.changes, dtype=np.float64)
        return self.models * float((changes**2).mean()) / 2 if changes.size else 0.0


def with_retraining(sampled: Estimate, freedom: float, trained: Sequence[Trained]) -> Estimate:
    """An estimate whose interval holds sampling and retraining.

    Args:
        sampled: its interval holds sampling only, with the t quantile of `freedom`; without one it
            is returned.
        freedom: degrees of freedom of the sampling variance.
        trained: by role; a role without repeats adds nothing.
    """
    value, low, high = sampled.value, sampled.low, sampled.high
    if value is None or low is None or high is None:
        return sampled
    added = [(part.variance, float(np.size(part.changes))) for part in trained if part.models]
    quantile = float(t.ppf(TAILS[1], freedom))
    below, above = (
        total_distance([(max(0.0, distance / quantile) ** 2, freedom), *added])
        for distance in (value - low, high - value)
    )
    return Estimate(value, value - below, value + above, sampled.n, sampled.status)


def total_distance(parts: Sequence[tuple[float, float]]) -> float:
    """Half width of the interval of a sum of independent parts (variance, degrees of freedom)."""
    error, freedom = total_error(parts)
    return float(t.ppf(TAILS[1], freedom) * error) if error else 0.0


def total_error(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error of a sum of independent parts (variance, degrees of freedom), and its own.

    The degrees of freedom are those of Welch and Satterthwaite. They are a ratio of squares, and
    the square of an estimated variance of d degrees of freedom is too large by 1 + 2 / d; with
    parts of two degrees this matters, so it is taken out. The result is exact for one part alone,
    and never below the fewest degrees of freedom among the parts.
    """
    parts = [(variance, freedom) for variance, freedom in parts if variance > 0]
    total = sum(variance for variance, _ in parts)
    if not total:
        return 0.0, float("inf")
    squares = sum(variance**2 / (freedom + 2) for variance, freedom in parts)
    return total**0.5, max(total**2 / squares - 2, min(freedom for _, freedom in parts))


def both(
    key: str, sampled: Estimate, freedom: float, trained: Sequence[Trained]
) -> dict[str, Estimate]:
    """Rows of a table: the interval with retraining, and beside it that of the prompts only."""
    rows = {key: with_retraining(sampled, freedom, trained)}
    return rows | {f"{key}.{PROMPTS_ONLY}": sampled}
