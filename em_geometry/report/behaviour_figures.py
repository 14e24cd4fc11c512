"""Figures 4 to 6: what vectors and training do, and the paper's numbers beside this run's."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged
from em_geometry.report import chart
from em_geometry.report.chart import Chart, Panel, Row
from em_geometry.report.text import layout

STEP_APART = 1.05  # factor between the steps of two trainings, so that intervals can be told apart
DETECTORS = {"A": "own", "B": "one", "C": "k", "D": "unseen_one", "E": "unseen_k"}  # by panel
VERDICTS = {  # of claims
    "reproduced": {"color": "#00533c", "marker": "o"},
    "cannot tell": {"color": "#777777", "marker": "o", "mfc": "white"},
    "differs": {"color": "#999999", "marker": "s"},
}
UNITS = {
    "cosine": "cosine (the axis ends where cosines do)",
    "deg": "angle (degrees)",
    "percent": "percent (even steps up to 50, logarithmic beyond)",
}
CLAIM = 0.3  # inches of a claim's line


def dose_response(metrics: Metrics) -> Chart | str:
    """One panel a vector: margin of misaligned answers gained on the base; words without any."""
    panels = [
        Panel(
            sorted(doses(metrics, source), key=lambda row: row["dose"]),
            draw_doses,
            source,
            "dose (1 = the chosen one)",
            "margin gained\n(nats per token)",
            2.1,
        )
        for source in metrics.names("margins:dose")
    ]
    return Chart(panels, 3, alike=True) if panels else "No doses in plots/tables/margins.csv."


def draw_doses(ax: Axes, rows: Sequence[Row]) -> None:
    """The vector's line in the band of its interval, and chance beside it."""
    own = [row for row in rows if row["of"] == "vector"]
    chart.rule(ax, 0)
    chart.rule(ax, 0, "x")
    at = [row["dose"] for row in own]
    low, high = ([row[end] for row in own] for end in ("low", "high"))
    ax.fill_between(at, low, high, color=chart.OURS, alpha=0.25, lw=0, label="95 % interval")
    ax.plot(at, [row["value"] for row in own], color=chart.OURS, lw=1.8)
    for row in rows:
        chance = row["of"] != "vector"
        style = {"marker": "X", "color": "#d0d0d0", "ms": 7.5} if chance else {"color": chart.OURS}
        label = "random directions of the same norm (mean)" if chance else "the vector"
        chart.mark(ax, row["dose"], row["value"], row, **{"marker": "o", "label": label} | style)


def doses(metrics: Metrics, source: str) -> Iterator[dict[str, Any]]:
    """What a vector gains by dose, nothing without one, and random directions at the chosen one."""
    yield {"of": "vector", "dose": 0.0, "value": 0.0, "low": 0.0, "high": 0.0}
    for key, found in metrics.group(f"margins:dose.{source}").items():
        yield {"of": "vector", "dose": float(key.replace("_", "."))} | chart.ends(found)
    if (gain := metrics.value(f"margins:chance.{source}")) is not None:
        yield {"of": "random directions", "dose": 1.0, "value": gain}


def claims(judged: Sequence[Judged]) -> Chart | str:
    """Claims with one published and one measured number, a panel a unit; words without any."""
    panels = []
    for unit, title in UNITS.items():
        if rows := claim_rows(judged, unit):
            draw, height = partial(draw_claims, unit=unit), 0.6 + CLAIM * len(rows)
            panels.append(Panel(rows, draw, "", title, height=height))
    return Chart(panels) if panels else "No claim's number is measured in this run."


def draw_claims(ax: Axes, rows: Sequence[Row], unit: str) -> None:
    """A line a claim; no value may squash the others."""
    chart.dots(ax, rows, VERDICTS, apart=False)
    if unit == "cosine":
        ax.set_xlim(-1.03, 1.03)
    elif unit == "percent":
        ax.set_xscale("symlog", linthresh=50)
        low, high = ax.get_xlim()
        ax.set_xlim(low * (1.25 if low < 0 else 1), high * 1.1)
        chart.ticks(ax, [-300, -100, -50, -25, 0, 25, 50, 100, 300])


def claim_rows(judged: Sequence[Judged], unit: str) -> list[dict[str, Any]]:
    """What the paper prints and this run measured in a unit, with the verdict: a row a claim."""
    return [
        {"of": f"{row.claim.id}  {row.claim.quantity}", "by": row.verdict_run,
         "paper": row.claim.numbers[0]} | chart.ends(row.measured[0])
        for row in judged
        if row.claim.reads == "equal" and row.claim.unit == unit
        and len(row.measured) == 1 and row.measured[0].value is not None
    ]  # fmt: skip


def monitoring(metrics: Metrics) -> Chart | str:
    """What trainings have beyond benign ones against training steps; words where none has."""
    trained = [n["slug"] for n in metrics.matches("monitoring:{slug}.block")]
    if not trained:
        return metrics.word("monitoring:status") or "No plots/tables/monitoring.csv."
    said = layout()["words"]["detectors"]
    shift = "shift beyond benign\n(share of residual norm)"
    shown = {of: (f"{k}  {said[of].capitalize()}", shift) for k, of in DETECTORS.items()}
    shown["margin"] = ("F  Margin of misaligned answers", "margin beyond benign\n(nats per token)")
    draw = partial(draw_course, code=chart.coded(trained))
    panels = [
        Panel(rows, draw, title, "training steps", y)
        for of, (title, y) in shown.items()
        if (rows := [*checkpoints(metrics, trained, of)])  # a detector may be undefined
    ]
    return Chart(panels, 3)


def draw_course(ax: Axes, rows: Sequence[Row], code: chart.Code) -> None:
    """A detector or the margin over the steps, a line a training."""
    chart.rule(ax, 0, label="as benign trainings")
    chart.curves(ax, rows, code)
    ax.set_xscale("log")
    ax.margins(x=0.15)
    chart.ticks(ax, sorted({row["step"] for row in rows}))


def checkpoints(metrics: Metrics, trained: Sequence[str], of: str) -> Iterator[dict[str, Any]]:
    """What a panel shows of the trainings; a value that is undefined is left out."""
    for place, slug in enumerate(trained):
        path = f"monitoring:{slug}.checkpoint"
        for at in metrics.names(path):
            found = metrics.estimate(f"{path}.{at}.{of}")
            if found.value is not None:
                step = int(at.removeprefix("step_"))
                row = {"of": slug, "step": step, "x": step * STEP_APART**place}
                yield row | chart.ends(found)
