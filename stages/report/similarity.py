"""Figure 1: cosine similarity of the steering vectors, ours with the paper's beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from stages.claims.lookup import Metrics, number
from stages.geometry.gram import Floats
from stages.report.style import Drawn, empty, new_figure
from stages.report.text import decimals

CELL = 1.05  # inches a vector
FRAME = 2.2  # inches beside the cells
NAMES = (
    "Cosine similarity between steering vectors (1 = same direction, 0 = at right angles, "
    "-1 = opposite)"
)


def gram_of(metrics: Metrics) -> tuple[list[str], Floats] | None:
    """Names and cosines [n, n] of `metrics/geometry.json`; None when any is missing."""
    found = metrics.group("geometry", "cosine")
    names: list[str] = []
    for key in found:
        names += [name for name in key.split("__") if name not in names]
    gram = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        value = number(found.get(f"{names[i]}__{names[j]}"))
        if value is None:
            return None
        gram[i, j] = gram[j, i] = value
    return (names, gram) if len(names) > 1 else None


def draw_similarity(
    found: tuple[list[str], Floats] | None,
    published: Mapping[str, float],
    clusters: Mapping[str, Sequence[str]],
    model: str,
) -> Drawn:
    """The heat map.

    Args:
        found: names and cosines [n, n], None when there are none.
        published: metric key (`cosine.a__b`) -> the paper's value.
        clusters: cluster -> names; boxes are drawn around neighbours of one cluster.
        model: what was measured, for the title.
    """
    caption = (
        f"{NAMES}. Large numbers: this run. Small numbers in brackets: the value in the paper, "
        "where it prints one. Heavy boxes: vectors that the paper puts in one cluster."
    )
    size = FRAME + CELL * (len(found[0]) if found else 4)
    drawn, figure = new_figure(
        "figure1", f"Similarity of steering vectors on {model}", caption, (size + 1.2, size)
    )
    if found is None:
        return empty(drawn, "No cosines in metrics/geometry.json.")
    axes = figure.add_subplot()
    names, gram = found
    image = axes.imshow(gram, vmin=-1, vmax=1, cmap="RdBu_r", alpha=0.85)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            value = float(gram[i, j])
            paper = published.get(f"cosine.{a}__{b}", published.get(f"cosine.{b}__{a}"))
            ink = "white" if abs(value) > 0.7 else "black"
            words = f"{a}, {b}: {decimals(value, 3)}"
            axes.text(j, i - 0.08, decimals(value, 2), ha="center", va="center", color=ink, size=11)
            if paper is not None:
                label = f"[{decimals(paper, 2)}]"
                axes.text(j, i + 0.27, label, ha="center", va="center", color=ink, size=8)
                words += f"; the paper: {decimals(paper, 3)}"
            cell = axes.bar(j, 1, width=1, bottom=i - 0.5, alpha=0)
            drawn.tag(cell[0], words)
    _boxes(drawn, names, clusters)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(f"Cosine similarity on {model}   (in brackets: the paper, Llama-3.1-8B)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return drawn


def _boxes(drawn: Drawn, names: Sequence[str], clusters: Mapping[str, Sequence[str]]) -> None:
    from matplotlib.patches import Rectangle

    for members in clusters.values():
        places = sorted(names.index(m) for m in members if m in names)
        if len(places) > 1 and places[-1] - places[0] == len(places) - 1:
            corner = (places[0] - 0.5, places[0] - 0.5)
            box = Rectangle(
                corner, len(places), len(places), fill=False, linewidth=2.2, color="black"
            )
            drawn.figure.axes[0].add_patch(box)
