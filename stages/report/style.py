"""How figures look and how they are saved: readable in grey, the same bytes at every run."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.artifacts import atomic_path
from stages.report.svg import finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110  # a figure 9 inches wide is 990 pixels
WIDTH = 9.0  # inches
# Okabe and Ito's colours for the colour-blind, in an order whose lightness differs in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 2)))
PAPER_COLOUR = "#B00020"  # of everything that is the paper's
PAPER_MARKER = "D"
GREY = "#666666"
RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.dpi": DPI,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "em-geometry",
}


@dataclass
class Drawn:
    """A figure with what a reader who cannot see it, or points at it, is told.

    Attributes:
        name: file name without ending.
        title: one line, also the accessible name.
        caption: what it shows and how to read it.
        hover: id of an artist -> text shown when the pointer rests on it.
    """

    name: str
    figure: Figure
    title: str
    caption: str
    hover: dict[str, str] = field(default_factory=dict)

    def tag(self, artist: Any, text: str) -> None:
        """Gives `artist` a hover text."""
        key = f"h{len(self.hover)}"
        artist.set_gid(key)
        self.hover[key] = text


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib without a display, with this project's style, restored on leaving."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context(RC):
        yield


def new_figure(
    name: str, title: str, caption: str, size: tuple[float, float]
) -> tuple[Drawn, Figure]:
    """An empty figure (inches) with its description."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return Drawn(name, figure, title, caption), figure


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def line(index: int) -> Any:
    return LINES[index % len(LINES)]


def say_missing(axes: Axes, text: str) -> None:
    """Writes in an empty panel why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True, color=GREY)


def empty(drawn: Drawn, text: str) -> Drawn:
    """A low figure that only says why it is empty."""
    drawn.figure.set_size_inches(WIDTH, 1.2)
    say_missing(drawn.figure.add_subplot(), text)
    return drawn


def by_cluster(names: Sequence[str], clusters: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Name -> position of its cluster; names in no cluster come after all clusters."""
    places = {n: i for i, members in enumerate(clusters.values()) for n in members}
    return {name: places.get(name, len(clusters)) for name in names}


def svg_text(drawn: Drawn) -> str:
    """The figure as SVG, without dates or versions."""
    raw = io.StringIO()
    drawn.figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None})
    return finish(raw.getvalue(), drawn.name, drawn.title, drawn.caption, drawn.hover)


def save_png(drawn: Drawn, path: Path) -> None:
    """Writes the figure as PNG, without versions."""
    with atomic_path(path) as temporary:
        drawn.figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
