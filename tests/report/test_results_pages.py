"""Pages of results say what the metrics beside them hold: docs/results-<name>.md and its folder.

The last cell of a table's row names the metrics behind the cell before it, in its order:
`file: key`, with {a,b} for several keys. A page whose profile has not been run has no folder.
"""

import re
import shutil
from pathlib import Path

import pytest

from em_geometry.errors import UserError
from em_geometry.io.results import Results, as_estimate, read_results
from em_geometry.project import paths
from em_geometry.project.results_page import NUMBER, cited, cli, filled

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted((ROOT / "docs").glob("results-*.md"))
PAGES = [page for page in ALL if page.with_suffix("").is_dir()]


def stages(page: Path) -> dict[str, Results]:
    """The tables of results beside a page."""
    return {path.stem: read_results(path) for path in page.with_suffix("").glob("*.csv")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_number_of_the_tables_is_the_metric(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert sum(bool(cited(line)[1]) for line in text.splitlines()) > 10
    assert "".join(filled(text, stages(page), page)).replace("\u2212", "-") == text.replace(
        "\u2212", "-"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_have_no_number_that_no_table_has(page: Path) -> None:
    """A sentence may say "4.9 less" for -4.9."""
    text = page.read_text("utf-8")
    rows = [cells for cells, named in map(cited, text.splitlines()) if named]
    backed = {n.lstrip("-\u2212") for cells in rows for n in NUMBER.findall(cells[-2])}
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    prose = [line for line in text.splitlines() if line and not line.startswith(("|", "#", "!"))]
    loose = {n for line in prose for n in re.findall(r"(?<![\w.])\d+\.\d+", line)} - backed
    assert not loose


@pytest.mark.parametrize("page", [p for p in ALL if p not in PAGES], ids=lambda page: page.stem)
def test_a_page_of_a_profile_that_was_not_run_has_no_numbers(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    cells = [cells[-2] for cells, named in map(cited, text.splitlines()) if named]
    assert cells and not any(re.search(r"\d", cell) for cell in cells)
    assert "not been run" in text


def test_a_page_is_filled_from_the_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "plots/tables", paths.TABLES)
    shutil.copy(ROOT / "profiles/smol.yaml", paths.PARAMS)
    page = Path("results-smol.md")
    text = (
        "Text with 1.5 stays.\n\n| what | value | metric |\n|---|---|---|\n"
        "| block; margin | # at #.## [#.###, #] | "
        "`layer_sweep: layer` `margins: organism.finance.misaligned.{value,low,high}` |\n"
        "| word | # | `layer_sweep: contrast` |\n"
    )
    page.write_text(text)
    cli(page)
    found = read_results(paths.table("margins")).rows["organism.finance.misaligned"]
    assert (found.value, found.low, found.high) != (None, None, None)
    block = read_results(paths.table("layer_sweep")).number("layer")
    row = f"| {block:.0f} at {found.value:.2f} [{found.low:.3f}, {found.high:.0f}] |"
    assert row in page.read_text()
    assert "| word | control_contrast |" in page.read_text()
    assert "Text with 1.5 stays." in page.read_text()
    assert "".join(filled(page.read_text(), stages(page), page)) == page.read_text()
    assert set(stages(page)) == {"layer_sweep", "margins"}
    assert "5 numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("| x | # | `margins: nothing.here` |", "no such result"),
        ("| x | # and # | `layer_sweep: layer` |", "as many numbers"),
        ("| x | # | `no_stage: layer` |", "no such result"),
    ],
)
def test_what_a_row_names_must_be_there(row: str, says: str) -> None:
    layer = {"layer_sweep": Results({"layer": as_estimate(14)})}
    with pytest.raises(UserError, match=says) as error:
        list(filled(f"# A page\n{row}\n", layer, Path("page.md")))
    assert (error.value.where or "").startswith("page.md, line 2: ")
