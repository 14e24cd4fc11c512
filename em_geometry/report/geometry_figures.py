"""Figures of the geometry: cosines, structure, likeness to the base, references, chance."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from scipy.cluster import hierarchy

from em_geometry.claims.lookup import Metrics
from em_geometry.geometry.methods import centred, components, shares
from em_geometry.geometry.trees import Linkage, distances, merges, planar_map
from em_geometry.report import chart
from em_geometry.report.chart import Chart, Panel, Row, Style
from em_geometry.report.text import decimals, layout, short, statistic
from em_geometry.settings import Organism
from em_geometry.stats.estimate import Estimate, Floats

Clusters = Mapping[str, Sequence[str]]
Cosines = tuple[list[str], Floats]  # names and cosines [n, n]
Published = Mapping[str, float]  # metric key -> the paper's value
BLOCK = "decoder block (0 = first)"
CHOICE = ("reference", "span")  # what a row of the multiverse is
READINGS = {
    "contrast_cosine": "cosine of harmful-neutral vectors",
    "mean_cosine": "cosine of mean activations",
    "cka": "linear CKA over prompts",
}


def gram_of(metrics: Metrics) -> Cosines | None:
    """The cosines that the geometry found; None when any is missing."""
    rows = metrics.group("geometry:cosine")
    names = list(dict.fromkeys(name for key in rows for name in key.split("__")))
    gram = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        found = rows.get(f"{names[i]}__{names[j]}")
        if found is None or found.value is None:
            return None
        gram[i, j] = gram[j, i] = found.value
    return (names, gram) if len(names) > 1 else None


def similarity(cosines: Cosines | None, published: Published, clusters: Clusters) -> Chart | str:
    """A heat map of the cosines, frames around neighbours of a cluster; words without cosines."""
    if cosines is None:
        return "No cosines in plots/tables/geometry.csv."
    names, gram = cosines
    rows = [
        {"of": a, "across": b, "value": float(gram[i, j]),
         "paper": published.get(f"cosine.{a}__{b}", published.get(f"cosine.{b}__{a}"))}
        for (i, a), (j, b) in product(enumerate(names), repeat=2)
    ]  # fmt: skip
    draw = partial(draw_similarity, names=names, clusters=clusters)
    return Chart([Panel(rows, draw, height=1.2 + 0.62 * len(names))])


def draw_similarity(
    ax: Axes, rows: Sequence[Row], names: Sequence[str], clusters: Clusters
) -> None:
    """The matrix, its frames, and what brackets are."""
    chart.heat(ax, rows, (1, -1), 2, "cosine similarity")
    places = [sorted(names.index(m) for m in ms if m in names) for ms in clusters.values()]
    for place in places:
        if len(place) > 1 and place[-1] - place[0] == len(place) - 1:
            size = len(place)
            chart.box(ax, (place[0], place[0]), size, size, "a cluster")
    ax.tick_params(axis="x", rotation=20)
    if any(row["paper"] is not None for row in rows):
        style: Style = {"ls": "", "marker": "$[0.7]$", "ms": 20, "color": "black"}
        ax.plot([], [], label=f"in brackets: {chart.PAPER}", **style)


def structure(
    cosines: Cosines | None, published: Published, clusters: Clusters, linkage: Linkage
) -> Chart | str:
    """Five panels that are functions of the cosines alone; words below three vectors."""
    if cosines is None or len(cosines[0]) < 3:
        return "Fewer than three vectors in plots/tables/geometry.csv."
    names, gram = cosines
    variances, loadings = components(centred(gram))
    places, stress = planar_map(gram)
    parts = (100 * shares(variances)[:-1]).tolist()
    spread = {f"PC{k}": part for k, part in enumerate(parts, start=1)}
    first = dict(zip(names, loadings[:, 0].tolist(), strict=True))
    said = {k: published.get(f"pca.centred.{k.lower()}_pct") for k in spread}
    said |= {k: published.get(f"pca.centred.loading_pc1.{k}") for k in names}
    scores = (loadings * np.sqrt(variances))[:, :2]
    tree = merges(distances(gram), linkage)
    heights = {c: published.get(f"clusters.average.merge_{c}") for c in clusters}
    groups = {m: cluster for cluster, members in clusters.items() for m in members}
    code = chart.coded(list(dict.fromkeys([*clusters, *(groups.get(n, "none") for n in names)])))
    points, columns = partial(draw_points, code=code), partial(draw_bars, upright=True)
    panels = [
        Panel(bars(spread, said), columns, "A  Principal components", "", "share of variance (%)"),
        Panel(named(names, scores, groups), points, "B  First two components",
              "score on PC1 (no unit)", "score on PC2 (no unit)"),
        Panel(bars(first, said), draw_bars, "C  Loadings on PC1",
              "loading on PC1 (entry of a unit vector)"),
        Panel(arms(tree, names, clusters, heights), draw_tree,
              f"D  Dendrogram ({linkage} linkage)", "1 - cosine at the merge"),
        Panel(named(names, places, groups), points,
              f"E  Map of distances (stress {decimals(stress, 2)})",
              "first axis of the map (1 - cosine)", "second axis (1 - cosine)"),
    ]  # fmt: skip
    return Chart(panels, 2)


def bars(values: Mapping[str, float], published: Mapping[str, float | None]) -> list[Row]:
    """This run's values, and the paper's where there are any."""
    return [{"of": k, "value": v, "paper": published.get(k)} for k, v in values.items()]


def draw_bars(ax: Axes, rows: Sequence[Row], upright: bool = False) -> None:
    """A bar a value; upright ones are shares, with a line where all are equal."""
    for i, row in enumerate(rows):
        style: Style = {"color": chart.OURS, "ec": "black", "lw": 0.6, "label": "this run"}
        drawn = ax.bar(i, row["value"], **style) if upright else ax.barh(i, row["value"], **style)
        chart.tell(drawn.patches[0], row)
        if (paper := row["paper"]) is not None:
            x, y = (i, paper) if upright else (paper, i)
            chart.paper_mark(ax, x, y, row, short(paper))
    places, labels = range(len(rows)), [row["of"] for row in rows]
    if upright:
        chart.rule(ax, 100 / len(rows), label="equal shares: no structure")
        ax.set_xticks(places, labels)
    else:
        ax.set_yticks(places, labels)
        ax.invert_yaxis()
    ax.grid(visible=False, axis="x" if upright else "y")


def named(names: Sequence[str], points: Floats, groups: Mapping[str, str]) -> list[Row]:
    """Points [n, 2] with names, and the side that is free of the nearest neighbour."""
    scaled = points / np.maximum(np.ptp(points, axis=0), 1e-9)
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1) + np.diag([np.inf] * len(names))
    return [
        {"of": name, "cluster": groups.get(name, "none"), "x": x, "y": y,
         "side": 1 if scaled[i, 1] >= scaled[near, 1] else -1}
        for i, (name, (x, y), near) in enumerate(
            zip(names, points.tolist(), apart.argmin(1), strict=True)
        )
    ]  # fmt: skip


def draw_points(ax: Axes, rows: Sequence[Row], code: chart.Code) -> None:
    """A map of points, each with its name above (side 1) or below."""
    for row in rows:
        style = code[row["cluster"]] | {"label": f"cluster {row['cluster']}", "ms": 8}
        chart.mark(ax, row["x"], row["y"], row, **style)
        where: Style = {
            "xytext": (0, 8 * row["side"]),
            "textcoords": "offset points",
            "ha": "center",
        }
        va = "bottom" if row["side"] > 0 else "top"
        ax.annotate(row["of"], (row["x"], row["y"]), va=va, size=8.5, **where)
    ax.margins(x=0.32, y=0.22)
    ax.locator_params(nbins=5)


def arms(
    tree: Floats, names: Sequence[str], clusters: Clusters, heights: Mapping[str, float | None]
) -> list[Row]:
    """The merges of `hierarchy.linkage` as lines, its leaves, and the paper's heights."""
    shown = hierarchy.dendrogram(tree, labels=list(names), no_plot=True)
    leaves = {name: 5 + 10 * i for i, name in enumerate(shown["ivl"])}
    rows: list[Row] = [{"of": name, "place": at} for name, at in leaves.items()]
    rows += [
        {"of": "merge", "place": float(np.mean(places[1:3])), "value": depths[1],
         "depths": list(depths), "places": list(places)}
        for depths, places in zip(shown["dcoord"], shown["icoord"], strict=True)
    ]  # fmt: skip
    return rows + [
        {"of": cluster, "place": float(np.mean(own)), "paper": heights[cluster]}
        for cluster, members in clusters.items()
        if heights.get(cluster) is not None and (own := [leaves[m] for m in members if m in leaves])
    ]


