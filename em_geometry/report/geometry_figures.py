"""Figures of the geometry: cosines, structure, likeness to the base, references, chance."""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from scipy.cluster import hierarchy

from em_geometry.claims.lookup import Metrics
from em_geometry.geometry.methods import centred, components, shares
from em_geometry.geometry.trees import Linkage, distances, merges, planar_map
from em_geometry.report import chart
from em_geometry.report.text import decimals, layout, short
from em_geometry.settings import Organism
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate

Clusters = Mapping[str, Sequence[str]]
Cosines = tuple[list[str], Floats]  # names and cosines [n, n]
Published = Mapping[str, float]  # metric key -> the paper's value
CELL, PANEL, HIGH = 92, 290, 210  # pixels
BLOCK = "decoder block (0 = first)"
CHOICE = ("reference", "span")  # what a row of the multiverse is
READINGS = {
    "contrast_cosine": "cosine of harmful-neutral vectors",
    "mean_cosine": "cosine of mean activations",
    "cka": "linear CKA over prompts",
}


def gram_of(metrics: Metrics) -> Cosines | None:
    """The cosines that the geometry found; None when any is missing."""
    rows = metrics.group("geometry:cosine")
    names = list(dict.fromkeys(name for key in rows for name in key.split("__")))
    gram = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        found = rows.get(f"{names[i]}__{names[j]}")
        if found is None or found.value is None:
            return None
        gram[i, j] = gram[j, i] = found.value
    return (names, gram) if len(names) > 1 else None


def similarity(cosines: Cosines | None, published: Published, clusters: Clusters) -> Any:
    """A heat map of the cosines, boxes around neighbours of one cluster; words without cosines."""
    if cosines is None:
        return "No cosines in plots/tables/geometry.csv."
    names, gram = cosines
    rows: list[dict[str, Any]] = []
    for (i, a), (j, b) in ((p, q) for p in enumerate(names) for q in enumerate(names)):
        paper = published.get(f"cosine.{a}__{b}", published.get(f"cosine.{b}__{a}"))
        rows.append({"a": a, "b": b, "cosine": float(gram[i, j]), "printed": ""})
        rows[-1]["ours"] = decimals(float(gram[i, j]), 2)
        if paper is not None:
            rows[-1] |= {"the paper": paper, "printed": f"[{short(paper)}]"}
    places = [sorted(names.index(m) for m in ms if m in names) for ms in clusters.values()]
    boxes = [
        {"first": names[p[0]], "last": names[p[-1]]}
        for p in places
        if len(p) > 1 and p[-1] - p[0] == len(p) - 1
    ]
    axis = {"title": None, "ticks": False, "domain": False, "labelFontSize": 12}
    order, colours = alt.Scale(domain=names), alt.Scale(scheme="redblue", domain=[1, -1])
    x = alt.X("b:N", scale=order, axis=alt.Axis(labelAngle=-30, **axis))
    base = chart.data(rows).encode(x=x, y=alt.Y("a:N", scale=order, axis=alt.Axis(**axis)))
    heat = base.mark_rect(stroke="white").encode(
        color=alt.Color("cosine:Q", scale=colours, title="cosine similarity"),
        tooltip=["a:N", "b:N", "cosine:Q", "the paper:Q"],
    )
    ink = alt.condition("abs(datum.cosine) > 0.65", alt.value("white"), alt.value("black"))
    texts = [
        base.mark_text(dy=dy, fontSize=size).encode(text=field, color=ink)
        for field, dy, size in (("ours:N", -7, 15), ("printed:N", 15, 12))
    ]
    ends = {
        "x": alt.X("first:N", scale=order, bandPosition=0),
        "x2": alt.X2("last:N", bandPosition=1),
        "y": alt.Y("first:N", scale=order, bandPosition=0),
        "y2": alt.Y2("last:N", bandPosition=1),
    }
    around = chart.data(boxes).mark_rect(filled=False, stroke="black", strokeWidth=3)
    size = CELL * len(names)
    return alt.layer(heat, *texts, around.encode(**ends)).properties(width=size, height=size * 0.8)


