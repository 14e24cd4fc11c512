"""Numbers, intervals and reasons by stage and key, and verdicts on claims."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
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
    ],
)
def test_measured(stage: str, key: str, expected: Estimate) -> None:
    assert METRICS.estimate(f"{stage}:{key}") == expected


def test_names_words_and_patterns() -> None:
    assert METRICS.names("transfer:pair") == ["a__b", "b__a"]
    assert METRICS.word("transfer:pair.b__a.e1") == WHY
    assert METRICS.word("transfer:pair.a__b.e1") is None
    assert [*METRICS.matches("transfer:pair.{x}")] == [{"x": "a__b"}, {"x": "b__a"}]
    assert [*METRICS.matches("transfer:pair.{x}.p")] == [{"x": "a__b"}]
    assert METRICS.has("transfer:pair.a__b") and not METRICS.has("transfer:pair.a")


@pytest.mark.parametrize(("observed", "known"), [(0.5, True), (0.7, False)])
def test_geometry_takes_intervals_from_a_calibration_of_the_same_vectors(
    observed: float, known: bool
) -> None:
    rows = {"statistic.cosine.a__b": Estimate(observed, 0.3, 0.6)}
    found = Metrics({**METRICS.stages, "calibration": Results(rows)})
    expected = Estimate(0.5, 0.3, 0.6) if known else Estimate(0.5)
    assert found.estimate("geometry:cosine.a__b") == expected


def test_tables_are_named_by_path(tmp_path: Path) -> None:
    tables, metrics = tmp_path / "tables", tmp_path / "metrics.json"
    write_results(tables / "training/finance.csv", metrics, {"steps": 3})
    assert set(Metrics.read(tables).stages) == {"training/finance"}
    assert Metrics.read(tmp_path / "nothing").stages == {}
    write_results(tables / "traits.csv", metrics, {"block": 3})  # an experiment of another run
    assert set(Metrics.read(tables, ["traits"]).stages) == {"training/finance", "traits"}
    assert set(Metrics.read(tables, []).stages) == {"training/finance"}
    (tmp_path / "transfer.csv").write_text("{")
    with pytest.raises(UserError, match="not a table of results"):
        Metrics.read(tmp_path)


def test_every_reference_of_the_ledger_is_in_the_last_run_s_tables() -> None:
    metrics = Metrics.read(ROOT / paths.TABLES)
    params = load_params(ROOT / "params.yaml")
    if params.slugs("organism") != load_params(ROOT / "profiles/smol.yaml").slugs("organism"):
        pytest.skip("the run has other organisms than the paper")
    claims = read_claims(ROOT / "data/papers/geometric_structure.yaml")
    named = {m for claim in claims for m in [*claim.metrics, *claim.judged_metrics]}
    absent = sorted(m for m in named if not metrics.has(m))
    assert named and absent == []


# -- verdicts: a table of cases, then the stage on the real ledger and invented numbers

NONE = Estimate.undefined("undefined: denominator includes 0")


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 48)


def claim(
    values: list[float] | None, reads: str, margin: float = 5.0, count: int = 1, **more: Any
) -> Claim:
    metric = [f"geometry:cosine.m{i}" for i in range(count)]
    stated = {"value": values, "reads": reads, "margin": margin, "metric": metric}
    rest = {"section": "1", "quantity": "q", "formula": "similarity", "verdict": "reproduced"}
    fixed = {"id": "C001", "unit": "percent", "needs": "gram", "tolerance": 0.5}
    return Claim.model_validate({**fixed, **rest, **stated, **more})


def near(*values: float, by: float = 0.01) -> list[Estimate]:
    return [interval(v - by, v + by) for v in values]


@pytest.mark.parametrize(
    ("values", "reads", "measured", "expected"),
    [
        ([50.0], "equal", [interval(46, 54)], "reproduced"),
        ([50.0], "equal", [interval(44, 54)], "cannot tell"),
        ([50.0], "equal", [interval(10, 90)], "cannot tell"),  # agrees with almost anything
        ([50.0], "equal", [interval(56, 90)], "differs"),
        ([50.0], "equal", [Estimate(50.0)], "cannot tell"),
        ([50.0], "equal", [Estimate(90.0)], "cannot tell"),
        ([50.0, 10.0], "equal", near(50, 10), "reproduced"),
        ([50.0, 10.0], "equal", near(50, 20), "differs"),
        ([50.0, 10.0], "equal", [*near(50), interval(0, 90)], "cannot tell"),
        ([57.0, 64.0], "between", [interval(53, 68)], "reproduced"),
        ([57.0, 64.0], "between", [interval(20, 50)], "differs"),
        ([57.0, 64.0], "between", [interval(20, 58)], "cannot tell"),
        ([12.0, 65.0], "between", near(20, 5), "differs"),
        ([10.0], "below", [interval(-90, 10.5)], "reproduced"),  # a bound has no margin
        ([10.0], "below", [interval(11, 12)], "differs"),
        ([10.0], "below", [interval(9, 12)], "cannot tell"),
        ([0.0], "above", [interval(1, 2), interval(0.1, 90)], "reproduced"),
        ([0.0], "above", [interval(1, 2), interval(-9, -1)], "differs"),
        ([57.0, 64.0], "between", [NONE], "not measurable here"),
        ([40.0, 50.0], "equal", [*near(40), NONE], "not measurable here"),
    ],
)
def test_verdicts(values: list[float], reads: str, measured: list[Estimate], expected: str) -> None:
    assert compare(claim(values, reads, count=len(measured)), measured)[0] == expected


@pytest.mark.parametrize(
    ("compute", "measured", "expected"),
    [
        ("opposite", near(0.5, 0.6, -0.4, -0.3), "reproduced"),
        ("opposite", near(-0.5, -0.6, 0.4, 0.3), "reproduced"),  # the sign is a convention
        ("opposite", near(0.5, 0.6, 0.4, -0.3), "differs"),
        ("opposite", [*near(0.5, 0.6, -0.4), interval(-0.5, 0.1)], "cannot tell"),
        ("opposite", [Estimate(0.5)] * 2 + [Estimate(-0.5)] * 2, "cannot tell"),
        ("between", near(0.0, 0.1, 0.5, 0.6, -0.4, -0.3), "reproduced"),
        ("between", near(0.0, 0.1, -0.5, -0.6, 0.4, 0.3), "reproduced"),
        ("between", near(0.0, 0.8, 0.5, 0.6, -0.4, -0.3), "differs"),
        ("between", near(0.0, 0.55, 0.5, 0.6, -0.4, -0.3), "differs"),
        ("between", [*near(0.0), interval(-0.5, 0.7), *near(0.5, 0.6, -0.4, -0.3)], "cannot tell"),
        ("above", near(0.5, 0.6, 0.4, 0.3), "reproduced"),
        ("above", near(0.5, 0.2, 0.4, 0.3), "differs"),
        ("above", [*near(0.5), interval(0.2, 0.5)], "cannot tell"),
        ("above", [*near(0.5), Estimate(0.1)], "cannot tell"),
        ("above", near(0.1, 0.0), "reproduced"),
    ],
)
def test_statements_in_words(compute: str, measured: list[Estimate], expected: str) -> None:
    about = claim(None, "words", count=len(measured), compute=compute)
    assert compare(about, measured)[0] == expected


def test_what_decided_and_what_is_missing_is_said() -> None:
    fifty = claim([50.0], "equal")
    assert "denominator includes 0" in compare(fifty, [NONE])[1]
    assert compare(fifty, [interval(48, 68)])[1].startswith(
        "The 95 % interval is 20 wide; below 6 "
    )
    assert compare(claim([50.0], "below"), [interval(40, 58)])[1].endswith("below 3 it would tell.")
    assert "no interval" in compare(fifty, [Estimate(50)])[1]
    many = compare(claim([50.0, 10.0], "equal", count=2), near(50, 20))[1]
    assert many.endswith("1 of 2 numbers lie inside, 1 outside.")


def test_a_null_run_reproduces_nothing() -> None:
    """Intervals that hold any cosine: 95 of 100 claims about random numbers cannot be told."""
    rng = np.random.default_rng(0)
    wide = [interval(v - 0.9, v + 0.9) for v in rng.uniform(-0.3, 0.3, 100)]
    said = [compare(claim([float(rng.uniform(-1, 1))], "equal", 0.05), [m])[0] for m in wide]
    assert said.count("reproduced") == 0 and said.count("cannot tell") >= 80


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The small profile, in a folder that holds the ledger and nothing measured."""
    loaded = load_params(ROOT / "profiles/smol.yaml")
    shutil.copytree(ROOT / "data/papers", tmp_path / "data/papers")
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
    ours = [c for c in claims.values() if c["source"] == "ours"]
    assert {c["verdict_published"] for c in ours} == {"holds", "does not hold"}
    assert {c["verdict_run"] for c in ours} == {"not measurable here"}


