"""Kinds of misbehaviour under each vector, on invented judgements whose numbers are known."""

import polars as pl
import pytest

from em_geometry.io.files import write_parquet
from em_geometry.io.results import Results, read_results
from em_geometry.project import paths
from em_geometry.project.outputs import put_results
from stages import aspects
from tests.invented import CHANCE, DOSES, REST, STEERED, params, write_everything

pytestmark = pytest.mark.usefixtures("workplace")

KINDS = ["aligned", "coherent", "aggression", "helpfulness"]
UNKNOWN = "not judged: AUROC on sampled answers 0.55 [0.41, 0.70], which chance can give"


def run() -> Results:
    """Aggression is 100 - aligned under `profanity` alone; helpfulness cannot be judged."""
    chosen = params(judging={"aspects": KINDS})
    write_everything(chosen)
    for folder in (paths.JUDGEMENTS, paths.BASELINE_JUDGEMENTS):
        for target in chosen.steered():
            path = folder / f"{target}.parquet"
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


def test_changes_are_those_of_the_judged_conditions() -> None:
    found = run()
    for source in DOSES:
        for key, target in ((f"base.{source}", "base"), (f"own.{source}", source)):
            gain = sum(STEERED[source, target]) - sum(REST[target])
            assert found.number(f"aligned.{key}") == pytest.approx(-80 * gain / 20)
            beyond = sum(STEERED[source, target]) - sum(CHANCE)
            assert found.number(f"aligned.{key}.beyond_random") == pytest.approx(-80 * beyond / 20)
            assert found.number(f"coherent.{key}") == 0
    rude = 10 + 80 * sum(STEERED["profanity", "finance"]) / 20 - 20
    change = found.rows["aggression.named_pair.profanity__finance"]
    assert (change.value, change.n) == (pytest.approx(rude), 20)
    assert found.number("aggression.base.finance") == found.number("aggression.random.base") == 0


def test_changes_say_what_their_intervals_allow() -> None:
    found = run()
    for key, said in (
        ("aggression.base.finance", "no effect"), ("coherent.own.sports", "no effect"),
        ("aggression.own.profanity", "effect"),
    ):  # fmt: skip
        key = f"{key}.beyond_random"
        assert found.rows[f"{key}.says"].status == said
        assert found.number(f"{key}.p") <= found.number(f"{key}.p_holm")
    assert found.number("aggression.own.profanity.beyond_random.p_holm") < 0.05


def test_an_aspect_that_chance_can_judge_has_no_numbers() -> None:
    found = run()
    assert found.rows["status.helpfulness"].status == UNKNOWN
    assert not found.group("helpfulness")
    rows = pl.read_csv(paths.plot("aspects.csv")).filter(pl.col("aspect") == "helpfulness")
    assert rows["source"].to_list() == list(DOSES)
    assert rows["change"].null_count() == len(rows)
