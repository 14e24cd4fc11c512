"""Does the cosine of two vectors predict how far one acts on the other's model?

docs/method.md: prediction. A vector that acts strongly acts on every model, and a model that gives
way gives way to every vector: these effects of source and target are taken out of outcome and
cosines before they are compared (the dyadic part of Kenny's social relations model).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf
from em_geometry.stats.decisions import detectable
from em_geometry.stats.estimate import Estimate, Floats, Ints
from em_geometry.stats.intervals import t_interval
from em_geometry.stats.permutation import SLACK, Tested, orders, said, share_as_far
from em_geometry.transfer.outcomes import Margins

LEAST = 4  # vectors; of fewer nothing is left beside source and target effects
NOISE = 1e-9  # squared lengths below this share of what they are of are rounding


def gains(table: Margins, slugs: Sequence[str]) -> Floats:
    """Margins gained beyond random directions [vectors, targets, questions], nats a token.

    A question counts where every vector was measured on every model.
    """
    values = np.array([[table.beyond(target, source) for target in slugs] for source in slugs])
    kept: Floats = values[..., np.isfinite(values).all((0, 1))]
    return kept


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs [p] of n models, a model with itself left out, without row and column effects.

    Attributes:
        first, second: [p] places of source and target.
        keep: [p, p] takes the least-squares effects of sources and targets out of values [p].
    """

    first: Ints
    second: Ints
    keep: Floats

    @classmethod
    def of(cls, n: int) -> Self:
        first, second = np.nonzero(~np.eye(n, dtype=bool))
        effects = np.concatenate([np.eye(n)[first], np.eye(n)[second]], axis=1)
        return cls(first, second, np.eye(len(first)) - effects @ np.linalg.pinv(effects))

    def dyadic(self, matrix: Floats) -> Floats:
        """[..., n, n] -> [..., p], source and target effects taken out."""
        left: Floats = matrix[..., self.first, self.second] @ self.keep
        return left


def slope_test(x: Floats, y: Floats, moved: Floats) -> dict[str, Leaf]:
    """Slope of outcomes on a predictor, both without their means, and p by relabelling.

    Args:
        x: predictor [u].
        y: outcome [questions, u]; the interval is t over the questions' slopes.
        moved: [relabellings, u] the predictor under every relabelling, the given one among them.
    """
    length, spread = float(x @ x), float((y.mean(0) ** 2).sum())
    if length <= NOISE * len(x) or spread <= 0:
        return {"slope": Estimate.undefined("undefined: nothing is left to compare")}
    slope = t_interval(y @ x / length)
    null = moved @ y.mean(0) / length
    p = share_as_far(float(slope.value or 0.0), null, SLACK)
    alike = np.minimum(np.abs(moved - x).max(1), np.abs(moved + x).max(1)) < NOISE
    scale = (length / spread) ** 0.5
    return {
        **Tested(slope, p, float(alike.mean())).as_results("slope"),
        "correlation": float(slope.value or 0.0) * scale,
        "correlation.needed": float(np.quantile(np.abs(null), 0.95)) * scale,
        "slope.detectable": detectable(slope),
    }


def dyads(outcome: Floats, cosines: Floats, seed: int) -> dict[str, Leaf]:
    """How far the cosine of two vectors predicts transfer between their models.

    `slope` (outcome a unit of cosine) and `correlation` are of what is left without source and
    target effects; `correlation.needed` is what 95 % of relabellings stay below. `explained` is
    the share of the pairs' spread that source and target effects account for; `reliability` the
    share of what is left that would come again with other questions, the square of the largest
    correlation that any predictor can have; `reciprocity` how far the two directions of a pair
    then agree, which a cosine needs, for it has no direction.

    Args:
        outcome: [vectors, targets, questions], the targets being the vectors' own models in the
            same order; a vector on its own model is not used.
        cosines: [vectors, targets].
    """
    n, _, questions = outcome.shape
    results: dict[str, Leaf] = {"vectors": n, "questions": questions}
    if n < LEAST or questions < 2:
        why = f"undefined: {n} vectors and {questions} questions; {LEAST} and 2 are the fewest"
        return results | {"slope": why}
    pairs = Pairs.of(n)
    matrices = np.moveaxis(outcome, -1, 0)
    left, tried = pairs.dyadic(matrices), orders(n, seed)
    moved = pairs.dyadic(cosines[tried[:, :, None], tried[:, None, :]])
    results |= {"pairs": len(pairs.first)} | slope_test(pairs.dyadic(cosines), left, moved)
    mean = left.mean(0)
    whole = matrices.mean(0)[pairs.first, pairs.second]
    spread = float(((whole - whole.mean()) ** 2).sum())
    if not spread:
        return results
    results["explained"] = 1 - float(mean @ mean) / spread
    noise = float((left.var(0, ddof=1) / questions).sum())
    results["reliability"] = max(0.0, 1 - noise / float(mean @ mean)) if mean.any() else 0.0
    square = np.zeros((n, n))
    square[pairs.first, pairs.second] = mean
    back = square.T[pairs.first, pairs.second]
    results["reciprocity"] = float(mean @ back / (mean @ mean)) if mean.any() else 0.0
    return results


def net_transfer(outcome: Floats, similarity: Floats, seed: int) -> dict[str, Leaf]:
    """Does a model that is more like the base give more transfer than it receives?

    Args:
        outcome: as in `dyads`.
        similarity: [models] to the base.
    """
    n = len(similarity)
    both = np.moveaxis(outcome, -1, 0) * ~np.eye(n, dtype=bool)
    net = (both.sum(2) - both.sum(1)) / max(1, n - 1)  # given minus received [questions, models]
    x, tried = similarity - similarity.mean(), orders(n, seed)
    return {"models": n} | slope_test(x, net, x[tried])


def verdict(found: Mapping[str, Leaf], level: float) -> str:
    """What a slope allows to say at this level."""
    slope, p, smallest = (found.get(key) for key in ("slope", "slope.p", "slope.smallest_p"))
    if not isinstance(slope, Estimate) or slope.value is None:
        return slope.status if isinstance(slope, Estimate) else str(slope)
    assert isinstance(p, float) and isinstance(smallest, float)
    return said(slope, p, smallest, level)


def pair_rows(slugs: Sequence[str], outcome: Floats, cosines: Floats) -> pl.DataFrame:
    """A row an ordered pair: cosine, gain with interval, and both without their effects."""
    pairs = Pairs.of(len(slugs))
    rows = []
    left = pairs.dyadic(outcome.mean(-1)), pairs.dyadic(cosines)
    for i, j, gain, cosine in zip(pairs.first, pairs.second, *left, strict=True):
        found = t_interval(outcome[i, j])
        rows.append(
            {"source": slugs[i], "target": slugs[j], "cosine": float(cosines[i, j]),
             "gain": found.value, "gain_low": found.low, "gain_high": found.high,
             "dyadic_cosine": float(cosine), "dyadic_gain": float(gain)}
        )  # fmt: skip
    return pl.DataFrame(rows)
