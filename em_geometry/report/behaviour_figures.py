"""Figures 4 and 6, and pictures of aspects and prediction: what vectors and training do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from em_geometry.claims.lookup import Metrics
from em_geometry.report.chart import GREY, PAPER, Figure, coded, curves, data, message, rule, scale
from em_geometry.report.tables import layout
from em_geometry.report.text import NONE, decimals
from em_geometry.settings import BASE
from em_geometry.stats.intervals import wilson

OWN, SAME, OTHER, CONTROL = "own model", "same laboratory", "other laboratories", "controls"
GROUPS = (OWN, SAME, OTHER, CONTROL, BASE)
RANDOM = "random directions, all targets"
DOSE_WIDTH, DOSE_HIGH = 370, 210  # pixels
APART = 0.035  # horizontal distance between groups, in largest doses
LEGEND = {"orient": "bottom", "columns": 3, "symbolOpacity": 1}
COUNTS = {
    "n": pl.Int64,
    "n_coherent": pl.Int64,
    "em_betley_pct": pl.Float64,
    "coherent_pct": pl.Float64,
    "relative_dose": pl.Float64,
}
MIX, STEP = "mix_", "step_"
DRAWN = {"A": "own", "B": "one", "C": "k", "D": "unseen_one", "E": "unseen_k"}  # panel -> detector
BEHAVIOUR = "F  Misaligned answers"
TRAINING_WIDTH, TRAINING_HIGH = 215, 170  # pixels
STEP_APART = 1.05  # factor between the steps of two mixtures, so that intervals can be told apart
ROW, COLUMN = 30, 118  # pixels of a cell
PALE = 1.7  # the colours end so far beyond the largest change, so that text can be read on all


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
    rates = []
    for dose, count, n in table.iter_rows():
        low, high = wilson(round(count), n)
        rates.append((dose, 100 * count / n, 100 * float(low), 100 * float(high), n))
    return rates


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
    if conditions is None or conditions.is_empty():
        return message("figure4", model, "No plots/transfer_conditions.csv.")
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
        panels.append(panel.properties(title=heading, width=DOSE_WIDTH, height=DOSE_HIGH))
    chart = alt.concat(*panels, columns=2).resolve_scale(y="shared")
    return Figure("figure4", model, chart)


def _panel(table: pl.DataFrame, chance: pl.DataFrame, groups: Mapping[str, str]) -> Any:
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
    code = coded("target", names, title=None, legend=legend)
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
    bars, line, points = curves(drawn, code, tooltip, x=x, y=y)
    return alt.layer(
        rule(0, "x"),
        data(coherent.to_dicts())
        .mark_line(color=GREY, strokeDash=[1, 3])
        .encode(x="dose:Q", y="coherent:Q"),
        data(singles)
        .mark_line(strokeWidth=0.7, strokeOpacity=0.4)
        .encode(x=x, y=y, detail="target:N", color=alt.Color("group:N", scale=scale(names))),
        bars,
        line.transform_filter(f"datum.target != '{RANDOM}'"),
        points,
    )


def _rows(table: pl.DataFrame, group: str, shift: float) -> list[dict[str, Any]]:
    keys = ("dose", "misaligned", "low", "high", "n")
    rows = [dict(zip(keys, point, strict=True)) for point in pooled(table)]
    return [row | {"at": row["dose"] + shift, "target": group, "group": group} for row in rows]


def draw_monitoring(metrics: Metrics, model: str) -> Figure:
    """Projections and judged rate against training steps, a block of panels an organism."""
    trained = [n["slug"] for n in metrics.matches("monitoring", "{slug}.block")]
    rate = metrics.text("monitoring", "rate")
    if not trained or rate is None:
        why = metrics.text("monitoring", "status") or "No plots/tables/monitoring.csv."
        return message("figure6", model, why)
    words = layout()["words"]["detectors"]
    shown = {n: (f"{letter}  {words[n].capitalize()}", "shift") for letter, n in DRAWN.items()}
    shown[rate] = (BEHAVIOUR, "answers (%)")
    blocks = []
    for slug in trained:
        mixes = [n["mix"] for n in metrics.matches("monitoring", slug + ".{mix}.checkpoint")]
        names = [f"{mix.removeprefix(MIX)} % bad" for mix in mixes]
        code = coded("mixture", names, title=None, legend=alt.Legend(orient="bottom", title=None))
        panels = [
            _course(metrics, slug, mixes, name, code, y_title).properties(
                title=heading, width=TRAINING_WIDTH, height=TRAINING_HIGH
            )
            for name, (heading, y_title) in shown.items()
        ]
        block = metrics.value("monitoring", f"{slug}.block") or 0
        heading = alt.Title(f"{slug}, block {block:.0f}")
        blocks.append(alt.concat(*panels, columns=3).properties(title=heading))
    return Figure("figure6", model, alt.vconcat(*blocks))


def _course(
    metrics: Metrics,
    slug: str,
    mixes: Sequence[str],
    name: str,
    code: Mapping[str, Any],
    y_title: str,
) -> alt.LayerChart:
    """One panel: a detector or the judged rate over the steps, and the controls' range."""
    rows = [
        row for place, mix in enumerate(mixes) for row in _points(metrics, slug, mix, name, place)
    ]
    controls = f"{slug}.controls.{name}"
    rate = metrics.measured("monitoring", controls)
    ends = [metrics.value("monitoring", f"{controls}.{end}") for end in ("lowest", "highest")]
    low, high = (rate.low, rate.high) if rate.low is not None else ends
    band = [] if low is None or high is None else [{"from": low, "to": high}]
    x = alt.X(
        "at:Q",
        title="training steps",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(values=sorted({row["step"] for row in rows}), format="d", grid=False),
    )
    tooltip = ["mixture:N", "step:Q", "value:Q", "low:Q", "high:Q"]
    tooltip += [alt.Tooltip("n:Q", title="answers")]
    grey = data(band).mark_rect(color="#e4e4e4").encode(y="from:Q", y2="to:Q")
    return alt.layer(grey, *curves(rows, code, tooltip, x=x, y=alt.Y("value:Q", title=y_title)))


