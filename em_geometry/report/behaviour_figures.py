"""Figures 4 to 6: what vectors and training do, and the paper's numbers beside this run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged
from em_geometry.report import chart
from em_geometry.report.text import layout
from em_geometry.settings import BASE, Organism
from em_geometry.stats.intervals import wilson

OWN, SAME, OTHER, CONTROL = "own model", "same laboratory", "other laboratories", "controls"
GROUPS = (OWN, SAME, OTHER, CONTROL, BASE)
RANDOM = "random directions, all targets"
APART = 0.035  # horizontal distance between groups, in largest doses
STEP_APART = 1.05  # factor between the steps of two trainings, so that intervals can be told apart
DETECTORS = {"A": "own", "B": "one", "C": "k", "D": "unseen_one", "E": "unseen_k"}  # by panel
FILLS = {"reproduced": "black", "cannot tell": "lightgrey", "differs": "white"}  # of claims
UNITS = {"cosine": "cosine", "deg": "angle (degrees)", "percent": "percent"}


def group_of(source: str, target: str, organisms: Mapping[str, Organism]) -> str:
    """What `target` is to the vector `source`."""
    if target == source:
        return OWN
    if target == BASE:
        return BASE
    if organisms[target].role == "control":
        return CONTROL
    return SAME if organisms[target].lab == organisms[source].lab else OTHER


def pooled(rows: pl.DataFrame, *by: str) -> pl.DataFrame:
    """`misaligned`, `low`, `high` in percent of n coherent answers, by dose and columns `by`.

    A dose at which no answer was coherent has no rate and is left out.
    """
    found = (
        rows.filter(pl.col("n_coherent") > 0)
        .group_by(*by, dose=pl.col("relative_dose").round(6), maintain_order=True)
        .agg(
            count=(pl.col("em_betley_pct") / 100 * pl.col("n_coherent")).sum(),
            n=pl.col("n_coherent").sum(),
        )
        .sort("dose", maintain_order=True)
    )
    low, high = wilson(found["count"].round(), found["n"])
    rate = 100 * pl.col("count") / pl.col("n")
    return found.with_columns(misaligned=rate, low=100 * low, high=100 * high)


def dose_response(
    conditions: pl.DataFrame | None, said: Mapping[str, str], organisms: Mapping[str, Organism]
) -> Any:
    """One panel a vector; words where there are no conditions.

    Args:
        conditions: `plots/transfer_conditions.csv`, None when it is missing.
        said: vector -> what the paper says about its transfer.
    """
    if conditions is None or conditions.is_empty():
        return "No plots/transfer_conditions.csv."
    table = conditions.with_columns(
        pl.col("em_betley_pct", "coherent_pct", "relative_dose").cast(pl.Float64),
        pl.col("n", "n_coherent").cast(pl.Int64),
    )
    chance = table.filter(kind="random")
    panels = []
    for source in (slug for slug, o in organisms.items() if o.role == "organism"):
        vector = (pl.col("source") == source) & (pl.col("kind") == "vector")
        own = table.filter(vector | (pl.col("kind") == "unsteered"))
        groups = {t: group_of(source, t, organisms) for t in table["target"].unique()}
        same = chance.filter(source=source)
        heading = alt.Title(
            f"{source} ({organisms[source].lab})",
            subtitle=said.get(source, "the paper names no effectiveness"),
            subtitleColor=chart.PAPER if source in said else chart.GREY,
            subtitleFontSize=11,
        )
        panel = one_vector(own, chance if same.is_empty() else same, groups)
        panels.append(panel.properties(title=heading, width=370, height=210))
    return alt.concat(*panels, columns=2).resolve_scale(y="shared")


def one_vector(table: pl.DataFrame, chance: pl.DataFrame, groups: Mapping[str, str]) -> Any:
    """The panel of one vector: targets, groups of them, random directions, coherent answers."""
    table = table.with_columns(group=pl.col("target").replace(groups))
    step = APART * max([1e-3, *table["relative_dose"].abs()])
    places = {group: (i - (len(GROUPS) - 1) / 2) * step for i, group in enumerate(GROUPS)}
    everything = pl.concat([table, chance.with_columns(group=pl.lit(RANDOM))])
    pools = pooled(everything, "group").with_columns(
        at=pl.col("dose") + pl.col("group").replace_strict(places, default=0.0)
    )
    coherent = table.drop_nulls("coherent_pct").group_by(dose="relative_dose").agg(
        coherent=(pl.col("coherent_pct") * pl.col("n")).sum() / pl.col("n").sum()
    )  # fmt: skip
    steered = CONTROL in groups.values()  # all panels have the same legend
    shown = [name for name in (*GROUPS, RANDOM) if name != CONTROL or steered]
    legend: dict[str, Any] = {"title": None, "orient": "bottom", "columns": 3, "values": shown}
    code = chart.coded("group", [*GROUPS, RANDOM], **legend, symbolOpacity=1)
    ticks = sorted({*everything["relative_dose"]})
    x = alt.X(
        "at:Q",
        title="relative dose (share of the mean residual norm)",
        axis=alt.Axis(values=ticks, format=".3~f", labelOverlap=True),
    )
    y = alt.Y("misaligned:Q", title="answers (%)", scale=alt.Scale(domain=[0, 100]))
    rates = [alt.Tooltip(f"{column}:Q", format=".0f") for column in ("misaligned", "low", "high")]
    tooltip = ["group:N", "dose:Q", *rates, alt.Tooltip("n:Q", title="coherent answers")]
    single = chart.data(pooled(table, "target", "group"))
    thin = single.mark_line(strokeWidth=0.7, strokeOpacity=0.4)
    dotted = chart.data(coherent.sort("dose")).mark_line(color=chart.GREY, strokeDash=[1, 3])
    return alt.layer(
        chart.rule(0, "x"),
        dotted.encode(x="dose:Q", y="coherent:Q"),
        thin.encode(x="dose:Q", y=y, detail="target:N", color=code["color"]),
        chart.curves(pools, code, tooltip, x=x, y=y),
    )


def claim_rows(judged: Sequence[Judged], unit: str) -> list[dict[str, Any]]:
    """Claims in one unit with one published and one measured number, a row each."""
    single = [row for row in judged if row.claim.reads == "equal" and len(row.measured) == 1]
    return [
        {"claim": f"{row.claim.quantity}  {row.claim.id}", "this run": m.value, "low": m.low,
         "high": m.high, "the paper": row.claim.numbers[0],
         "verdict": row.verdict_run}
        for row in single
        for m in row.measured
        if row.claim.unit == unit and m.value is not None
    ]  # fmt: skip


def claims(judged: Sequence[Judged]) -> Any:
    """A panel a unit of what `claim_rows` gives; words where it gives nothing."""
    panels = []
    for unit, title in UNITS.items():
        rows = claim_rows(judged, unit)
        base = chart.data(rows)
        order = alt.Scale(domain=[row["claim"] for row in rows])
        y = alt.Y("claim:N", scale=order, title=None, axis=alt.Axis(grid=True))
        x = alt.X("this run:Q", title=title, scale=alt.Scale(zero=False, padding=10))
        at = {"y": y, "tooltip": ["claim:N", "this run:Q", "low:Q", "high:Q", "the paper:Q"]}
        fill = alt.Scale(domain=[*FILLS], range=[*FILLS.values()])
        shade = alt.Fill("verdict:N", scale=fill, title="this run")
        ends = base.transform_filter(chart.INTERVAL).mark_rule(strokeWidth=1.3)
        dots = base.mark_point(shape="circle", stroke="black", size=55, strokeWidth=1.3)
        layers = alt.layer(
            ends.encode(y=y, x=alt.X("low:Q"), x2="high:Q"),
            chart.diamonds(rows, x="the paper:Q", **at),
            dots.encode(x=x, fill=shade, **at),
        )
        panels += [layers.properties(width=380, height=alt.Step(19))] if rows else []
    return alt.vconcat(*panels) if panels else "No claim's number is measured in this run."


def monitoring(metrics: Metrics) -> Any:
    """What trainings have beyond benign ones against training steps; words where none has."""
    trained = [n["slug"] for n in metrics.matches("monitoring", "{slug}.block")]
    if not trained:
        return metrics.text("monitoring", "status") or "No plots/tables/monitoring.csv."
    said = layout()["words"]["detectors"]
    shown = {of: (f"{k}  {said[of].capitalize()}", "shift") for k, of in DETECTORS.items()}
    shown["margin"] = ("F  Margin of misaligned answers", "nats a token")
    panels = [
        course(metrics, trained, of, title).properties(title=heading, width=215, height=170)
        for of, (heading, title) in shown.items()
    ]
    return alt.concat(*panels, columns=3)


def course(metrics: Metrics, trained: Sequence[str], of: str, title: str) -> Any:
    """One panel: a detector or the margin over the steps, a line a training."""
    rows = list(checkpoints(metrics, trained, of))
    x = alt.X(
        "at:Q",
        title="training steps",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(values=sorted({row["step"] for row in rows}), format="d", grid=False),
    )
    code = chart.coded("training", trained, title=None, orient="bottom")
    tooltip = ["training:N", "step:Q", "value:Q", "low:Q", "high:Q", "n:Q"]
    curves = chart.curves(rows, code, tooltip, x=x, y=alt.Y("value:Q", title=title))
    return alt.layer(chart.rule(0), curves)


def checkpoints(metrics: Metrics, trained: Sequence[str], of: str) -> Iterator[dict[str, Any]]:
    """What a panel shows of the trainings; a value that is undefined is left out."""
    for place, slug in enumerate(trained):
        path = f"{slug}.checkpoint"
        for at in metrics.names("monitoring", path):
            found = metrics.measured("monitoring", f"{path}.{at}.{of}")
            if found.value is not None:
                step = int(at.removeprefix("step_"))
                row = {"training": slug, "step": step, "at": step * STEP_APART**place}
                yield row | {"value": found.value, "low": found.low, "high": found.high,
                             "n": found.n}  # fmt: skip
