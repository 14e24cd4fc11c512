"""How figures look, and the marks they share; drawn by Vega-Lite (Altair) as SVG and PNG.

Drawing needs neither browser nor network, and the same inputs give the same bytes.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from xml.sax.saxutils import escape

import altair as alt
import polars as pl
import vl_convert as vlc

from em_geometry.report.text import words
from em_geometry.stats.estimate import Estimate

WIDTH = 860  # pixels of a whole figure
RESOLUTION = 1.5  # pixels of a PNG for each of them
# Okabe and Ito's colours for the colour-blind, in an order whose lightness differs in grey.
CODES: dict[str, list[Any]] = {
    "color": ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"],
    "shape": ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"],
    "strokeDash": [[1, 0], [8, 3], [8, 3, 2, 3], [2, 3], [12, 3], [12, 3, 2, 3, 2, 3]],
}
OURS, PAPER, GREY, PALE = "#0072B2", "#B00020", "#666666", "#e8e8e8"
CONFIG = {
    "background": "white",
    "font": "DejaVu Sans, Verdana, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
             "labelLimit": 400, "labelFlush": False, "gridColor": "#eeeeee"},
    "legend": {"labelFontSize": 11, "titleFontSize": 11, "labelLimit": 420, "symbolSize": 70},
    "title": {"fontSize": 12, "anchor": "start"},
    "point": {"size": 70, "opacity": 1, "strokeWidth": 0.7},
    "bar": {"stroke": "black", "strokeWidth": 0.6},
}  # fmt: skip
INTERVAL = "isValid(datum.low) && isValid(datum.high)"  # rows that have one
FINE = re.compile(r"(\.\d\d)\d+")  # fractions of a hundredth of a pixel


@dataclass(frozen=True)
class Figure:
    """A chart with what a reader who cannot see it is told."""

    name: str  # of its file, without ending
    title: str  # one line, also the accessible name
    caption: str  # what it shows and how to read it
    section: str  # of the page
    chart: alt.TopLevelMixin
    key: str = ""  # what marks of the paper look like, under the title

    @property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, numbers rounded to what a screen shows."""
        found = self.chart.to_dict(context={"pre_transform": False}) | {"config": CONFIG}
        found["description"] = self.title
        found["title"] = {"text": self.title, "fontSize": 14, "offset": 14, "subtitle": self.key,
                          "subtitleColor": PAPER}  # fmt: skip
        rounded: dict[str, Any] = json.loads(
            json.dumps(found), parse_float=lambda text: float(f"{float(text):.5g}")
        )
        return rounded

    @cached_property
    def svg(self) -> str:
        """The drawn figure, with title and caption for screen readers."""
        text: str = vlc.vegalite_to_svg(self.spec)
        text = re.sub(r' (?:d|transform)="[^"]*"', lambda m: FINE.sub(r"\1", m[0]), text)
        for i, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))):
            # ids count over all drawings of a process; here they are this picture's own
            text = re.sub(rf'(id="|href="#|url\(#){name}\b', rf"\g<1>{self.name}-{i}", text)
        told = f"<title>{escape(self.title)}</title><desc>{escape(self.caption)}</desc>"
        return re.sub(r"<svg ([^>]*)>", rf'<svg role="img" \g<1>>{told}', text, count=1) + "\n"

    @property
    def png(self) -> bytes:
        """The drawn figure as a PNG file."""
        found: bytes = vlc.vegalite_to_png(self.spec, scale=RESOLUTION)
        return found


def figure(name: str, model: str, chart: Any) -> Figure:
    """A chart, or the words that say why there is none, with its title and caption.

    Args:
        name: key of `page/figures.yaml`.
        model: what was measured.
    """
    every = words("figures.yaml")
    about, number = every[name], [*every].index(name) + 1
    if isinstance(chart, str):
        said = data([{"text": chart}]).mark_text(color=GREY, fontSize=13).encode(text="text:N")
        chart = said.properties(width=WIDTH, height=60)
    title = f"Figure {number}. {about['title'].format(model=model)}"
    return Figure(name, title, about["caption"], about["section"], chart, about.get("key", ""))


def data(rows: pl.DataFrame | Iterable[Mapping[str, object]]) -> Any:
    """A chart of these rows."""
    found = rows.to_dicts() if isinstance(rows, pl.DataFrame) else [dict(row) for row in rows]
    return alt.Chart(alt.Data(values=found))


def coded(
    field: str, values: Sequence[str], /, grey: Collection[str] = (), **legend: Any
) -> dict[str, Any]:
    """Colour, shape and dash that tell the values of a field apart, in one legend.

    Args:
        grey: values without a colour of their own.
        legend: its settings.
    """
    channels = {"color": alt.Color, "shape": alt.Shape, "strokeDash": alt.StrokeDash}
    code = {}
    for name, channel in channels.items():
        shown = [CODES[name][i % len(CODES[name])] for i in range(len(values))]
        if name == "color":
            shown = ["#aaaaaa" if v in grey else c for v, c in zip(values, shown, strict=True)]
        scale = alt.Scale(domain=list(values), range=shown)
        code[name] = channel(f"{field}:N", scale=scale, legend=alt.Legend(**legend))
    return code