def draw_tree(ax: Axes, rows: Sequence[Row]) -> None:
    """A dendrogram, root to the right, and where the paper's clusters form."""
    width = max(row["value"] for row in rows if "value" in row)
    for row in rows:
        if "depths" in row:
            ax.plot(row["depths"], row["places"], color="black", lw=1.4)
            told = {"merge": row["value"], "unit": "1 - cosine"}
            chart.tell(ax.lines[-1], told)
        elif "paper" in row:
            said = f"{row['of']}: {short(row['paper'])}"
            side = 1 if row["paper"] < width / 2 else -1
            chart.paper_mark(ax, row["paper"], row["place"], row, said, side)
    leaves = {row["of"]: row["place"] for row in rows if "value" not in row and "paper" not in row}
    ax.set_yticks([*leaves.values()], [*leaves])
    ax.set(ylim=(0, 10 * len(leaves)))
    ax.set_xlim(left=0)
    ax.grid(visible=False, axis="y")


def base_similarity(
    metrics: Metrics,
    trace: pl.DataFrame | None,
    published: Published,
    organisms: Mapping[str, Organism],
) -> Chart | str:
    """Likeness to the base by laboratory, and by block where `trace` has it; words without both."""
    panels = []
    if rows := by_lab(metrics, published):
        code = chart.coded([*READINGS.values()])
        draw = partial(chart.dots, code=code, named=True)
        panels.append(Panel(rows, draw, "A  By laboratory", "similarity to the base", height=4.2))
    if trace is not None and "layer" in trace.columns:
        labels = {m: m for m in trace.columns[1:] if m in organisms}
        controls = [m for m in labels if organisms[m].role == "control"]
        draw = partial(
            draw_blocks, code=chart.coded([*labels.values()], controls), every=4,
            chosen=metrics.value("base_similarity:layer"),
        )  # fmt: skip
        y = READINGS["contrast_cosine"]
        panels.append(Panel(tidy(trace, labels), draw, "B  By block", BLOCK, y, 4.2))
    return Chart(panels, 2, legends=True) if panels else "No plots/base_similarity.csv."


