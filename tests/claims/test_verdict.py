"""Numbers, intervals and reasons by stage and key, and verdicts on claims."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from em_geometry.claims.ledger import Claim, read_claims
from em_geometry.claims.lookup import Metrics
from em_geometry.claims.verdict import compare
from em_geometry.errors import UserError
from em_geometry.io.files import read_json
from em_geometry.io.results import Nested, Results, check_metrics, write_results
from em_geometry.project import paths
from em_geometry.settings import Params, load_params
from em_geometry.stats.estimate import Estimate
from stages.claims import main
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


# -- verdicts: a table of cases, then the stage on the real ledger and invented numbers

NONE = Estimate.undefined("undefined: denominator includes 0")


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 48)


def claim(values: list[float], reads: str, tolerance: float = 0.5, count: int = 1) -> Claim:
    metric = [f"geometry:cosine.m{i}" for i in range(count)]
    stated = {"value": values, "reads": reads, "tolerance": tolerance, "metric": metric}
    rest = {"section": "1", "quantity": "q", "formula": "similarity", "verdict": "reproduced"}
    return Claim.model_validate(
        {"id": "C001", "unit": "percent", "needs": "gram", **rest, **stated}
    )


@pytest.mark.parametrize(
    ("values", "reads", "tolerance", "measured", "expected"),
    [
        ([0.853], "equal", 0.0005, [Estimate(0.8531)], "reproduced"),
        ([0.853], "equal", 0.0005, [Estimate(0.86)], "differs"),
        ([0.853], "equal", 0.0005, [interval(0.7, 0.9)], "reproduced"),
        ([0.853], "equal", 0.0005, [interval(0.2, 0.4)], "differs"),
        ([0.412, -0.235], "equal", 0.0005, [interval(0.3, 0.5), interval(-0.3, 0)], "reproduced"),
        ([0.412, -0.235], "equal", 0.0005, [interval(0.3, 0.5), interval(0.1, 0.2)], "differs"),
        ([57.0, 64.0], "between", 0.5, [Estimate(60.0)], "reproduced"),
        ([57.0, 64.0], "between", 0.5, [Estimate(64.4)], "reproduced"),
        ([57.0, 64.0], "between", 0.5, [Estimate(12.0)], "differs"),
        ([57.0, 64.0], "between", 0.5, [interval(20.0, 58.0)], "reproduced"),
        ([57.0, 64.0], "between", 0.5, [interval(20.0, 50.0)], "differs"),
        ([12.0, 65.0], "between", 0.5, [Estimate(20.0), Estimate(5.0)], "differs"),
        ([0.1], "below", 0.0, [Estimate(0.09)], "reproduced"),
        ([0.1], "below", 0.0, [Estimate(0.2)], "differs"),
        ([0.0], "above", 0.0, [interval(-0.2, 0.1), Estimate(0.3)], "reproduced"),
        ([0.0], "above", 0.0, [Estimate(-0.1), Estimate(0.3)], "differs"),
        ([57.0, 64.0], "between", 0.5, [NONE], "not measurable here"),
        ([0.4, 0.5], "equal", 0.1, [Estimate(0.4), NONE], "not measurable here"),
    ],
)
def test_verdicts(
    values: list[float], reads: str, tolerance: float, measured: list[Estimate], expected: str
) -> None:
    about = claim(values, reads, tolerance, len(measured))
    assert compare(about, measured)[0] == expected


def test_what_decided_is_said() -> None:
    fifty = claim([50.0], "equal")
    assert "denominator includes 0" in compare(fifty, [NONE])[1]
    assert "60 wide" in compare(fifty, [interval(10, 70)], wide=40)[1]
    assert "wide" not in compare(fifty, [interval(45, 55)], wide=40)[1]
    assert "wide" not in compare(claim([90.0], "equal"), [interval(10, 70)], wide=40)[1]
    assert "no interval" in compare(fifty, [Estimate(50)])[1]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The small profile, in a folder that holds the ledger and nothing measured."""
    loaded = load_params(ROOT / "profiles/smol.yaml")
    shutil.copytree(ROOT / "data/paper", tmp_path / "data/paper")
    monkeypatch.chdir(tmp_path)
    return loaded


def put(stage: str, nested: Nested) -> None:
    write_results(paths.table(stage), paths.metrics(stage), nested)


def judged(params: Params) -> dict[str, dict[str, Any]]:
    """Rows of plots/claims.csv by id, after the stage."""
    main(params)
    rows = pl.read_csv(paths.plot("claims.csv"), infer_schema=False)
    return {row["id"]: row for row in rows.to_dicts()}


def test_without_measurements_nothing_is_claimed(params: Params) -> None:
    claims = judged(params)
    assert read_json(paths.metrics("claims"))["claim"]["C002"] == "none"
    assert [*claims] == [c.id for c in read_claims(paths.CLAIMS)]
    assert {c["verdict_run"] for c in claims.values()} <= {
        "not measurable here",
        "inconsistent with the paper itself",
    }
    assert "results of geometry" in claims["C001"]["note"]


def test_measured_values_and_intervals_are_judged(params: Params) -> None:
    rate = {"em_betley": Estimate(30.0, 19.0, 44.0, 48)}
    put("baseline", dict.fromkeys(params.slugs("organism"), rate))
    put("geometry", {"cosine": {"medical__medical_replication": 0.8532, "finance__sports": 0.2}})
    put("published", {"claims": {"C010": {"verdict": "inconsistent", "recomputed": 101.7}}})
    claims = judged(params)
    assert claims["C001"]["verdict_run"] == "reproduced"
    assert claims["C002"]["verdict_run"] == "differs"
    assert claims["C060"]["verdict_run"] == "reproduced"
    assert claims["C060"]["low"] == "; ".join(["19"] * 6)
    assert claims["C010"]["verdict_published"] == "inconsistent with the paper itself"
    assert claims["C010"]["recomputed"] == "101.7"
    found = read_json(paths.metrics("claims"))
    check_metrics(found)
    assert found["model"] == params.base.source
    assert found["claim"]["C001"] == 0.8532
    assert [*found["claim"]["C060"]] == ["1", "2", "3", "4", "5", "6"]
    for kind in ("published", "run"):
        assert sum(found["count"][kind].values()) == len(claims) == found["claims"]
