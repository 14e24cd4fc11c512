"""The figure of the claims for print, by matplotlib: files that go into a paper as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib import pyplot

from em_geometry.io.files import atomic_path

FILLS = {"reproduced": "#1b7837", "cannot tell": "white", "differs": "0.4"}  # by verdict
ROW, WIDTH = 0.27, 7.6  # inches of a claim's row, and of the figure
LABEL = 42  # characters of a line beside a row
STYLE = {
    "font.size": 8,
    "ytick.labelsize": 7,
    "svg.hashsalt": "em-geometry",  # the same numbers give the same bytes
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def print_claims(panels: Mapping[str, Sequence[Mapping[str, Any]]], title: str, to: Path) -> None:
    """Writes `<to>.png` and `<to>.svg`.

    Args:
        panels: label of a panel's axis -> rows as `behaviour_figures.claim_rows` gives them.
    """
    matplotlib.use("agg")
    parts = {label: rows for label, rows in panels.items() if rows}
    heights = [len(rows) + 3 for rows in parts.values()] or [3]
    with matplotlib.rc_context(STYLE):
        size = WIDTH, 0.8 + ROW * sum(heights)
        how = {"squeeze": False, "layout": "constrained", "height_ratios": heights}
        figure, axes = pyplot.subplots(len(heights), 1, figsize=size, **how)
        for ax, (label, rows) in zip(axes[:, 0], parts.items(), strict=False):
            _panel(ax, rows)
            ax.set_xlabel(label)
        figure.suptitle(title)
        if parts:
            handles, labels = axes[0, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            with atomic_path(to.with_suffix(f".{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
        pyplot.close(figure)


def _panel(ax: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for y, row in enumerate(rows):
        if row["low"] is not None and row["high"] is not None:
            ax.hlines(y, row["low"], row["high"], color="0.35", lw=1.2)
    for verdict, colour in FILLS.items():
        at = [y for y, row in enumerate(rows) if row["by"] == verdict]
        ax.plot([rows[y]["value"] for y in at], at, "o", ms=4.5, mec="black", mfc=colour,
                label=verdict)  # fmt: skip
    paper = [row["paper"] for row in rows]
    ax.plot(paper, range(len(rows)), "D", ms=4, mec="#b2182b", mfc="none", label="the paper")
    ax.set_yticks(range(len(rows)), [fill(row["of"], LABEL) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="x", lw=0.4, color="0.85")