def test_measured_values_and_intervals_are_judged(params: Params) -> None:
    rate = {"em_betley": Estimate(30.0, 19.0, 44.0, 48)}
    put("baseline", dict.fromkeys(params.slugs("organism"), rate))
    cosines = {
        "medical__medical_replication": Estimate(0.86, 0.84, 0.88),
        "finance__sports": Estimate(0.2, 0.1, 0.3),
        "profanity__malicious": Estimate(0.4, 0.1, 0.7),
    }
    put("geometry", {"cosine": cosines})
    put("published", {"claims": {"C010": {"verdict": "inconsistent", "recomputed": 101.7}}})
    put("margins", {"e1": {"profanity__finance": Estimate(60.0, 54.0, 66.0, 48)}})
    put("transfer", {"named_pair": {"profanity__finance": {"e1": Estimate(9.0, 5.0, 13.0, 8)}}})
    claims = judged(params)
    run = {k: c["verdict_run"] for k, c in claims.items()}
    expected = {"C001": "reproduced", "C002": "differs", "C003": "cannot tell"}
    assert {k: run[k] for k in expected} == expected
    assert run["C060"] == "reproduced"
    assert claims["C060"]["low"] == "; ".join(["19"] * 6)
    assert (claims["C001"]["margin"], claims["C057"]["margin"]) == ("0.05", "0.4")
    assert claims["C010"]["verdict_published"] == "inconsistent with the paper itself"
    assert claims["C010"]["recomputed"] == "101.7"
    # behaviour by margins, and by judged answers beside it
    assert (run["A01"], claims["A01"]["verdict_judged"]) == ("reproduced", "differs")
    assert (claims["A01"]["ours"], claims["A01"]["judged"]) == ("60", "9")
    assert "By judged answers: differs." in claims["A01"]["note"]
    found = read_json(paths.metrics("claims"))
    check_metrics(found)
    assert found["model"] == params.base.source
    assert found["claim"]["C001"] == 0.86
    assert [*found["claim"]["C060"]] == ["1", "2", "3", "4", "5", "6"]
    for kind in ("published", "run"):
        counts = [sum(found["count"][source][kind].values()) for source in ("printed", "ours")]
        assert sum(counts) == len(claims) == found["claims"]
        assert counts[1] == 9
