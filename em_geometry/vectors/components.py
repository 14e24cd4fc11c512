"""Where the spread of a number comes from: variance components of seeds, texts and recipes.

Random effects by the analysis of variance (Searle, Casella & McCulloch, *Variance Components*,
ch. 4). Intervals by chi-square, the residual taken as known (Tukey-Williams); with three seeds they
span more than a factor of ten, which is what three seeds can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from em_geometry.geometry.gram import Floats

TAILS = (0.975, 0.025)  # of chi-square, for the lower and the upper end


def component(square: float, df: int, residual: float, size: float) -> dict[str, Any]:
    """Standard deviation of one source, with its 95 % interval.

    Args:
        square: mean square of the source on `df` degrees of freedom.
        residual: mean square of what lies below it.
        size: how often the source's variance counts in its mean square.
    """
    from scipy.stats import chi2

    variance = max(0.0, (square - residual) / size)
    ends = [max(0.0, (df * square / chi2.ppf(tail, df) - residual) / size) for tail in TAILS]
    return {"value": variance**0.5, "low": ends[0] ** 0.5, "high": ends[1] ** 0.5, "n": df + 1}


def crossed(values: Floats, names: Sequence[str]) -> dict[str, Any]:
    """Components of a number that depends on the seeds of several organisms, all combined.

    Args:
        values: [s1, ..., sk] one value for each combination of seeds, two or more seeds each.
        names: k organisms.

    Returns:
        `seed_<organism>` for each, `interaction` (what no single seed explains), and `seed_total`,
        the standard deviation of a run whose organisms all get fresh seeds.
    """
    centred = values - values.mean()
    left, spare = float((centred**2).sum()), values.size - 1
    sources = []
    for axis, count in enumerate(values.shape):
        means = centred.mean(axis=tuple(i for i in range(values.ndim) if i != axis))
        square = values.size / count * float((means**2).sum())
        sources.append((square, count))
        left, spare = left - square, spare - (count - 1)
    residual = max(0.0, left) / spare if spare else 0.0
    found = {
        f"seed_{name}": component(square / (count - 1), count - 1, residual, values.size / count)
        for name, (square, count) in zip(names, sources, strict=True)
    }
    total = residual + sum(entry["value"] ** 2 for entry in found.values())
    return {**found, "interaction": residual**0.5, "seed_total": total**0.5}


def between(first: Floats, second: Floats) -> dict[str, Any]:
    """Component of what sets two organisms of a kind apart, beyond their seeds.

    Args:
        first, second: [s] the number under each seed of the one and of the other.
    """
    spare = len(first) + len(second) - 2
    if spare == 0:
        return {"status": "not identified: one seed of each, so seeds may make the difference"}
    within = sum(float(((x - x.mean()) ** 2).sum()) for x in (first, second)) / spare
    chance = within * (1 / len(first) + 1 / len(second)) / 2
    square = float(first.mean() - second.mean()) ** 2 / 2
    return component(square, 1, chance, 1.0)
