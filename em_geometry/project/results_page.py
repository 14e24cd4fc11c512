"""`em-geometry page`: fills the numbers of a page of results, docs/results-<name>.md.

The last cell of a table's row names what stands in the cell before it, in its order: `stage: key`,
with {a,b} for several keys. A number keeps its decimals; # stands for digits not filled in yet.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.files import read_text, write_text
from em_geometry.io.results import Results, write_table
from em_geometry.project import paths
from em_geometry.project.profile import check_ran
from em_geometry.report.families import STAGE, with_families
from em_geometry.settings import load_params

NUMBER = re.compile(r"[-\u2212]?(?:\d+(?:\.\d+)?|#+(?:\.#+)?)")
CITED = re.compile(r"`([a-z_0-9]+): ([^`]+)`")
Cited = list[tuple[str, str]]  # (stage, key)


def spread(key: str) -> list[str]:
    """a.{b,c} as a.b, a.c."""
    head, brace, rest = key.partition("{")
    if not brace:
        return [key]
    inner, _, tail = rest.partition("}")
    return [full for part in inner.split(",") for full in spread(head + part + tail)]


def cited(line: str) -> tuple[list[str], Cited]:
    """(cells, what the last one names) of a line; nothing is named outside a table."""
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    named = CITED.findall(cells[-1]) if line.startswith("|") else []
    return cells, [(stage, key) for stage, keys in named for key in spread(keys)]


def told(found: Results, key: str) -> float | str:
    """The number or word at a key, or at a part of a result (`.low`); UserError where none is."""
    whole, _, part = key.rpartition(".")
    result, part = (found.get(key), "value") if key in found else (found.get(whole), part)
    value = getattr(result, part, None)
    if value is not None:
        return float(value)
    if result is None or result.value is not None:
        raise UserError("the run has no such result", where=key, found="nothing")
    return result.status


def written(said: str, values: Sequence[float | str]) -> str:
    """A cell with these numbers in place of its own; with words, where there is one, alone."""
    words = [value for value in values if isinstance(value, str)]
    if words:
        return ", ".join(words if len(words) == len(values) else dict.fromkeys(words))
    places = NUMBER.findall(said)
    if len(places) != len(values):
        what, found = (
            "a cell has not as many numbers as its row names",
            f"{len(places)} in {said!r}",
        )
        raise UserError(what, found=found, expected=len(values))
    numbers = (f"{v:.{len(p.partition('.')[2])}f}" for v, p in zip(values, places, strict=True))
    return NUMBER.sub(lambda _: next(numbers), said)


def filled(text: str, stages: Mapping[str, Results], page: Path) -> Iterator[str]:
    """The lines of a page with the numbers of a run; UserError names the line that does not fit."""
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        cells, named = cited(line.rstrip("\n"))
        if named:
            try:
                values = [told(stages.get(stage, Results()), key) for stage, key in named]
                cells[-2] = written(cells[-2], values)
            except UserError as error:
                error.where = f"{page}, line {number}: {error.where or cells[0]}"
                raise
            line = f"| {' | '.join(cells)} |\n"
        yield line


def cli(page: Annotated[Path, typer.Argument(help="docs/results-<name>.md")]) -> None:
    """Fill a page of results from this run, and keep beside it what it names and shows."""
    params, folder, text = load_params(paths.PARAMS), page.with_suffix(""), read_text(page)
    check_ran(params.profile)
    model = params.model_name
    ran = Metrics.read(paths.TABLES, params.more.experiments)
    found = with_families(ran, model, paths.FAMILIES, params).stages
    stages = {name.removeprefix(f"{STAGE}/"): results for name, results in found.items()}
    write_text(page, "".join(filled(text, stages, page)))
    named = [each for line in text.splitlines() for each in cited(line)[1]]
    for stage in dict.fromkeys(stage for stage, _ in named):
        rows = stages[stage].rows
        keys = (key if key in rows else key.rpartition(".")[0] for of, key in named if of == stage)
        write_table(folder / f"{stage}.csv", Results({key: rows[key] for key in keys}))
    for picture in re.findall(rf"\({folder.name}/([\w.-]+)\)", text):
        shutil.copy(paths.plot(picture), folder / picture)
    print(f"{page} is filled; {folder} has the {len(named)} numbers that it names")
