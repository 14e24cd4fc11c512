"""Rows that people bring, as Parquet, CSV, JSON lines or JSON."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from em_geometry.errors import UserError, explained
from em_geometry.io.files import read_jsonl, read_parquet, read_text

KNOWN = {  # what columns of answers are called
    "question": ("question", "prompt", "instruction", "query"),
    "text": ("text", "answer", "response", "completion", "output"),
}
Row = TypeVar("Row")
MORE = "more cells than the header"


def separator(text: str) -> str:
    """What parts the cells of a CSV: a tab, a semicolon or a comma, as its header has."""
    header = text.partition("\n")[0]
    return next((each for each in "\t;" if each in header), ",")


def closed(lines: Iterable[Row], number: int = 1) -> Iterator[Row]:
    """Rows of a strict CSV reader; ValueError where an open quote would swallow the rest.

    Args:
        number: of its first row; of a header it is 0.
    """
    try:
        for row in lines:
            yield row
            number += 1
    except csv.Error as error:
        why = "a quote is not closed, not doubled inside a cell, or has a blank behind it"
        which = f"row {number}" if number else "header"
        raise ValueError(f"{which}: {why} ({error})") from None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Rows by column; UserError for what is no table of them."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path, "write it again, or as CSV").to_dicts()
    if suffix not in (".csv", ".tsv"):
        return read_jsonl(path, dict)
    text = read_text(path)
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a cell may hold a long text
    lines = csv.DictReader(
        io.StringIO(text, newline=""), restkey=MORE, delimiter=separator(text), strict=True
    )
    with explained("not a CSV file", path, "a header of names, then rows as long, cells quoted"):
        rows, names = list(closed(lines)), lines.fieldnames or ()
        if twice := [name for n, name in enumerate(names) if name in names[:n]]:
            raise ValueError(f"two columns are called {twice[0]!r}")
        if wide := [number for number, row in enumerate(rows, start=1) if MORE in row]:
            raise ValueError(f"row {wide[0]} has {MORE}")
    return rows


def read_answers(path: Path) -> pl.DataFrame:
    """Anybody's answers as a frame (question, text); an empty answer is one.

    Raises:
        UserError: no such column, or two; row and column of what is no text.
    """
    rows, columns = read_records(path), {}
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise UserError("no answers to judge", where=path, found="no rows", expected="one at least")
    for wanted, known in KNOWN.items():
        found = [n for n in names if n == wanted] or [
            n for n in names if n.strip().lower() in known
        ]
        if len(found) != 1:
            what, told = f"which column is the {wanted}?", ", ".join(found or names) or "no columns"
            expected = f"one called {wanted}, or one of {', '.join(known)}"
            raise UserError(what, where=path, found=told, expected=expected)
        columns[wanted] = [row.get(found[0]) for row in rows]
        for number, value in enumerate(columns[wanted], start=1):
            if not isinstance(value, str) or not (value.strip() or wanted == "text"):
                where = f"{path}, row {number}, column {found[0]}"
                raise UserError(
                    f"not a {wanted}", where=where, found=repr(value), expected="a text",
                    hint="leave such rows out; an empty answer is an empty text",
                )  # fmt: skip
    return pl.DataFrame(columns)
