"""Stage `geometry_predicts_transfer`: what is known of the vectors against what they do.

Writes `metrics/prediction.json` and `plots/prediction.csv` (a row an ordered pair of organisms).
The outcome that the answer rests on was fixed before any was looked at: the drop of the mean
aligned score, which uses every scored answer where a rate uses few.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_geometry.io.atomic import atomic_path
from em_geometry.io.files import read_json, write_metrics
from em_geometry.project.command import PARAMS, ParamsFile
from em_geometry.settings.params import Params, load_params
from em_geometry.steering.selected import Selected, read_selected
from em_geometry.transfer.conditions import JUDGEMENTS, draws_of, name, read_judgements
from em_geometry.transfer.effectiveness import e1, steered
from em_geometry.transfer.prediction import (
    correlation,
    noise_sentence,
    reliability,
    sentence,
    verdict,
)
from em_geometry.transfer.table import Table, difference

if TYPE_CHECKING:
    import polars as pl

METRICS, PLOT = Path("metrics/prediction.json"), Path("plots/prediction.csv")
PREDICTORS = {
    "cosine": "the cosine of the two vectors",
    "base_similarity": "the similarity of the vector's model to the base",
    "raw_norm": "the raw norm of the vector",
    "convergence": "the cosine of the two effects at the last block",
}
OUTCOMES = {
    "aligned_drop": "the drop of the mean aligned score",
    "risk_difference": "the change of the misaligned rate",
    "effectiveness": "the effectiveness E1",
}
PRIMARY = "aligned_drop"


def main(params: Params) -> None:
    """Correlates every predictor with every outcome."""
    slugs = params.slugs("organism")
    similarity = read_json(Path("metrics/base_similarity.json"))["model"]
    x = predictors(
        slugs,
        read_selected(),
        {m: similarity[m]["contrast_cosine"] for m in slugs},
        read_json(Path("metrics/downstream_convergence.json"))["pair"],
    )
    frame = read_judgements(JUDGEMENTS, params)
    counts = {str(c): int(n) for c, n in frame.group_by("condition").len().iter_rows()}
    means = Table(draws_of(frame, params, "mean_aligned"), counts)
    y = outcomes(slugs, means, Table(draws_of(frame, params), counts))
    write_metrics(METRICS, prediction(x, y, params.run.seed))
    with atomic_path(PLOT) as temporary:
        table(slugs, x, y).write_csv(temporary, float_precision=4)


def predictors(
    slugs: list[str],
    selected: Mapping[str, Selected],
    similarity: Mapping[str, float],
    convergence: Mapping[str, Mapping[str, float]],
) -> dict[str, np.ndarray]:
    """Every predictor [source, target]; the diagonal is not used."""
    vectors = np.stack([selected[s].vector for s in slugs])
    ends = [[convergence.get(f"{s}__{t}", {}).get("end", np.nan) for t in slugs] for s in slugs]
    by_source = (
        np.array([similarity[s] for s in slugs]),
        np.array([selected[s].norm for s in slugs]),
    )
    similar, norm = (np.repeat(v[:, None], len(slugs), axis=1) for v in by_source)
    return {
        "cosine": (vectors @ vectors.T).astype(np.float64),
        "base_similarity": similar,
        "raw_norm": norm,
        "convergence": np.array(ends),
    }


def outcomes(slugs: list[str], means: Table, rates: Table) -> dict[str, np.ndarray]:
    """Every outcome [1 + draws, source, target]; NaN where it is undefined."""

    def over(function: Any) -> np.ndarray:
        found = [[function(s, t) for t in slugs] for s in slugs]
        return np.moveaxis(np.array(found, dtype=np.float64), -1, 0)

    def effectiveness(s: str, t: str) -> np.ndarray:
        effect, own = (rates.sum(difference(steered(m, s), name(t))) for m in (t, s))
        if s == t or e1(rates, s, t).status != "ok":
            return np.full_like(effect, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: np.ndarray = 100 * effect / own
        return np.where(np.isfinite(found), found, np.nan)

    return {
        "aligned_drop": over(lambda s, t: means.sum(difference(name(t), steered(t, s)))),
        "risk_difference": over(lambda s, t: rates.sum(difference(steered(t, s), name(t)))),
        "effectiveness": over(effectiveness),
    }


def prediction(
    x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray], seed: int
) -> dict[str, Any]:
    """Correlations of all predictors with all outcomes, and the answer in words."""
    found = {
        p: {o: correlation(values, outcome, seed) for o, outcome in y.items()}
        for p, values in x.items()
    }
    again = {o: reliability(outcome) for o, outcome in y.items()}
    return {
        "primary": PRIMARY,
        "reliability": again,
        "predicts": {
            p: {o: entry | {"verdict": verdict(entry, len(x))} for o, entry in entries.items()}
            for p, entries in found.items()
        },
        "answer": {
            p: sentence(PREDICTORS[p], OUTCOMES[PRIMARY], entries[PRIMARY], len(x))
            for p, entries in found.items()
        }
        | {"noise": noise_sentence(OUTCOMES[PRIMARY], again[PRIMARY])},
    }


def table(
    slugs: list[str], x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray]
) -> pl.DataFrame:
    """A row an ordered pair: predictors, outcomes, interval of the primary outcome."""
    import polars as pl

    low, high = np.nanquantile(y[PRIMARY][1:], [0.025, 0.975], axis=0)
    columns = {**x, **{o: v[0] for o, v in y.items()}}
    columns |= {f"{PRIMARY}_low": low, f"{PRIMARY}_high": high}
    rows = [
        {"source": s, "target": t, **{c: float(v[i, j]) for c, v in columns.items()}}
        for i, s in enumerate(slugs)
        for j, t in enumerate(slugs)
        if i != j
    ]
    return pl.DataFrame(rows).fill_nan(None)


def cli(params: ParamsFile = PARAMS) -> None:
    """Rank correlations of cosine, similarity to base, norm and convergence with transfer."""
    main(load_params(params))
