"""Picture of the observed statistics against what chance gives (`plots/nulls.csv`)."""

from __future__ import annotations

from typing import Any

import polars as pl

from em_geometry.report.chart import Figure, data, message, scale
from em_geometry.report.lookup import number

MAIN = ("statistic.", "similarity.", "cluster_angle.", "pca.", "pc1_ablation.", "core.")
NULLS = {
    "covariance": "draws with the covariance of the differences",
    "flips": "signs of the differences flipped",
}
TICKS = [-100, -30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30, 100]
LINEAR = 2.0  # distances beyond this are drawn on a scale that is nearly logarithmic
LEGEND = {"orient": "bottom", "columns": 1}
CAPTION = (
    "Each statistic in units of what chance gives: 0 is the median of the null, the grey band "
    "its 95 % interval. Markers: this run, bars: its bootstrap interval over topics. Beyond "
    "the band chance is an unlikely explanation, in the direction shown; the scale is nearly "
    f"logarithmic beyond {LINEAR:g}."
)


def distance(value: float, low: float, median: float, high: float) -> float | None:
    """Where `value` lies against a null: 0 at its median, -1 and 1 at the ends of its interval."""
    side = high - median if value >= median else median - low
    return (value - median) / side if side > 0 else None


def draw_nulls(frame: pl.DataFrame, model: str) -> Figure:
    """One row a statistic, observed value and interval in units of each null's own interval."""
    import altair as alt

    title = f"Observed values against chance, {model}"
    rows = [
        found
        for row in frame.to_dicts()
        if str(row["statistic"]).startswith(MAIN)
        for null, label in NULLS.items()
        if (found := _row(row, null, label)) is not None
    ]
    if not rows:
        return message("nulls", title, CAPTION, "plots/nulls.csv has none of the main statistics.")
    order = list(dict.fromkeys(row["statistic"] for row in rows))
    nulls = list(NULLS.values())
    x = alt.X(
        "at:Q",
        title="distance from the null's median (1 = end of its 95 % interval)",
        scale=alt.Scale(type="symlog", constant=LINEAR),
        axis=alt.Axis(values=TICKS),
    )
    base = data(rows).encode(
        y=alt.Y("statistic:N", sort=order, title=None),
        yOffset=alt.YOffset("null:N", sort=nulls),
        color=alt.Color("null:N", scale=scale(nulls), title=None, legend=LEGEND),
        tooltip=["statistic:N", "observed:Q", "null:N", "median:Q", "low:Q", "high:Q", "p:Q"],
    )
    shape = alt.Shape("null:N", scale=scale(nulls, "shape"), title=None, legend=LEGEND)
    band = data([{"from": -1, "to": 1}]).mark_rect(color="#e8e8e8").encode(x="from:Q", x2="to:Q")
    chart = alt.layer(
        band,
        base.mark_rule(strokeWidth=1.5).encode(x=alt.X("left:Q"), x2="right:Q"),
        base.mark_point(filled=True, stroke="black").encode(x=x, shape=shape),
    )
    chart = chart.properties(width=560, height=alt.Step(14))
    return Figure("nulls", title, CAPTION, chart)


def _row(row: dict[str, Any], null: str, label: str) -> dict[str, Any] | None:
    """One statistic against one null; None where either is missing."""
    ends = [number(row.get(f"{null}_{part}")) for part in ("low", "median", "high")]
    low, median, high = ends
    observed = number(row["observed"])
    if observed is None or low is None or median is None or high is None:
        return None
    at = distance(observed, low, median, high)
    if at is None:
        return None
    bar = [number(row.get(side)) for side in ("low", "high")]
    places = [at if end is None else distance(end, low, median, high) for end in bar]
    found = {"statistic": _name(str(row["statistic"])), "null": label, "at": at}
    found |= dict(zip(("left", "right"), places, strict=True))
    found |= {"observed": observed, "low": low, "median": median, "high": high}
    return found | {"p": number(row.get(f"{null}_p"))}


def _name(key: str) -> str:
    """A metric key as a label."""
    words = key.removeprefix("statistic.").removesuffix("_deg").replace("__", " and ")
    return words.replace(".", " ").replace("_", " ")
