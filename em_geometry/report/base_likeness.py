"""Figure 3: how similar the models are to the base, by laboratory and by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from em_geometry.report.chart import (
    COLOURS,
    GREY,
    PAPER,
    Figure,
    data,
    diamonds,
    message,
    rule,
    scale,
)
from em_geometry.report.lookup import Metrics, number
from em_geometry.report.text import joined

FILE = "base_similarity"
READINGS = {
    "contrast_cosine": "cosine of harmful-neutral vectors",
    "mean_cosine": "cosine of mean activations",
    "cka": "linear CKA over prompts",
}
PANEL, HIGH = 350, 280  # pixels
CAPTION = (
    "A: similarity of each laboratory's models to the base model at the chosen layer, in three "
    "readings, because the paper does not define its measure (filled: mean over the laboratory's "
    "organisms; small open points: single models; red diamonds: the paper's value for the "
    "laboratory, Llama-3.1-8B). B: the first reading at every layer, one line a model; the "
    "line's style shows the laboratory, grey lines are controls."
)


def draw_base_similarity(
    metrics: Metrics,
    trace: pl.DataFrame | None,
    published: Mapping[str, float],
    labs: Mapping[str, str],
    controls: Sequence[str],
    model: str,
) -> Figure:
    """Two panels.

    Args:
        trace: column `layer` and one column a model; None when the file is missing.
        published: metric key (`lab.<lab>.contrast_cosine`) -> the paper's value.
        labs: model -> its laboratory.
        controls: which of the models are controls.
    """
    import altair as alt

    title = f"Similarity to the base model, {model}"
    panels = []
    if metrics.group(FILE, "lab"):
        panels.append(_by_lab(metrics, published, labs, controls))
    if trace is not None and "layer" in trace.columns:
        panels.append(_by_layer(trace, labs, controls, number(metrics.find(FILE, "layer"))))
    if not panels:
        missing = joined([f"metrics/{FILE}.json", f"plots/{FILE}.csv"])
        return message("figure3", title, CAPTION, f"No {missing}.")
    chart = alt.hconcat(*panels, spacing=40).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )
    return Figure("figure3", title, CAPTION, chart)


def _by_lab(
    metrics: Metrics,
    published: Mapping[str, float],
    labs: Mapping[str, str],
    controls: Sequence[str],
) -> Any:
    import altair as alt

    names, means, singles = list(metrics.group(FILE, "lab")), [], []
    for reading, label in READINGS.items():
        for lab in names:
            mean = number(metrics.find(FILE, f"lab.{lab}.{reading}"))
            means.append({"lab": lab, "reading": label, "similarity": mean, "model": "mean"})
            for member in (m for m, own in labs.items() if own == lab and m not in controls):
                value = number(metrics.find(FILE, f"model.{member}.{reading}"))
                singles.append(means[-1] | {"model": member, "similarity": value})
    paper = [
        {"lab": lab, "similarity": published[key], "model": "the paper"}
        for lab in names
        if (key := f"lab.{lab}.contrast_cosine") in published
    ]
    order = list(READINGS.values())
    x = alt.X("lab:N", sort=names, title=None, axis=alt.Axis(labelAngle=0))
    y = alt.Y("similarity:Q", title="similarity to base", scale=alt.Scale(domainMax=1))
    tooltip = ["lab:N", "model:N", "reading:N", "similarity:Q"]
    where = alt.XOffset("reading:N", sort=order)
    below = alt.Legend(orient="bottom", columns=1, title=None)
    colour = alt.Color("reading:N", scale=scale(order), legend=below)
    shape = alt.Shape("reading:N", scale=scale(order, "shape"), legend=below)
    dots = data([r for r in singles if r["similarity"] is not None]).mark_point(
        shape="circle", size=22, color=GREY
    )
    marks = data([r for r in means if r["similarity"] is not None]).mark_point(
        filled=True, stroke="black", size=110
    )
    values = diamonds(paper, x=x, y=y, tooltip=tooltip)
    text = data(paper).mark_text(dx=9, align="left", color=PAPER)
    return alt.layer(
        rule(0),
        dots.encode(x=x, y=y, xOffset=where, tooltip=tooltip),
        marks.encode(x=x, y=y, xOffset=where, color=colour, shape=shape, tooltip=tooltip),
        values,
        text.encode(x=x, y=y, text=alt.Text("similarity:Q", format=".2f")),
    ).properties(title="A  By laboratory", width=PANEL, height=HIGH)


def _by_layer(
    trace: pl.DataFrame, labs: Mapping[str, str], controls: Sequence[str], layer: float | None
) -> Any:
    import altair as alt

    models = [column for column in trace.columns if column != "layer"]
    rows = trace.unpivot(models, index="layer", variable_name="model", value_name="cosine")
    rows = rows.with_columns(
        pl.col("cosine").cast(pl.Float64, strict=False),
        laboratory=pl.col("model").replace_strict(labs, default="other"),
    ).drop_nulls()
    order = list(dict.fromkeys(labs.values()))
    organisms = [m for m in models if m not in controls]
    shown = [COLOURS[organisms.index(m) % 7] if m in organisms else "#aaaaaa" for m in models]
    base = data(rows.to_dicts()).encode(
        x=alt.X("layer:Q", title="decoder block (0 = first)"),
        y=alt.Y("cosine:Q", title=READINGS["contrast_cosine"]),
        color=alt.Color("model:N", scale=alt.Scale(domain=models, range=shown), title="model"),
    )
    dash = alt.StrokeDash("laboratory:N", scale=scale(order, "dash"), title="laboratory")
    tooltip = ["model:N", "laboratory:N", "layer:Q", "cosine:Q"]
    layers = [
        rule(0),
        base.mark_line(strokeWidth=1.8).encode(strokeDash=dash),
        base.mark_point(filled=True, size=18).encode(tooltip=tooltip),
    ]
    if layer is not None:
        said = data([{"at": layer, "text": "chosen layer"}])
        layers.append(rule(layer, "x", color="black"))
        layers.append(
            said.mark_text(align="left", dx=4, dy=-4, baseline="bottom").encode(
                x="at:Q", y=alt.value(HIGH), text="text:N"
            )
        )
    return alt.layer(*layers).properties(title="B  By layer", width=PANEL, height=HIGH)
