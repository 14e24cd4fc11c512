"""Figure 3: how similar the models are to the base, by laboratory and by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from stages.claims.lookup import Metrics, number
from stages.report.style import (
    GREY,
    PAPER_COLOUR,
    PAPER_MARKER,
    WIDTH,
    Drawn,
    colour,
    line,
    marker,
    new_figure,
    say_missing,
)
from stages.report.text import decimals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READINGS = {
    "contrast_cosine": "cosine of harmful-neutral vectors",
    "mean_cosine": "cosine of mean activations",
    "cka": "linear CKA over prompts",
}
BESIDE = 0.05  # horizontal distance between a laboratory's models
CAPTION = (
    "Left: similarity of each laboratory's models to the base model at the chosen layer, in three "
    "readings, because the paper does not define its measure (large markers: mean over the "
    "laboratory's organisms; small points: single models, bars from the lowest to the highest "
    "of them; "
    "red diamonds and dotted lines: the paper's value for the laboratory). Right: the first "
    "reading at every layer, one line for each model, the line's style shows the laboratory."
)


def draw_base_similarity(
    metrics: Metrics,
    trace: pl.DataFrame | None,
    published: Mapping[str, float],
    labs: Mapping[str, str],
    controls: Sequence[str],
    model: str,
) -> Drawn:
    """Two panels.

    Args:
        trace: column `layer` and one column a model; None when the file is missing.
        published: metric key (`lab.<lab>.contrast_cosine`) -> the paper's value.
        labs: model -> its laboratory.
        controls: which of the models are controls.
    """
    drawn, figure = new_figure(
        "figure3", f"Similarity to the base model, {model}", CAPTION, (WIDTH, 4.9)
    )
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    organisms = {m: lab for m, lab in labs.items() if m not in controls}
    _by_lab(drawn, left, metrics, published, organisms)
    if trace is None or "layer" not in trace.columns:
        say_missing(right, "No plots/base_similarity.csv.")
    else:
        _by_layer(drawn, right, trace, labs, controls, number(metrics.find(*LAYER)))
    figure.suptitle(drawn.title, fontsize=11)
    return drawn


LAYER = ("base_similarity", "layer")


def _by_lab(
    drawn: Drawn,
    axes: Axes,
    metrics: Metrics,
    published: Mapping[str, float],
    labs: Mapping[str, str],
) -> None:
    names = list(metrics.group("base_similarity", "lab"))
    if not names:
        say_missing(axes, "No laboratories in metrics/base_similarity.json.")
        return
    for r, (reading, label) in enumerate(READINGS.items()):
        shift = (r - (len(READINGS) - 1) / 2) * 0.24
        for i, lab in enumerate(names):
            mean = number(metrics.find("base_similarity", f"lab.{lab}.{reading}"))
            members = [m for m, own in labs.items() if own == lab]
            key = "base_similarity", f"model.{{}}.{reading}"
            values = [number(metrics.find(key[0], key[1].format(m))) for m in members]
            known = [v for v in values if v is not None]
            if known:
                axes.vlines(i + shift, min(known), max(known), color=GREY, linewidth=1)
            for k, (member, value) in enumerate(zip(members, values, strict=True)):
                if value is None:
                    continue
                x = i + shift + BESIDE * (k - (len(members) - 1) / 2)
                (dot,) = axes.plot(x, value, ".", color=GREY, markersize=5)
                drawn.tag(dot, f"{member}, {label}: {decimals(value, 3)}")
            if mean is not None:
                (point,) = axes.plot(
                    i + shift,
                    mean,
                    marker(r),
                    color=colour(r),
                    markeredgecolor="black",
                    markersize=9,
                    label=label if i == 0 else None,
                )
                drawn.tag(point, f"{lab}, {label}: {decimals(mean, 3)}")
    shown = False
    for i, lab in enumerate(names):
        paper = published.get(f"lab.{lab}.contrast_cosine")
        if paper is None:
            continue
        axes.hlines(paper, i - 0.42, i + 0.42, color=PAPER_COLOUR, linestyle=":", linewidth=1.2)
        (mark,) = axes.plot(
            i + 0.42,
            paper,
            PAPER_MARKER,
            color="white",
            markeredgecolor=PAPER_COLOUR,
            markeredgewidth=1.8,
            label=None if shown else "the paper (Llama-3.1-8B, measure not defined)",
        )
        drawn.tag(mark, f"{lab}, the paper: {decimals(paper, 2)}")
        axes.annotate(
            decimals(paper, 2),
            (i + 0.42, paper),
            (0, 7),
            textcoords="offset points",
            ha="center",
            color=PAPER_COLOUR,
            size=8,
        )
        shown = True
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.35)
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, 1.02))
    axes.set(ylabel="similarity to base (-1 to 1; CKA 0 to 1)", title="A  By laboratory")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _by_layer(
    drawn: Drawn,
    axes: Axes,
    trace: pl.DataFrame,
    labs: Mapping[str, str],
    controls: Sequence[str],
    layer: float | None,
) -> None:
    order = list(dict.fromkeys(labs.values()))
    layers = trace["layer"].to_numpy()
    models = [column for column in trace.columns if column != "layer"]
    for i, name in enumerate(models):
        lab = labs.get(name, "")
        style = order.index(lab) if lab in order else len(order)
        control = name in controls
        (curve,) = axes.plot(
            layers,
            trace[name].cast(pl.Float64).to_numpy(),
            linestyle=line(style),
            color=GREY if control else colour(i),
            linewidth=1 if control else 1.8,
            marker=marker(i),
            markevery=(i % 5, 5),
            markersize=4 if control else 6,
            label=f"{name} ({lab}{', control' if control else ''})",
        )
        drawn.tag(curve, f"{name} ({lab}{', control' if control else ''})")
    if layer is not None:
        axes.axvline(layer, color="black", linestyle=":", linewidth=1)
        axes.text(layer, 0.02, " chosen layer", size=8, transform=axes.get_xaxis_transform())
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.set(
        xlabel="decoder block (0 = first)",
        ylabel="cosine of harmful-neutral vectors",
        title="B  By layer",
    )
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(top=max(1.02, np.nanmax(axes.get_ylim())))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
