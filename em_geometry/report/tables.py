"""The report's tables: data in `page/tables.yaml`, and the one renderer that fills them.

A table has a caption, a note, rows and columns. A row group names what it goes over (`each`: a
pattern of keys, or a list of this module), which binds names; a column shows the result at a key
(`of`, with bound names in braces), or a text (a template that sees bound names and results).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from em_geometry.claims.lookup import Metrics
from em_geometry.report.text import (
    NO_BREAK,
    NONE,
    PAGE,
    arrow,
    decimals,
    joined,
    short,
    visible,
    with_interval,
    words,
)
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Estimate

SHADES, STRONG = 3, 60.0  # steps of shading on each side of zero; points that take the darkest
MAIN = ("statistic.", "similarity.", "cluster_angle.", "pca.", "pc1_ablation.", "core.")
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
    """A table of the report; the first column names the row.

    Attributes:
        name: id on the page and file name of the download.
        section: of the page.
        caption: what it shows, with units.
        note: how to read it.
    """

    name: str
    section: str
    caption: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def csv(self) -> str:
        """The table as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([cell.text.replace(NO_BREAK, " ") for cell in row] for row in self.rows)
        return text.getvalue()


@dataclass(frozen=True)
class Results:
    """What templates and tables see of a run: results by "stage:key", and the params' lists."""

    params: Params
    metrics: Metrics

    def estimate(self, key: str) -> Estimate:
        return self.metrics.measured(*key.split(":", 1))

    def value(self, key: str) -> float | None:
        return self.estimate(key).value

    def word(self, key: str) -> str | None:
        return self.metrics.text(*key.split(":", 1))

    def names(self, key: str) -> list[str]:
        return self.metrics.names(*key.split(":", 1))

    def has(self, key: str) -> bool:
        return self.metrics.has(*key.split(":", 1))

    def each(self, what: str) -> Iterator[Names]:
        """Names that a row or column group binds, once for each of its members."""
        if ":" in what:
            yield from self.metrics.matches(*what.split(":", 1))
        else:
            yield from LISTS[what](self)

    @cached_property
    def environment(self) -> Environment:
        """Templates that escape everything and show control characters."""
        found = Environment(
            loader=FileSystemLoader(PAGE),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=visible,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        found.filters |= {
            "arrow": arrow,
            "decimals": lambda value, digits: NONE if value is None else decimals(value, digits),
            "interval": with_interval,
            "joined": joined,
            "short": short,
            "slug": lambda text: text.replace(" ", "-"),
        }
        found.tests |= {
            "above": lambda value, end: value is not None and value > end,
            "below": lambda value, end: value is not None and value < end,
        }
        found.globals |= {
            **{k: getattr(self, k) for k in ("estimate", "value", "word", "names", "has", "each")},
            "params": self.params,
            "words": layout()["words"],
            "dash": NONE,
        }
        return found

    def text(self, template: str, names: Names) -> str:
        """A template of the layout as plain text."""
        if "{{" not in template and "{%" not in template:
            return template
        return self._plain.from_string(template).render(names).strip()

    @cached_property
    def _plain(self) -> Environment:
        return self.environment.overlay(autoescape=False)


def _models(slugs: Callable[[Params], Sequence[str]]) -> Callable[[Results], Iterator[Names]]:
    def rows(found: Results) -> Iterator[Names]:
        for slug in slugs(found.params):
            organism = found.params.organisms.get(slug)
            kind = (organism.cluster or organism.role) if organism else BASE
            yield {"slug": slug, "lab": organism.lab if organism else NONE, "kind": kind}

    return rows


def _statistics(found: Results) -> Iterator[Names]:
    """The main statistics of the calibration."""
    for key, row in found.metrics.group("calibration", "statistic").items():
        if (
            row.value is not None
            and key.startswith(MAIN)
            and f"{key}.covariance" in (found.metrics.group("calibration", "statistic"))
        ):
            yield {"key": key}


def _judged(last: str) -> Callable[[Results], Iterator[Names]]:
    """Groups of the judge's results that have a number of this name."""

    def rows(found: Results) -> Iterator[Names]:
        for key in found.metrics.group("judge"):
            path, _, name = key.rpartition(".")
            if name == last:
                head, _, tail = path.replace("category.", "").partition(".")
                label = f"{layout()['words']['judge_sets'].get(head, head)}: {tail}"
                yield {"path": path, "label": label.replace("_", " ").replace(".", ", ")}

    return rows


def _other_judge_results(found: Results) -> Iterator[Names]:
    """What stands in no other table of the judge."""
    shown = [n["path"] for last in ("auroc", "mean_aligned_label") for n in _judged(last)(found)]
    for key in found.metrics.group("judge"):
        if not key.startswith(tuple(f"{path}." for path in shown)) and key not in ("judge", "gate"):
            yield {"key": key}


LISTS: dict[str, Callable[[Results], Iterator[Names]]] = {
    "organisms": _models(lambda params: params.slugs("organism")),
    "targets": _models(lambda params: params.targets),
    "into": lambda found: ({"target": target} for target in found.params.steered()),
    "statistics": _statistics,
    "judge agreement": _judged("auroc"),
    "judge categories": _judged("mean_aligned_label"),
    "judge details": _other_judge_results,
    "external": lambda found: (
        {"name": n} for n in (found.word("geometry:external.names") or "").split(", ") if n
    ),
}


def layout() -> Any:
    """What `page/tables.yaml` says."""
    return words("tables.yaml")


def all_tables(found: Results) -> list[Table]:
    """Every table that has a row, in the order of the layout."""
    tables = (_table(found, name, about) for name, about in layout()["tables"].items())
    return [table for table in tables if table.rows]


def _table(found: Results, name: str, about: Mapping[str, Any]) -> Table:
    needs = about.get("needs")
    columns = [column for group in about["columns"] for column in _expanded(found, group)]
    rows = []
    for group in about["rows"] if needs is None or found.has(needs) else ():
        for bound in _expanded(found, group):
            names = {k: found.text(v, bound) if k == "label" else v for k, v in bound.items()}
            if "if" not in group or found.text(group["if"], names) not in ("", "False", "None"):
                rows.append([_cell(found, column, column | names) for column in columns])
    head = [found.text(column["head"], column) for column in columns]
    caption, note = (found.text(about.get(k, ""), {}) for k in ("caption", "note"))
    return Table(name, about["section"], caption, note, head, rows)


def _expanded(found: Results, group: Mapping[str, Any]) -> Iterator[Names]:
    """A row or column group with the names that it binds, once for each member."""
    for names in found.each(group["each"]) if "each" in group else ({},):
        yield {**group, **names}


def _cell(found: Results, column: Mapping[str, Any], names: Names) -> Cell:
    """What a column shows for one row."""
    if "text" in column:
        text = found.text(column["text"], names)
        return Cell(text or NONE, "yes" if column.get("show") == "yes" and text == "yes" else "")
    of = names["of"] if isinstance(names["of"], list) else [names["of"]]
    keys = [key.format_map(names) for key in of]
    known = next((key for key in keys if found.has(key)), None)
    measured = found.estimate(known or keys[0])
    match column.get("show", "interval"):
        case "effect":
            own = names.get("slug") == names.get("target")
            return effect(measured, names.get("unit", "")) if known else (
                Cell("own" if own and "target" in names else "none", "none")
            )  # fmt: skip
        case "short":
            return Cell(short(measured.value))
        case "value":
            measured = Estimate(measured.value, n=measured.n, status=measured.status)
    if known is None and "absent" in column:
        return Cell(column["absent"])
    return Cell(with_interval(measured, column.get("unit", ""), column.get("digits", 1)))


def effect(measured: Estimate, unit: str = "") -> Cell:
    """`12 [3, 30]` with n on hovering; `undefined` with the reason on hovering."""
    n = "" if measured.n is None else f"n = {short(measured.n)}"
    if measured.value is None:
        reason = f"{measured.status}; {n}" if n else measured.status
        return Cell(UNDEFINED if measured.status.startswith(UNDEFINED) else "none", "none", reason)
    return Cell(with_interval(measured, unit, 0), shade(measured.value), n)


def shade(value: float) -> str:
    """Style of a signed percentage: `pos1` to `pos3`, `neg1` to `neg3`, "" near zero."""
    step = min(SHADES, round(abs(value) / STRONG * SHADES))
    return "" if step == 0 else f"{'pos' if value > 0 else 'neg'}{step}"
