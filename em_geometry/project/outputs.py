"""What stages write beside their data: tables of results with their headline, and plots' tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from em_geometry.io.files import atomic_path, write_text
from em_geometry.io.results import Nested, write_metrics, write_results
from em_geometry.io.tables import csv_text
from em_geometry.project import paths

if TYPE_CHECKING:  # half of the battery: a second of every stage that has no use for it
    from em_geometry.report.findings import Summary


def put_results(stage: str, nested: Nested, headline: Sequence[str] = ()) -> None:
    """Writes plots/tables/<stage>.csv, and what `headline` names of it to metrics/<stage>.json."""
    write_results(paths.table(stage), paths.metrics(stage), nested, headline)


def put_summary(summary: Summary) -> None:
    """Writes metrics/summary.json, and each number of it as a file of metrics/summary/."""
    write_metrics(paths.metrics("summary"), {**summary.words, **summary.rows()})
    put_rows("summary", summary.rows())


def put_rows(name: str, rows: Mapping[str, Mapping[str, object]]) -> None:
    """Writes each row as a file of the folder metrics/<name>/.

    `dvc metrics show` prints a file as one row, so that a number a file makes a table of them.
    """
    with atomic_path(paths.METRICS / name, folder=True) as folder:
        for key, row in rows.items():
            write_metrics(folder / f"{key}.json", row)


def put_plot(name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes plots/<name>.csv."""
    write_text(paths.plot(f"{name}.csv"), csv_text(header, rows))
