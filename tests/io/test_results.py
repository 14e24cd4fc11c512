"""A stage's results: all in the table, the headline in the metrics, the same numbers in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from em_geometry.errors import UserError
from em_geometry.io.files import read_json
from em_geometry.io.results import read_results, write_results
from em_geometry.stats.estimate import Estimate

NESTED = {
    "rate": {"a__b": Estimate(1 / 3, 0.1, 0.7, 48), "c": Estimate.undefined("too few, n = 2", 2)},
    "tokens": np.int64(12_345_678),
    "share": np.float32(0.1),
    "model": "tiny",
}


def test_round_trip(tmp_path: Path) -> None:
    table, metrics = tmp_path / "x.csv", tmp_path / "x.json"
    write_results(table, metrics, NESTED, ["tokens", "rate.*"])
    assert list(read_json(metrics)) == ["tokens", "rate"]
    assert read_json(metrics) == {
        "tokens": 12_345_678,
        "rate": {
            "a__b": {"value": 0.333333, "low": 0.1, "high": 0.7, "n": 48, "status": "ok"},
            "c": {"n": 2, "status": "too few, n = 2"},
        },
    }
    found = read_results(table)
    assert found.names() == ["rate", "tokens", "share", "model"]
    assert found.group("rate")["a__b"] == Estimate(0.333333, 0.1, 0.7, 48.0)
    assert found.rows["rate.c"] == Estimate.undefined("too few, n = 2", 2)
    assert found.rows["tokens"].value == 12_345_678
    assert found.rows["share"].value == 0.1
    assert found.rows["model"].status == "tiny"


@pytest.mark.parametrize("value", [float("nan"), np.float64("inf")])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="no result"):
        write_results(tmp_path / "x.csv", tmp_path / "x.json", {"a": {"b": value}})
    assert not list(tmp_path.iterdir())


def test_no_table_of_results(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a table of results"):
        read_results(tmp_path / "x.csv")
    with pytest.raises(UserError, match="file not found"):
        read_results(tmp_path / "y.csv")
