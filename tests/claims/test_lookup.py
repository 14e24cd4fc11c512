"""Numbers, intervals and reasons as metrics files give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from em_geometry.claims.lookup import Measured, Metrics, number
from em_geometry.errors import UserError
from em_geometry.io.files import write_metrics

FILES = {
    "transfer": {
        "effect": {"value_pct": 40.0, "low": 10.0, "high": 70.0, "n": 48, "status": "ok"},
        "none": {"value_pct": "undefined: why", "n": 48, "status": "undefined: why"},
        "rank": {"n": 2, "status": "undefined: two models"},
    },
    "baseline": {
        "finance": {"n": 48, "em_betley_pct": 20.0, "em_betley_low": 11.0, "em_betley_high": 33.0}
    },
    "asymmetry": {"a__b": {"difference_pct": 3.0, "ratio": 2.0, "low": -9.0, "high": 15.0}},
    "geometry": {"cosine": {"a__b": 0.5}},
}
METRICS = Metrics(FILES)


@pytest.mark.parametrize(
    ("file", "key", "expected"),
    [
        ("transfer", "effect", Measured(40.0, 10.0, 70.0, 48)),
        ("transfer", "effect.value_pct", Measured(40.0, 10.0, 70.0, 48)),
        ("transfer", "none", Measured(None, n=48, status="undefined: why")),
        ("transfer", "none.value_pct", Measured(None, n=48, status="undefined: why")),
        ("transfer", "rank.rho", Measured(None, status="no rank.rho in this run")),
        ("transfer", "rank", Measured(None, n=2, status="undefined: two models")),
        ("baseline", "finance.em_betley_pct", Measured(20.0, 11.0, 33.0, 48)),
        ("asymmetry", "a__b.ratio", Measured(2.0)),
        ("asymmetry", "a__b", Measured(3.0, -9.0, 15.0)),
        ("geometry", "cosine.a__b", Measured(0.5)),
        ("geometry", "cosine.x__y", Measured(None, status="no cosine.x__y in this run")),
        ("absent", "a", Measured(None, status="no metrics/absent.json in this run")),
    ],
)
def test_measured(file: str, key: str, expected: Measured) -> None:
    assert METRICS.measured(file, key) == expected


@pytest.mark.parametrize(
    ("observed", "expected"), [(0.5, Measured(0.5, 0.3, 0.6)), (0.7, Measured(0.5))]
)
def test_geometry_takes_intervals_from_a_calibration_of_the_same_vectors(
    observed: float, expected: Measured
) -> None:
    entry = {"observed": observed, "low": 0.3, "high": 0.6, "covariance": {"low": -1.0}}
    found = Metrics(FILES | {"calibration": {"statistic": {"cosine": {"a__b": entry}}}})
    assert found.measured("geometry", "cosine.a__b") == expected


@pytest.mark.parametrize("value", [True, float("nan"), float("inf"), "3", None, {}])
def test_only_finite_numbers_are_numbers(value: object) -> None:
    assert number(value) is None


def test_files_are_named_by_their_path(tmp_path: Path) -> None:
    write_metrics(tmp_path / "training" / "finance.json", {"steps": 3})
    write_metrics(tmp_path / "claims.json", {"claims": 1})
    assert set(Metrics.read(tmp_path, without=("claims",)).files) == {"training/finance"}
    assert Metrics.read(tmp_path / "nothing").files == {}


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "transfer.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        Metrics.read(tmp_path)
