"""The command for anybody's cosines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from em_geometry.project.battery import cli
from em_geometry.project.command import command

GOOD = "x,y,z,w\n1,.5,.2,.1\n.5,1,.1,0\n.2,.1,1,.3\n.1,0,.3,1\n"


def call(path: Path, *arguments: str) -> Result:
    app = Typer()
    app.command()(command(cli))
    return CliRunner().invoke(app, [str(path), *arguments])


def written(folder: Path, text: str, suffix: str = ".csv") -> Path:
    path = folder / f"cosines{suffix}"
    path.write_text(text)
    return path


def test_prints_json(tmp_path: Path) -> None:
    result = call(written(tmp_path, GOOD), "--clusters", "a=x,y", "b=z,w", "--norms", "1,2,3,4")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["cosine"]["x__y"] == 0.5
    assert found["verdict"]["test1"] == "independent"
    assert "a__b_raw_deg" in found["cluster_angle"]


def test_csv_with_row_names_and_json_are_the_same(tmp_path: Path) -> None:
    plain = call(written(tmp_path, GOOD)).stdout
    rows = GOOD.splitlines()
    named = [f"{n},{r}" for n, r in zip("xyzw", rows[1:], strict=True)]
    for corner in ("", ",", "name,"):  # plots/cosines.csv has the last
        assert call(written(tmp_path, "\n".join([corner + rows[0], *named]))).stdout == plain
    swapped = "\n".join([rows[0], named[1], named[0], *named[2:]])
    assert "different order" in call(written(tmp_path, swapped)).stderr
    matrix = [[float(c) for c in row.split(",")] for row in rows[1:]]
    text = json.dumps({"names": list("xyzw"), "matrix": matrix})
    assert call(written(tmp_path, text, ".json")).stdout == plain


def test_table_is_for_people(tmp_path: Path) -> None:
    shown = call(written(tmp_path, GOOD), "--clusters", "a=x,y", "b=z,w", "--table").stdout
    assert "angle between clusters" in shown
    assert "x__y__z" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("\n.1,0,.3,1", ""), "not square"),
        (GOOD.replace(".5,1,.1,0", ".5,1,.1"), "not square"),
        (GOOD.replace(".2,.1,1,.3", ".2,.1,1,.4"), "z, w"),
        (GOOD.replace("1,.5,.2,.1", ".9,.5,.2,.1"), "x, x"),
        (GOOD.replace(".5", "1.5"), "out of range"),
        (GOOD.replace(".5", "nan"), "not a finite"),
        (GOOD.replace(".5", "half"), "'half'"),
        ("x,y,z\n1,.9,-.9\n.9,1,.9\n-.9,.9,1\n", "smallest eigenvalue -0.8"),
        ("x,x,z\n1,0,0\n0,1,0\n0,0,1\n", "twice"),
        ("x\n1\n", "at least two"),
        ("", "empty"),
    ],
)
def test_refuses_what_is_no_gram_matrix(tmp_path: Path, text: str, message: str) -> None:
    result = call(written(tmp_path, text))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["--clusters", "a:x,y"],
        ["--clusters", "a=x,q"],
        ["--norms", "1,2"],
        ["--norms", "1,2,3,-1"],
        ["--clusters", "a=x", "b=y", "--focus", "a,c"],
    ],
)
def test_refuses_bad_options(tmp_path: Path, arguments: list[str]) -> None:
    assert call(written(tmp_path, GOOD), *arguments).exit_code == 2


def test_missing_file(tmp_path: Path) -> None:
    assert call(tmp_path / "none.csv").exit_code == 2
