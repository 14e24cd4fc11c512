"""Pictures of wide tables: one line a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from em_geometry.report.chart import Figure, data, message, rule, scale

INDEPENDENT, CROSSES, ALL = "_independent", "_crosses_5pct", "all_five"
HIGH, HALF, WHOLE = 240, 330, 640  # pixels


def draw_lines(frame: pl.DataFrame, columns: Mapping[str, str], x: str, y: str, key: str) -> Any:
    """Columns against the first one; empty cells are gaps.

    Args:
        columns: column -> its label.
        x, y: titles of the axes.
        key: what a column is, for the legend.
    """
    import altair as alt

    first, labels = frame.columns[0], list(columns.values())
    rows = frame.select(pl.col(first).alias("x"), *(pl.col(c).alias(n) for c, n in columns.items()))
    tidy = rows.unpivot(labels, index="x", variable_name="of", value_name="y")
    tidy = tidy.with_columns(pl.col("x", "y").cast(pl.Float64, strict=False))
    legend = alt.Legend(columns=1, title=key)
    whole = frame[first].dtype.is_integer()
    axis = alt.Axis(tickMinStep=1, format="d") if whole else alt.Axis()
    base = data(tidy.drop_nulls().to_dicts()).encode(
        x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False), axis=axis),
        y=alt.Y("y:Q", title=y),
        color=alt.Color("of:N", scale=scale(labels), legend=legend),
    )
    dash = alt.StrokeDash("of:N", scale=scale(labels, "dash"), legend=legend)
    tooltip = [alt.Tooltip("of:N", title=key), alt.Tooltip("x:Q", title=x), "y:Q"]
    points = base.mark_point(filled=True, size=32).encode(tooltip=tooltip)
    return alt.layer(base.mark_line().encode(strokeDash=dash), points)


def _numeric(frame: pl.DataFrame) -> dict[str, str]:
    kept = [c for c in frame.columns[1:] if frame[c].dtype.is_numeric()]
    return {c: c.replace("__", " and ") for c in kept}


def draw_layer_trace(frame: pl.DataFrame, model: str) -> Figure:
    """Angles between clusters at every block (`plots/layer_trace.csv`)."""
    return _single(
        "layer_trace",
        f"Angles between clusters by layer, {model}",
        "Angle between the mean directions of each two clusters when all vectors are taken at one "
        "block. Dotted line: a right angle.",
        frame,
        ("angle (degrees)", "clusters", 90),
    )


def draw_layer_sweep(frame: pl.DataFrame, model: str) -> Figure:
    """What each vector does to the base at every layer tried (`plots/layer_sweep.csv`)."""
    return _single(
        "layer_sweep",
        f"Choice of the layer, {model}",
        "How much adding a vector to the base at one block, at the trial's relative dose, raises "
        "the log-probability of misaligned reference answers over aligned ones, on questions that "
        "are used for nothing else.",
        frame,
        ("margin gained (nats)", "vector", 0),
    )


def _single(
    name: str, title: str, caption: str, frame: pl.DataFrame, words: tuple[str, str, float]
) -> Figure:
    import altair as alt

    y, key, level = words
    columns = _numeric(frame)
    if not columns:
        return message(name, title, caption, f"plots/{name}.csv has no column of numbers.")
    lines = draw_lines(frame, columns, "decoder block (0 = first)", y, key)
    chart = alt.layer(rule(level), lines).properties(width=WHOLE, height=HIGH)
    return Figure(name, title, caption, chart)


def draw_power(frame: pl.DataFrame, model: str) -> Figure:
    """How often the tests speak for independence under a common core (`plots/power.csv`)."""
    import altair as alt

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
    return Figure(
        "power",
        f"Can the tests see a common core? {model}",
        "Simulated vectors with the tightness of the observed clusters and a common core of the "
        "given share of the variance. A: how often each test, by the paper's threshold, still "
        "says that the directions are independent; a test that can see the core falls to 0. B: "
        "how often each statistic crosses the value that 5 % of independent draws cross. Grey: "
        "cores that the observed clusters could not hold without being tighter.",
        alt.hconcat(*panels).resolve_scale(color="independent", strokeDash="independent"),
    )


def _label(column: str) -> str:
    name = column.removesuffix(INDEPENDENT).removesuffix(CROSSES)
    if name.startswith("test"):
        return f"test {name[4:]}"
    return {"cross_mean": "mean cross-cluster cosine", ALL: "all five at once"}.get(name, name)
