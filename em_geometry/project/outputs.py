"""What stages write beside their data: tables of results with their headline, and plots' tables."""

from collections.abc import Iterable, Sequence

from em_geometry.io.files import write_text
from em_geometry.io.results import Nested, write_results
from em_geometry.io.tables import csv_text
from em_geometry.project import paths


def put_results(stage: str, nested: Nested, headline: Sequence[str] = ()) -> None:
    """Writes plots/tables/<stage>.csv, and what `headline` names of it to metrics/<stage>.json."""
    write_results(paths.table(stage), paths.metrics(stage), nested, headline)


def put_plot(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes plots/<name>.csv."""
    write_text(paths.plot(f"{name}.csv"), csv_text(header, rows))
