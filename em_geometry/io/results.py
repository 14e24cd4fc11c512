"""What a stage found: every number in one long table, the headline of it in a metrics JSON.

A stage hands over nested dictionaries whose leaves are `Estimate`s, plain numbers, or words. The
table has a row for each (`key, value, low, high, n, status`; the key joins the dictionaries' names
with dots), so that every reader finds any number by its key. The metrics file holds the few keys
that `dvc metrics` should show.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral
from pathlib import Path
from typing import TypeAlias

from em_geometry.errors import UserError
from em_geometry.io.files import missing, nest, write_metrics, write_text
from em_geometry.io.tables import csv_text
from em_geometry.stats.estimate import OK, Estimate

Leaf: TypeAlias = Estimate | float | int | str
Nested: TypeAlias = Mapping[str, "Leaf | Nested"]

COLUMNS = ("key", "value", "low", "high", "n", "status")
DIGITS = 6  # significant ones: what another processor still gives


def flatten(nested: Nested, prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Leaves of nested dictionaries as (dotted key, leaf), in order."""
    for name, inner in nested.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(inner, Mapping):
            yield from flatten(inner, key)
        else:
            yield key, inner


def as_estimate(leaf: Leaf) -> Estimate:
    """A leaf as an estimate: a number has no interval, a word is a status without a number."""
    if isinstance(leaf, Estimate):
        return leaf
    if isinstance(leaf, str):
        return Estimate.undefined(leaf)
    value = int(leaf) if isinstance(leaf, Integral) else float(leaf)  # counts keep all digits
    if not math.isfinite(value):
        raise ValueError(f"{leaf} is no result; give an Estimate or a word that says why")
    return Estimate(value)


@dataclass(frozen=True)
class Results:
    """The results of one stage by key, in the order in which they were written."""

    rows: Mapping[str, Estimate] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def get(self, key: str) -> Estimate | None:
        """The result at `key`, None when there is none."""
        return self.rows.get(key)

    def number(self, key: str) -> float:
        """The number at `key`.

        Raises:
            UserError: there is none.
        """
        found = self.get(key)
        if found is None or found.value is None:
            why = "nothing" if found is None else found.status
            raise UserError("a result that is needed is missing", where=key, found=why)
        return found.value

    def group(self, prefix: str) -> dict[str, Estimate]:
        """Results whose keys begin with `prefix` and a dot, by the rest of their keys."""
        start = f"{prefix}."
        return {k.removeprefix(start): e for k, e in self.rows.items() if k.startswith(start)}

    def names(self, prefix: str = "") -> list[str]:
        """First parts of the keys under `prefix`, each once, in order."""
        keys = self.group(prefix) if prefix else self.rows
        return list(dict.fromkeys(key.split(".", 1)[0] for key in keys))


def write_results(
    table: Path, metrics: Path, nested: Nested, headline: Sequence[str] = ("*",)
) -> None:
    """Writes all results to `table` (CSV), and those that `headline` names to `metrics` (JSON).

    Args:
        headline: keys, or patterns of them (`angle.*`), in the order in which they are shown.
    Raises:
        ValueError: a number that is not finite.
    """
    rows = {key: as_estimate(leaf) for key, leaf in flatten(nested)}
    cells = [[key, e.value, e.low, e.high, e.n, e.status] for key, e in rows.items()]
    write_text(table, csv_text(COLUMNS, cells))
    chosen = list(
        dict.fromkeys(key for pattern in headline for key in rows if fnmatchcase(key, pattern))
    )
    leaves = dict(flatten(nested))
    write_metrics(metrics, nest({key: _metric(leaves[key]) for key in chosen}))


def read_results(table: Path) -> Results:
    """Reads what `write_results` wrote.

    Raises:
        UserError: the file is missing, or is no table of results.
    """
    if not table.is_file():
        raise missing(table)
    with table.open(encoding="utf-8", newline="") as handle:
        lines = csv.reader(handle)
        header = next(lines, [])
        if tuple(header) != COLUMNS:
            raise UserError(
                "not a table of results",
                where=str(table),
                found=",".join(header)[:200],
                expected=",".join(COLUMNS),
            )
        rows = {}
        for key, *numbers, status in lines:
            value, low, high, n = map(_number, numbers)
            rows[key] = Estimate(value, low, high, n, status)
        return Results(rows)


def rounded(value: float) -> float:
    """`value` with as many digits as results are written with."""
    return float(f"{value:.{DIGITS}g}")


def _number(text: str) -> float | None:
    return float(text) if text else None


def _plain(value: float) -> float | int:
    if isinstance(value, Integral):
        return int(value)
    short = rounded(value)
    return int(short) if short == int(short) and abs(short) < 10**DIGITS else short


def _metric(leaf: Leaf) -> object:
    """A leaf as JSON: an interval as value, low, high, n, status; a number or word as itself."""
    if isinstance(leaf, str | bool):
        return leaf
    if not isinstance(leaf, Estimate):
        return _plain(leaf)
    if leaf.value is None:
        return {"status": leaf.status} if leaf.n is None else {
            "n": _plain(leaf.n), "status": leaf.status
        }  # fmt: skip
    named = {"value": leaf.value, "low": leaf.low, "high": leaf.high, "n": leaf.n}
    return {k: _plain(v) for k, v in named.items() if v is not None} | {"status": OK}
