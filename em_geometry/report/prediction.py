"""Whether geometry predicts transfer: a picture and a table of metrics/prediction.json."""

from __future__ import annotations

import polars as pl

from em_geometry.report.chart import Figure, data, message, rule, scale
from em_geometry.report.lookup import Metrics
from em_geometry.report.tables import Table, cells
from em_geometry.report.text import NONE, decimals, short, with_interval

FILE, NAME = "prediction", "prediction_scatter"
OUTCOMES = {
    "aligned_drop": "drop of the mean aligned score",
    "risk_difference": "change of the misaligned rate",
    "effectiveness": "effectiveness E1",
}
PREDICTORS = {
    "cosine": "cosine of the vectors",
    "base_similarity": "source's similarity to base",
    "raw_norm": "raw norm of the vector",
    "convergence": "cosine of effects, last block",
}
PANEL, HIGH = 165, 230  # pixels
CAPTION = (
    "Each point is an ordered pair of organisms: how far the source's vector lowers the mean "
    "aligned score of the target (0-100; above 0 the target became worse), against what is known "
    "of the two vectors. Bars: 95 % interval over questions. Pairs share models and are not "
    "independent."
)


def draw_prediction(frame: pl.DataFrame, model: str) -> Figure:
    """Four panels of `plots/prediction.csv`, one a predictor."""
    import altair as alt

    title = f"Does geometry predict transfer? {model}"
    if frame.is_empty():
        return message(NAME, title, CAPTION, "No pairs of organisms.")
    sources = frame["source"].unique(maintain_order=True).to_list()
    panels: list[alt.LayerChart] = []
    for predictor, label in PREDICTORS.items():
        rows = frame.drop_nulls([predictor, "aligned_drop"]).to_dicts()
        base = data(rows).encode(
            x=alt.X(
                f"{predictor}:Q", title=label, scale=alt.Scale(zero=False, padding=8),
                axis=alt.Axis(tickCount=3, labelOverlap=True),
            ),
            color=alt.Color("source:N", scale=scale(sources), title="vector of"),
        )  # fmt: skip
        y = alt.Y("aligned_drop:Q", title=OUTCOMES["aligned_drop"] if not panels else None)
        bars = base.mark_rule(opacity=0.45).encode(y="aligned_drop_low:Q", y2="aligned_drop_high:Q")
        tooltip = ["source:N", "target:N", f"{predictor}:Q", "aligned_drop:Q"]
        shape = alt.Shape("source:N", scale=scale(sources, "shape"), title="vector of")
        points = base.mark_point(filled=True, stroke="black", size=45).encode(
            y=y, shape=shape, tooltip=tooltip
        )
        panels.append(alt.layer(rule(0), bars, points).properties(width=PANEL, height=HIGH))
    chart = alt.hconcat(*panels, spacing=18).resolve_scale(y="shared")
    return Figure(NAME, title, CAPTION, chart)


def prediction_table(metrics: Metrics) -> Table | None:
    """Rank correlations of every predictor with every outcome."""
    rows = []
    for predictor, found in metrics.group(FILE, "predicts").items():
        for outcome, entry in found.items():
            measured = metrics.measured(FILE, f"predicts.{predictor}.{outcome}")
            p = [entry.get(key) for key in ("p", "smallest_p")]
            rows.append(
                cells(
                    f"{PREDICTORS[predictor]}, {OUTCOMES[outcome]}",
                    short(measured.n),
                    with_interval(measured, "", 2),
                    *(NONE if value is None else decimals(value, 4) for value in p),
                    entry["verdict"],
                )
            )
    if not rows:
        return None
    return Table(
        FILE,
        "Rank correlation over ordered pairs of organisms [95 % interval over questions]",
        ["predictor, outcome", "pairs", "rho", "p", "smallest possible p", "verdict"],
        rows,
        "p: share of all ways to give the models each other's labels that correlate at least as "
        "strongly. The answer rests on the first outcome of each predictor; evidence needs an "
        "interval without 0 and p below 0.05 divided by the number of predictors.",
    )


def prediction_sentences(metrics: Metrics) -> list[str]:
    """The answers in words, as the stage wrote them."""
    return [str(text) for text in metrics.group(FILE, "answer").values()]
