"""Numbers, intervals and reasons by stage and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from em_geometry.claims.ledger import read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.io.results import Results, write_results
from em_geometry.project import paths
from em_geometry.settings import load_params
from em_geometry.stats.estimate import Estimate
from tests.conftest import ROOT

WHY = "undefined: why"
PAIRS = {
    "pair.a__b.e1": Estimate(40.0, 10.0, 70.0, 48),
    "pair.a__b.p": Estimate(0.5),
    "pair.b__a.e1": Estimate.undefined(WHY, 48),
}
COSINE = {"cosine.a__b": Estimate(0.5)}
METRICS = Metrics({"transfer": Results(PAIRS), "geometry": Results(COSINE)})


@pytest.mark.parametrize(
    ("stage", "key", "expected"),
    [
        ("transfer", "pair.a__b.e1", Estimate(40.0, 10.0, 70.0, 48)),
        ("transfer", "pair.b__a.e1", Estimate.undefined(WHY, 48)),
        ("geometry", "cosine.a__b", Estimate(0.5)),
        ("geometry", "cosine.x__y", Estimate.undefined("no cosine.x__y in this run")),
        ("absent", "a", Estimate.undefined("no results of absent in this run")),
        ("seeds", "a", Estimate.undefined("no results of seeds of this profile: make seeds")),
    ],
)
def test_measured(stage: str, key: str, expected: Estimate) -> None:
    assert METRICS.measured(stage, key) == expected


def test_names_words_and_patterns() -> None:
    assert METRICS.names("transfer", "pair") == ["a__b", "b__a"]
    assert METRICS.text("transfer", "pair.b__a.e1") == WHY
    assert METRICS.text("transfer", "pair.a__b.e1") is None
    assert [*METRICS.matches("transfer", "pair.{x}")] == [{"x": "a__b"}, {"x": "b__a"}]
    assert [*METRICS.matches("transfer", "pair.{x}.p")] == [{"x": "a__b"}]
    assert METRICS.has("transfer", "pair.a__b") and not METRICS.has("transfer", "pair.a")


@pytest.mark.parametrize(("observed", "known"), [(0.5, True), (0.7, False)])
def test_geometry_takes_intervals_from_a_calibration_of_the_same_vectors(
    observed: float, known: bool
) -> None:
    rows = {"statistic.cosine.a__b": Estimate(observed, 0.3, 0.6)}
    found = Metrics({**METRICS.stages, "calibration": Results(rows)})
    expected = Estimate(0.5, 0.3, 0.6) if known else Estimate(0.5)
    assert found.measured("geometry", "cosine.a__b") == expected


def test_tables_are_named_by_path_and_another_profile_s_seeds_are_left(tmp_path: Path) -> None:
    tables, metrics = tmp_path / "tables", tmp_path / "metrics.json"
    write_results(tables / "training/finance.csv", metrics, {"steps": 3})
    write_results(tables / "seeds.csv", metrics, {"profile": "smol"})
    assert set(Metrics.read(tables, "smol").stages) == {"training/finance", "seeds"}
    assert set(Metrics.read(tables, "other").stages) == {"training/finance"}
    assert Metrics.read(tmp_path / "nothing").stages == {}
    (tmp_path / "transfer.csv").write_text("{")
    with pytest.raises(UserError, match="not a table of results"):
        Metrics.read(tmp_path)


def test_every_reference_of_the_ledger_is_in_the_last_run_s_tables() -> None:
    metrics = Metrics.read(ROOT / paths.TABLES)
    params = load_params(ROOT / "params.yaml")
    if params.slugs("organism") != load_params(ROOT / "profiles/smol.yaml").slugs("organism"):
        pytest.skip("the run has other organisms than the paper")
    claims = read_claims(ROOT / "data/paper/claims.yaml")
    named = {metric for claim in claims for metric in claim.metrics}
    absent = sorted(m for m in named if not metrics.has(*m.split(":", 1)))
    assert named and absent == []
