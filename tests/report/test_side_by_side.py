"""Runs of several base models side by side: what is kept of one, and the tables of the page."""

import json
import re
import shutil
from pathlib import Path

import pytest

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import read_results
from em_geometry.project import families, paths, readme
from em_geometry.report.families import with_families
from em_geometry.report.tables import Results, Table, all_tables
from em_geometry.settings import load_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def finished(workplace: Path) -> Path:
    """A project with the committed results of the default profile."""
    shutil.copytree(ROOT / "plots/tables", paths.TABLES)
    shutil.copy(ROOT / "profiles/smol.yaml", paths.PARAMS)
    return workplace


def tables() -> dict[str, Table]:
    params, metrics = load_params(paths.PARAMS), Metrics.read(paths.TABLES)
    found = with_families(metrics, "this one", paths.FAMILIES, params)
    return {table.name: table for table in all_tables(Results(found.stages, params))}


def test_one_family_has_no_table_of_two(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    families.cli()
    assert "smol.csv" in capsys.readouterr().out
    assert not {"families", "agreement"} & set(tables())


def test_results_of_another_profile_are_not_kept_as_this_one_s(finished: Path) -> None:
    """Nor told as its verdict: a switch of the profile leaves the tables of the last run."""
    told = {"stages": {"report": {"params": {"params.yaml": {"profile": "qwen05"}}}}}
    paths.LOCK.write_text(json.dumps(told), encoding="utf-8")
    for command in (families.cli, readme.verdict):
        with pytest.raises(UserError, match="another profile") as caught:
            command()
        assert "qwen05" in str(caught.value) and "smol" in str(caught.value)
    assert not paths.FAMILIES.exists()


def test_two_families_stand_side_by_side(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    families.cli()
    other = paths.family("other")
    paths.family("smol").rename(other)
    other.write_text(other.read_text().replace("SmolLM2-135M-Instruct", "Other-7B"))
    both = tables()
    assert list(both["families"].header[1:]) == ["this one", "Other-7B"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in both["families"].rows}
    assert all(ours == theirs for ours, theirs in rows.values())
    needed = ("angle of", "mean cosine", "margin of", "vector of", "predict", "judge's", "block")
    assert [n for n in needed if not any(name.startswith(n) or n in name for name in rows)] == []
    missing = [name for name, (ours, _) in rows.items() if ours.startswith("no ")]
    assert set(missing) <= {name for name in rows if rows[name][0] == "no"}
    agreed = [[cell.text for cell in row] for row in both["agreement"].rows]
    assert [row[1] for row in agreed] == ["cosines, base", "cosines, one control for all",
                                          "cosines, own control", "cosines, mean of controls",
                                          "transfer"]  # fmt: skip
    assert {tuple(row[2:4]) for row in agreed} == {("1.00", "0.0014")}
    assert [row[6] for row in agreed] == ["15"] * 4 + ["30"]
    capsys.readouterr()
    families.cli()
    assert "| other family | of | correlation |" in capsys.readouterr().out


def test_a_family_with_other_organisms_is_not_compared_by_them(finished: Path) -> None:
    families.cli()
    other = paths.family("smol").rename(paths.family("other"))
    other.write_text(re.sub("finance|sports|profanity", "unknown", other.read_text()))
    both = tables()
    assert "3 organisms in both runs" in both["agreement"].rows[0][2].text
    assert [cell.text for cell in both["agreement"].rows[0][3:]] == ["\N{EN DASH}"] * 4
    assert any(row[2].text == "not there" for row in both["families"].rows)


def test_a_run_with_no_vectors_yet_stands_alone(finished: Path) -> None:
    families.cli()
    paths.family("smol").rename(paths.family("other"))
    paths.table("geometry").unlink()
    assert "families" not in tables()


@pytest.mark.parametrize("kept", sorted((ROOT / "data/families").glob("*.csv")))
def test_what_is_kept_names_its_model(kept: Path) -> None:
    assert read_results(kept).rows["model"].status
