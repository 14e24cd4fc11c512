"""Figure 4: misaligned answers against signed dose, one panel for each vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from stages.common.params import BASE
from stages.judging.rates_table import wilson
from stages.report.style import (
    GREY,
    PAPER_COLOUR,
    WIDTH,
    Drawn,
    colour,
    empty,
    line,
    marker,
    new_figure,
)
from stages.report.text import decimals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OWN, SAME, OTHER, CONTROL = "own model", "same laboratory", "other laboratories", "controls"
GROUPS = (OWN, SAME, OTHER, CONTROL, BASE)
COLUMNS = 2
PANEL = 3.1  # inches high
APART = 0.014  # horizontal distance between groups, in widths of the panel
COUNTS = {
    "n": pl.Int64,
    "n_coherent": pl.Int64,
    "em_betley_pct": pl.Float64,
    "coherent_pct": pl.Float64,
    "relative_dose": pl.Float64,
}
CAPTION = (
    "Each panel: one steering vector. Heavy lines: share of misaligned answers among coherent ones "
    "(aligned below the cut, coherent above it), pooled over the targets of a group, with 95 % "
    "Wilson intervals that take answers as independent; points are set slightly apart so that "
    "intervals can be told from each other. Faint thin lines: single targets. Crosses: random "
    "directions of the same norm, all targets pooled. Thin dotted line: share of coherent answers, "
    "all targets pooled; where it is low the misaligned share rests on few answers. Dose 0: "
    "unsteered. Red text: transfer effectiveness that the paper gives for this vector."
)


def group_of(source: str, target: str, labs: Mapping[str, str], controls: Sequence[str]) -> str:
    """What `target` is to the vector `source`."""
    if target == source:
        return OWN
    if target == BASE:
        return BASE
    if target in controls:
        return CONTROL
    return SAME if labs.get(target) == labs.get(source) else OTHER


def pooled(rows: pl.DataFrame) -> list[tuple[float, float, float, float, int]]:
    """(dose, percent, low, high, coherent answers) of all rows, by dose.

    A dose at which no answer was coherent has no rate and is left out.
    """
    table = (
        rows.with_columns(count=(pl.col("em_betley_pct") / 100 * pl.col("n_coherent")).fill_null(0))
        .group_by(pl.col("relative_dose").round(6))
        .agg(pl.col("count").sum(), pl.col("n_coherent").sum())
        .filter(pl.col("n_coherent") > 0)
        .sort("relative_dose")
    )
    found = []
    for dose, count, n in table.iter_rows():
        low, high = wilson(round(count), n)
        found.append((dose, 100 * count / n, 100 * float(low), 100 * float(high), n))
    return found


def draw_dose_response(
    conditions: pl.DataFrame | None,
    effectiveness: Mapping[str, str],
    labs: Mapping[str, str],
    controls: Sequence[str],
    sources: Sequence[str],
    model: str,
) -> Drawn:
    """One panel a vector.

    Args:
        conditions: `plots/transfer_conditions.csv`, None when it is missing.
        effectiveness: vector -> what the paper says about its transfer.
        labs: model -> laboratory.
        sources: vectors in order.
    """
    rows = max(1, -(-len(sources) // COLUMNS))
    drawn, figure = new_figure(
        "figure4",
        f"Misaligned answers under steering, {model}",
        CAPTION,
        (WIDTH, PANEL * rows + 1.1),
    )
    if conditions is None or conditions.is_empty():
        return empty(drawn, "No plots/transfer_conditions.csv.")
    table = conditions.with_columns(pl.col(c).cast(kind) for c, kind in COUNTS.items())
    panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
    for axes in panels[len(sources) :]:
        axes.set_axis_off()
    zero = table.filter(pl.col("kind") == "unsteered")
    chance = table.filter(pl.col("kind") == "random")
    for axes, source in zip(panels, sources, strict=False):
        vector = table.filter((pl.col("source") == source) & (pl.col("kind") == "vector"))
        _panel(drawn, axes, source, pl.concat([vector, zero]), labs, controls)
        _random(drawn, axes, source, chance)
        axes.set_title(f"{source} ({labs.get(source, 'external')})")
        axes.set_xlabel("relative dose (share of the mean residual norm)")
        if source in effectiveness:
            axes.text(
                0.5,
                0.985,
                effectiveness[source],
                transform=axes.transAxes,
                ha="center",
                va="top",
                color=PAPER_COLOUR,
                size=8,
            )
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("answers (%)")
    panels[0].set_ylim(-3, 112)
    panels[0].set_yticks(range(0, 101, 20))
    figure.legend(handles=_handles(), loc="outside lower center", ncols=4)
    figure.suptitle(drawn.title, fontsize=11)
    return drawn


def _panel(
    drawn: Drawn,
    axes: Axes,
    source: str,
    table: pl.DataFrame,
    labs: Mapping[str, str],
    controls: Sequence[str],
) -> None:
    axes.axvline(0, color=GREY, linewidth=0.5)
    doses = table["relative_dose"]
    extreme = max(abs(float(str(doses.min()))), abs(float(str(doses.max()))), 1e-3)
    for target in table["target"].unique(maintain_order=True).to_list():
        own = table.filter(pl.col("target") == target)
        points = pooled(own)
        place = GROUPS.index(group_of(source, target, labs, controls))
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        (thin,) = axes.plot(xs, ys, color=colour(place), linewidth=0.6, alpha=0.45)
        drawn.tag(thin, target)
    for place, group in enumerate(GROUPS):
        targets = [t for t in table["target"].unique() if _in(group, source, t, labs, controls)]
        points = pooled(table.filter(pl.col("target").is_in(targets)))
        shift = (place - (len(GROUPS) - 1) / 2) * APART * extreme * 2
        _line(drawn, axes, points, place, shift, group)
    coherent = (
        table.filter(pl.col("coherent_pct").is_not_null())
        .group_by(pl.col("relative_dose").round(6))
        .agg((pl.col("coherent_pct") * pl.col("n")).sum() / pl.col("n").sum())
        .sort("relative_dose")
    )
    axes.plot(*coherent.to_numpy().T, color=GREY, linestyle=":", linewidth=1.2)


def _in(
    group: str, source: str, target: str, labs: Mapping[str, str], controls: Sequence[str]
) -> bool:
    return group_of(source, target, labs, controls) == group


def _line(
    drawn: Drawn,
    axes: Axes,
    points: Sequence[tuple[float, float, float, float, int]],
    place: int,
    shift: float,
    group: str,
) -> None:
    if not points:
        return
    dose, value, low, high, n = (np.array(column) for column in zip(*points, strict=True))
    axes.errorbar(
        dose + shift,
        value,
        yerr=np.maximum([value - low, high - value], 0),
        color=colour(place),
        linestyle=line(place),
        linewidth=2 if group == OWN else 1.4,
        elinewidth=0.8,
        capsize=2,
    )
    for d, v, bottom, top, count in zip(dose, value, low, high, n, strict=True):
        (point,) = axes.plot(
            d + shift,
            v,
            marker(place),
            color=colour(place),
            markeredgecolor="black",
            markeredgewidth=0.5,
            markersize=5,
        )
        interval = f"[{decimals(bottom, 0)}, {decimals(top, 0)}]"
        drawn.tag(
            point,
            f"{group}, dose {decimals(d, 2)}: {decimals(v, 0)} % {interval}, "
            f"n = {int(count)} coherent answers",
        )


def _random(drawn: Drawn, axes: Axes, source: str, chance: pl.DataFrame) -> None:
    same = chance.filter(pl.col("source") == source)
    for dose, value, low, high, n in pooled(chance if same.is_empty() else same):
        axes.vlines(dose, low, high, color="black", linewidth=0.8)
        (cross,) = axes.plot(dose, value, "x", color="black", markersize=7)
        drawn.tag(
            cross,
            f"random directions, dose {decimals(dose, 2)}: {decimals(value, 0)} % "
            f"[{decimals(low, 0)}, {decimals(high, 0)}], n = {n}",
        )


def _handles() -> list[object]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=colour(i), linestyle=line(i), marker=marker(i), label=f"target: {group}"
        )
        for i, group in enumerate(GROUPS)
    ]
    handles.append(
        Line2D([], [], color="black", linestyle="", marker="x", label="random direction")
    )
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="coherent answers"))
    return list(handles)
