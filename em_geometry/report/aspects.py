"""Which vector brings which misbehaviour: a heat map and a table of metrics/aspects.json."""

from __future__ import annotations

import polars as pl

from em_geometry.report.chart import GREY, Figure, data, message
from em_geometry.report.lookup import Metrics
from em_geometry.report.tables import Table, cells
from em_geometry.report.text import NONE, decimals, with_interval

FILE, NAME = "aspects", "aspects_map"
ROW, COLUMN = 30, 118  # pixels of a cell
PALE = 1.7  # the colours end so far beyond the largest change, so that text can be read on all
CAPTION = (
    "Mean change of each aspect's score (0-100) when a vector is added at its chosen coefficient, "
    "against the same models unsteered: mean over all targets [95 % interval over questions]. "
    "Bold: the interval leaves out 0. An aspect without numbers is one whose scores could be "
    "chance on held-out answers. Helpfulness and the first two fall when behaviour gets worse, the "
    "others rise. The judge's scores are drawn to their mean, so true changes are larger."
)


def draw_aspects(frame: pl.DataFrame, model: str) -> Figure:
    """Vectors by aspects (`plots/aspects.csv`)."""
    import altair as alt

    title = f"Which vector brings which misbehaviour? {model}"
    if frame.is_empty():
        return message(NAME, title, CAPTION, "No vectors.")
    rows = []
    for row in frame.to_dicts():
        change, low, high = row["change"], row["low"], row["high"]
        text = "not judged" if row["status"] != "judged" else NONE
        apart = False
        if change is not None:
            text = f"{decimals(change, 1)} [{decimals(low, 0)}, {decimals(high, 0)}]"
            apart = low > 0 or high < 0
        label = row["aspect"].replace("_", " ")
        rows.append(row | {"text": text, "apart": apart, "label": label})
    aspects = list(dict.fromkeys(r["label"] for r in rows))
    sources = list(dict.fromkeys(r["source"] for r in rows))
    reach = max((abs(r["change"]) for r in rows if r["change"] is not None), default=1) or 1
    reach *= PALE
    base = data(rows).encode(
        x=alt.X("label:N", sort=aspects, title=None, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("source:N", sort=sources, title="vector"),
    )
    colour = alt.Scale(scheme="purpleorange", domain=[-reach, reach], domainMid=0, reverse=True)
    boxes = base.transform_filter("datum.change !== null").mark_rect(stroke="white").encode(
        color=alt.Color("change:Q", scale=colour, title="change"),
        tooltip=["source:N", "label:N", "change:Q", "low:Q", "high:Q", "n:Q", "status:N"],
    )  # fmt: skip
    size = {"width": COLUMN * len(aspects), "height": ROW * len(sources)}
    text = base.mark_text(fontSize=11).encode(text="text:N")
    plain = text.transform_filter("datum.change !== null && !datum.apart")
    bold = base.transform_filter("datum.apart").mark_text(fontSize=11, fontWeight="bold")
    grey = base.transform_filter("datum.change === null").mark_text(fontSize=11, color=GREY)
    layers = (boxes, plain, bold.encode(text="text:N"), grey.encode(text="text:N"))
    return Figure(NAME, title, CAPTION, alt.layer(*layers).properties(**size))


def aspects_table(metrics: Metrics) -> Table | None:
    """Change of every judged aspect beyond a random direction."""
    judged = [a for a, said in metrics.group(FILE, "status").items() if said == "judged"]
    part = next((p for p in ("beyond_random", "change") if metrics.group(FILE, p)), "change")
    sources = list(dict.fromkeys(s for a in judged for s in metrics.group(FILE, f"{part}.{a}")))
    if not sources:
        return None
    rows = [
        cells(s, *(with_interval(metrics.measured(FILE, f"{part}.{a}.{s}"), "", 1) for a in judged))
        for s in sources
    ]
    return Table(
        FILE,
        "Change of each aspect beyond that of a random direction of the same norm, in points "
        "[95 % interval over questions], mean over all targets",
        ["vector", *(a.replace("_", " ") for a in judged)],
        rows,
        "One interval in twenty leaves out 0 by chance. By target: pair in metrics/aspects.json.",
    )


def aspects_sentences(metrics: Metrics) -> list[str]:
    """The answers in words, as the stage wrote them."""
    return [str(text).capitalize() for text in metrics.group(FILE, "answer").values()]
