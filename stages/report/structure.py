"""Figure 2: principal components, dendrogram and map of the steering vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stages.geometry import pca
from stages.geometry.clusters import distances
from stages.geometry.gram import Floats
from stages.geometry.mds import mds
from stages.report.labels import label_points
from stages.report.style import (
    GREY,
    PAPER_COLOUR,
    PAPER_MARKER,
    WIDTH,
    Drawn,
    by_cluster,
    colour,
    empty,
    marker,
    new_figure,
)
from stages.report.text import decimals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Clusters = Mapping[str, Sequence[str]]
CAPTION = (
    "A: share of the variance on each principal component of the centred unit vectors "
    "(diamonds: the paper; dotted line: equal shares, the value without any structure). "
    "B: the vectors on the first two components. C: their loadings on the first component "
    "(diamonds: the paper; the sign of a component is arbitrary). D: dendrogram on 1 - cosine "
    "(diamonds: the heights at which the paper's clusters form). E: map whose distances "
    "approximate 1 - cosine; only distances between points have a meaning. Marker and colour: "
    "the cluster."
)


def draw_structure(
    found: tuple[list[str], Floats] | None,
    published: Mapping[str, float],
    clusters: Clusters,
    linkage: str,
    model: str,
) -> Drawn:
    """Five panels that are functions of the cosines alone.

    Args:
        found: names and cosines [n, n]; at least three vectors are needed.
        published: metric key -> the paper's value.
        linkage: of the dendrogram.
    """
    drawn, figure = new_figure(
        "figure2", f"Structure of the steering vectors on {model}", CAPTION, (WIDTH, 9.6)
    )
    if found is None or len(found[0]) < 3:
        return empty(drawn, "Fewer than three vectors in metrics/geometry.json.")
    names, gram = found
    grid = figure.add_gridspec(3, 2)
    components = pca.components(pca.centred(gram))
    groups = by_cluster(names, clusters)
    _shares(drawn, figure.add_subplot(grid[0, 0]), components.shares[:-1], published)
    scatter = figure.add_subplot(grid[0, 1])
    _points(drawn, scatter, names, components.scores[:, :2], groups)
    scatter.set(xlabel="score on PC1", ylabel="score on PC2", title="B  First two components")
    _loadings(drawn, figure.add_subplot(grid[1, 0]), names, components.loadings[:, 0], published)
    _dendrogram(drawn, figure.add_subplot(grid[1, 1]), names, gram, linkage, clusters, published)
    space = figure.add_subplot(grid[2, 0])
    maps = mds(gram)
    _points(drawn, space, names, maps.smacof, groups)
    space.set(
        xlabel="MDS axis 1 (1 - cosine)",
        ylabel="MDS axis 2 (1 - cosine)",
        title=f"E  Map of distances (stress {decimals(maps.smacof_stress, 2)})",
    )
    _legend(figure.add_subplot(grid[2, 1]), clusters, bool(published))
    figure.suptitle(drawn.title, fontsize=11)
    return drawn


def _shares(drawn: Drawn, axes: Axes, shares: Floats, published: Mapping[str, float]) -> None:
    labels = [f"PC{k + 1}" for k in range(len(shares))]
    for k, share in enumerate(100 * shares):
        bar = axes.bar(k, share, color=colour(0), edgecolor="black", width=0.6)
        axes.text(k, share + 1, decimals(share, 1), ha="center", size=8)
        paper = published.get(f"pca.centred.pc{k + 1}_pct")
        words = f"{labels[k]}: {decimals(share, 1)} %"
        if paper is not None:
            _diamond(axes, k + 0.36, paper)
            words += f"; the paper: {decimals(paper, 1)} %"
        drawn.tag(bar[0], words)
    axes.axhline(100 / len(shares), color=GREY, linestyle=":", linewidth=1)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="share of variance (%)", title="A  Principal components")
    axes.set_ylim(0, max(100 * float(shares.max()) * 1.15, 55))


def _diamond(axes: Axes, x: float, y: float) -> None:
    axes.plot(
        x,
        y,
        PAPER_MARKER,
        color="white",
        markeredgecolor=PAPER_COLOUR,
        markeredgewidth=1.8,
        markersize=7,
        zorder=5,
    )


def _points(
    drawn: Drawn, axes: Axes, names: Sequence[str], points: Floats, groups: Mapping[str, int]
) -> None:
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.axvline(0, color=GREY, linewidth=0.5)
    for name, (x, y) in zip(names, points.tolist(), strict=True):
        group = groups[name]
        (point,) = axes.plot(
            x, y, marker(group), color=colour(group), markeredgecolor="black", markersize=9
        )
        drawn.tag(point, f"{name}: ({decimals(x, 2)}, {decimals(y, 2)})")
    axes.margins(0.2)
    axes.locator_params(nbins=6)
    label_points(axes, names, points)


def _loadings(
    drawn: Drawn,
    axes: Axes,
    names: Sequence[str],
    loadings: Floats,
    published: Mapping[str, float],
) -> None:
    for i, (name, loading) in enumerate(zip(names, loadings.tolist(), strict=True)):
        bar = axes.barh(i, loading, color=colour(0), edgecolor="black", height=0.6)
        paper = published.get(f"pca.centred.loading_pc1.{name}")
        words = f"{name}: {decimals(loading, 3)}"
        if paper is not None:
            _diamond(axes, paper, i + 0.36)
            words += f"; the paper: {decimals(paper, 3)}"
        drawn.tag(bar[0], words)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="loading on PC1 (entry of a unit vector)", title="C  Loadings on PC1")


def _dendrogram(
    drawn: Drawn,
    axes: Axes,
    names: Sequence[str],
    gram: Floats,
    linkage: str,
    clusters: Clusters,
    published: Mapping[str, float],
) -> None:
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    tree = hierarchy.linkage(squareform(distances(gram), checks=False), method=linkage)
    shown = hierarchy.dendrogram(
        tree,
        labels=list(names),
        ax=axes,
        color_threshold=0,
        above_threshold_color="black",
        orientation="right",
    )
    for depths, places in zip(shown["dcoord"], shown["icoord"], strict=True):
        where = (max(depths), float(np.mean(places)))
        (point,) = axes.plot(*where, "o", color="black", markersize=4)
        drawn.tag(point, f"merge at 1 - cosine = {decimals(where[0], 2)}")
    for cluster, members in clusters.items():
        paper = published.get(f"clusters.average.merge_{cluster}")
        rows = [5.0 + 10 * shown["ivl"].index(m) for m in members if m in shown["ivl"]]
        if paper is not None and rows:
            _diamond(axes, paper, float(np.mean(rows)))
    axes.set(xlabel="1 - cosine at the merge", title=f"D  Dendrogram ({linkage} linkage)")
    axes.tick_params(axis="y", labelsize=9)
    axes.spines["left"].set_visible(False)


def _legend(axes: Axes, clusters: Clusters, paper: bool) -> None:
    from matplotlib.lines import Line2D

    axes.set_axis_off()
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker(i),
            color=colour(i),
            markeredgecolor="black",
            markersize=9,
            label=f"{cluster}: {', '.join(members)}",
        )
        for i, (cluster, members) in enumerate(clusters.items())
    ]
    if paper:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker=PAPER_MARKER,
                color="white",
                markeredgecolor=PAPER_COLOUR,
                markeredgewidth=1.8,
                label="the paper (Llama-3.1-8B)",
            )
        )
    axes.legend(handles=handles, loc="center left", title="Clusters", alignment="left")
