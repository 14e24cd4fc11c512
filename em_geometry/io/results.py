"""What a stage found: every number in one long table, the headline of it in a metrics JSON.

A stage hands over nested dictionaries whose leaves are `Estimate`s, plain numbers, or words. The
table has a row for each (`key, value, low, high, n, status`; the key joins the dictionaries' names
with dots), so that every reader finds any number by its key. The metrics file holds the few keys
that `dvc metrics` should show.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from fnmatch import fnmatchcase
from numbers import Integral
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeAlias

from em_geometry.errors import UserError
from em_geometry.io.files import there, write_text
from em_geometry.io.tables import csv_text
from em_geometry.stats.estimate import Estimate

Leaf: TypeAlias = Estimate | float | int | str
Nested: TypeAlias = Mapping[str, "Leaf | Nested"]

COLUMNS = ["key", "value", "low", "high", "n", "status"]
DIGITS = 6  # significant ones: what another processor still gives


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries as (dotted key, leaf), in order."""
    for name, inner in nested.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(inner, Mapping):
            yield from flatten(inner, key)
        else:
            yield key, inner


def nest(flat: Mapping[str, object]) -> dict[str, object]:
    """Nested dictionaries from dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def spelt(number: float) -> str:
    """A number as part of a dotted key: `-0_5`."""
    return f"{number:g}".replace(".", "_")


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
        """The number at `key`; UserError when there is none."""
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


def write_results(table: Path, metrics: Path, nested: Nested, headline: Sequence[str] = ()) -> None:
    """Writes all results to `table` (CSV), and those that `headline` names to `metrics` (JSON).

    Args:
        headline: patterns of keys, in the order in which they are shown; a `*` is within one part
            of a key, so that what stands below a number (its p, say) is asked for or left out.
    Raises:
        ValueError: a number that is not finite.
    """
    leaves = dict(flatten(nested))
    write_table(table, Results({key: as_estimate(leaf) for key, leaf in leaves.items()}))
    write_metrics(metrics, nest({key: plain(leaves[key]) for key in shown(leaves, headline)}))


def write_table(path: Path, results: Results) -> None:
    """Writes a table of results."""
    rows = [[key, *astuple(found)] for key, found in results.rows.items()]
    write_text(path, csv_text(COLUMNS, rows))


def shown(keys: Collection[str], headline: Sequence[str]) -> list[str]:
    """The keys that fit patterns part by part, in the order of the patterns."""
    parts = [pattern.split(".") for pattern in headline]
    return [k for wanted in parts for k in keys if _fits(k.split("."), wanted)]


def _fits(key: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(key) == len(wanted) and all(map(fnmatchcase, key, wanted))


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes a metrics JSON that `dvc metrics` shows whole (see `check_metrics`)."""
    plain = json.loads(json.dumps(metrics, default=methodcaller("item")))  # numpy's scalars
    check_metrics(plain)
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Raises ValueError unless `metrics` are nested dicts of finite scalars and strings.

    DVC drops lists and nulls from metrics without a word and writes NaN into JSON, so a metric
    that cannot be a number is a string that says why.
    """
    for key, value in flatten(metrics):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metric {key} is {value}; write a status string instead")
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"metric {key} is a {type(value).__name__}; only scalars and strings")


def read_results(table: Path) -> Results:
    """Reads what `write_results` wrote; UserError when it is missing, or no table of results."""
    with there(table).open(encoding="utf-8", newline="") as handle:
        header, *lines = [*csv.reader(handle)] or [[]]
    if header != COLUMNS:
        found, expected = (",".join(names)[:200] for names in (header, COLUMNS))
        raise UserError("not a table of results", where=table, found=found, expected=expected)
    rows = {}
    for key, *cells, status in lines:
        value, low, high, n = (float(cell) if cell else None for cell in cells)
        rows[key] = Estimate(value, low, high, n, status)
    return Results(rows)


def rounded(value: float) -> float:
    """`value` with as many digits as results are written with."""
    return float(f"{value:.{DIGITS}g}")


def plain(leaf: Leaf) -> object:
    """A leaf as JSON: an estimate as what there is of it, a number or word as itself."""
    if isinstance(leaf, str | bool):
        return leaf
    if isinstance(leaf, Estimate):
        return {name: plain(part) for name, part in asdict(leaf).items() if part is not None}
    if isinstance(leaf, Integral):
        return int(leaf)
    short = rounded(leaf)
    return int(short) if short == int(short) and abs(short) < 10**DIGITS else short


def with_printed(found: Estimate, paper: float | None) -> dict[str, object]:
    """A number as a metric: value, low, high and n as far as there are any, and the printed one."""
    parts = {**asdict(found), "paper": paper}
    return {k: plain(x) for k, x in parts.items() if x is not None and k != "status"}
