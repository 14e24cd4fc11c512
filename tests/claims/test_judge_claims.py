"""The claims stage on the real ledger and invented measurements."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from em_geometry.claims.judge_claims import METRICS, TABLE, main
from em_geometry.claims.ledger import read_claims
from em_geometry.io.files import check_metrics, write_metrics
from em_geometry.settings.params import Params, load_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The small profile, in a folder that holds the ledger and nothing measured."""
    loaded = load_params(ROOT / "params.yaml")
    shutil.copytree(ROOT / "data/paper", tmp_path / "data/paper")
    monkeypatch.chdir(tmp_path)
    return loaded


def result(params: Params) -> dict[str, dict[str, object]]:
    main(params)
    found = json.loads(METRICS.read_text())
    check_metrics(found)
    claims: dict[str, dict[str, object]] = found["claim"]
    return claims


def test_without_measurements_nothing_is_claimed(params: Params) -> None:
    claims = result(params)
    assert len(claims) == len(read_claims())
    assert {c["verdict_run"] for c in claims.values()} <= {
        "not measurable here",
        "inconsistent with the paper itself",
    }
    assert "metrics/geometry.json" in str(claims["C001"]["note"])


def test_measured_values_and_intervals_are_judged(params: Params) -> None:
    rate = {"n": 48, "em_betley_pct": 30.0, "em_betley_low": 19.0, "em_betley_high": 44.0}
    organisms = params.slugs("organism")
    write_metrics(Path("metrics/baseline.json"), dict.fromkeys(organisms, rate))
    write_metrics(
        Path("metrics/geometry.json"),
        {"cosine": {"medical__medical_replication": 0.8532, "finance__sports": 0.2}},
    )
    claims = result(params)
    assert claims["C001"]["verdict_run"] == "reproduced"
    assert claims["C002"]["verdict_run"] == "differs"
    assert claims["C060"]["verdict_run"] == "reproduced"
    assert claims["C060"]["part"]["1"]["low"] == 19.0  # type: ignore[index]


def test_what_the_paper_contradicts_itself_is_taken_from_the_recomputation(params: Params) -> None:
    write_metrics(
        Path("metrics/published.json"),
        {"claims": {"C010": {"verdict": "inconsistent", "recomputed": {"value": 101.7}}}},
    )
    claim = result(params)["C010"]
    assert claim["verdict_published"] == "inconsistent with the paper itself"
    assert claim["recomputed"] == "101.7"


def test_the_output_names_the_model(params: Params) -> None:
    main(params)
    assert json.loads(METRICS.read_text())["model"] == params.base.source


def test_the_table_has_a_row_for_each_claim(params: Params) -> None:
    claims = result(params)
    with TABLE.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == list(claims)
    assert all(row["verdict_published"] and row["verdict_run"] and row["note"] for row in rows)


def test_two_runs_write_the_same_bytes_and_ignore_the_first(params: Params) -> None:
    main(params)
    first = METRICS.read_bytes(), TABLE.read_bytes()
    main(params)
    assert (METRICS.read_bytes(), TABLE.read_bytes()) == first
