"""Figure 1: cosine similarity of the steering vectors, ours with the paper's beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from em_geometry.geometry.gram import Floats
from em_geometry.report.chart import Figure, data, message
from em_geometry.report.lookup import Metrics, number
from em_geometry.report.text import decimals, short

CELL = 92  # pixels
CAPTION = (
    "Cosine similarity between steering vectors (1 = same direction, 0 = at right angles, -1 = "
    "opposite). Large numbers: this run. Numbers in brackets: the paper (Llama-3.1-8B), where it "
    "prints one. Heavy boxes: vectors that the paper puts in one cluster."
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
) -> Figure:
    """The heat map.

    Args:
        found: names and cosines [n, n], None when there are none.
        published: metric key (`cosine.a__b`) -> the paper's value.
        clusters: cluster -> names; boxes are drawn around neighbours of one cluster.
        model: what was measured, for the title.
    """
    import altair as alt

    title = f"Similarity of steering vectors on {model}"
    if found is None:
        return message("figure1", title, CAPTION, "No cosines in metrics/geometry.json.")
    names, gram = found
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
    return Figure(
        "figure1", title, CAPTION, alt.layer(*layers).properties(width=size, height=size * 0.8)
    )


def _boxes(names: Sequence[str], clusters: Mapping[str, Sequence[str]]) -> list[dict[str, int]]:
    """From and to of each cluster whose members stand side by side."""
    found = []
    for members in clusters.values():
        places = sorted(names.index(m) for m in members if m in names)
        if len(places) > 1 and places[-1] - places[0] == len(places) - 1:
            found.append({"from": places[0], "to": places[-1] + 1})
    return found
