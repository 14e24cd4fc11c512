"""Figures 1 to 3: the cosines of the vectors, their structure, and likeness to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from em_geometry.claims.lookup import Metrics
from em_geometry.geometry.methods import centred, components, shares
from em_geometry.geometry.trees import distances, planar_map
from em_geometry.report.chart import (
    COLOURS,
    GREY,
    PAPER,
    Figure,
    coded,
    data,
    diamonds,
    message,
    named_points,
    rule,
    scale,
)
from em_geometry.report.text import decimals, short
from em_geometry.stats.arrays import Floats

Clusters = Mapping[str, Sequence[str]]
Cosines = tuple[list[str], Floats]  # names and cosines [n, n]
CELL = 92  # pixels
PANEL, HIGH = 340, 230  # pixels
READINGS = {
    "contrast_cosine": "cosine of harmful-neutral vectors",
    "mean_cosine": "cosine of mean activations",
    "cka": "linear CKA over prompts",
}


def gram_of(metrics: Metrics) -> Cosines | None:
    """The cosines that the geometry found; None when any is missing."""
    rows = metrics.group("geometry", "cosine")
    names: list[str] = []
    for key in rows:
        names += [name for name in key.split("__") if name not in names]
    gram = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        value = metrics.value("geometry", f"cosine.{names[i]}__{names[j]}")
        if value is None:
            return None
        gram[i, j] = gram[j, i] = value
    return (names, gram) if len(names) > 1 else None


def draw_similarity(
    cosines: Cosines | None,
    published: Mapping[str, float],
    clusters: Mapping[str, Sequence[str]],
    model: str,
) -> Figure:
    """The heat map.

    Args:
        cosines: names and cosines [n, n], None when there are none.
        published: metric key (`cosine.a__b`) -> the paper's value.
        clusters: cluster -> names; boxes are drawn around neighbours of one cluster.
        model: what was measured, for the title.
    """
    if cosines is None:
        return message("figure1", model, "No cosines in plots/tables/geometry.csv.")
    names, gram = cosines
    rows = []
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            paper = published.get(f"cosine.{a}__{b}", published.get(f"cosine.{b}__{a}"))
            row: dict[str, Any] = {"i": i, "j": j, "a": a, "b": b, "cosine": float(gram[i, j])}
            row["ours"] = decimals(float(gram[i, j]), 2)
            rows.append(row | ({} if paper is None else {"the paper": paper}))
            rows[-1]["printed"] = "" if paper is None else f"[{short(paper)}]"

    def axis(orient: str, angle: int) -> Any:
        return alt.Axis(
            orient=orient, title=None, values=[i + 0.5 for i in range(len(names))], ticks=False,
            labelExpr=f"{names}[floor(datum.value)]", labelAngle=angle, domain=False, grid=False,
            labelFontSize=12, labelOverlap=False, labelAlign="right",
        )  # fmt: skip

    limits = alt.Scale(domain=[0, len(names)], nice=False)
    down = alt.Scale(domain=[len(names), 0], nice=False)
    base = data(rows).transform_calculate(
        x1="datum.j + 1", y1="datum.i + 1", xm="datum.j + 0.5", ym="datum.i + 0.5"
    )
    colour = alt.Color(
        "cosine:Q", scale=alt.Scale(scheme="redblue", domain=[1, -1]), title="cosine similarity"
    )
    heat = base.mark_rect(stroke="white").encode(
        x=alt.X("j:Q", scale=limits, axis=axis("bottom", -30)),
        y=alt.Y("i:Q", scale=down, axis=axis("left", 0)),
        x2="x1:Q",
        y2="y1:Q",
        color=colour,
        tooltip=["a:N", "b:N", "cosine:Q", "the paper:Q"],
    )
    ink = alt.condition("abs(datum.cosine) > 0.65", alt.value("white"), alt.value("black"))
    words = [
        base.mark_text(dy=dy, fontSize=size).encode(x="xm:Q", y="ym:Q", text=field, color=ink)
        for field, dy, size in (("ours:N", -7, 15), ("printed:N", 15, 12))
    ]
    boxes = data(_boxes(names, clusters)).mark_rect(filled=False, stroke="black", strokeWidth=3)
    layers = [heat, *words, boxes.encode(x="from:Q", x2="to:Q", y="from:Q", y2="to:Q")]
    size = CELL * len(names)
    return Figure("figure1", model, alt.layer(*layers).properties(width=size, height=size * 0.8))


def _boxes(names: Sequence[str], clusters: Mapping[str, Sequence[str]]) -> list[dict[str, int]]:
    """From and to of each cluster whose members stand side by side."""
    boxes = []
    for members in clusters.values():
        places = sorted(names.index(m) for m in members if m in names)
        if len(places) > 1 and places[-1] - places[0] == len(places) - 1:
            boxes.append({"from": places[0], "to": places[-1] + 1})
    return boxes


def draw_structure(
    cosines: Cosines | None,
    published: Mapping[str, float],
    clusters: Clusters,
    linkage: str,
    model: str,
) -> Figure:
    """Five panels that are functions of the cosines alone.

    Args:
        cosines: names and cosines [n, n]; at least three vectors are needed.
        published: metric key -> the paper's value.
        linkage: of the dendrogram.
    """
    if cosines is None or len(cosines[0]) < 3:
        why = "Fewer than three vectors in plots/tables/geometry.csv."
        return message("figure2", model, why)
    names, gram = cosines
    variances, loadings = components(centred(gram))
    scores = (loadings * np.sqrt(variances))[:, :2]
    places, stress = planar_map(gram)
    panels = {
        "A  Principal components": _shares(100 * shares(variances)[:-1], published),
        "B  First two components": named_points(
            names, scores, clusters, HIGH, ("score on PC1", "score on PC2")
        ),
        "C  Loadings on PC1": _loadings(names, loadings[:, 0], published),
        f"D  Dendrogram ({linkage} linkage)": _dendrogram(
            names, gram, linkage, clusters, published
        ),
        f"E  Map of distances (stress {decimals(stress, 2)})": named_points(
            names, places, clusters, HIGH, ("MDS axis 1 (1 - cosine)", "MDS axis 2")
        ),
    }
    charts = [p.properties(title=t, width=PANEL, height=HIGH) for t, p in panels.items()]
    return Figure("figure2", model, alt.concat(*charts, columns=2, align="each"))


def _shares(shares: Floats, published: Mapping[str, float]) -> Any:
    rows = []
    for k, share in enumerate(shares.tolist(), start=1):
        paper = published.get(f"pca.centred.pc{k}_pct")
        rows.append({"PC": f"PC{k}", "this run": share, "label": decimals(share, 1)})
        rows[-1] |= {} if paper is None else {"the paper": paper}
    x = alt.X("PC:N", sort=None, title=None, axis=alt.Axis(labelAngle=0))
    y = alt.Y("this run:Q", title="share of variance (%)")
    tooltip = ["PC:N", "this run:Q", "the paper:Q"]
    bars = data(rows).mark_bar(color=COLOURS[0]).encode(x=x, y=y, tooltip=tooltip)
    text = data(rows).mark_text(dy=-9, color="white", fontWeight="bold")
    text = text.encode(x=x, y=alt.datum(0), text="label:N")
    known = [row for row in rows if "the paper" in row]
    paper = diamonds(known, x=x, y="the paper:Q", tooltip=tooltip)
    return alt.layer(bars, text, rule(100 / len(shares)), paper)


def _loadings(names: Sequence[str], loadings: Floats, published: Mapping[str, float]) -> Any:
    rows = []
    for name, value in zip(names, loadings.tolist(), strict=True):
        paper = published.get(f"pca.centred.loading_pc1.{name}")
        rows.append({"vector": name, "this run": value})
        rows[-1] |= {} if paper is None else {"the paper": paper}
    x = alt.X("this run:Q", title="loading on PC1 (entry of a unit vector)")
    y = alt.Y("vector:N", sort=None, title=None)
    tooltip = ["vector:N", "this run:Q", "the paper:Q"]
    bars = data(rows).mark_bar(color=COLOURS[0]).encode(x=x, y=y, tooltip=tooltip)
    known = [row for row in rows if "the paper" in row]
    return alt.layer(bars, diamonds(known, x="the paper:Q", y=y, tooltip=tooltip))


def _dendrogram(
    names: Sequence[str],
    gram: Floats,
    linkage: str,
    clusters: Clusters,
    published: Mapping[str, float],
) -> Any:
    tree = hierarchy.linkage(squareform(distances(gram), checks=False), method=linkage)
    shown = hierarchy.dendrogram(tree, labels=list(names), no_plot=True)
    leaves = shown["ivl"]
    lines = [
        {"merge": i, "step": step, "height": depth, "place": place}
        for i, pair in enumerate(zip(shown["dcoord"], shown["icoord"], strict=True))
        for step, (depth, place) in enumerate(zip(*pair, strict=True))
    ]
    tops = [
        {"height": max(depths), "place": float(np.mean(places))}
        for depths, places in zip(shown["dcoord"], shown["icoord"], strict=True)
    ]
    paper = [
        {
            "height": published[f"clusters.average.merge_{cluster}"],
            "place": float(np.mean([5 + 10 * leaves.index(m) for m in members if m in leaves])),
        }
        for cluster, members in clusters.items()
        if f"clusters.average.merge_{cluster}" in published and set(members) & set(leaves)
    ]
    label = alt.Axis(
        values=[5 + 10 * i for i in range(len(leaves))], grid=False, domain=False, ticks=False,
        labelExpr=f"{list(leaves)}[(datum.value - 5) / 10]", title=None,
    )  # fmt: skip
    x = alt.X("height:Q", title="1 - cosine at the merge")
    y = alt.Y("place:Q", axis=label, scale=alt.Scale(domain=[0, 10 * len(leaves)], nice=False))
    arms = data(lines).mark_line(color="black", strokeWidth=1.5)
    return alt.layer(
        arms.encode(x=x, y=y, detail="merge:N", order="step:O"),
        data(tops)
        .mark_point(filled=True, color=GREY, size=35)
        .encode(x=x, y=y, tooltip="height:Q"),
        diamonds(paper, x="height:Q", y="place:Q", tooltip=[alt.Tooltip("height:Q")]),
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
    panels = []
    if metrics.names("base_similarity", "lab"):
        panels.append(_by_lab(metrics, published, labs, controls))
    if trace is not None and "layer" in trace.columns:
        panels.append(_by_layer(trace, labs, controls, metrics.value("base_similarity", "layer")))
    if not panels:
        return message("figure3", model, "No plots/base_similarity.csv.")
    chart = alt.hconcat(*panels, spacing=40).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )
    return Figure("figure3", model, chart)


def _by_lab(
    metrics: Metrics,
    published: Mapping[str, float],
    labs: Mapping[str, str],
    controls: Sequence[str],
) -> Any:
    names, means, singles = metrics.names("base_similarity", "lab"), [], []
    for reading, label in READINGS.items():
        for lab in names:
            mean = metrics.value("base_similarity", f"lab.{lab}.{reading}")
            means.append({"lab": lab, "reading": label, "similarity": mean, "model": "mean"})
            for member in (m for m, own in labs.items() if own == lab and m not in controls):
                value = metrics.value("base_similarity", f"model.{member}.{reading}")
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
    code = coded("reading", order, legend=below)
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
        marks.encode(
            x=x, y=y, xOffset=where, color=code["color"], shape=code["shape"], tooltip=tooltip
        ),
        values,
        text.encode(x=x, y=y, text=alt.Text("similarity:Q", format=".2f")),
    ).properties(title="A  By laboratory", width=350, height=280)


def _by_layer(
    trace: pl.DataFrame, labs: Mapping[str, str], controls: Sequence[str], layer: float | None
) -> Any:
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
                x="at:Q", y=alt.value(280), text="text:N"
            )
        )
    return alt.layer(*layers).properties(title="B  By layer", width=350, height=280)