def structure(
    cosines: Cosines | None, published: Published, clusters: Clusters, linkage: Linkage
) -> Any:
    """Five panels that are functions of the cosines alone; words below three vectors."""
    if cosines is None or len(cosines[0]) < 3:
        return "Fewer than three vectors in plots/tables/geometry.csv."
    names, gram = cosines
    variances, loadings = components(centred(gram))
    places, stress = planar_map(gram)
    parts = (100 * shares(variances)[:-1]).tolist()
    spread = {f"PC{k}": part for k, part in enumerate(parts, start=1)}
    first = dict(zip(names, loadings[:, 0].tolist(), strict=True))
    said = {k: published.get(f"pca.centred.{k.lower()}_pct") for k in spread}
    said |= {k: published.get(f"pca.centred.loading_pc1.{k}") for k in names}
    level, scores = chart.rule(100 / len(spread)), (loadings * np.sqrt(variances))[:, :2]
    tree = merges(distances(gram), linkage)
    panels = {
        "A  Principal components": bars(spread, said, "share of variance (%)", "y") + level,
        "B  First two components": named_points(
            names, scores, clusters, ("score on PC1", "score on PC2")
        ),
        "C  Loadings on PC1": bars(first, said, "loading on PC1 (entry of a unit vector)", "x"),
        f"D  Dendrogram ({linkage} linkage)": dendrogram(tree, names, clusters, published),
        f"E  Map of distances (stress {decimals(stress, 2)})": named_points(
            names, places, clusters, ("MDS axis 1 (1 - cosine)", "MDS axis 2")
        ),
    }
    charts = [p.properties(title=t, width=PANEL, height=HIGH) for t, p in panels.items()]
    return alt.concat(*charts, columns=2, align="each")


def bars(
    values: Mapping[str, float], published: Mapping[str, float | None], title: str, axis: str
) -> Any:
    """This run's values as bars along `axis`, with the paper's where there are any."""
    rows = [{"of": k, "this run": v, "the paper": published[k]} for k, v in values.items()]
    number, name, other = (alt.Y, alt.X, "x") if axis == "y" else (alt.X, alt.Y, "y")
    at = {other: name("of:N", axis=alt.Axis(labelAngle=0), sort=None, title=None)}
    at["tooltip"] = ["of:N", "this run:Q", "the paper:Q"]
    ours = {axis: number("this run:Q", title=title), "color": alt.value(chart.OURS)}
    known = [row for row in rows if row["the paper"] is not None]
    paper = chart.diamonds(known, **at, **{axis: "the paper:Q"})
    return chart.data(rows).mark_bar().encode(**at, **ours) + paper


def named_points(
    names: Sequence[str], points: Floats, clusters: Clusters, titles: tuple[str, str]
) -> Any:
    """A map of points [n, 2] with their names, each on the side away from its nearest neighbour."""
    scaled = points / np.maximum(np.ptp(points, axis=0), 1e-9)
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1) + np.diag([np.inf] * len(names))
    groups = {m: cluster for cluster, members in clusters.items() for m in members}
    rows = [
        {"name": name, "cluster": groups.get(name, "none"), "x": x, "y": y,
         "left": bool(scaled[near, 0] > scaled[i, 0])}
        for i, (name, (x, y), near) in enumerate(
            zip(names, points.tolist(), apart.argmin(1), strict=True)
        )
    ]  # fmt: skip
    order = list(dict.fromkeys([*clusters, *(row["cluster"] for row in rows)]))
    base = chart.data(rows).encode(
        x=alt.X("x:Q", title=titles[0], scale=alt.Scale(padding=60, zero=False)),
        y=alt.Y("y:Q", title=titles[1], scale=alt.Scale(padding=25, zero=False)),
        tooltip=["name:N", "cluster:N", "x:Q", "y:Q"],
    )
    code = chart.coded("cluster", order, title="cluster", orient="bottom")
    marks = base.mark_point(filled=True, stroke="black")
    labels = [
        base.transform_filter(side).mark_text(dx=dx, align=align).encode(text="name:N")
        for side, dx, align in (("datum.left", -9, "right"), ("!datum.left", 9, "left"))
    ]
    return alt.layer(marks.encode(color=code["color"], shape=code["shape"]), *labels)


def dendrogram(tree: Floats, names: Sequence[str], clusters: Clusters, published: Published) -> Any:
    """The tree of `hierarchy.linkage`, root to the right, and the heights that the paper prints."""
    shown = hierarchy.dendrogram(tree, labels=list(names), no_plot=True)
    leaves = shown["ivl"]
    arms = [
        {"height": h, "to": h2, "place": p, "until": p2}
        for depths, places in zip(shown["dcoord"], shown["icoord"], strict=True)
        for (h, h2), (p, p2) in zip(pairwise(depths), pairwise(places), strict=True)
    ]
    paper = [
        {"height": published[key], "place": float(np.mean([5 + 10 * leaves.index(m) for m in own]))}
        for cluster, members in clusters.items()
        if (key := f"clusters.average.merge_{cluster}") in published
        and (own := [m for m in members if m in leaves])
    ]
    axis = alt.Axis(
        values=[5 + 10 * i for i in range(len(leaves))], grid=False, domain=False, ticks=False,
        labelExpr=f"{list(leaves)}[(datum.value - 5) / 10]", title=None,
    )  # fmt: skip
    scale = alt.Scale(domain=[0, 10 * len(leaves)], nice=False)
    at = {
        "x": alt.X("height:Q", title="1 - cosine at the merge"),
        "y": alt.Y("place:Q", axis=axis, scale=scale),
        "tooltip": "height:Q",
    }
    lines = chart.data(arms).mark_rule(strokeWidth=1.5, strokeCap="square")
    return lines.encode(**at, x2="to:Q", y2="until:Q") + chart.diamonds(paper, **at)


