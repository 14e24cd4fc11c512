"""The report's tables: data in `page/tables.yaml`, and the one renderer that fills them.

A table has a caption, a note, rows and columns. A row group names what it goes over (`each`: a
pattern of keys, or a list of this module), which binds names; a column shows the result at a key
(`of`, with bound names in braces), or a text (a template that sees bound names and results).
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from em_geometry.claims.lookup import Metrics
from em_geometry.io.tables import csv_text
from em_geometry.report.text import (
    NO_BREAK,
    NONE,
    PAGE,
    decimals,
    joined,
    layout,
    p_told,
    p_value,
    short,
    statistic,
    visible,
    with_interval,
)
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Estimate

UNDEFINED = "undefined"
Names = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell: `text`, a word for its style ("" = none), and what a pointer shows."""

    text: str
    style: str = ""
    hover: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the report; the first column names the row."""

    name: str  # id on the page and file name of the download
    section: str  # of the page
    caption: str  # what it shows, with units
    note: str  # how to read it
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def csv(self) -> str:
        """The table as CSV."""
        rows = ([cell.text.replace(NO_BREAK, " ") for cell in row] for row in self.rows)
        return csv_text(self.header, rows)


@dataclass(frozen=True)
class Results(Metrics):
    """What templates and tables see of a run: its results, and the params' lists."""

    params: Params

    def each(self, what: str) -> Iterable[Names]:
        """Names that a row or column group binds, once for each of its members.

        Args:
            what: a pattern of keys (`stage:pair.{pair}`), all keys (`stage:*`), or a list below.
        """
        stage, _, pattern = what.partition(":")
        if pattern == "*":
            return [{"key": key} for key in self.group(stage)]
        return self.matches(what) if pattern else LISTS[what](self)

    @cached_property
    def environment(self) -> Environment:
        """The templates, which see results and params."""
        found = environment()
        found.globals |= {
            **{k: getattr(self, k) for k in ("estimate", "value", "word", "names", "has", "each")},
            "params": self.params,
            "words": layout()["words"],
            "dash": NONE,
            **{k: partial(self.text, layout()[k], {}) for k in ("gate", "gated")},
        }
        return found

    def text(self, template: str, names: Names) -> str:
        """A template of the layout as plain text."""
        if "{" not in template:
            return template
        return self._template(template).render(names).strip()

    @cached_property
    def _template(self) -> Callable[[str], Template]:
        return cache(self.environment.overlay(autoescape=False).from_string)


def environment(autoescape: bool = True) -> Environment:
    """Templates that show control characters and, with `autoescape`, all else as text of HTML."""
    found = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=autoescape,  # noqa: S701 (text is for terminals and README)
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "arrow": lambda pair: " \u2192 ".join(pair.split("__")),
        "count": lambda e: short(e.value),
        "decimals": lambda value, digits: NONE if value is None else decimals(value, digits),
        "interval": with_interval,
        "joined": joined,
        "of": lambda e: f"{short(e.value)} of {short(e.n)}",
        "p": p_value,
        "p_told": p_told,
        "short": short,
        "slug": lambda text: text.replace(" ", "-"),
        "statistic": statistic,
        "spaced": lambda text: (text or NONE).replace("_", " "),
    }
    found.tests |= {
        "above": lambda value, end: value is not None and value > end,
        "below": lambda value, end: value is not None and value < end,
    }
    return found


def _models(found: Results, slugs: Iterable[str]) -> Iterator[Names]:
    for slug in slugs:
        organism = found.params.organisms.get(slug)
        kind = (organism.cluster or organism.role) if organism else BASE
        yield {"slug": slug, "lab": organism.lab if organism else NONE, "kind": kind}


LISTS: dict[str, Callable[[Results], Iterable[Names]]] = {
    "organisms": lambda found: _models(found, found.params.slugs("organism")),
    "targets": lambda found: _models(found, found.params.answering()),
    "into": lambda found: [{"target": target} for target in found.params.margin_targets()],
    "external": lambda found: [
        {"name": n} for n in (found.word("geometry:external.names") or "").split(", ") if n
    ],
}


def all_tables(found: Results) -> list[Table]:
    """Every table that has a row, in the order of the layout."""
    tables = (_table(found, name, about) for name, about in layout()["tables"].items())
    return [table for table in tables if table.rows]


def as_written(files: Mapping[str, str]) -> list[Table]:
    """Tables that a stage wrote as CSV, name -> text, with the columns that the layout shows."""
    tables = []
    for name, about in layout()["written"].items():
        lines = [*csv.DictReader(io.StringIO(files.get(f"{name}.csv", "")))]
        rows = [[Cell(line[column] or NONE) for column in about["columns"]] for line in lines]
        if rows:
            head = [*about["columns"].values()]
            tables.append(
                Table(name, about["section"], about["caption"], about["note"], head, rows)
            )
    return tables


def _table(found: Results, name: str, about: Mapping[str, Any]) -> Table:
    needs = about.get("needs")
    columns = [group | bound for group in about["columns"] for bound in _members(found, group)]
    rows = []
    for group in about["rows"] if needs is None or found.has(needs) else ():
        own = {key: text for key, text in group.items() if key not in ("each", "if")}
        for bound in _members(found, group):
            names = dict(bound)
            for key, text in own.items():
                names[key] = found.text(text, names)
            if "if" not in group or found.text(group["if"], names) not in ("", "False", "None"):
                rows.append([_cell(found, column, column | names) for column in columns])
    head = [found.text(column["head"], column) for column in columns]
    said = (about.get(k, "") if rows else "" for k in ("caption", "note"))  # of what is there
    caption, note = (found.text(text, {}) for text in said)
    return Table(name, about["section"], caption, note, head, rows)


def _members(found: Results, group: Mapping[str, Any]) -> Iterable[Names]:
    return found.each(group["each"]) if "each" in group else ({},)


def _cell(found: Results, column: Mapping[str, Any], names: Names) -> Cell:
    """What a column shows for one row."""
    show = column.get("show", "interval")
    if "text" in column:
        text = found.text(column["text"], names)
        return Cell(text or NONE, "yes" if show == text == "yes" else "")
    of = names["of"] if isinstance(names["of"], list) else [names["of"]]
    keys = [key.format_map(names) for key in of]
    known = next((key for key in keys if found.has(key)), None)
    if known is None:
        return Cell(column.get("absent", NONE))
    measured = found.estimate(known)
    if show == "effect":
        n = f"n = {short(measured.n)}" if measured.n is not None else ""
        if measured.value is not None:
            return Cell(with_interval(measured, digits=0), "", n)
        why = "; ".join(filter(None, (measured.status, n)))
        return Cell(UNDEFINED if why.startswith(UNDEFINED) else "none", "none", why)
    if show == "short":
        return Cell(short(measured.value))
    if show == "value":
        measured = Estimate(measured.value, n=measured.n, status=measured.status)
    if show == "p" and measured.value is not None:
        return Cell(p_value(measured.value, column.get("digits", 3)))
    return Cell(with_interval(measured, column.get("unit", ""), column.get("digits", 1)))
