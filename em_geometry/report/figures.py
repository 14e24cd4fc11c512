"""All figures of a run that the page shows, and what they are drawn from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import Judged
from em_geometry.errors import explained
from em_geometry.report import behaviour_figures as behaviour
from em_geometry.report import geometry_figures as geometry
from em_geometry.report.chart import Figure, figure
from em_geometry.settings import Params

READ = ("base_similarity", "multiverse", "layer_sweep", "power")  # tables that figures are of


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
    """Every figure; what is missing is said in its place.

    Args:
        model: name of the measured base model.
        judged: the ledger's claims, for the paper's numbers.
        tables: those of `READ`, by name.
    """
    published, clusters = published_values(judged), params.clusters()
    cosines, likeness = geometry.gram_of(metrics), tables.get("base_similarity")
    focus = params.geometry.focus or [*clusters][:2]
    chosen = metrics.value("base_similarity:layer"), metrics.word("geometry:span")
    charts = [
        geometry.similarity(cosines, published, clusters),
        geometry.structure(cosines, published, clusters, params.geometry.linkage),
        geometry.base_similarity(metrics, likeness, published, params.originals()),
        behaviour.dose_response(metrics),
        behaviour.claims(judged),
        behaviour.monitoring(metrics),
        geometry.references(metrics, published),
        geometry.multiverse(tables.get("multiverse"), focus, chosen),
        geometry.nulls(metrics),
        geometry.by_block(tables.get("layer_sweep"), chosen[0]),
        geometry.power(tables.get("power")),
    ]
    return [figure(f"figure{i}", model, chart) for i, chart in enumerate(charts, start=1)]