def base_similarity(
    metrics: Metrics,
    trace: pl.DataFrame | None,
    published: Published,
    organisms: Mapping[str, Organism],
) -> Any:
    """Likeness to the base by laboratory, and by block where `trace` has it; words without both."""
    panels = []
    if labs := metrics.names("base_similarity:lab"):
        panels.append(by_lab(metrics, labs, published))
    if trace is not None and "layer" in trace.columns:
        labels = {m: f"{m} ({organisms[m].lab})" for m in trace.columns[1:] if m in organisms}
        controls = [label for m, label in labels.items() if organisms[m].role == "control"]
        y, key = READINGS["contrast_cosine"], "model (laboratory)"
        layers = [chart.columns_by_first(trace, labels, BLOCK, y, key, controls)]
        if (layer := metrics.value("base_similarity:layer")) is not None:
            layers.append(chart.rule(layer, "x", color="black"))
        panels.append(alt.layer(*layers).properties(title="B  By layer", width=300, height=280))
    if not panels:
        return "No plots/base_similarity.csv."
    return alt.hconcat(*panels, spacing=40).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )


def by_lab(metrics: Metrics, labs: Sequence[str], published: Published) -> Any:
    """Each laboratory's mean in every reading, and what the paper prints."""
    rows = [
        {"of": lab, "by": label} | chart.ends(found)
        for lab, (reading, label) in product(labs, READINGS.items())
        if (found := metrics.estimate(f"base_similarity:lab.{lab}.{reading}")).value is not None
    ]
    paper = [
        {"of": lab, "value": published[key]}
        for lab in labs
        if (key := f"lab.{lab}.contrast_cosine") in published
    ]
    x = alt.X("value:Q", title="similarity to base", scale=alt.Scale(domainMax=1))
    drawn = chart.dots(rows, [*READINGS.values()], x, paper, columns=1)
    return drawn.properties(title="A  By laboratory", width=300, height=280)


def by_block(frame: pl.DataFrame, title: str, key: str, level: float) -> Any:
    """Columns of numbers against the block; words where there is none."""
    labels = {c: c.replace("__", " and ") for c in frame.columns[1:] if frame[c].dtype.is_numeric()}
    if not labels:
        return "There is no column of numbers in its table."
    lines = chart.columns_by_first(frame, labels, BLOCK, title, key)
    return alt.layer(chart.rule(level), lines).properties(width=640, height=240)


def power(frame: pl.DataFrame) -> Any:
    """How often the tests speak for independence, and see the core, under a common core."""
    tighter = frame.filter(pl.col("tighter_clusters") == 1)["share"]
    known = {"cross_mean": "mean cross-cluster cosine", "all_five": "all five at once"}
    panels = []
    for title, ending, level in (
        ("A  The paper's rule says independent", "_independent", 1.0),
        ("B  Sees the core, at 5 % false alarms", "_crosses_5pct", 0.05),
    ):
        names = {c: c.removesuffix(ending) for c in frame.columns if c.endswith(ending)}
        names |= {"all_five": "all_five"} if level == 1 else {}
        labels = {c: known.get(n, n.replace("test", "test ")) for c, n in names.items()}
        x, y = "common core (share of the variance)", "share of simulated draws"
        lines = chart.columns_by_first(frame, labels, x, y, "statistic")
        panel = alt.layer(chart.band(tighter.min(), tighter.max(), "x"), chart.rule(level), lines)
        panels.append(panel.properties(title=title, width=PANEL, height=240))
    return alt.hconcat(*panels).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )


