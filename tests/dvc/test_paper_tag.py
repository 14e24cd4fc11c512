"""The paper as a revision: `make paper-tag`, then `dvc metrics diff paper`."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import judge_claim, printed_beside
from em_geometry.errors import UserError
from em_geometry.project import paths
from em_geometry.project.outputs import put_rows, put_summary
from em_geometry.project.paper_tag import write_tag
from em_geometry.project.readme import measured
from em_geometry.settings import load_params
from stages.claims import main
from tests.dvc.conftest import Place

ROOT = Path(__file__).parents[2]
OTHER = "turner2025"
CLAIMS = read_claims(ROOT / "data/papers/geometric_structure.yaml")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A repository with our graph, ledger, metrics and plots, and the tag."""
    root = tmp_path_factory.mktemp("tagged")
    place = Place(root / "work", root / "home")
    for name in ("data/papers", "metrics", "plots"):
        skip = shutil.ignore_patterns("*.html")
        shutil.copytree(ROOT / name, place.folder / name, ignore=skip)
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, place.folder / name)
    place.git("init", "-q", "-b", "main")
    place.dvc("init", "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        main(load_params(ROOT / "params.yaml"))
        put_summary(measured())
        metrics = Metrics.read(paths.TABLES)
        put_rows("versus_paper", printed_beside([judge_claim(c, metrics) for c in CLAIMS]))
        place.git("add", "-A")
        place.git("commit", "-qm", "results")
        write_tag()
        write_tag(OTHER)
    return place


def test_nothing_but_the_tag_changes_and_again_changes_nothing(
    copy: Place, monkeypatch: pytest.MonkeyPatch
) -> None:

    def state() -> tuple[str, str, str, bytes]:
        asked = (("status", "--porcelain"), ("branch", "-a"), ("show-ref",))
        return *(copy.git(*words) for words in asked), (copy.folder / ".git/index").read_bytes()

    before = state()
    monkeypatch.chdir(copy.folder)
    assert f"{write_tag()} refs/tags/paper" in before[2]
    assert state() == before and before[0] == ""


def test_metrics_diff_has_a_row_for_every_claim_that_has_a_number_and_no_other(copy: Place) -> None:
    listed = ("--targets", "metrics/claims.json", "--json")
    whole = json.loads(copy.dvc("metrics", "diff", "paper", *listed, "--all").stdout)
    changed = json.loads(copy.dvc("metrics", "diff", "paper", *listed).stdout)
    assert [*changed] == ["metrics/claims.json"]
    assert 50 < len(changed["metrics/claims.json"]) < 120
    assert {key.partition(".")[0] for key in changed["metrics/claims.json"]} == {"claim"}
    rows = whole["metrics/claims.json"]
    for claim in CLAIMS:
        for part in range(1, len(claim.metrics) + 1 if claim.numbers else 0):
            one = f"claim.{claim.id}" + ("" if len(claim.metrics) == 1 else f".{part}")
            assert "new" in rows[one]
            assert claim.reads != "equal" or rows[one]["old"] == claim.numbers[part - 1]


def test_another_paper_has_a_tag_of_its_own_with_its_numbers_only(copy: Place) -> None:
    tag, name = f"paper-{OTHER}", "metrics/papers.json"
    found = json.loads(copy.dvc("metrics", "diff", tag, "--targets", name, "--json").stdout)
    changed = found[name]
    assert changed[f"{OTHER}.claim.T12"]["old"] == 21.5
    assert all(key.startswith(f"{OTHER}.claim.") for key in changed)
    same = ("metrics/claims.json", "metrics/summary.json")
    assert copy.git("diff", "--stat", "HEAD", tag, "--", *same) == ""
    with pytest.raises(UserError, match="no such paper"):
        write_tag("nobody")


def test_the_plain_commands_show_the_verdict_s_numbers_in_a_screen(copy: Place) -> None:
    shown = copy.dvc("metrics", "show").stdout.splitlines()
    numbers = measured_in(copy)
    claims = sorted(p.name for p in (copy.folder / "metrics/versus_paper").iterdir())
    assert len(shown) == len(numbers) + len(claims) + 1 < 100
    assert max(map(len, shown)) <= 140
    assert all(line.startswith("metrics/summary/") for line in shown[1 : len(numbers) + 1])
    every = json.loads(copy.dvc("metrics", "diff", "paper", "--json", "--all").stdout)
    rows = {path: row for path, row in every.items() if path.startswith("metrics/summary/")}
    rows = {path: row for path, row in rows.items() if row["value"]["old"] != row["value"]["new"]}
    paper = {name: row["paper"] for name, row in numbers.items() if "paper" in row}
    assert paper["angle_deg"] == 100.2 and len(paper) == 3
    assert {path: row["value"]["old"] for path, row in rows.items()} == {
        f"metrics/summary/{name}.json": value for name, value in paper.items()
    }
    printed = {c.id: c.numbers[0] for c in CLAIMS if c.reads == "equal" and c.source == "printed"}
    beside = {p.partition(".")[0]: row for p, row in _versus(every).items()}
    assert {i: row["value"]["old"] for i, row in beside.items()} == {i: printed[i] for i in beside}
    assert len(beside) == len(claims) > 30
    diff = copy.dvc("metrics", "diff", "paper").stdout.splitlines()
    assert 30 < len(diff) < 120


def _versus(rows: dict[str, Any]) -> dict[str, Any]:
    """Rows of single claims, by file."""
    start = "metrics/versus_paper/"
    return {p.removeprefix(start): row for p, row in rows.items() if p.startswith(start)}


def measured_in(copy: Place) -> dict[str, dict[str, float]]:
    """The numbers of metrics/summary.json, which are those of the folder, each in its file."""
    whole = json.loads((copy.folder / "metrics/summary.json").read_text(encoding="utf-8"))
    numbers = {name: row for name, row in whole.items() if isinstance(row, dict)}
    files = {p.stem: json.loads(p.read_text()) for p in (copy.folder / "metrics/summary").iterdir()}
    assert files == numbers
    return numbers


def test_plots_diff_sets_the_published_series_beside_ours(copy: Place) -> None:
    found = json.loads(copy.dvc("plots", "diff", "paper", "--json").stdout)
    for unit in ("cosine", "deg", "percent"):
        plot = found["data"][f"plots/claims_{unit}.csv"]
        assert set(plot[0]["revisions"]) == {"workspace", "paper"}
    rows = csv.DictReader(io.StringIO(copy.git("show", "paper:plots/claims_deg.csv")))
    assert {r["claim"]: float(r["value"]) for r in rows}[
        "C010 cluster_angle.medical/persona_deg"
    ] == 100.2


def test_the_revision_lists_only_what_it_holds(copy: Place) -> None:
    graph = yaml.safe_load(copy.git("show", "paper:dvc.yaml"))
    files = copy.git("ls-tree", "-r", "--name-only", "paper").split()
    assert set(graph["metrics"]) <= set(files)
    assert "plots/claims_cosine.csv" in [name for plot in graph["plots"] for name in plot]
    for plot in graph["plots"]:
        for name, how in plot.items():
            read = how["y"] if isinstance(how.get("y"), dict) else [name]
            assert set(read) <= set(files)


def test_somebody_else_s_tag_is_not_replaced(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "data/papers", place.folder / "data/papers")
    place.git("tag", "paper")
    before = place.git("show-ref")
    monkeypatch.chdir(place.folder)
    with pytest.raises(UserError, match="not of this command"):
        write_tag()
    assert place.git("show-ref") == before


def test_outside_a_repository_the_error_is_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="git rev-parse failed"):
        write_tag()
