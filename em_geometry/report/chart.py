"""How figures look, and the marks they share; drawn by Matplotlib as SVG, PNG and PDF.

A chart is data: panels of rows, and what puts the rows on axes. Files and page show one drawing of
it; on the page a mark tells its row to the pointer. The same inputs give the same bytes.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from textwrap import fill
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Sheet
from matplotlib.patches import Rectangle

from em_geometry.io.tables import csv_text
from em_geometry.report.text import decimals, short, words
from em_geometry.stats.estimate import Estimate

Row = Mapping[str, Any]
Style = dict[str, Any]
Code = Mapping[str, Style]  # what is told apart -> style of its marks
WIDTH, TITLE, LEGEND = 8.3, 0.4, 0.22  # inches: 830 pixels in README; of the title, of a line
LABEL, ACROSS = 50, 74  # characters of a line beside a row, and of titles side by side
# Kind of file -> what would differ between runs, left out.
FILES = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
# Okabe and Ito's colours for the colour-blind, in an order whose lightness differs in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1.5, 1.5)), (0, (9, 2)),
                           (0, (9, 2, 1, 2, 1, 2)))  # fmt: skip
OURS, RED, GREY, PALE = "#0072B2", "#B00020", "#666666", "#e8e8e8"
PAPER = "the paper (Llama-3.1-8B)"
DOTTED: Style = {"color": GREY, "lw": 1, "ls": ":", "zorder": 1}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.use_mathtext": False,
    "grid.color": "#eaeaea",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.markersize": 6,
    "lines.markeredgecolor": "black",
    "lines.markeredgewidth": 0.6,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
MARK = "mark:"  # before what a mark tells, in the name of its group
FINE = re.compile(r"(\.\d\d)\d+")  # fractions of a hundredth of a point


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its table, and how that is drawn."""

    rows: Sequence[Row]
    draw: Callable[[Axes, Sequence[Row]], None]
    title: str = ""
    x: str = ""  # titles of the axes, with units
    y: str = ""
    height: float = 2.4  # inches


@dataclass(frozen=True)
class Chart:
    """Panels in rows of `columns`, with one legend for all or one below each."""

    panels: Sequence[Panel]
    columns: int = 1
    legends: bool = False
    alike: bool = False  # one range of values for all


