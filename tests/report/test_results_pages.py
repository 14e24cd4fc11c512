"""Pages of results say what the metrics beside them hold: docs/results-<name>.md and its folder.

The last cell of a table's row names the metrics behind the cell before it, in its order:
`file: key`, with {a,b} for several keys.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from em_geometry.io.results import read_results

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("results-*.md"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
KEYS = re.compile(r"`([a-z_]+): ([^`]+)`")


def held(folder: Path, file: str, key: str) -> Any:
    """The value of a metric, from its table where that is there; KeyError when there is none."""
    if (table := folder / f"{file}.csv").is_file():
        rows, (result, _, part) = read_results(table).rows, key.rpartition(".")
        if key not in rows:
            return getattr(rows[result], part)
        return rows[key].status if rows[key].value is None else rows[key].value
    found = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
    for part in key.split("."):
        found = found[part]
    return found


def spread(key: str) -> list[str]:
    """a.{b,c} as a.b, a.c."""
    head, brace, rest = key.partition("{")
    if not brace:
        return [key]
    inner, _, tail = rest.partition("}")
    return [full for part in inner.split(",") for full in spread(head + part + tail)]


def rows(page: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """(cell before the last, metrics that the last names) of every table row that names some."""
    found = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and (named := KEYS.findall(cells[-1])):
            found.append((cells[-2], [(file, k) for file, key in named for k in spread(key)]))
    return found


def shown(value: Any, text: str) -> str:
    """A metric as written with as many decimals as `text` has."""
    decimals = len(text.partition(".")[2])
    return f"{value:.{decimals}f}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_number_of_the_tables_is_the_metric(page: Path) -> None:
    found = rows(page)
    assert len(PAGES) > 1 and len(found) > 10
    for said, keys in found:
        values = [held(page.with_suffix(""), *key) for key in keys]
        if any(isinstance(value, str) for value in values):
            assert said == ", ".join(values), keys
            continue
        numbers = NUMBER.findall(said.replace("\u2212", "-"))
        assert numbers == [shown(v, n) for v, n in zip(values, numbers, strict=True)], keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_have_no_number_that_no_table_has(page: Path) -> None:
    """A sentence may say "4.9 less" for -4.9."""
    backed = {n.lstrip("-") for said, _ in rows(page) for n in NUMBER.findall(said)}
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", page.read_text("utf-8"), flags=re.DOTALL)
    prose = [line for line in text.splitlines() if line and not line.startswith(("|", "#", "!"))]
    loose = {n for line in prose for n in re.findall(r"(?<![\w.])\d+\.\d+", line)} - backed
    assert not loose
