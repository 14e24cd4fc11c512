"""`em-geometry families`: keeps a run's numbers, and prints them beside those of other models."""

from em_geometry.claims.lookup import Metrics
from em_geometry.io.results import write_table
from em_geometry.project import paths
from em_geometry.project.profile import check_ran
from em_geometry.report.families import kept, with_families
from em_geometry.report.tables import Results, Table, all_tables
from em_geometry.report.text import NO_BREAK
from em_geometry.settings import load_params


def cli() -> None:
    """Keep this run's numbers in data/families/<profile>.csv, and print it beside the others."""
    params = load_params(paths.PARAMS)
    metrics, model = Metrics.read(paths.TABLES, params.more.experiments), params.model_name
    check_ran(params.profile)
    place = paths.family(params.profile)
    write_table(place, kept(metrics, model))
    print(f"{place}: commit it; `dvc repro report` shows the families on the page")
    found = Results(with_families(metrics, model, paths.FAMILIES, params).stages, params)
    for table in all_tables(found):
        if table.name in ("families", "agreement"):
            print(f"\n{markdown(table)}")


def markdown(table: Table) -> str:
    """A table of the page in Markdown."""
    rows = [
        [cell.text.replace(NO_BREAK, " ").replace("|", "/") for cell in row] for row in table.rows
    ]
    lines = [table.header, ["---"] * len(table.header), *rows]
    return "\n".join([f"**{table.caption}**", "", *(f"| {' | '.join(line)} |" for line in lines)])