@dataclass(frozen=True)
class Figure:
    """A chart, or why there is none, with what a reader who cannot see it is told."""

    name: str  # of its file, without ending
    title: str  # one line, also the accessible name
    lay: str  # what it shows, for readers from outside the field
    caption: str  # how to read it
    section: str  # of the page
    chart: Chart | str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table behind the figure, a row a mark."""
        panels = [] if isinstance(self.chart, str) else self.chart.panels
        return [{"panel": p.title} | dict(row) for p in panels for row in p.rows]

    @property
    def csv(self) -> str:
        """That table as CSV."""
        header = list(dict.fromkeys(key for row in self.rows for key in row))
        return csv_text(header, ([row.get(key) for key in header] for row in self.rows))

    @cached_property
    def sheet(self) -> Sheet:
        """The drawing, everything in its place."""
        if isinstance(self.chart, str):
            sheet = Sheet(figsize=(WIDTH, 1), layout="constrained")
            sheet.text(0.01, 0.3, self.chart, color=GREY)
        else:
            sheet = drawn(self.chart)
        sheet.suptitle(fill(self.title, 90), x=0.005, ha="left", weight="bold", size=11)
        sheet.draw_without_rendering()  # places everything, once for all kinds of files
        sheet.set_layout_engine("none")
        return sheet

    def file(self, kind: str) -> bytes:
        """The figure as one of `FILES`."""
        with rc_context(STYLE | {"svg.hashsalt": self.name}), BytesIO() as out:
            self.sheet.savefig(out, format=kind, metadata=FILES[kind])
            return out.getvalue()

    @cached_property
    def svg(self) -> str:
        """The SVG, with title and caption for screen readers, and what each mark tells."""
        text = self.file("svg").decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'<(\w+) id="[\w.]+_\d+"', r"<\1", text)  # the same in every drawing
        said = r'role="graphics-symbol" aria-label=\1\2\1'
        text = re.sub(rf"id=([\"']){MARK}(.*?)\1", said, text)
        text = re.sub(r' (?:d|transform|x|y)="[^"]*"', lambda m: FINE.sub(r"\1", m[0]), text)
        told = f"<title>{escape(self.title)}</title><desc>{escape(self.caption)}</desc>"
        return re.sub(r"<svg ([^>]*)>", rf'<svg role="img" \g<1>>{told}', text, count=1)


def figure(name: str, model: str, chart: Chart | str) -> Figure:
    """A chart, or the words that say why there is none, with its title and captions.

    Args:
        name: key of `page/figures.yaml`.
        model: what was measured.
    """
    about = words("figures.yaml")[name]
    title = f"Figure {name.removeprefix('figure')}. {about['title'].format(model=model)}"
    return Figure(name, title, about["lay"], about["caption"], about["section"], chart)


def drawn(chart: Chart) -> Sheet:
    """The panels on a sheet, without a title."""
    panels, columns = chart.panels, min(chart.columns, len(chart.panels))
    heights = [
        max(panel.height for panel in panels[i : i + columns])
        for i in range(0, len(panels), columns)
    ]
    with rc_context(STYLE):
        sheet = Sheet(figsize=(WIDTH, sum(heights) + TITLE), layout="constrained")
        how: Style = {"squeeze": False, "height_ratios": heights, "sharey": chart.alike}
        grid = sheet.subplots(len(heights), columns, **how)
        every, handles = [*grid.flat], dict[str, Any]()
        for ax, panel in zip(every, panels, strict=False):
            panel.draw(ax, panel.rows)
            ax.set(title=fill(panel.title, ACROSS // columns), xlabel=panel.x, ylabel=panel.y)
            own = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
            if chart.legends and own:
                below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.17)}
                ax.legend([*own.values()], [*own], ncols=1 + (len(own) > 5), **below)
            handles |= own
        spare = every[len(panels) :]
        for ax in spare:
            ax.axis("off")
        if handles and not chart.legends:
            where: Style = {"loc": "center"}
            if not spare:
                ncols = max(1, min(6, 100 // (max(map(len, handles)) + 8)))
                where = {"loc": "outside lower center", "ncols": ncols}
                sheet.set_figheight(sheet.get_figheight() - LEGEND * (-len(handles) // ncols))
            (spare[0] if spare else sheet).legend([*handles.values()], [*handles], **where)
    return sheet


def tell(artist: Artist, row: Row) -> None:
    """What a mark shows to the pointer: its row."""
    shown = {k: short(v) if isinstance(v, float) else v for k, v in row.items() if v is not None}
    artist.set_gid(MARK + "; ".join(f"{key}: {value}" for key, value in shown.items()))


def coded(values: Sequence[str], grey: Collection[str] = ()) -> Code:
    """Colour, marker and dash that tell values apart.

    Args:
        grey: values without a colour of their own.
    """
    return {
        value: {
            "color": "#9a9a9a" if value in grey else COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "ls": DASHES[i % len(DASHES)],
        }
        for i, value in enumerate(values)
    }


def mark(ax: Axes, x: Any, y: Any, row: Row, **style: Any) -> None:
    """One point that tells its row."""
    tell(ax.plot([x], [y], **style | {"ls": ""})[0], row)


def paper_mark(ax: Axes, x: Any, y: Any, row: Row, said: str = "", side: int = 1) -> None:
    """A value of the paper: an open red diamond, with words beside it.

    Args:
        side: 1 = to the right, -1 = to the left.
    """
    ax.plot([x], [y], "D", ms=7, mfc="white", mec=RED, mew=1.6, label=PAPER, zorder=4)
    tell(ax.lines[-1], row)
    if said:
        where: Style = {"xytext": (7 * side, 0), "textcoords": "offset points", "va": "center"}
        under = {"fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.8}
        align = "left" if side > 0 else "right"
        ax.annotate(said, (x, y), color=RED, size=8, ha=align, bbox=under, zorder=5, **where)


def dots(
    ax: Axes, rows: Sequence[Row], code: Code, apart: bool = True, named: bool = False
) -> None:
    """Values with their intervals, a line a thing.

    Args:
        rows: `of` (the thing), `by` (its variant), `value`, `low`, `high`, and the `paper`'s.
        code: of the variants, in order.
        apart: variants of one thing lie under each other.
        named: the paper's values stand beside their marks.
    """
    things, variants = list(dict.fromkeys(row["of"] for row in rows)), list(code)
    for row in rows:
        place = things.index(row["of"])
        step = variants.index(row["by"]) - (len(variants) - 1) / 2
        y, style = place + apart * step * 0.8 / len(variants), code[row["by"]]
        if row["low"] is not None and row["high"] is not None:
            ax.hlines(y, row["low"], row["high"], color=style["color"], lw=1.8)
        mark(ax, row["value"], y, row, label=row["by"], **style)
        if (paper := row.get("paper")) is not None:
            paper_mark(ax, paper, place, row, short(paper) if named else "")
    ax.set_yticks(range(len(things)), [fill(thing, LABEL) for thing in things], size=8.5)
    ax.set_ylim(len(things) - 0.5, -0.5)
    ax.grid(visible=False, axis="y")


def curves(ax: Axes, rows: Sequence[Row], code: Code, every: int = 1) -> None:
    """Lines through points, a line a value of `of`.

    Args:
        rows: `of`, `x`, `value`, and where they are known `low` and `high`.
        every: so many points have one marker.
    """
    for i, (of, style) in enumerate(code.items()):
        own = [row for row in rows if row["of"] == of and row["value"] is not None]
        bare = style | {"marker": ""}
        ax.plot([row["x"] for row in own], [row["value"] for row in own], lw=1.6, **bare)
        ax.plot([], [], label=of, **style)
        for row in own:
            if row.get("low") is not None and row.get("high") is not None:
                ax.vlines(row["x"], row["low"], row["high"], color=style["color"], lw=1.2)
        for row in own[i % every :: every]:
            mark(ax, row["x"], row["value"], row, **style)


def heat(
    ax: Axes, rows: Sequence[Row], scale: tuple[float, float], digits: int, bar: str = ""
) -> None:
    """A matrix of numbers on a scale from red to blue.

    Args:
        rows: `of` (the line), `across`, `value`, and the `paper`'s, which stands in brackets.
        scale: values that are red and blue.
        bar: what the colours mean, beside a bar of them.
    """
    lines, places = (list(dict.fromkeys(row[key] for row in rows)) for key in ("of", "across"))
    colours = ScalarMappable(
        Normalize(min(scale), max(scale)), "RdBu" if scale[0] < scale[1] else "RdBu_r"
    )
    for row in rows:
        x, y = places.index(row["across"]), lines.index(row["of"])
        fill_colour = colours.to_rgba(row["value"])
        cell = Rectangle((x - 0.5, y - 0.5), 1, 1, fc=fill_colour, ec="white")
        tell(ax.add_patch(cell), row)
        paper = "" if row.get("paper") is None else f"\n[{short(row['paper'])}]"
        ink = "white" if np.dot(fill_colour[:3], (0.3, 0.59, 0.11)) < 0.45 else "black"
        said = decimals(row["value"], digits) + paper
        ax.text(x, y, said, ha="center", va="center", color=ink, size=8.5).set_gid(cell.get_gid())
    ax.set_xticks(range(len(places)), places)
    ax.set_yticks(range(len(lines)), lines)
    ax.set(xlim=(-0.5, len(places) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    ax.grid(visible=False)
    ax.tick_params(length=0)
    if bar:
        ax.figure.colorbar(colours, ax=ax, label=bar, shrink=0.8)


def box(ax: Axes, corner: tuple[float, float], width: float, height: float, label: str) -> None:
    """A heavy frame around cells, from their upper left one."""
    x, y = corner
    frame: Style = {"fc": "none", "ec": "black", "lw": 2.2, "zorder": 5, "clip_on": False}
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, label=label, **frame))


def ticks(ax: Axes, values: Sequence[float]) -> None:
    """Only those ticks of the x axis that it reaches, as plain numbers."""
    low, high = ax.get_xlim()
    shown = [value for value in values if low <= value <= high]
    ax.set_xticks(shown, [short(value) for value in shown])
    ax.set_xticks([], minor=True)


def rule(ax: Axes, value: float, axis: str = "y", **style: Any) -> None:
    """A straight dotted line at `value`."""
    (ax.axhline if axis == "y" else ax.axvline)(value, **DOTTED | style)


def ends(found: Estimate) -> dict[str, float | None]:
    """A result as a row has it."""
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
