"""Picture of the observed statistics against what chance gives (`plots/nulls.csv`)."""

from __future__ import annotations

from typing import Any

import polars as pl

from stages.claims.lookup import number
from stages.report.style import COLOURS, GREY, WIDTH, Drawn, empty, marker, new_figure
from stages.report.text import short

MAIN = ("statistic.", "similarity.", "cluster_angle.", "pca.", "pc1_ablation.", "core.")
NULLS = {
    "covariance": "draws with the covariance of the differences",
    "flips": "signs of the differences flipped",
}
ROW = 0.36  # inches
APART = 0.2  # vertical distance between the nulls of one statistic, in rows
TICKS = (-100, -30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30, 100)
LINEAR = 2.0  # distances beyond this are drawn on a logarithmic scale


def distance(value: float, low: float, median: float, high: float) -> float | None:
    """Where `value` lies against a null: 0 at its median, -1 and 1 at the ends of its interval."""
    side = high - median if value >= median else median - low
    return (value - median) / side if side > 0 else None


def draw_nulls(frame: pl.DataFrame, model: str) -> Drawn:
    """One row a statistic, observed value and interval in units of each null's own interval."""
    ends = [f"{null}_{side}" for null in NULLS for side in ("low", "high")]
    rows = [
        row
        for row in frame.to_dicts()
        if str(row["statistic"]).startswith(MAIN) and any(number(row.get(e)) for e in ends)
    ]
    drawn, figure = new_figure(
        "nulls",
        f"Observed values against chance, {model}",
        "Each statistic in units of what chance gives: 0 is the median of the null, the grey band "
        "its 95 % interval. Markers: this run, bars: its bootstrap interval over topics. Beyond "
        "the band chance is an unlikely explanation, in the direction shown; the scale is "
        f"logarithmic beyond {LINEAR:g}.",
        (WIDTH, 1.6 + ROW * max(3, len(rows))),
    )
    if not rows:
        return empty(drawn, "plots/nulls.csv has none of the main statistics.")
    axes = figure.add_subplot()
    axes.axvspan(-1, 1, color="0.9", zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.5)
    for i, (null, label) in enumerate(NULLS.items()):
        shift = APART * (i - (len(NULLS) - 1) / 2)
        for place, row in enumerate(rows):
            _point(drawn, axes, row, null, place + shift, i, label)
        axes.plot([], [], marker(i), color=COLOURS[i], markeredgecolor="black", label=label)
    left, right = axes.get_xlim()
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_xlim(left, right)
    ticks = [t for t in TICKS if left <= t <= right]
    axes.set_xticks(ticks, [short(t) for t in ticks])
    axes.margins(y=0.5 / len(rows))
    axes.set_yticks(range(len(rows)), [_name(str(row["statistic"])) for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="distance from the null's median (1 = end of its 95 % interval)")
    axes.set_title(drawn.title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16 * 6 / len(rows)), ncols=2)
    return drawn


def _point(
    drawn: Drawn, axes: Any, row: dict[str, Any], null: str, y: float, i: int, label: str
) -> None:
    ends = [number(row.get(f"{null}_{part}")) for part in ("low", "median", "high")]
    observed = number(row["observed"])
    if observed is None or any(end is None for end in ends):
        return
    low, median, high = (end for end in ends if end is not None)
    x = distance(observed, low, median, high)
    if x is None:
        return
    bar = [number(row.get(side)) for side in ("low", "high")]
    places = [distance(end, low, median, high) for end in bar if end is not None]
    known = [place for place in places if place is not None]
    if len(known) == 2:
        axes.hlines(y, *known, color=COLOURS[i], linewidth=1)
    (point,) = axes.plot(x, y, marker(i), color=COLOURS[i], markeredgecolor="black")
    p = number(row.get(f"{null}_p"))
    drawn.tag(
        point,
        f"{_name(str(row['statistic']))}: {short(observed)}; {label}: {short(median)} "
        f"[{short(low)}, {short(high)}], p = {short(p, 2)}",
    )


def _name(key: str) -> str:
    """A metric key as a label."""
    words = key.removeprefix("statistic.").removesuffix("_deg").replace("__", " and ")
    return words.replace(".", " ").replace("_", " ")
