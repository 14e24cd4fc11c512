"""Does a number known of two vectors predict how far one acts on the other's model?

docs/method.md: transfer. Everything is a matrix [source, target] over the models. The outcome that
the answer rests on was fixed before any was looked at: the drop of the mean aligned score, which
uses every scored answer where a rate uses few.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from em_geometry.io.results import Leaf, Nested
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.permutation import Tested, pair_rank_test
from em_geometry.steering.conditions import Selected
from em_geometry.transfer.conditions import Table

PRIMARY = "aligned_drop"


def predictors(
    selected: Mapping[str, Selected], similarity: Mapping[str, float]
) -> dict[str, Floats]:
    """Every predictor [source, target], in the order of `selected`; the diagonal is not used.

    Args:
        similarity: model -> its similarity to the base.
    """
    vectors = np.stack([s.vector for s in selected.values()])
    return {
        "cosine": (vectors @ vectors.T).astype(np.float64),
        "base_similarity": np.array([[similarity[s]] * len(selected) for s in selected]),
        "raw_norm": np.array([[s.norm] * len(selected) for s in selected.values()]),
    }


def outcomes(slugs: Sequence[str], means: Table, rates: Table) -> dict[str, Floats]:
    """Every outcome [1 + draws, source, target]; NaN where it is undefined."""

    def over(outcome: Callable[[str, str], Floats]) -> Floats:
        found = [[outcome(s, t) for t in slugs] for s in slugs]
        return np.moveaxis(np.array(found, dtype=np.float64), -1, 0)

    def ratios(s: str, t: str) -> Floats:
        top, bottom = rates.sum(rates.effect(s, t)), rates.sum(rates.own_effect(s, t))
        if s == t or rates.e1(s, t).value is None:
            return np.full_like(top, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 100 * top / bottom
        return np.where(np.isfinite(found), found, np.nan)

    return {
        PRIMARY: over(lambda s, t: means.sum(-means.effect(s, t))),
        "risk_difference": over(lambda s, t: rates.sum(rates.effect(s, t))),
        "effectiveness": over(ratios),
    }


def prediction(x: Mapping[str, Floats], y: Mapping[str, Floats], seed: int, level: float) -> Nested:
    """Correlations of all predictors with all outcomes, and whether they are evidence.

    Args:
        x: predictor [source, target]; one of the source alone is repeated over the targets.
        y: outcome [1 + draws, source, target], the observed one first.
        level: of all predictors together: each is held to its share (Bonferroni).
    """
    predicts: dict[str, Leaf] = {}
    for predictor, values in x.items():
        for outcome, drawn in y.items():
            tested, key = pair_rank_test(values, drawn, seed), f"{predictor}.{outcome}"
            predicts |= tested.as_results(key)
            predicts[f"{key}.models"] = len(values)
            predicts[f"{key}.verdict"] = said(tested, level / len(x), len(values))
    again = {outcome: reliability(drawn) for outcome, drawn in y.items()}
    return {"primary": PRIMARY, "reliability": again, "predicts": predicts}


def reliability(y: Floats) -> Estimate:
    """Share (0 to 1) of the spread over pairs of [1 + draws, source, target] that would come again.

    1 - variance by question / variance between pairs; no predictor can correlate with an outcome
    better than about its square root.
    """
    values = y[:, np.isfinite(y[0]) & ~np.eye(y.shape[1], dtype=bool)]
    between = values[0].var() if values.shape[1] > 1 else 0.0
    if between == 0:
        return Estimate.undefined("undefined: all pairs alike")
    within = np.nanmean((values[1:] - values[0]).var(axis=1))
    return Estimate(float(np.clip(1 - within / between, 0, 1)))


def said(tested: Tested, level: float, models: int) -> str:
    """`evidence`, `no evidence`, or why there can be none, at the level of one predictor."""
    found = tested.estimate
    if tested.p is None or tested.smallest_p is None or found.low is None or found.high is None:
        return found.status
    if tested.smallest_p >= level:
        return f"no evidence possible: {models} models allow no p below {level:.4f}"
    apart = found.low > 0 or found.high < 0
    return "evidence" if tested.p < level and apart else "no evidence"


def pair_rows(
    slugs: Sequence[str], x: Mapping[str, Floats], y: Mapping[str, Floats]
) -> pl.DataFrame:
    """A row an ordered pair: predictors, outcomes, interval of the primary outcome."""
    low, high = np.nanquantile(y[PRIMARY][1:], [0.025, 0.975], axis=0)
    columns = {**x, **{o: v[0] for o, v in y.items()}}
    columns |= {f"{PRIMARY}_low": low, f"{PRIMARY}_high": high}
    source, target = np.nonzero(~np.eye(len(slugs), dtype=bool))
    names = {"source": np.array(slugs)[source], "target": np.array(slugs)[target]}
    numbers = {name: values[source, target] for name, values in columns.items()}
    return pl.DataFrame(names | numbers).fill_nan(None)
