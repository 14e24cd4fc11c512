"""All figures of a run that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from em_geometry.claims.ledger import Claim
from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError, first_line
from em_geometry.report.behaviour_figures import (
    draw_aspects,
    draw_dose_response,
    draw_monitoring,
    draw_prediction,
)
from em_geometry.report.chart import Figure
from em_geometry.report.geometry_figures import (
    draw_base_similarity,
    draw_similarity,
    draw_structure,
    gram_of,
)
from em_geometry.report.table_figures import (
    draw_layer_sweep,
    draw_layer_trace,
    draw_nulls,
    draw_power,
)
from em_geometry.report.text import joined
from em_geometry.settings import Params

DRAWN = {  # table under plots/ -> its picture
    "layer_sweep": draw_layer_sweep,
    "layer_trace": draw_layer_trace,
    "power": draw_power,
    "nulls": draw_nulls,
    "aspects": draw_aspects,
    "prediction": draw_prediction,
}
READ = ("base_similarity", "transfer_conditions", *DRAWN)  # tables that figures are drawn from


def model_name(params: Params) -> str:
    """The base model's name without the kind of its source."""
    kind, _, name = params.base.source.partition(":")
    return Path(name).name if kind == "path" else name


def read_table(path: Path) -> pl.DataFrame | None:
    """A CSV of an earlier stage, None when it is missing; UserError when it cannot be read."""
    if not path.is_file():
        return None
    try:
        return pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(
            "not a readable CSV file",
            where=str(path),
            found=first_line(error),
            hint="run the stage that writes it again",
        ) from None


def published_values(claims: Sequence[Claim]) -> dict[str, float]:
    """Metric key -> the number that the paper prints, from the claims that print one."""
    values: dict[str, float] = {}
    for claim in claims:
        if claim.reads == "equal":
            for metric, number in zip(claim.metrics, claim.numbers, strict=False):
                values.setdefault(metric.partition(":")[2], number)
    return values


def published_effectiveness(claims: Sequence[Claim]) -> dict[str, str]:
    """Vector -> what the paper says about its effectiveness, from claims about named pairs."""
    said: dict[str, list[str]] = {}
    for claim in claims:
        parts = claim.metrics[0].split(".") if claim.metrics else []
        if parts[:1] == ["transfer:effectiveness"] and "__" in parts[2]:
            source, target = parts[2].split("__")
            said.setdefault(source, []).append(f"{claim.text} % on {target}")
    return {s: f"effectiveness in the paper: {joined(texts)}" for s, texts in said.items()}


def draw_all(
    params: Params,
    metrics: Metrics,
    claims: Sequence[Claim],
    tables: Mapping[str, pl.DataFrame | None],
) -> list[Figure]:
    """Figures 1 to 4 and 6, and pictures of further tables where these are there.

    Args:
        claims: the ledger, for the paper's numbers.
        tables: those of `READ`, by name.
    """
    model, published = model_name(params), published_values(claims)
    labs = {slug: organism.lab for slug, organism in params.organisms.items()}
    controls, clusters = params.slugs("control"), params.clusters()
    gram, said = gram_of(metrics), published_effectiveness(claims)
    likeness, conditions = (tables.get(k) for k in ("base_similarity", "transfer_conditions"))
    figures = [
        draw_similarity(gram, published, clusters, model),
        draw_structure(gram, published, clusters, params.geometry.linkage, model),
        draw_base_similarity(metrics, likeness, published, labs, controls, model),
        draw_dose_response(conditions, said, labs, controls, params.slugs("organism"), model),
        draw_monitoring(metrics, model),
    ]
    for name, draw in DRAWN.items():
        table = tables.get(name)
        if table is not None:
            figures.append(draw(table, model))
    return figures
