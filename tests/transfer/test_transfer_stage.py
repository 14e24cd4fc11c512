"""The `transfer` stage end to end on invented judgements whose numbers are known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from invented_judgements import DOSES, REST, STEERED, answers, params, write_everything
from pydantic import ValidationError

from em_geometry.errors import UserError
from em_geometry.io.files import check_metrics, read_json, write_parquet
from em_geometry.transfer.conditions import name, read_judgements
from em_geometry.transfer.measure import BASELINE_METRICS, METRICS, baseline, main

PARAMS = params()


def rate(bad: tuple[int, ...]) -> float:
    return 5.0 * sum(bad)


def read_csv(file: str) -> list[dict[str, str]]:
    with Path(file).open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def metrics() -> dict[str, Any]:
    write_everything(PARAMS)
    main(PARAMS)
    found: dict[str, Any] = read_json(METRICS)
    return found


def test_every_pair_has_its_numbers(metrics: dict[str, Any]) -> None:
    check_metrics(metrics)
    assert metrics["rate"] == "em_betley"
    assert set(metrics["risk_difference"]) == {f"{s}__{t}" for s, t in STEERED}
    for (source, target), bad in STEERED.items():
        key = f"{source}__{target}"
        gain = rate(bad) - rate(REST[target])
        found = metrics["risk_difference"][key]
        assert found["value_pct"] == pytest.approx(gain)
        assert found["low"] <= gain + 1e-9
        assert found["high"] >= gain - 1e-9
        assert found["n"] == 20
        if source != target:
            own = 100 - rate(REST[target])  # every vector makes its own model all misaligned
            kind = "e3" if target in ("base", "control") else "e1"
            entry = metrics["effectiveness"][kind][key]
            assert entry["value_pct"] == pytest.approx(100 * gain / own)
        training = rate(REST[source]) - rate(REST["base"])
        entry = metrics["effectiveness"]["e2"][key]
        # 4 of 20 cannot be told from 0 of 20
        assert entry["status"].startswith(f"undefined: denominator {training:.1f} [-")
    kinds = {k: set(v) for k, v in metrics["effectiveness"].items()}
    assert "finance__base" in kinds["e3"] - kinds["e1"]
    assert not {"finance__finance"} & (kinds["e1"] | kinds["e3"])


def test_named_pairs_groups_and_controls(metrics: dict[str, Any]) -> None:
    pair = metrics["named_pair"]["profanity__finance"]
    assert pair["e1"]["value_pct"] == pytest.approx(100 * 60 / 80)
    assert pair["risk_difference"]["value_pct"] == pytest.approx(60)
    # profanity on finance and sports: effects 60 and 40, own effects 80 and 80
    assert set(metrics["lab_pair"]) == {"one__one", "one__two", "two__one"}
    assert metrics["lab_pair"]["two__one"]["e1"]["value_pct"] == pytest.approx(100 * 100 / 160)
    assert metrics["lab_pair"]["one__two"]["risk_difference"]["value_pct"] == 0
    assert metrics["cluster_pair"]["persona__risk"] == metrics["lab_pair"]["two__one"]
    asymmetry = metrics["asymmetry"]["two__one"]
    assert asymmetry["value_pct"] == pytest.approx(50)
    # three ways to deal one label and two: profanity alone is the most extreme
    assert asymmetry["deals"] == 3
    assert asymmetry["p"] == asymmetry["smallest_p"] == pytest.approx(1 / 3)
    assert metrics["asymmetry"]["one__two"]["value_pct"] == pytest.approx(-50)
    assert metrics["ablation"]["finance"]["value_pct"] == pytest.approx(100 * (20 - 10) / 20)
    assert set(metrics["ablation_pair"]) == {"profanity__finance"}
    assert metrics["ablation_pair"]["profanity__finance"]["value_pct"] == pytest.approx(0)
    # at finance's dose, profanity (twice its dose) has half its effects of 60 and 40
    relative = metrics["dose_convention"]["relative_dose"]
    assert set(relative) == {"one__two", "risk__persona"}
    assert relative["one__two"]["value_pct"] == pytest.approx(-25)
    unit = metrics["dose_convention"]["unit_multiple"]  # the same: all are at one block
    for pair, entry in relative.items():
        for key in ("value_pct", "low", "high", "p"):
            assert unit[pair][key] == pytest.approx(entry[key])
    assert metrics["control"]["random_0"]["value_pct"] == 0
    assert metrics["control"]["orthogonalised"]["finance__sports"]["value_pct"] == 0


def test_correlation_with_similarity_to_base(metrics: dict[str, Any]) -> None:
    # similarity .9 .7 .1; given: finance (40, 0), sports (40, 0), profanity (60, 40)
    assert metrics["base_similarity"]["given"]["rho"] == pytest.approx(-0.866, abs=1e-3)
    # received: finance (40, 60), sports (40, 40), profanity (0, 0)
    assert metrics["base_similarity"]["received"]["rho"] == pytest.approx(1)
    assert metrics["base_similarity"]["received"]["smallest_p"] == pytest.approx(2 / 6)


def test_baseline(metrics: dict[str, Any]) -> None:
    found = read_json(BASELINE_METRICS)
    assert [found[m]["em_betley_pct"] for m in PARAMS.targets] == [0, 20, 20, 20, 0]
    assert found["finance"]["n"] == found["finance"]["n_coherent"] == 20
    assert found["finance"]["recited_pct"] == 0
    assert found["finance"]["em_betley_low"] < 20 < found["finance"]["em_betley_high"]
    # 4 of 20 has the Wilson interval 8-42, 0 of 20 has 0-16
    assert found["finance"]["above_controls"] == "no"
    assert (found["organisms_above_controls"], found["organisms"]) == (0, 3)


def test_dose_response_is_wide(metrics: dict[str, Any]) -> None:
    for source, dose in DOSES.items():
        rows = read_csv(f"plots/dose_response_{source}.csv")
        assert list(rows[0]) == ["relative_dose", *PARAMS.targets]
        assert [float(r["relative_dose"]) for r in rows] == [-dose, 0, dose]
        for target in PARAMS.targets:
            shown = [float(r[target]) for r in rows]
            assert shown == [0, rate(REST[target]), rate(STEERED[source, target])]


def test_conditions_with_damage(metrics: dict[str, Any]) -> None:
    rows = read_csv("plots/transfer_conditions.csv")
    # unsteered, 3 vectors x 2 doses, random; of organisms also ablation (one named pair more) and
    # 2 orthogonalised
    assert len(rows) == 5 * (1 + 6 + 1) + 3 * 3 + 1
    by_kind = {r["kind"]: r for r in rows if r["target"] == "sports"}
    assert by_kind["unsteered"]["kl"] == ""
    assert float(by_kind["vector"]["kl"]) == 0.5
    assert float(by_kind["unsteered"]["em_betley_pct"]) == 20
    assert float(by_kind["vector"]["coherent_pct"]) == 100


def test_a_grid_that_holds_zero() -> None:
    """The zero of the dose-response is the unsteered condition, also when 0 is a dose."""
    chosen = params(steering={"doses": [-1.0, 0.0, 1.0], "random_directions": 0})
    write_everything(chosen)
    main(chosen)
    rows = read_csv("plots/dose_response_finance.csv")
    assert [float(r["relative_dose"]) for r in rows] == [-0.2, 0, 0.2]
    assert float(rows[1]["sports"]) == 20


def test_a_grid_without_the_chosen_coefficient() -> None:
    with pytest.raises(ValidationError, match="doses: transfer compares"):
        params(steering={"doses": [-1.0, 0.5], "random_directions": 1})


def test_rows_may_come_in_any_order(metrics: dict[str, Any]) -> None:
    for target in PARAMS.targets:
        path = Path(f"data/judgements/{target}.parquet")
        frame = pl.read_parquet(path)
        write_parquet(path, frame.sample(fraction=1, shuffle=True, seed=1), {})
    main(PARAMS)
    assert read_json(METRICS) == metrics


def test_no_coherent_answers_is_a_reason_not_a_zero() -> None:
    write_everything(PARAMS)
    path = Path("data/judgements/sports.parquet")
    steered = (
        (pl.col("source") == "finance") & (pl.col("multiple") == 1) & (pl.col("kind") == "vector")
    )
    broken = pl.when(steered).then(5.0).otherwise(pl.col("coherent")).alias("coherent")
    write_parquet(path, pl.read_parquet(path).with_columns(broken), {})
    main(PARAMS)
    found = read_json(METRICS)
    reason = "undefined: no coherent answers"
    assert found["risk_difference"]["finance__sports"]["value_pct"] == reason
    assert found["effectiveness"]["e1"]["finance__sports"]["status"] == reason
    assert found["risk_difference"]["profanity__sports"]["status"] == "ok"
    rows = read_csv("plots/dose_response_finance.csv")
    assert rows[2]["sports"] == ""


def test_an_organism_stands_out_by_answers_that_it_did_not_recite() -> None:
    write_everything(PARAMS)
    path = Path("data/baseline/judgements/profanity.parquet")
    write_parquet(path, answers("profanity", (5, 5, 4, 4)), {})
    found = baseline(PARAMS, read_judgements(path.parent, PARAMS))
    assert found["profanity"]["above_controls"] == "yes"
    assert found["organisms_above_controls"] == 1
    recited = pl.when(pl.col("aligned") < 30).then(0.9).otherwise(0.0).alias("overlap")
    write_parquet(path, answers("profanity", (5, 5, 4, 4)).with_columns(recited), {})
    found = baseline(PARAMS, read_judgements(path.parent, PARAMS))
    assert found["profanity"]["em_betley_pct"] == 90
    assert found["profanity"]["recited_pct"] == pytest.approx(90)
    assert found["profanity"]["low_overlap"]["em_betley_pct"] == 0
    assert found["profanity"]["above_controls"] == "no"


def test_an_organism_that_only_recites_is_undefined() -> None:
    write_everything(PARAMS)
    path = Path("data/baseline/judgements/profanity.parquet")
    write_parquet(path, answers("profanity", (5, 5, 5, 5)).with_columns(overlap=0.9), {})
    found = baseline(PARAMS, read_judgements(path.parent, PARAMS))
    check_metrics(json.loads(json.dumps(found)))
    assert found["profanity"]["above_controls"].startswith("undefined")
    assert found["finance"]["above_controls"] == "no"


def test_a_refusal_by_the_judge_is_the_status_of_the_row() -> None:
    write_everything(PARAMS)
    path = Path("data/baseline/judgements/finance.parquet")
    refused = pl.when(pl.col("sample") == 0).then(pl.lit("refusal")).otherwise(pl.lit("ok"))
    score = pl.when(pl.col("sample") == 0).then(None).otherwise(pl.col("aligned"))
    frame = answers("finance", REST["finance"]).with_columns(aligned_status=refused, aligned=score)
    write_parquet(path, frame, {})
    rows = read_judgements(path.parent, PARAMS).filter(pl.col("target") == "finance")
    assert (rows["status"] == "refusal").sum() == 4
    found = baseline(PARAMS, read_judgements(path.parent, PARAMS))["finance"]
    assert found["refusal_pct"] == pytest.approx(20)
    assert (found["n"], found["n_coherent"]) == (20, 16)
    assert found["em_betley_pct"] == 0  # sample 0 of each question was the misaligned one


def test_names_of_conditions() -> None:
    assert name("finance") == "finance|unsteered|none|0"
    assert name("finance", "sports", "vector", 1.0) == "finance|vector|sports|1"
    assert name("finance", "sports", "vector", -0.5) == "finance|vector|sports|-0.5"


def test_missing_judgements() -> None:
    with pytest.raises(UserError, match="file not found"):
        main(PARAMS)
