"""Pictures of wide tables: one line a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl

from stages.report.style import WIDTH, Drawn, colour, line, marker, new_figure, say_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DENSE = 25  # points from which not every one has a marker
INDEPENDENT, CROSSES, ALL = "_independent", "_crosses_5pct", "all_five"


def draw_lines(drawn: Drawn, axes: Axes, frame: pl.DataFrame, columns: Mapping[str, str]) -> None:
    """Draws columns against the first one; empty cells are gaps.

    Args:
        columns: column -> its label.
    """
    x = frame.to_series(0).cast(pl.Float64).to_numpy()
    for i, (column, label) in enumerate(columns.items()):
        (curve,) = axes.plot(
            x,
            frame[column].cast(pl.Float64).to_numpy(),
            color=colour(i),
            linestyle=line(i),
            marker=marker(i),
            markevery=1 + len(x) // DENSE,
            markersize=5,
            label=label,
        )
        drawn.tag(curve, label)
    if not columns:
        say_missing(axes, "The table has no columns to draw.")


def draw_layer_trace(frame: pl.DataFrame, model: str) -> Drawn:
    """Angles between clusters at every block (`plots/layer_trace.csv`)."""
    drawn, figure = new_figure(
        "layer_trace",
        f"Angles between clusters by layer, {model}",
        "Angle between the mean directions of each two clusters when all vectors are taken at one "
        "block. Dotted line: a right angle.",
        (WIDTH, 3.6),
    )
    axes = figure.add_subplot()
    columns = {
        c: c.replace("__", " and ") for c in frame.columns[1:] if frame[c].dtype.is_numeric()
    }
    draw_lines(drawn, axes, frame, columns)
    axes.axhline(90, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="decoder block (0 = first)", ylabel="angle (degrees)", title=drawn.title)
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return drawn


def draw_layer_sweep(frame: pl.DataFrame, model: str) -> Drawn:
    """What each vector does to the base at every layer tried (`plots/layer_sweep.csv`)."""
    drawn, figure = new_figure(
        "layer_sweep",
        f"Choice of the layer, {model}",
        "How much adding a vector to the base at one block, at the trial's relative dose, raises "
        "the log-probability of misaligned reference answers over aligned ones, on questions that "
        "are used for nothing else.",
        (WIDTH, 3.6),
    )
    axes = figure.add_subplot()
    draw_lines(drawn, axes, frame, {c: c for c in frame.columns[1:] if frame[c].dtype.is_numeric()})
    axes.axhline(0, color="black", linestyle=":", linewidth=1)
    axes.set(xlabel="decoder block (0 = first)", ylabel="margin gained (nats)", title=drawn.title)
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return drawn


def draw_power(frame: pl.DataFrame, model: str) -> Drawn:
    """How often the tests speak for independence under a common core (`plots/power.csv`)."""
    drawn, figure = new_figure(
        "power",
        f"Can the tests see a common core? {model}",
        "Simulated vectors with the tightness of the observed clusters and a common core of the "
        "given share of the variance. A: how often each test, by the paper's threshold, still "
        "says that the directions are independent; a test that can see the core falls to 0. B: "
        "how often each statistic crosses the value that 5 % of independent draws cross. Grey: "
        "cores that the observed clusters could not hold without being tighter.",
        (WIDTH, 4.4),
    )
    left, right = figure.subplots(1, 2, sharey=True)
    names = {c: _label(c) for c in frame.columns}
    paper = {c: n for c, n in names.items() if c.endswith(INDEPENDENT) or c == ALL}
    draw_lines(drawn, left, frame, paper)
    draw_lines(drawn, right, frame, {c: n for c, n in names.items() if c.endswith(CROSSES)})
    right.axhline(0.05, color="black", linestyle=":", linewidth=1)
    tighter = frame.filter(pl.col("tighter_clusters") == 1)["share"]
    for axes, title in (
        (left, "A  The paper's rule says independent"),
        (right, "B  Sees the core, at 5 % false alarms"),
    ):
        if len(tighter):
            axes.axvspan(tighter[0], tighter[-1], color="0.92", zorder=0)
        axes.set(xlabel="common core (share of the variance)", title=title, ylim=(-0.03, 1.03))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    left.set_ylabel("share of simulated draws")
    return drawn


def _label(column: str) -> str:
    name = column.removesuffix(INDEPENDENT).removesuffix(CROSSES)
    if name.startswith("test"):
        return f"test {name[4:]}"
    return {"cross_mean": "mean cosine across clusters", ALL: "all five at once"}.get(name, name)