def by_lab(metrics: Metrics, published: Published) -> list[Row]:
    """Each laboratory's mean in every reading, and what the paper prints."""
    return [
        {"of": lab, "by": label, "paper": published.get(f"lab.{lab}.{reading}")} | chart.ends(found)
        for lab, (reading, label) in product(metrics.names("base_similarity:lab"), READINGS.items())
        if (found := metrics.estimate(f"base_similarity:lab.{lab}.{reading}")).value is not None
    ]


def tidy(frame: pl.DataFrame, labels: Mapping[str, str]) -> list[Row]:
    """Columns of a table against its first one, by label; empty cells are left out."""
    first = frame.columns[0]
    long = frame.select(pl.col(first).alias("x"), *(pl.col(c).alias(n) for c, n in labels.items()))
    rows = long.unpivot(index="x", variable_name="of", value_name="value")
    numbers = rows.with_columns(pl.col("x", "value").cast(pl.Float64, strict=False))
    return [*numbers.select("of", "x", "value").drop_nulls().to_dicts()]


def draw_blocks(
    ax: Axes, rows: Sequence[Row], code: chart.Code, every: int = 1, chosen: float | None = None,
    level: float | None = None,
) -> None:  # fmt: skip
    """Curves over the blocks, with the chosen block and a level where they are given."""
    chart.curves(ax, rows, code, every)
    ax.locator_params(axis="x", integer=True)
    if chosen is not None:
        chart.rule(ax, chosen, "x", color="black", label=f"chosen block ({short(chosen)})")
    if level is not None:
        chart.rule(ax, level)


