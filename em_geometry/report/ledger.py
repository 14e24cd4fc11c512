"""Figure 5: every number of the paper that this run measures too, side by side, in matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot

from em_geometry.claims.verdict import Judged
from em_geometry.io.files import atomic_path

UNITS = {"cosine": "cosine", "deg": "angle (degrees)", "percent": "percent"}
FORMATS = ("png", "svg")
ROW, WIDTH = 0.23, 5.4  # inches of a claim's row and of a panel
QUANTITY = 44  # characters of a claim's description beside its row
STYLE = {
    "font.size": 8,
    "svg.hashsalt": "em-geometry",  # the same numbers give the same bytes
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def panels(claims: Sequence[Judged]) -> dict[str, list[Judged]]:
    """Claims with one published and one measured number, by unit."""
    single = [
        c
        for c in claims
        if c.claim.reads == "equal" and len(c.measured) == 1 and c.measured[0].value is not None
    ]
    parts = {unit: [c for c in single if c.claim.unit == unit] for unit in UNITS}
    return {unit: rows for unit, rows in parts.items() if rows}


def draw_ledger(claims: Sequence[Judged], model: str, folder: Path) -> list[Path]:
    """Writes `figure5.png` and `figure5.svg`; returns the paths.

    Args:
        claims: judged ones.
        model: name of the measured base model.
    """
    matplotlib.use("agg")
    parts = panels(claims)
    tallest = max((len(rows) for rows in parts.values()), default=1)
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            1, max(1, len(parts)), squeeze=False, layout="constrained",
            figsize=(WIDTH * max(1, len(parts)), 1.3 + ROW * tallest),
        )  # fmt: skip
        for ax, (unit, rows) in zip(axes[0], parts.items(), strict=False):
            _panel(ax, rows, UNITS[unit], tallest)
        figure.suptitle(f"The paper's numbers (Llama-3.1-8B) beside this run's ({model})")
        if parts:
            handles, labels = axes[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return [_save(figure, folder / f"figure5.{kind}") for kind in FORMATS]


def _panel(ax: Any, rows: Sequence[Judged], label: str, tallest: int) -> None:
    y = np.arange(len(rows))
    measured = [row.measured[0] for row in rows]
    ours, low, high = (
        np.array([getattr(m, side) for m in measured], dtype=float)
        for side in ("value", "low", "high")
    )
    known = ~(np.isnan(low) | np.isnan(high))
    ax.hlines(y[known], low[known], high[known], color="0.35", lw=1.2)
    agrees = np.array([row.verdict_run == "reproduced" for row in rows])
    for chosen, fill, name in (
        (agrees, "black", "this run, agrees"),
        (~agrees, "white", "this run"),
    ):
        ax.plot(ours[chosen], y[chosen], "o", ms=4.5, mec="black", mfc=fill, label=name)
    published = [row.claim.numbers[0] for row in rows]
    ax.plot(published, y, "D", ms=4, mec="#b2182b", mfc="none", label="published")
    ax.set_yticks(y, [f"{_short(row.claim.quantity)}  {row.claim.id}" for row in rows])
    ax.set_ylim(tallest - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.grid(axis="x", lw=0.4, color="0.85")


def _short(text: str) -> str:
    return text if len(text) <= QUANTITY else text[: QUANTITY - 1].rstrip() + "\u2026"


def _save(figure: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(temporary, format=path.suffix[1:], dpi=140, metadata=metadata)
    return path
