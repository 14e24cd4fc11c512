"""Pictures of the tables under plots/: lines by block, power curves, values against chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from em_geometry.report.chart import Figure, coded, data, message, rule
from em_geometry.report.tables import MAIN, layout

INDEPENDENT, CROSSES, ALL = "_independent", "_crosses_5pct", "all_five"
HIGH, HALF, WHOLE = 240, 330, 640  # pixels
TICKS = [-100, -30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30, 100]
LINEAR = 2.0  # distances beyond this are drawn on a scale that is nearly logarithmic


def draw_lines(frame: pl.DataFrame, columns: Mapping[str, str], x: str, y: str, key: str) -> Any:
    """Columns against the first one; empty cells are gaps.

    Args:
        columns: column -> its label.
        x, y: titles of the axes.
        key: what a column is, for the legend.
    """
    first, labels = frame.columns[0], list(columns.values())
    rows = frame.select(pl.col(first).alias("x"), *(pl.col(c).alias(n) for c, n in columns.items()))
    tidy = rows.unpivot(labels, index="x", variable_name="of", value_name="y")
    tidy = tidy.with_columns(pl.col("x", "y").cast(pl.Float64, strict=False))
    code = coded("of", labels, legend=alt.Legend(columns=1, title=key))
    whole = frame[first].dtype.is_integer()
    axis = alt.Axis(tickMinStep=1, format="d") if whole else alt.Axis()
    base = data(tidy.drop_nulls().to_dicts()).encode(
        x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=axis),
        y=alt.Y("y:Q", title=y),
        color=code["color"],
    )
    tooltip = [alt.Tooltip("of:N", title=key), alt.Tooltip("x:Q", title=x), "y:Q"]
    points = base.mark_point(filled=True, size=32).encode(tooltip=tooltip)
    return alt.layer(base.mark_line().encode(strokeDash=code["strokeDash"]), points)


def _numeric(frame: pl.DataFrame) -> dict[str, str]:
    kept = [c for c in frame.columns[1:] if frame[c].dtype.is_numeric()]
    return {c: c.replace("__", " and ") for c in kept}


def draw_layer_trace(frame: pl.DataFrame, model: str) -> Figure:
    """Angles between clusters at every block (`plots/layer_trace.csv`)."""
    return _by_block("layer_trace", model, frame, "angle (degrees)", "clusters", 90)


def draw_layer_sweep(frame: pl.DataFrame, model: str) -> Figure:
    """What each vector does to the base at every layer tried (`plots/layer_sweep.csv`)."""
    return _by_block("layer_sweep", model, frame, "margin gained (nats)", "vector", 0)


def _by_block(name: str, model: str, frame: pl.DataFrame, y: str, key: str, level: float) -> Figure:
    columns = _numeric(frame)
    if not columns:
        return message(name, model, f"plots/{name}.csv has no column of numbers.")
    lines = draw_lines(frame, columns, "decoder block (0 = first)", y, key)
    return Figure(name, model, alt.layer(rule(level), lines).properties(width=WHOLE, height=HIGH))


def draw_power(frame: pl.DataFrame, model: str) -> Figure:
    """How often the tests speak for independence under a common core (`plots/power.csv`)."""
    names = {c: _label(c) for c in frame.columns}
    paper = {c: n for c, n in names.items() if c.endswith(INDEPENDENT) or c == ALL}
    fair = {c: n for c, n in names.items() if c.endswith(CROSSES)}
    tighter = frame.filter(pl.col("tighter_clusters") == 1)["share"].to_list()
    span = [{"from": min(tighter), "to": max(tighter)}] if tighter else []
    grey = data(span).mark_rect(color="#eeeeee").encode(x="from:Q", x2="to:Q")
    panels = []
    for title, columns, level in (
        ("A  The paper's rule says independent", paper, 1.0),
        ("B  Sees the core, at 5 % false alarms", fair, 0.05),
    ):
        x = "common core (share of the variance)"
        lines = draw_lines(frame, columns, x, "share of simulated draws", "statistic")
        panel = alt.layer(grey, rule(level), lines)
        panels.append(panel.properties(title=title, width=HALF, height=HIGH))
    chart = alt.hconcat(*panels).resolve_scale(color="independent", strokeDash="independent")
    return Figure("power", model, chart)


def _label(column: str) -> str:
    name = column.removesuffix(INDEPENDENT).removesuffix(CROSSES)
    if name.startswith("test"):
        return f"test {name[4:]}"
    return {"cross_mean": "mean cross-cluster cosine", ALL: "all five at once"}.get(name, name)


def distance(value: float, low: float, median: float, high: float) -> float | None:
    """Where `value` lies against a null: 0 at its median, -1 and 1 at the ends of its interval."""
    side = high - median if value >= median else median - low
    return (value - median) / side if side > 0 else None


def draw_nulls(frame: pl.DataFrame, model: str) -> Figure:
    """One row a statistic, observed value and interval in units of each null's own interval."""
    words = layout()["words"]["nulls"]
    rows = [
        found
        for row in frame.to_dicts()
        if str(row["statistic"]).startswith(MAIN)
        for null, label in words.items()
        if (found := _row(row, null, label)) is not None
    ]
    if not rows:
        return message("nulls", model, "plots/nulls.csv has none of the main statistics.")
    order = list(dict.fromkeys(row["statistic"] for row in rows))
    nulls = list(words.values())
    x = alt.X(
        "at:Q",
        title="distance from the null's median (1 = end of its 95 % interval)",
        scale=alt.Scale(type="symlog", constant=LINEAR),
        axis=alt.Axis(values=TICKS),
    )
    code = coded("null", nulls, title=None, legend={"orient": "bottom", "columns": 1})
    base = data(rows).encode(
        y=alt.Y("statistic:N", sort=order, title=None),
        yOffset=alt.YOffset("null:N", sort=nulls),
        color=code["color"],
        tooltip=["statistic:N", "observed:Q", "null:N", "median:Q", "low:Q", "high:Q", "p:Q"],
    )
    band = data([{"from": -1, "to": 1}]).mark_rect(color="#e8e8e8").encode(x="from:Q", x2="to:Q")
    chart = alt.layer(
        band,
        base.mark_rule(strokeWidth=1.5).encode(x=alt.X("left:Q"), x2="right:Q"),
        base.mark_point(filled=True, stroke="black").encode(x=x, shape=code["shape"]),
    )
    chart = chart.properties(width=560, height=alt.Step(14))
    return Figure("nulls", model, chart)


def _row(row: Mapping[str, Any], null: str, label: str) -> dict[str, Any] | None:
    """One statistic against one null; None where either is missing."""
    known = [row.get(f"{null}_{part}") for part in ("low", "median", "high")]
    chance = [float(v) for v in known if v is not None]
    if len(chance) < len(known) or row["observed"] is None:
        return None
    at = distance(row["observed"], *chance)
    if at is None:
        return None
    ends = {"left": row.get("low"), "right": row.get("high")}
    return {
        "statistic": _name(str(row["statistic"])),
        "null": label,
        "at": at,
        **{side: at if e is None else distance(e, *chance) for side, e in ends.items()},
        **dict(zip(("low", "median", "high"), chance, strict=True)),
        "observed": row["observed"],
        "p": row.get(f"{null}_p"),
    }


def _name(key: str) -> str:
    """A metric key as a label."""
    words = key.removeprefix("statistic.").removesuffix("_deg").replace("__", " and ")
    return words.replace(".", " ").replace("_", " ")