def by_block(frame: pl.DataFrame | None, chosen: float | None) -> Chart | str:
    """What each vector gains at each block; words without any."""
    if frame is None:
        return "No plots/layer_sweep.csv."
    labels = {c: c for c in frame.columns[1:] if frame[c].dtype.is_numeric()}
    labels |= {c: "random directions (mean)" for c in labels if c == "random"}
    draw = partial(draw_blocks, code=chart.coded([*labels.values()]), level=0, chosen=chosen)
    y = "margin gained (nats per token)"
    return Chart([Panel(tidy(frame, labels), draw, "", BLOCK, y, 3)])


def power(frame: pl.DataFrame | None) -> Chart | str:
    """How often the tests speak for independence, and see the core, under a common core."""
    if frame is None:
        return "No plots/power.csv."
    tighter = frame.filter(pl.col("tighter_clusters") == 1)["share"]
    known = {"cross_mean": "mean cross-cluster cosine", "all_five": "all five at once"}
    panels, code = [], dict[str, Any]()
    for title, ending, level in (
        ("A  The paper's rule says independent", "_independent", 1.0),
        ("B  Sees the core, at 5 % false alarms", "_crosses_5pct", 0.05),
    ):
        names = {c: c.removesuffix(ending) for c in frame.columns if c.endswith(ending)}
        names |= {"all_five": "all_five"} if level == 1 else {}
        labels = {c: known.get(n, n.replace("test", "test ")) for c, n in names.items()}
        code |= chart.coded([*dict.fromkeys([*code, *labels.values()])])
        draw = partial(draw_power, code=code, level=level, tighter=(tighter.min(), tighter.max()))
        x, y = "common core (share of the variance)", "share of simulated draws"
        panels.append(Panel(tidy(frame, labels), draw, title, x, y, 2.8))
    return Chart(panels, 2)


def draw_power(
    ax: Axes, rows: Sequence[Row], code: chart.Code, level: float, tighter: tuple[Any, Any]
) -> None:
    """Curves, the level that they should keep, and the cores that are out of reach in grey."""
    if None not in tighter:
        ax.axvspan(*tighter, color=chart.PALE, label="not without tighter clusters")
    chart.rule(ax, level)
    drawn = {row["of"] for row in rows}
    chart.curves(ax, rows, {of: style for of, style in code.items() if of in drawn})


def nulls(metrics: Metrics) -> Chart | str:
    """One row a main statistic, observed value and interval in units of each null's own."""
    words, found = layout()["words"], metrics.group("calibration:statistic")
    rows: list[dict[str, Any]] = []
    for (key, own), (null, label) in product(found.items(), words["nulls"].items()):
        chance, p = found.get(f"{key}.{null}"), found.get(f"{key}.{null}.p")
        if chance is None or own.value is None or key.split(".")[0] not in words["main"]:
            continue
        row = {"of": statistic(key), "by": label, "observed": own.value}
        row |= {"from": chance.low, "median": chance.value, "to": chance.high}
        found_at = {"value": own.value, "low": own.low, "high": own.high}
        row |= {"p": p and p.value} | {k: distance(v, chance) for k, v in found_at.items()}
        rows += [row] if row["value"] is not None else []
    if not rows:
        return "The main statistics are not calibrated in this run."
    draw = partial(draw_nulls, code=chart.coded([*words["nulls"].values()]))
    x = "distance from chance's median (1 = end of its 95 % interval)"
    return Chart([Panel(rows, draw, "", x, height=1 + 0.14 * len(rows))])


def draw_nulls(ax: Axes, rows: Sequence[Row], code: chart.Code) -> None:
    """Dots against the band of chance, on a scale that is nearly logarithmic beyond 2."""
    ax.axvspan(-1, 1, color=chart.PALE, label="95 % interval of chance")
    chart.dots(ax, rows, code)
    ax.set_xscale("symlog", linthresh=2)
    reach = 1.2 * max(8.0, *(abs(row["value"]) for row in rows))  # bars may end at the edge
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, -reach), min(high, reach))
    chart.ticks(ax, [-100, -30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30, 100])


def distance(value: float | None, null: Estimate) -> float | None:
    """Where `value` lies against a null: 0 at its median, -1 and 1 at the ends of its interval."""
    if value is None or null.value is None or null.low is None or null.high is None:
        return None
    side = null.high - null.value if value >= null.value else null.value - null.low
    return (value - null.value) / side if side > 0 else None


