"""Figure 5 for print, by matplotlib: every number of the paper that this run measures too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from em_geometry.io.files import atomic_path
from em_geometry.report.behaviour_figures import FILLS

FORMATS = ("png", "svg")
ROW, WIDTH = 0.23, 5.4  # inches of a claim's row and of a panel
LABEL = 48  # characters of a claim's description beside its row
STYLE = {
    "font.size": 8,
    "svg.hashsalt": "em-geometry",  # the same numbers give the same bytes
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def print_claims(panels: Mapping[str, Sequence[Mapping[str, Any]]], title: str, to: Path) -> None:
    """Writes `<to>.png` and `<to>.svg`.

    Args:
        panels: label of a panel's axis -> rows as `claim_rows` gives them.
    """
    matplotlib.use("agg")
    parts = {label: rows for label, rows in panels.items() if rows}
    tallest = max(map(len, parts.values()), default=1)
    with matplotlib.rc_context(STYLE):
        size = WIDTH * max(1, len(parts)), 1.3 + ROW * tallest
        figure, axes = pyplot.subplots(
            1, max(1, len(parts)), squeeze=False, layout="constrained", figsize=size
        )
        for ax, (label, rows) in zip(axes[0], parts.items(), strict=False):
            _panel(ax, rows, tallest)
            ax.set_xlabel(label)
        figure.suptitle(title)
        if parts:
            handles, labels = axes[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        for kind, metadata in zip(FORMATS, ({"Software": None}, {"Date": None}), strict=True):
            with atomic_path(to.with_suffix(f".{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=140, metadata=metadata)
        pyplot.close(figure)


def _panel(ax: Any, rows: Sequence[Mapping[str, Any]], tallest: int) -> None:
    for y, row in enumerate(rows):
        if row["low"] is not None and row["high"] is not None:
            ax.hlines(y, row["low"], row["high"], color="0.35", lw=1.2)
    for verdict, fill in FILLS.items():
        at = [y for y, row in enumerate(rows) if row["verdict"] == verdict]
        ax.plot(
            [rows[y]["this run"] for y in at], at, "o", ms=4.5, mec="black", mfc=fill, label=verdict
        )
    published = [row["the paper"] for row in rows]
    ax.plot(published, range(len(rows)), "D", ms=4, mec="#b2182b", mfc="none", label="published")
    ax.set_yticks(range(len(rows)), [_short(row["claim"]) for row in rows])
    ax.set_ylim(tallest - 0.5, -0.5)
    ax.grid(axis="x", lw=0.4, color="0.85")


def _short(text: str) -> str:
    """A claim's words, cut where they are too long, and its id."""
    words, _, name = text.rpartition("  ")
    return text if len(text) <= LABEL else f"{words[: LABEL - 8].rstrip()}\u2026  {name}"
