"""How figures look, and what they share; all are drawn by Vega-Lite (Altair) as SVG and PNG.

Drawing needs neither browser nor network, and the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import altair as alt
import numpy as np
import vl_convert as vlc

from em_geometry.report.text import words
from em_geometry.stats.arrays import Floats

FIGURES = "figures.yaml"
WIDTH = 860  # pixels of a whole figure
SCALE = 1.5  # pixels of a PNG for each of them
# Okabe and Ito's colours for the colour-blind, in an order whose lightness differs in grey.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"]
DASHES = [[1, 0], [8, 3], [8, 3, 2, 3], [2, 3], [12, 3], [12, 3, 2, 3, 2, 3]]
PAPER = "#B00020"  # of everything that is the paper's
GREY = "#666666"
CONFIG = {
    "background": "white",
    "font": "DejaVu Sans, Verdana, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal",
             "labelLimit": 260, "labelFlush": False, "gridColor": "#eeeeee"},
    "legend": {"labelFontSize": 11, "titleFontSize": 11, "labelLimit": 420, "symbolSize": 70},
    "title": {"fontSize": 12, "anchor": "start"},
    "point": {"size": 70, "opacity": 1, "strokeWidth": 0.7},
    "bar": {"stroke": "black", "strokeWidth": 0.6},
}  # fmt: skip
PLACES = ((1, 0), (-1, 0), (0, -1), (0, 1))  # where a name may stand beside its point
LETTER, LINE = 6.4, 12.0  # pixels of a label
FINE = re.compile(r"(\.\d\d)\d+")  # fractions of a hundredth of a pixel


@dataclass(frozen=True)
class Figure:
    """A chart with what a reader who cannot see it is told.

    Attributes:
        name: file name without ending; `page/figures.yaml` has its title and caption.
        model: what was measured.
    """

    name: str
    model: str
    chart: alt.TopLevelMixin

    @property
    def title(self) -> str:
        """One line, also the accessible name."""
        return str(words(FIGURES)[self.name]["title"].format(model=self.model))

    @property
    def caption(self) -> str:
        """What it shows and how to read it."""
        return str(words(FIGURES)[self.name]["caption"])

    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, numbers rounded to what a screen shows."""
        found = self.chart.to_dict(context={"pre_transform": False}) | {"config": CONFIG}
        found["description"] = self.title
        found["title"] = {"text": self.title, "fontSize": 14, "offset": 14}
        rounded: dict[str, Any] = json.loads(json.dumps(found), parse_float=_rounded)
        return rounded

    def svg(self) -> str:
        """The drawn figure, with title and caption for screen readers."""
        text: str = vlc.vegalite_to_svg(self.spec())
        text = re.sub(r' (?:d|transform)="[^"]*"', lambda m: FINE.sub(r"\1", m[0]), text)
        for i, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))):
            # ids count over all drawings of a process; here they are this picture's own
            text = re.sub(rf'(id="|href="#|url\(#){name}\b', rf"\g<1>{self.name}-{i}", text)
        words = f"<title>{escape(self.title)}</title><desc>{escape(self.caption)}</desc>"
        return re.sub(r"<svg ([^>]*)>", rf'<svg role="img" \g<1>>{words}', text, count=1) + "\n"

    def png(self) -> bytes:
        """The drawn figure as a PNG file."""
        found: bytes = vlc.vegalite_to_png(self.spec(), scale=SCALE)
        return found


def _rounded(text: str) -> float:
    return float(f"{float(text):.5g}")


def data(rows: Iterable[Mapping[str, object]]) -> Any:
    """A chart of these rows."""
    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def message(name: str, model: str, text: str) -> Figure:
    """A low figure that only says why it is empty."""
    chart = data([{"text": text}]).mark_text(color=GREY, fontSize=13).encode(text="text:N")
    return Figure(name, model, chart.properties(width=WIDTH, height=60))


def scale(values: Sequence[str], kind: str = "colour") -> alt.Scale:
    """The scale that gives each value its colour, shape or dash, the same in every panel."""
    kinds: dict[str, list[Any]] = {"colour": COLOURS, "shape": SHAPES, "dash": DASHES}
    shown = [kinds[kind][i % len(kinds[kind])] for i in range(len(values))]
    return alt.Scale(domain=list(values), range=shown)


