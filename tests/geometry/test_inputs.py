"""`analyse` on cosines, and what is said of a file that holds none."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from em_geometry.errors import UserError
from em_geometry.geometry.vector_sets import check_cosines, parse_clusters, read_cosines
from em_geometry.project import paths
from em_geometry.project.analyse import analyse
from em_geometry.project.command import application
from tests.conftest import ROOT

GOOD = "x,y,z,w\n1,.5,.2,.1\n.5,1,.1,0\n.2,.1,1,.3\n.1,0,.3,1\n"
GROUPS = ("a=x,y", "b=z,w", "--width", "64")


def call(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(application(analyse), [str(path), *arguments])


def written(folder: Path, text: str, suffix: str = ".csv") -> Path:
    path = folder / f"cosines{suffix}"
    path.write_text(text)
    return path


def test_the_command_prints_the_tests_beside_chance_and_writes_the_rest(tmp_path: Path) -> None:
    path, out = written(tmp_path, GOOD), tmp_path / "all"
    result = call(path, *GROUPS, "--out", str(out))
    assert result.exit_code == 0
    assert "the five tests compare a and b" in result.stdout
    assert "tests that say independent" in result.stdout
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["cosine"]["x__y"] == 0.5
    assert found["verdict"]["test1"] == "independent"
    assert found["chance"]["statistic"]["test1"]["low"] < 90
    shown = out.with_suffix(".txt").read_text()
    assert "x__y__z" in shown
    for part in ("cluster_angle.a__b_deg", "pca.centred.pc1_pct", "clusters.average.merge_a"):
        assert part in shown


def test_the_published_cosines_know_their_clusters_and_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    shown = call(paths.COSINES).stdout
    assert "the five tests compare medical and persona" in shown
    assert "101.7" in shown and "do not look like random ones" in shown


def test_csv_with_row_names_and_json_are_the_same(tmp_path: Path) -> None:
    def read(text: str, suffix: str = ".csv") -> tuple[list[str], list[list[float]]]:
        names, gram = read_cosines(written(tmp_path, text, suffix))
        return names, gram.tolist()

    plain, rows = read(GOOD), GOOD.splitlines()
    named = [f"{n},{r}" for n, r in zip("xyzw", rows[1:], strict=True)]
    for corner in ("", ",", "name,"):  # plots/cosines.csv has the last
        assert read("\n".join([corner + rows[0], *named])) == plain
    numbered = "\n".join([",1,2,3,4", *(f"{n},{r}" for n, r in enumerate(rows[1:], start=1))])
    assert read(numbered)[0] == list("1234")  # names that are numbers
    text = json.dumps({"names": list("xyzw"), "matrix": plain[1]})
    assert read(text, ".json") == plain


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_cells_are_parted_as_spreadsheets_part_them(
    tmp_path: Path, separator: str, encoding: str, decimal: str
) -> None:
    rows = GOOD.replace(",", separator).splitlines()
    named = "\r\n".join([separator + rows[0], *(f"{n}{separator}{r}" for n, r in
                                               zip("xyzw", rows[1:], strict=True))])  # fmt: skip
    if separator != ",":
        named = named.replace(".", decimal)
    path = tmp_path / "c.csv"
    path.write_bytes((named + "\r\n" + 4 * separator + "\r\n").encode(encoding))
    names, found = read_cosines(path)
    assert names == list("xyzw")
    np.testing.assert_array_equal(found, read_cosines(written(tmp_path, GOOD))[1])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("x\n1\n", ("--width", "9"), "at least two"),
        (GOOD, ("a=x,q", "--width", "9"), "unknown vector"),
        (GOOD, GROUPS[:2], "how wide the vectors"),
        (None, (), "file not found"),
        (GOOD, (*GROUPS, "--out", ""), "no name for the results"),
        ("", ("--width", "9"), "width is of cosines"),
    ],
)
def test_the_command_refuses_without_a_traceback(
    tmp_path: Path, text: str | None, arguments: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "none.csv" if text is None else written(tmp_path, text)
    path = path if text != "" else tmp_path
    result = call(path, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


PATH = "{path}"
SQUARE = "x,y,z\n1,0,0\n0,1,0\n0,0,1\n"


@pytest.mark.parametrize(
    ("text", "what", "where", "found", "expected"),
    [
        ("", "the file is empty", PATH, "0 lines", "a header of names"),
        ("x,y,z\n1,0,0\n", "the matrix is not square", PATH + ", row 1",
         "1 rows, 3 values in this one", "3 of each, as many as names"),
        (SQUARE.replace("1,0,0", "1,0"), "the matrix is not square", PATH + ", row 1",
         "3 rows, 2 values in this one", "3 of each, as many as names"),
        (SQUARE.replace("0,1,0", "0,1,nan"), "not a finite number", PATH + ": y, z", "'nan'", None),
        (SQUARE.replace("x,y", "x,x"),
         "a name is empty, occurs twice, or holds a space, a dot or `__`", PATH, "'x'", None),
        (",x,y,z\nx,1,0,0\nz,0,1,0\ny,0,0,1\n", "rows and columns are in different order", PATH,
         "z", "y"),
        (SQUARE.replace("1,0,0", "1,2,0"), "a cosine is out of range", PATH + ": x, y", 2.0,
         "a number from -1 to 1"),
        (SQUARE.replace("0,1,0", "0,.5,0"), "the diagonal is not 1", PATH + ": y, y", 0.5,
         "1, the cosine of a vector with itself"),
        (SQUARE.replace("1,0,0", "1,.5,0"), "the matrix is not symmetric", PATH + ": x, y", 0.5,
         "0.0, as across the diagonal"),
        ("x,y,z\n1,-1,-1\n-1,1,-1\n-1,-1,1\n",
         "no vectors have these cosines: the matrix is not positive semidefinite", PATH,
         "smallest eigenvalue -1", "0 or more"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_entry(
    tmp_path: Path, text: str, what: str, where: str, found: object, expected: str | None
) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_cosines(path)
    error = UserError(what, where=where.format(path=path), found=found, expected=expected)
    assert str(caught.value).startswith(str(error))


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("c.json", b"[1]", "not a matrix of cosines"),
        ("c.json", b'{"names": ["x"], "matrix": [1]}', "not a matrix of cosines"),
        ("c.json", b'{"names": "x"}', "not a matrix of cosines"),
        ("c.json", b'{"names": ["x", "y"], "matrix": [[1], [0, 1]]}', "not square"),
        ("c.csv", b"x,y\xff\n", "not UTF-8"),
        ("c.json", b'{"names": ["x", "y"], "matrix": []}', "no rows"),
        ("c.csv", b"x,y\n", "no rows"),
        ("c.csv", b'x,y\n1,"0\n', "row 1: a quote is not closed"),
        ("c.csv", b'"x,y\n1,0\n', "header: a quote is not closed"),
        ("c.csv", b"x;y\n1;2,5\n2,5;1\n", "out of range"),
        ("c.csv", b"x\ty\n1\t0.5\n0.2\t1\n", "not symmetric"),
        ("c.csv", b"x,y\n1,word\nword,1\n", "not a finite number"),
        ("c.csv", b"x,y\n1,inf\ninf,1\n", "out of range"),
    ],
)
def test_files_that_hold_no_matrix(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=what):
        read_cosines(tmp_path / name)


def test_rounding_is_mended_and_no_more() -> None:
    matrix = np.eye(3)
    matrix[0, 1], matrix[1, 0] = 0.5, 0.5 + 1e-9
    matrix[2, 2] = 1 + 1e-9
    mended = check_cosines("xyz", matrix, "here")
    assert np.array_equal(mended, mended.T)
    assert mended.max() == 1.0
    assert mended[0, 1] == pytest.approx(0.5 + 5e-10, abs=1e-12)


def test_clusters() -> None:
    assert parse_clusters(["a=x,y", "b=z"]) == {"a": ["x", "y"], "b": ["z"]}
    for texts in (["a"], ["a="], ["a=x", "a=y"], ["a b=x"]):
        with pytest.raises(UserError, match="not a cluster"):
            parse_clusters(texts)