def curves(
    rows: pl.DataFrame | Iterable[Mapping[str, object]],
    code: Mapping[str, Any],
    tooltip: Sequence[Any],
    size: int = 70,
    **axes: Any,
) -> Any:
    """Lines through points, a line a value of what `code` tells apart.

    Args:
        rows: with `low` and `high`, the ends of the intervals, where there are any.
        size: of a point.
        axes: x and y.
    """
    base = data(rows).encode(color=code["color"], **axes)
    dash = code["strokeDash"].copy()
    dash["legend"] = None
    points = base.mark_point(filled=True, stroke="black", size=size)
    ends = base.transform_filter(INTERVAL)
    return alt.layer(
        ends.mark_rule(strokeOpacity=0.7).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line().encode(strokeDash=dash),
        points.encode(shape=code["shape"], tooltip=tooltip),
    )


def dots(
    rows: Sequence[Mapping[str, object]],
    labels: Sequence[str],
    x: Any,
    paper: Iterable[Mapping[str, object]] = (),
    apart: bool = True,
    **legend: Any,
) -> Any:
    """Values with their intervals, a line a thing (`of`), in the code of its variants (`by`).

    Args:
        rows: `of`, `by`, `value`, `low`, `high`, and what else the pointer shows.
        labels: the variants, in order.
        x: the axis, of `value`.
        paper: `of` and `value` that the paper prints.
        apart: variants of one thing lie under each other.
    """
    y = alt.Y("of:N", sort=list(dict.fromkeys(row["of"] for row in rows)), title=None)
    code = coded("by", labels, title=None, orient="bottom", **legend)
    told = [f"{k}:{'N' if k in ('of', 'by') else 'Q'}" for k in rows[0]]
    base = data(rows).encode(y=y, color=code["color"], tooltip=told)
    if apart:
        base = base.encode(yOffset=alt.YOffset("by:N", sort=list(labels)))
    bars = base.transform_filter(INTERVAL).mark_rule(strokeWidth=2)
    return alt.layer(
        bars.encode(x=alt.X("low:Q"), x2="high:Q"),
        diamonds(paper, x="value:Q", y=y),
        base.mark_point(filled=True, stroke="black").encode(x=x, shape=code["shape"]),
    )


def columns_by_first(
    frame: pl.DataFrame, labels: Mapping[str, str], x: str, y: str, key: str,
    grey: Collection[str] = (),
) -> Any:  # fmt: skip
    """Columns of a table as curves against its first one; empty cells are gaps.

    Args:
        labels: column -> its label.
        x, y: titles of the axes.
        key: what a column is, for the legend.
        grey: labels that are drawn in grey.
    """
    first = frame.columns[0]
    tidy = frame.select(pl.col(first).alias("x"), *(pl.col(c).alias(n) for c, n in labels.items()))
    rows = tidy.unpivot(index="x", variable_name="of", value_name="y").with_columns(
        pl.col("x", "y").cast(pl.Float64, strict=False)
    )
    axis = alt.Axis(tickMinStep=1, format="d") if frame[first].dtype.is_integer() else alt.Axis()
    return curves(
        rows.drop_nulls(),
        coded("of", [*labels.values()], grey, columns=2, title=key, orient="bottom"),
        [alt.Tooltip("of:N", title=key), alt.Tooltip("x:Q", title=x), alt.Tooltip("y:Q", title=y)],
        size=32,
        x=alt.X("x:Q", title=x, scale=alt.Scale(nice=False, zero=False), axis=axis),
        y=alt.Y("y:Q", title=y),
    )


def ends(found: Estimate) -> dict[str, float | None]:
    """A result as a row has it."""
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def rule(value: float, axis: str = "y", **style: Any) -> Any:
    """A straight line at `value`."""
    style = {"color": GREY, "strokeDash": [2, 3]} | style
    where = alt.Y if axis == "y" else alt.X
    return data([{"at": value}]).mark_rule(**style).encode(**{axis: where("at:Q")})


def band(low: Any, high: Any, axis: str = "y") -> Any:
    """A grey strip from `low` to `high`; nothing where one is None."""
    rows = [] if low is None or high is None else [{"from": low, "to": high}]
    ends = {axis: alt.Y("from:Q") if axis == "y" else alt.X("from:Q"), f"{axis}2": "to:Q"}
    return data(rows).mark_rect(color=PALE).encode(**ends)


def diamonds(rows: Iterable[Mapping[str, object]], **channels: Any) -> Any:
    """The paper's values: open red diamonds."""
    style = {"shape": "diamond", "size": 90, "color": PAPER, "fill": "white", "strokeWidth": 2}
    return data(rows).mark_point(**style).encode(**channels)
