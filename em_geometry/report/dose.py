"""Figure 4: misaligned answers against signed dose, one panel for each vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from em_geometry.judging.rates import wilson
from em_geometry.report.chart import GREY, PAPER, Figure, data, message, rule, scale
from em_geometry.settings.params import BASE

OWN, SAME, OTHER, CONTROL = "own model", "same laboratory", "other laboratories", "controls"
GROUPS = (OWN, SAME, OTHER, CONTROL, BASE)
RANDOM = "random directions, all targets"
PANEL, HIGH = 370, 210  # pixels
APART = 0.035  # horizontal distance between groups, in largest doses
LEGEND = {"orient": "bottom", "columns": 3, "symbolOpacity": 1}
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
    "intervals can be told from each other. Faint thin lines: single targets. Random directions "
    "have the same norm. Grey dotted line: share of coherent answers, all targets pooled; where "
    "it is low the misaligned share rests on few answers. Dose 0: unsteered. Red text: transfer "
    "effectiveness that the paper gives for this vector."
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
) -> Figure:
    """One panel a vector.

    Args:
        conditions: `plots/transfer_conditions.csv`, None when it is missing.
        effectiveness: vector -> what the paper says about its transfer.
        labs: model -> laboratory.
        sources: vectors in order.
    """
    import altair as alt

    title = f"Misaligned answers under steering, {model}"
    if conditions is None or conditions.is_empty():
        return message("figure4", title, CAPTION, "No plots/transfer_conditions.csv.")
    table = conditions.with_columns(pl.col(c).cast(kind) for c, kind in COUNTS.items())
    zero = table.filter(pl.col("kind") == "unsteered")
    chance = table.filter(pl.col("kind") == "random")
    panels = []
    for source in sources:
        vector = table.filter((pl.col("source") == source) & (pl.col("kind") == "vector"))
        same = chance.filter(pl.col("source") == source)
        said = effectiveness.get(source)
        heading = alt.Title(
            f"{source} ({labs.get(source, 'external')})",
            subtitle=said or "the paper names no effectiveness",
            subtitleColor=PAPER if said else GREY,
            subtitleFontSize=11,
        )
        groups = {
            target: group_of(source, target, labs, controls)
            for target in table["target"].unique(maintain_order=True)
        }
        panel = _panel(pl.concat([vector, zero]), chance if same.is_empty() else same, groups)
        panels.append(panel.properties(title=heading, width=PANEL, height=HIGH))
    chart = alt.concat(*panels, columns=2).resolve_scale(y="shared")
    return Figure("figure4", title, CAPTION, chart)


def _panel(table: pl.DataFrame, chance: pl.DataFrame, groups: Mapping[str, str]) -> Any:
    import altair as alt

    doses = [abs(dose) for dose in table["relative_dose"].to_list()]
    step = APART * max(*doses, 1e-3)
    singles, pools = [], []
    for target, group in groups.items():
        own = _rows(table.filter(pl.col("target") == target), group, 0.0)
        singles += [row | {"target": target} for row in own]
    for place, group in enumerate(GROUPS):
        members = [target for target, own in groups.items() if own == group]
        shift = (place - (len(GROUPS) - 1) / 2) * step
        pools += _rows(table.filter(pl.col("target").is_in(members)), group, shift)
    coherent = (
        table.filter(pl.col("coherent_pct").is_not_null())
        .group_by(dose=pl.col("relative_dose").round(6))
        .agg(coherent=(pl.col("coherent_pct") * pl.col("n")).sum() / pl.col("n").sum())
        .sort("dose")
    )
    names = [*GROUPS, RANDOM]
    steered = CONTROL in groups.values()  # all panels have the same legend
    legend = LEGEND | {"values": [n for n in names if n != CONTROL or steered]}
    colour = alt.Color("target:N", scale=scale(names), title=None, legend=legend)
    shape = alt.Shape("target:N", scale=scale(names, "shape"), title=None, legend=legend)
    dash = alt.StrokeDash("target:N", scale=scale(names, "dash"), legend=None)
    ticks = sorted({*table["relative_dose"].to_list(), *chance["relative_dose"].to_list()})
    x = alt.X(
        "at:Q",
        title="relative dose (share of the mean residual norm)",
        axis=alt.Axis(values=ticks, format=".3~f", labelOverlap=True),
    )
    y = alt.Y("misaligned:Q", title="answers (%)", scale=alt.Scale(domain=[0, 100]))
    tooltip = [
        *("target:N", "dose:Q", alt.Tooltip("misaligned:Q", format=".0f")),
        *(alt.Tooltip(f"{side}:Q", format=".0f") for side in ("low", "high")),
        alt.Tooltip("n:Q", title="coherent answers"),
    ]
    drawn = pools + _rows(chance, RANDOM, 0.0)
    base = data(drawn).encode(x=x, y=y, color=colour)
    return alt.layer(
        rule(0, "x"),
        data(coherent.to_dicts())
        .mark_line(color=GREY, strokeDash=[1, 3])
        .encode(x="dose:Q", y="coherent:Q"),
        data(singles)
        .mark_line(strokeWidth=0.7, strokeOpacity=0.4)
        .encode(x=x, y=y, detail="target:N", color=alt.Color("group:N", scale=scale(names))),
        base.mark_rule(strokeOpacity=0.7).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.transform_filter(f"datum.target != '{RANDOM}'").mark_line().encode(strokeDash=dash),
        base.mark_point(filled=True, stroke="black").encode(shape=shape, tooltip=tooltip),
    )


def _rows(table: pl.DataFrame, group: str, shift: float) -> list[dict[str, Any]]:
    keys = ("dose", "misaligned", "low", "high", "n")
    rows = [dict(zip(keys, point, strict=True)) for point in pooled(table)]
    return [row | {"at": row["dose"] + shift, "target": group, "group": group} for row in rows]
