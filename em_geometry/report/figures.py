"""All figures of a run, from its metrics and plots files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from em_geometry.errors import UserError, first_line
from em_geometry.report.aspects import draw_aspects
from em_geometry.report.base_likeness import draw_base_similarity
from em_geometry.report.chart import Figure
from em_geometry.report.dose import draw_dose_response
from em_geometry.report.lines import draw_layer_sweep, draw_layer_trace, draw_power
from em_geometry.report.lookup import Metrics, number
from em_geometry.report.monitoring import draw_monitoring
from em_geometry.report.nulls import draw_nulls
from em_geometry.report.prediction import draw_prediction
from em_geometry.report.similarity import draw_similarity, gram_of
from em_geometry.report.structure import draw_structure
from em_geometry.report.text import joined
from em_geometry.settings.params import Params

PLOTS = Path("plots")


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


def published_values(metrics: Metrics) -> dict[str, float]:
    """Metric key -> the number that the paper prints, from the claims that print one."""
    found: dict[str, float] = {}
    for claim in metrics.group("claims", "claim").values():
        if not isinstance(claim, Mapping) or "reads" not in claim:
            continue
        for part in [claim, *claim.get("part", {}).values()]:
            key, value = (
                str(part.get("metric", "")).partition(":")[2],
                number(part.get("published")),
            )
            if key and value is not None and claim.get("reads") == "equal":
                found.setdefault(key, value)
    return found


def published_effectiveness(metrics: Metrics) -> dict[str, str]:
    """Vector -> what the paper says about its effectiveness, from claims about named pairs."""
    found: dict[str, list[str]] = {}
    for claim in metrics.group("claims", "claim").values():
        if not isinstance(claim, Mapping) or "reads" not in claim:
            continue
        file, _, key = str(claim.get("metric", "")).partition(":")
        parts = key.split(".")
        if file == "transfer" and parts[0] == "effectiveness" and "__" in parts[2]:
            source, target = parts[2].split("__")
            found.setdefault(source, []).append(f"{claim['published']} % on {target}")
    return {s: f"effectiveness in the paper: {joined(texts)}" for s, texts in found.items()}


def draw_all(params: Params, metrics: Metrics, plots: Path = PLOTS) -> list[Figure]:
    """Figures 1 to 4 and 6, and pictures of further tables where these are there."""
    model, published = model_name(params), published_values(metrics)
    labs = {slug: organism.lab for slug, organism in params.organisms.items()}
    controls, clusters = params.slugs("control"), params.clusters()
    gram = gram_of(metrics)
    figures = [
        draw_similarity(gram, published, clusters, model),
        draw_structure(gram, published, clusters, params.geometry.linkage, model),
        draw_base_similarity(
            metrics,
            read_table(plots / "base_similarity.csv"),
            published,
            labs,
            controls,
            model,
        ),
        draw_dose_response(
            read_table(plots / "transfer_conditions.csv"),
            published_effectiveness(metrics),
            labs,
            controls,
            params.slugs("organism"),
            model,
        ),
        draw_monitoring(metrics, model),
    ]
    for name, draw in (
        ("layer_sweep", draw_layer_sweep),
        ("layer_trace", draw_layer_trace),
        ("power", draw_power),
        ("nulls", draw_nulls),
        ("aspects", draw_aspects),
        ("prediction", draw_prediction),
    ):
        table = read_table(plots / f"{name}.csv")
        if table is not None:
            figures.append(draw(table, model))
    return figures
