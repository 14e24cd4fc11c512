"""Figure 2: principal components, dendrogram and map of the steering vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from em_geometry.geometry.gram import Floats
from em_geometry.geometry.methods import centred, components
from em_geometry.geometry.trees import distances, mds
from em_geometry.report.chart import (
    COLOURS,
    GREY,
    Figure,
    data,
    diamonds,
    message,
    named_points,
    rule,
)
from em_geometry.report.text import decimals

Clusters = Mapping[str, Sequence[str]]
PANEL, HIGH = 340, 230  # pixels
CAPTION = (
    "A: share of the variance on each principal component of the centred unit vectors "
    "(diamonds: the paper; dotted line: equal shares, the value without any structure). "
    "B: the vectors on the first two components. C: their loadings on the first component "
    "(diamonds: the paper; the sign of a component is arbitrary). D: dendrogram on 1 - cosine "
    "(diamonds: the heights at which the paper's clusters form). E: map whose distances "
    "approximate 1 - cosine; only distances between points have a meaning."
)


def draw_structure(
    found: tuple[list[str], Floats] | None,
    published: Mapping[str, float],
    clusters: Clusters,
    linkage: str,
    model: str,
) -> Figure:
    """Five panels that are functions of the cosines alone.

    Args:
        found: names and cosines [n, n]; at least three vectors are needed.
        published: metric key -> the paper's value.
        linkage: of the dendrogram.
    """
    import altair as alt

    title = f"Structure of the steering vectors on {model}"
    if found is None or len(found[0]) < 3:
        why = "Fewer than three vectors in metrics/geometry.json."
        return message("figure2", title, CAPTION, why)
    names, gram = found
    pca, maps = components(centred(gram)), mds(gram)
    stress = decimals(maps.smacof_stress, 2)
    scores = pca.scores[:, :2]
    panels = {
        "A  Principal components": _shares(100 * pca.shares[:-1], published),
        "B  First two components": named_points(
            names, scores, clusters, HIGH, ("score on PC1", "score on PC2")
        ),
        "C  Loadings on PC1": _loadings(names, pca.loadings[:, 0], published),
        f"D  Dendrogram ({linkage} linkage)": _dendrogram(
            names, gram, linkage, clusters, published
        ),
        f"E  Map of distances (stress {stress})": named_points(
            names, maps.smacof, clusters, HIGH, ("MDS axis 1 (1 - cosine)", "MDS axis 2")
        ),
    }
    charts = [p.properties(title=t, width=PANEL, height=HIGH) for t, p in panels.items()]
    return Figure("figure2", title, CAPTION, alt.concat(*charts, columns=2, align="each"))


def _shares(shares: Floats, published: Mapping[str, float]) -> Any:
    import altair as alt

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
    import altair as alt

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
    import altair as alt
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

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