def _points(
    metrics: Metrics, slug: str, mix: str, name: str, place: int
) -> Iterator[dict[str, Any]]:
    """What a panel shows of one training; a value that is undefined is left out."""
    path = f"{slug}.{mix}.checkpoint"
    for at in metrics.names("monitoring", path):
        of = metrics.measured("monitoring", f"{path}.{at}.{name}")
        if of.value is not None:
            step = int(at.removeprefix(STEP))
            row = {"mixture": f"{mix.removeprefix(MIX)} % bad", "step": step}
            row |= {"at": step * STEP_APART**place, "value": of.value, "low": of.low}
            yield row | {"high": of.high, "n": metrics.value("monitoring", f"{path}.{at}.n")}


def draw_aspects(frame: pl.DataFrame, model: str) -> Figure:
    """Vectors by aspects (`plots/aspects.csv`)."""
    if frame.is_empty():
        return message("aspects_map", model, "No vectors.")
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
    return Figure("aspects_map", model, alt.layer(*layers).properties(**size))


def draw_prediction(frame: pl.DataFrame, model: str) -> Figure:
    """Four panels of `plots/prediction.csv`, one a predictor."""
    if frame.is_empty():
        return message("prediction_scatter", model, "No pairs of organisms.")
    words = layout()["words"]
    sources = frame["source"].unique(maintain_order=True).to_list()
    code = coded("source", sources, title="vector of")
    panels: list[alt.LayerChart] = []
    for predictor, label in words["predictors"].items():
        rows = frame.drop_nulls([predictor, "aligned_drop"]).to_dicts()
        base = data(rows).encode(
            x=alt.X(
                f"{predictor}:Q", title=label, scale=alt.Scale(zero=False, padding=8),
                axis=alt.Axis(tickCount=3, labelOverlap=True),
            ),
            color=code["color"],
        )  # fmt: skip
        y = alt.Y("aligned_drop:Q", title=words["outcomes"]["aligned_drop"] if not panels else None)
        bars = base.mark_rule(opacity=0.45).encode(y="aligned_drop_low:Q", y2="aligned_drop_high:Q")
        tooltip = ["source:N", "target:N", f"{predictor}:Q", "aligned_drop:Q"]
        points = base.mark_point(filled=True, stroke="black", size=45).encode(
            y=y, shape=code["shape"], tooltip=tooltip
        )
        panels.append(alt.layer(rule(0), bars, points).properties(width=165, height=230))
    chart = alt.hconcat(*panels, spacing=18).resolve_scale(y="shared")
    return Figure("prediction_scatter", model, chart)
