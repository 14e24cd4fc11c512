"""All figures of a run that the page shows, and what they are drawn from."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged
from em_geometry.errors import explained
from em_geometry.report import behaviour_figures as behaviour
from em_geometry.report import geometry_figures as geometry
from em_geometry.report.chart import Figure, figure
from em_geometry.settings import Params

FROM_TABLES: dict[str, Callable[[pl.DataFrame], Any]] = {  # table under plots/ -> its picture
    "layer_sweep": partial(geometry.by_block, title="margin gained (nats)", key="vector", level=0),
    "power": geometry.power,
}
READ = ("base_similarity", "multiverse", *FROM_TABLES)  # tables that figures are of


def read_table(path: Path) -> pl.DataFrame | None:
    """A CSV of an earlier stage, None when it is missing; UserError when it cannot be read."""
    if not path.is_file():
        return None
    expected, hint = "a table with one header", "run the stage that writes it again"
    kinds = (pl.exceptions.PolarsError, OSError)
    with explained("not a readable CSV file", str(path), expected, hint, kinds):
        return pl.read_csv(path, infer_schema_length=None)


def published_values(judged: Sequence[Judged]) -> dict[str, float]:
    """Metric key -> the number that the paper prints, from the claims that print one."""
    values: dict[str, float] = {}
    for claim in (row.claim for row in judged if row.claim.reads == "equal"):
        for metric, number in zip(claim.metrics, claim.numbers, strict=False):
            values.setdefault(metric.partition(":")[2], number)
    return values


def draw_all(
    params: Params,
    model: str,
    metrics: Metrics,
    judged: Sequence[Judged],
    tables: Mapping[str, pl.DataFrame | None],
) -> list[Figure]:
    """Figures 1 to 8, and pictures of further tables where these are there.

    Args:
        model: name of the measured base model.
        judged: the ledger's claims, for the paper's numbers.
        tables: those of `READ`, by name.
    """
    published, organisms = published_values(judged), params.originals()
    clusters = params.clusters()
    cosines, likeness = geometry.gram_of(metrics), tables.get("base_similarity")
    charts = {
        "figure1": geometry.similarity(cosines, published, clusters),
        "figure2": geometry.structure(cosines, published, clusters, params.geometry.linkage),
        "figure3": geometry.base_similarity(metrics, likeness, published, organisms),
        "figure4": behaviour.dose_response(metrics),
        "figure5": behaviour.claims(judged),
        "figure6": behaviour.monitoring(metrics),
        "figure7": geometry.references(metrics, published),
        "figure8": geometry.multiverse(tables.get("multiverse")),
    }
    if metrics.has("calibration:statistic"):
        charts["nulls"] = geometry.nulls(metrics)
    drawn = {name: (draw, tables.get(name)) for name, draw in FROM_TABLES.items()}
    charts |= {name: draw(table) for name, (draw, table) in drawn.items() if table is not None}
    return [figure(name, model, chart) for name, chart in charts.items()]
