"""Kinds of misbehaviour under each vector, on invented judgements whose numbers are known."""

from pathlib import Path

import polars as pl
import pytest

from em_geometry.io.files import write_parquet
from em_geometry.io.results import Results, read_results
from em_geometry.project import paths
from em_geometry.project.outputs import put_results
from stages import aspects
from tests.invented import DOSES, REST, STEERED, params, write_everything

pytestmark = pytest.mark.usefixtures("workplace")

KINDS = ["aligned", "coherent", "aggression", "helpfulness"]
UNKNOWN = "not judged: AUROC on sampled answers 0.55 [0.41, 0.70], which chance can give"


def run(random: int = 1) -> Results:
    """Aggression is 100 - aligned under `profanity` alone; helpfulness cannot be judged."""
    doses = {"doses": [-1.0, 1.0], "random_directions": random}
    chosen = params(judging={"aspects": KINDS}, steering=doses)
    write_everything(chosen)
    for target in chosen.targets:
        path = Path(f"data/judgements/{target}.parquet")
        rude = pl.when(source="profanity").then(100 - pl.col("aligned")).otherwise(20.0)
        frame = pl.read_parquet(path).with_columns(
            aggression=rude, helpfulness=pl.lit(50.0), aggression_status=pl.lit("ok"),
            helpfulness_status=pl.lit("ok"),
        )  # fmt: skip
        write_parquet(path, frame, {})
    status = dict.fromkeys(KINDS, "judged") | {"helpfulness": UNKNOWN}
    put_results("judge", {"aspects": status})
    aspects.main(chosen)
    return read_results(paths.table("aspects"))


def test_changes_are_means_over_targets_and_by_target() -> None:
    found = run()
    for source in DOSES:
        gains = [sum(STEERED[source, t]) - sum(bad) for t, bad in REST.items()]
        expected = pytest.approx(-80 * sum(gains) / 20 / 5)
        assert found.number(f"change.aligned.{source}") == expected
        assert found.number(f"change.coherent.{source}") == 0
    rude = [10 + 80 * sum(STEERED["profanity", t]) / 20 - 20 for t in REST]
    change = found.rows["change.aggression.profanity"]
    assert (change.value, change.n) == (pytest.approx(sum(rude) / 5), 100)
    assert found.number("change.aggression.finance") == 0
    assert found.number("change.aggression.random") == 0
    beyond = found.rows["beyond_random.aggression.profanity"]
    assert beyond.low <= beyond.value <= beyond.high
    assert found.number("pair.aggression.profanity__finance") == pytest.approx(rude[1])
    assert found.number("unsteered.aligned.finance") == pytest.approx(90 - 80 / 5)


def test_changes_say_what_their_intervals_allow() -> None:
    found = run()
    for key, said in (
        ("aggression.finance", "no effect"), ("coherent.sports", "no effect"),
        ("aggression.profanity", "effect"),
    ):  # fmt: skip
        key = f"beyond_random.{key}"
        assert found.rows[f"{key}.says"].status == said
        assert found.number(f"{key}.p") <= found.number(f"{key}.p_holm")
    assert found.number("beyond_random.aggression.profanity.p_holm") < 0.05


def test_an_aspect_that_chance_can_judge_has_no_numbers() -> None:
    found = run()
    assert found.rows["status.helpfulness"].status == UNKNOWN
    assert not found.group("change.helpfulness")
    rows = pl.read_csv(paths.plot("aspects.csv")).filter(pl.col("aspect") == "helpfulness")
    assert rows["source"].to_list() == list(DOSES)
    assert rows["change"].null_count() == len(rows)


def test_without_a_random_direction_nothing_is_beyond_it() -> None:
    found = run(random=0)
    assert not found.group("beyond_random")
    assert found.names("change.aggression") == list(DOSES)