def coded(field: str, values: Sequence[str], **style: Any) -> dict[str, Any]:
    """Colour, shape and dash that tell the values of a field apart, in one legend.

    Args:
        style: of the legend, and its title.
    """
    kinds = {"color": (alt.Color, "colour"), "shape": (alt.Shape, "shape")}
    kinds["strokeDash"] = (alt.StrokeDash, "dash")
    return {
        name: channel(f"{field}:N", scale=scale(values, kind), **style)
        for name, (channel, kind) in kinds.items()
    }


def curves(
    rows: Iterable[Mapping[str, object]],
    code: Mapping[str, Any],
    tooltip: Sequence[Any],
    **axes: Any,
) -> list[Any]:
    """Lines through points with their intervals, a line a value of what `code` tells apart.

    Args:
        rows: with `low` and `high`, the ends of the interval.
        axes: x and y.
    """
    base = data(rows).encode(color=code["color"], **axes)
    dash = code["strokeDash"].copy()
    dash["legend"] = None
    return [
        base.mark_rule(strokeOpacity=0.7).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line().encode(strokeDash=dash),
        base.mark_point(filled=True, stroke="black").encode(shape=code["shape"], tooltip=tooltip),
    ]


def rule(value: float, axis: str = "y", **style: Any) -> Any:
    """A straight line at `value`."""
    style = {"color": GREY, "strokeDash": [2, 3]} | style
    where = alt.Y if axis == "y" else alt.X
    return data([{"at": value}]).mark_rule(**style).encode(**{axis: where("at:Q")})


def diamonds(rows: Iterable[Mapping[str, object]], **channels: Any) -> Any:
    """The paper's values: open red diamonds."""
    style = {"shape": "diamond", "size": 90, "color": PAPER, "fill": "white", "strokeWidth": 2}
    return data(rows).mark_point(**style).encode(**channels)


def named_points(
    names: Sequence[str], points: Floats, clusters: Mapping[str, Sequence[str]], size: int,
    axes: tuple[str, str],
) -> Any:  # fmt: skip
    """A map of points with their names, each on the side where it covers the least.

    Args:
        points: [n, 2].
        size: pixels of the square panel's shorter side, for placing the names.
        axes: titles of the two axes.
    """
    span = np.maximum(points.max(0) - points.min(0), 1e-9)
    pixels = (points - points.min(0)) / span * size * 0.75 * np.array([1, -1])
    taken, rows = [*pixels], []
    groups = {m: cluster for cluster, members in clusters.items() for m in members}
    for i, name in enumerate(names):
        half = np.array([len(name) * LETTER / 2, LINE / 2])
        spots = [pixels[i] + np.array(p) * (half + 9) for p in PLACES]
        crowd = [sum(_near(spot, half, o) for j, o in enumerate(taken) if j != i) for spot in spots]
        best = int(np.argmin(crowd))
        taken += [spots[best], spots[best] - half * [0.9, 0], spots[best] + half * [0.9, 0]]
        rows.append({"name": name, "cluster": groups.get(name, "none"), "place": best,
                     "x": float(points[i, 0]), "y": float(points[i, 1])})  # fmt: skip
    order = [*clusters, "none"] if any(n not in groups for n in names) else list(clusters)
    base = data(rows).encode(
        x=alt.X("x:Q", title=axes[0], scale=alt.Scale(padding=45, zero=False)),
        y=alt.Y("y:Q", title=axes[1], scale=alt.Scale(padding=25, zero=False)),
        tooltip=["name:N", "cluster:N", "x:Q", "y:Q"],
    )
    code = coded("cluster", order, title="cluster")
    marks = base.mark_point(filled=True, stroke="black").encode(
        color=code["color"], shape=code["shape"]
    )
    labels = [
        base.transform_filter(f"datum.place == {k}")
        .mark_text(dx=9 * x, dy=13 * y, align=("center", "left", "right")[x], baseline="middle")
        .encode(text="name:N")
        for k, (x, y) in enumerate(PLACES)
    ]
    return alt.layer(marks, *labels)


def _near(spot: Floats, half: Floats, other: Floats) -> float:
    """How much a label at `spot` lies over a point: 1 on its centre, 0 from beside it on."""
    return float(np.prod(np.clip(1 - np.abs(spot - other) / (half + 6), 0, None)))