def references(metrics: Metrics, published: Published) -> Chart | str:
    """Angles between clusters, and mean cosines, under each reference; words without any."""
    labels = layout()["words"]["references"]
    pairs = [n["pair"] for n in metrics.matches("geometry:reference.base.angle_deg.{pair}")]
    panels = []
    for title, x, level, things in (
        ("A  Angle between two clusters", "angle (degrees)", 90.0,
         {f"angle_deg.{p}": p.replace("__", " and ") for p in pairs}),
        ("B  Mean cosine of two vectors", "cosine", 0.0,
         {"within_mean": "within clusters", "cross_mean": "across clusters"}),
    ):  # fmt: skip
        rows = [
            {"of": name, "by": label} | chart.ends(found)
            | {"paper": published.get(f"{key.replace('angle_deg', 'cluster_angle')}_deg")}
            for (key, name), (under, label) in product(things.items(), labels.items())
            if (found := metrics.estimate(f"geometry:reference.{under}.{key}")).value is not None
        ]  # fmt: skip
        if rows:
            draw = partial(draw_references, code=chart.coded([*labels.values()]), level=level)
            panels.append(Panel(rows, draw, title, x, height=1 + 0.75 * len(things)))
    return Chart(panels, 2) if panels else "No references in plots/tables/geometry.csv."


def draw_references(ax: Axes, rows: Sequence[Row], code: chart.Code, level: float) -> None:
    """Dots, and the line of independence."""
    chart.rule(ax, level, "x", label="independent: 90 degrees, cosine 0")
    chart.dots(ax, rows, code, named=True)
    if level == 0:
        ax.set_xlim(left=min(0, ax.get_xlim()[0]))


def multiverse(
    frame: pl.DataFrame | None, focus: Sequence[str] = (), chosen: tuple[Any, Any] = (None, None)
) -> Chart | str:
    """Angle and mean cosine across clusters by reference, span and block; words without cells.

    Args:
        focus: the two clusters whose angle it is.
        chosen: block and span that the verdicts use.
    """
    if frame is None:
        return "No plots/multiverse.csv."
    cells = frame.filter(status="ok")
    if cells.is_empty():
        return "There is no cell in plots/multiverse.csv."
    said, panels = layout()["words"], []
    parts = (cells[c].unique(maintain_order=True) for c in ("reference", "span"))
    order = {(ref, span): f"{said['references'].get(ref, ref)}, {said['spans'].get(span, span)}"
             for ref, span in product(*parts)}  # fmt: skip
    for title, column, scale, digits in (
        (f"A  Angle of {' and '.join(focus)} (degrees)", "angle_deg", (0, 180), 0),
        ("B  Mean cosine across clusters", "cross_mean", (1, -1), 2),
    ):
        for massive in ("with", "without"):
            own = cells.filter(massive_dimensions=massive).drop_nulls(column)
            found = {(r["reference"], r["span"], r["block"]): r[column] for r in own.to_dicts()}
            left, height = massive == "with", 0.7 + 0.21 * len(order)
            rows = [
                {"of": label, "across": block, "value": found[*at, block],
                 "chosen": "yes" if left and (block, at[1]) == chosen else None}
                for at, label in order.items() for block in own["block"].unique().sort()
                if (*at, block) in found
            ]  # fmt: skip
            draw = partial(draw_cells, scale=scale, digits=digits, left=left)
            name = title if left else "    without massive dimensions"
            panels.append(Panel(rows, draw, name, BLOCK, height=height))
    return Chart(panels, 2)


def draw_cells(
    ax: Axes, rows: Sequence[Row], scale: tuple[float, float], digits: int, left: bool
) -> None:
    """The matrix of one statistic, with frames around what the verdicts use."""
    chart.heat(ax, rows, scale, digits)
    lines, blocks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("of", "across"))
    for row in rows:
        if row["chosen"]:
            corner = blocks.index(row["across"]), lines.index(row["of"])
            chart.box(ax, corner, 1, 1, "block and tokens that the verdicts use")
    if not left:
        ax.set_yticklabels([])
