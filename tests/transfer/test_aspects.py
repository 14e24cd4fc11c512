"""Kinds of misbehaviour under each vector, on invented judgements whose numbers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from invented_judgements import DOSES, REST, STEERED, params, write_everything

from em_geometry.io.files import check_metrics, read_json, write_metrics, write_parquet
from em_geometry.settings.params import Params
from em_geometry.transfer.aspects import JUDGE, METRICS, PLOT, main, sentence

KINDS = ["aligned", "coherent", "aggression", "helpfulness"]
UNKNOWN = "not judged: AUROC on sampled answers 0.55 [0.41, 0.70], which chance can give"


def run(random: int = 1) -> dict[str, Any]:
    """Aggression is 100 - aligned under `profanity` alone; helpfulness cannot be judged."""
    rules = {"judging": {"aspects": KINDS}}
    rules |= {"steering": {"doses": [-1.0, 1.0], "random_directions": random}}
    chosen: Params = params(**rules)
    write_everything(chosen)
    for target in chosen.targets:
        path = Path(f"data/judgements/{target}.parquet")
        rude = (
            pl.when(pl.col("source") == "profanity").then(100 - pl.col("aligned")).otherwise(20.0)
        )
        frame = pl.read_parquet(path).with_columns(
            aggression=rude, helpfulness=pl.lit(50.0), aggression_status=pl.lit("ok"),
            helpfulness_status=pl.lit("ok"),
        )  # fmt: skip
        write_parquet(path, frame, {})
    status = dict.fromkeys(KINDS, "judged") | {"helpfulness": UNKNOWN}
    write_metrics(JUDGE, {"aspects": status})
    main(chosen)
    found: dict[str, Any] = read_json(METRICS)
    return found


def test_changes_are_means_over_targets_and_by_target() -> None:
    found = run()
    check_metrics(found)
    change = found["change"]
    for source in DOSES:
        gains = [sum(STEERED[source, t]) - sum(bad) for t, bad in REST.items()]
        assert change["aligned"][source]["value"] == pytest.approx(-80 * sum(gains) / 20 / 5)
        assert change["coherent"][source]["value"] == 0
    rude = [10 + 80 * sum(STEERED["profanity", t]) / 20 - 20 for t in REST]
    assert change["aggression"]["profanity"]["value"] == pytest.approx(sum(rude) / 5)
    assert change["aggression"]["profanity"]["n"] == 100
    assert change["aggression"]["finance"]["value"] == 0
    assert change["aggression"]["random"]["value"] == 0
    beyond = found["beyond_random"]["aggression"]["profanity"]
    assert beyond["low"] <= beyond["value"] <= beyond["high"]
    assert found["pair"]["aggression"]["profanity__finance"]["value"] == pytest.approx(rude[1])
    assert found["unsteered"]["aligned"]["finance"]["value"] == pytest.approx(90 - 80 / 5)
    assert "1 of 3 vectors move it" in found["answer"]["aggression"]
    assert "profanity by +" in found["answer"]["aggression"]


def test_an_aspect_that_chance_can_judge_has_no_numbers() -> None:
    found = run()
    assert found["status"]["helpfulness"] == UNKNOWN
    assert "helpfulness" not in found["change"]
    assert found["answer"]["helpfulness"] == f"helpfulness: {UNKNOWN}."
    rows = pl.read_csv(PLOT).filter(pl.col("aspect") == "helpfulness")
    assert rows["source"].to_list() == list(DOSES)
    assert rows["change"].null_count() == len(rows)


def test_without_a_random_direction_the_comparison_is_with_no_steering() -> None:
    found = run(random=0)
    assert found["beyond_random"]["aggression"] == {}
    assert set(found["change"]["aggression"]) == set(DOSES)
    assert "apart from no steering" in found["answer"]["aggression"]


def test_a_vector_that_moves_nothing_is_said() -> None:
    effect = {"value": 1.0, "low": -1.0, "high": 3.0, "n": 9, "status": "ok"}
    said = sentence("x_y", "judged", {"beyond_random": {"a": effect}, "change": {}})
    assert said.startswith("x y: none of 1 vectors moves it")