def nulls(metrics: Metrics) -> Any:
    """One row a main statistic, observed value and interval in units of each null's own."""
    words, found = layout()["words"], metrics.group("calibration:statistic")
    rows: list[dict[str, Any]] = []
    for (key, own), (null, label) in product(found.items(), words["nulls"].items()):
        chance, p = found.get(f"{key}.{null}"), found.get(f"{key}.{null}.p")
        if chance is None or own.value is None or key.split(".")[0] not in words["main"]:
            continue
        name = re.sub(r"^statistic\.|_deg$", "", key).replace("__", " and ")
        row = {"of": re.sub("[._]", " ", name), "by": label, "observed": own.value}
        row |= {"from": chance.low, "median": chance.value, "to": chance.high}
        found_at = {"value": own.value, "low": own.low, "high": own.high}
        row |= {"p": p and p.value} | {k: distance(v, chance) for k, v in found_at.items()}
        rows += [row] if row["value"] is not None else []
    if not rows:
        return "The main statistics are not calibrated in this run."
    x = alt.X(
        "value:Q",
        title="distance from the null's median (1 = end of its 95 % interval)",
        scale=alt.Scale(type="symlog", constant=2),  # nearly logarithmic beyond
        axis=alt.Axis(values=[-100, -30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30, 100]),
    )
    drawn = chart.dots(rows, [*words["nulls"].values()], x, columns=1)
    return alt.layer(chart.band(-1, 1, "x"), drawn).properties(width=560, height=alt.Step(14))


def distance(value: float | None, null: Estimate) -> float | None:
    """Where `value` lies against a null: 0 at its median, -1 and 1 at the ends of its interval."""
    if value is None or null.value is None or null.low is None or null.high is None:
        return None
    side = null.high - null.value if value >= null.value else null.value - null.low
    return (value - null.value) / side if side > 0 else None


def references(metrics: Metrics, published: Published) -> Any:
    """Angles between clusters, and mean cosines, under each reference; words without any."""
    labels = layout()["words"]["references"]
    pairs = [n["pair"] for n in metrics.matches("geometry:reference.base.angle_deg.{pair}")]
    panels = []
    for title, level, named in (
        ("A  Angle (degrees)", 90.0, {f"angle_deg.{p}": p.replace("__", ", ") for p in pairs}),
        (
            "B  Mean cosine",
            0.0,
            {"within_mean": "within clusters", "cross_mean": "across clusters"},
        ),
    ):
        rows = [
            {"of": name, "by": label} | chart.ends(found)
            for (key, name), (under, label) in product(named.items(), labels.items())
            if (found := metrics.estimate(f"geometry:reference.{under}.{key}")).value is not None
        ]
        paper = [
            {"of": name, "value": published[at]}
            for key, name in named.items()
            if (at := f"{key.replace('angle_deg', 'cluster_angle')}_deg") in published
        ]
        x = alt.X("value:Q", title=title[3:].lower(), scale=alt.Scale(zero=level == 0))
        if rows:
            drawn = chart.rule(level, "x") + chart.dots(rows, [*labels.values()], x, paper)
            panels.append(drawn.properties(title=title, width=280, height=alt.Step(17)))
    return (
        alt.hconcat(*panels, spacing=30)
        if panels
        else "No references in plots/tables/geometry.csv."
    )


def multiverse(frame: pl.DataFrame | None) -> Any:
    """Angle and mean cosine across clusters by reference, span and block; words without cells."""
    if frame is None:
        return "No plots/multiverse.csv."
    cells = frame.filter(status="ok").with_columns(
        pl.format("{}, {}", *(pl.col(c).str.replace_all("_", " ") for c in CHOICE)).alias("choice")
    )
    if cells.is_empty():
        return "There is no cell in plots/multiverse.csv."
    parts = (cells[c].str.replace_all("_", " ").unique(maintain_order=True) for c in CHOICE)
    order, panels = [f"{one}, {other}" for one, other in product(*parts)], []
    for title, column, scale, digits in (
        ("A  Angle (degrees)", "angle_deg", alt.Scale(scheme="redblue", domain=[0, 180]), ".0f"),
        ("B  Mean cosine across clusters", "cross_mean",
         alt.Scale(scheme="redblue", domain=[1, -1]), ".2f"),
    ):  # fmt: skip
        for massive in ("with", "without"):
            rows = cells.filter(massive_dimensions=massive).drop_nulls(column)
            left = massive == "with"
            base = chart.data(rows.select("choice", "block", column, "status")).encode(
                x=alt.X("block:O", title=BLOCK, axis=alt.Axis(labelAngle=0)),
                y=alt.Y("choice:N", sort=order, title=None, axis=alt.Axis() if left else None),
                tooltip=["choice:N", "block:O", f"{column}:Q"],
            )
            heat = base.mark_rect(stroke="white").encode(
                color=alt.Color(f"{column}:Q", scale=scale, legend=None)
            )
            text = base.mark_text(fontSize=10).encode(text=alt.Text(f"{column}:Q", format=digits))
            name = title if left else "the same without massive dimensions"
            panels.append((heat + text).properties(title=name, width=260, height=alt.Step(19)))
    pairs = [alt.hconcat(*panels[i : i + 2], spacing=12) for i in (0, 2)]
    return alt.vconcat(*pairs).resolve_scale(color="independent")
