"""Figures 4 to 6: what vectors and training do, and the paper's numbers beside this run's."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged
from em_geometry.report import chart
from em_geometry.report.text import layout

STEP_APART = 1.05  # factor between the steps of two trainings, so that intervals can be told apart
DETECTORS = {"A": "own", "B": "one", "C": "k", "D": "unseen_one", "E": "unseen_k"}  # by panel
VERDICTS = ("reproduced", "cannot tell", "differs")  # of claims
UNITS = {"cosine": "cosine", "deg": "angle (degrees)", "percent": "percent"}


def dose_response(metrics: Metrics) -> Any:
    """One panel a vector: margin of misaligned answers gained on the base; words without any."""
    panels = []
    for source in metrics.names("margins:dose"):
        rows = sorted(doses(metrics, source), key=lambda row: row["dose"])
        x = alt.X("dose:Q", title="multiple of the chosen coefficient")
        y = alt.Y("gain:Q", title="margin gained (nats a token)")
        base = chart.data(rows).encode(x=x)
        band = base.mark_area(color=chart.OURS, opacity=0.25).encode(y=alt.Y("low:Q"), y2="high:Q")
        line = base.mark_line(color=chart.OURS, point={"size": 25})
        tooltip = ["dose:Q", "gain:Q", "low:Q", "high:Q", "n:Q"]
        chance = chart.data(at_chance(metrics, source)).mark_point(color=chart.GREY, shape="cross")
        layers = alt.layer(
            chart.rule(0),
            chart.rule(0, "x"),
            band,
            line.encode(y=y, tooltip=tooltip),
            chance.encode(x=x, y=y, tooltip=["dose:Q", "gain:Q"]),
        )
        panels.append(layers.properties(title=source, width=225, height=150))
    if not panels:
        return "No doses in plots/tables/margins.csv."
    return alt.concat(*panels, columns=3).resolve_scale(y="shared")


def doses(metrics: Metrics, source: str) -> Iterator[dict[str, Any]]:
    """What a vector gains by dose, and nothing where there is none."""
    yield {"dose": 0.0, "gain": 0.0, "low": 0.0, "high": 0.0}
    for key, found in metrics.group(f"margins:dose.{source}").items():
        yield {"dose": float(key.replace("_", ".")), "gain": found.value} | chart.ends(found)


def at_chance(metrics: Metrics, source: str) -> list[dict[str, float]]:
    """What random directions of the chosen coefficient gain on average."""
    gain = metrics.value(f"margins:chance.{source}")
    return [] if gain is None else [{"dose": 1.0, "gain": gain}]


def claims(judged: Sequence[Judged]) -> Any:
    """Claims with one published and one measured number, a panel a unit; words without any."""
    panels = []
    for unit, title in UNITS.items():
        rows = claim_rows(judged, unit)
        paper = [{"of": row["of"], "value": row["paper"]} for row in rows]
        scale = alt.Scale(zero=False, padding=10)
        if unit == "cosine":  # no interval may squash the others
            scale = alt.Scale(domain=[-1, 1], clamp=True)
        if rows:
            x = alt.X("value:Q", title=title, scale=scale)
            drawn = chart.dots(rows, VERDICTS, x, paper, apart=False)
            panels.append(drawn.properties(width=350, height=alt.Step(19)))
    return alt.vconcat(*panels) if panels else "No claim's number is measured in this run."


def claim_rows(judged: Sequence[Judged], unit: str) -> list[dict[str, Any]]:
    """What the paper prints and this run measured in a unit, with the verdict: a row a claim."""
    return [
        {"of": f"{row.claim.id}  {row.claim.quantity}", "by": row.verdict_run,
         "paper": row.claim.numbers[0]} | chart.ends(row.measured[0])
        for row in judged
        if row.claim.reads == "equal" and row.claim.unit == unit
        and len(row.measured) == 1 and row.measured[0].value is not None
    ]  # fmt: skip


def monitoring(metrics: Metrics) -> Any:
    """What trainings have beyond benign ones against training steps; words where none has."""
    trained = [n["slug"] for n in metrics.matches("monitoring:{slug}.block")]
    if not trained:
        return metrics.word("monitoring:status") or "No plots/tables/monitoring.csv."
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
        path = f"monitoring:{slug}.checkpoint"
        for at in metrics.names(path):
            found = metrics.estimate(f"{path}.{at}.{of}")
            if found.value is not None:
                step = int(at.removeprefix("step_"))
                row = {"training": slug, "step": step, "at": step * STEP_APART**place}
                yield row | chart.ends(found)
