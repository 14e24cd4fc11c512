"""Figure 5: every number of the paper that this run measures too, side by side, in matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_geometry.io.atomic import atomic_path

if TYPE_CHECKING:
    import polars as pl

UNITS = {"cosine": "cosine", "deg": "angle (degrees)", "percent": "percent"}
FORMATS = ("png", "svg")
ROW, WIDTH = 0.23, 5.4  # inches of a claim's row and of a panel
AGREES = "reproduced"
QUANTITY = 44  # characters of a claim's description beside its row
STYLE = {
    "font.size": 8,
    "svg.hashsalt": "em-geometry",  # the same numbers give the same bytes
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def panels(claims: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Claims with a published and a measured number, by unit."""
    import polars as pl

    numbers = claims.with_columns(
        pl.col("published", "ours", "low", "high").cast(pl.Float64, strict=False)
    ).drop_nulls(["published", "ours"])
    found = {unit: numbers.filter(pl.col("unit") == unit) for unit in UNITS}
    return {unit: rows for unit, rows in found.items() if len(rows)}


def draw_ledger(claims: pl.DataFrame, model: str, folder: Path) -> list[Path]:
    """Writes `figure5.png` and `figure5.svg`; returns the paths.

    Args:
        claims: the table `plots/claims.csv`.
        model: name of the measured base model.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

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


def _panel(ax: Any, rows: pl.DataFrame, label: str, tallest: int) -> None:
    y = np.arange(len(rows))
    ours, low, high = (rows[c].to_numpy() for c in ("ours", "low", "high"))
    known = ~(np.isnan(low) | np.isnan(high))
    ax.hlines(y[known], low[known], high[known], color="0.35", lw=1.2)
    agrees = (rows["verdict_run"] == AGREES).to_numpy()
    for chosen, fill, name in (
        (agrees, "black", "this run, agrees"),
        (~agrees, "white", "this run"),
    ):
        ax.plot(ours[chosen], y[chosen], "o", ms=4.5, mec="black", mfc=fill, label=name)
    ax.plot(rows["published"], y, "D", ms=4, mec="#b2182b", mfc="none", label="published")
    ax.set_yticks(y, _labels(rows["id"].to_list(), rows["quantity"].to_list()))
    ax.set_ylim(tallest - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.grid(axis="x", lw=0.4, color="0.85")


def _labels(ids: Sequence[str], quantities: Sequence[str]) -> list[str]:
    short = (q if len(q) <= QUANTITY else q[: QUANTITY - 1].rstrip() + "\u2026" for q in quantities)
    return [f"{text}  {name}" for name, text in zip(ids, short, strict=True)]


def _save(figure: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(temporary, format=path.suffix[1:], dpi=140, metadata=metadata)
    return path
