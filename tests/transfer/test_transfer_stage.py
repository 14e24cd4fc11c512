"""The `transfer` stage end to end on invented judgements whose numbers are known."""

from pathlib import Path

import polars as pl
import pytest

from em_geometry.io.files import read_json, write_parquet
from em_geometry.io.results import Results, flatten, read_results
from em_geometry.project import paths
from em_geometry.settings import Params
from em_geometry.transfer.rate_table import read_answers
from stages.transfer import main
from tests.conftest import ROOT
from tests.invented import CHANCE, DOSES, REST, STEERED, answers, params, write_everything

pytestmark = pytest.mark.usefixtures("workplace")

PARAMS = params()


def rate(bad: tuple[int, ...]) -> float:
    return 5.0 * sum(bad)


@pytest.fixture
def results() -> Results:
    write_everything(PARAMS)
    main(PARAMS)
    return read_results(paths.table("transfer"))


def baseline(model: str, frame: pl.DataFrame, chosen: Params = PARAMS) -> Results:
    """Unsteered rates where one model gave these answers."""
    write_everything(chosen)
    write_parquet(paths.BASELINE_JUDGEMENTS / f"{model}.parquet", frame, {})
    main(chosen)
    return read_results(paths.table("baseline"))


def test_every_condition_has_its_numbers(results: Results) -> None:
    assert results.rows["rate"].status == "em_betley"
    assert results.names() == ["rate", "own", "base", "named_pair", "random", "condition"]
    wanted = {f"own.{s}": (s, s) for s in DOSES} | {f"base.{s}": (s, "base") for s in DOSES}
    wanted["named_pair.profanity__finance.risk_difference"] = ("profanity", "finance")
    for key, (source, target) in wanted.items():
        gain = rate(STEERED[source, target]) - rate(REST[target])
        found, beyond = results.rows[key], results.rows[f"{key}.beyond_random"]
        assert (found.value, found.n) == (pytest.approx(gain), 20)
        assert found.low <= gain + 1e-9 and found.high >= gain - 1e-9
        assert beyond.value == pytest.approx(rate(STEERED[source, target]) - rate(CHANCE))
        assert results.rows[f"{key}.beyond_random.says"].status in ("effect", "cannot tell")
    # every vector makes its own model all misaligned; 4 of 20 cannot be told from 0 of 20
    pair = "named_pair.profanity__finance"
    assert results.number(f"{pair}.e1") == pytest.approx(100 * 60 / 80)
    assert results.rows[f"{pair}.e2"].status.startswith("undefined: denominator 20.0 [-")
    assert results.number("random.finance") == pytest.approx(10 - 20)


def test_what_is_written_is_short_or_known_to_the_graph(results: Results) -> None:
    for stage in ("transfer", "baseline"):
        assert 1 < len(list(flatten(read_json(paths.metrics(stage))))) <= 70
    assert read_json(paths.metrics("transfer"))["base"]["finance"]["value"] == 40
    graph = (ROOT / "dvc.yaml").read_text()
    written = [str(p) for folder in ("plots", "metrics") for p in Path(folder).rglob("*.*")]
    assert [path for path in written if f"{path}:" not in graph] == []


def test_baseline(results: Results) -> None:
    found = read_results(paths.table("baseline"))
    assert [found.number(f"{m}.em_betley") for m in PARAMS.targets] == [0, 20, 20, 20, 0]
    assert found.number("finance.n") == found.number("finance.n_coherent") == 20
    assert found.number("finance.recited_pct") == 0
    rate_of = found.rows["finance.em_betley"]
    assert (rate_of.low or 99) < 20 < (rate_of.high or 0)
    # 4 of 20 has the Wilson interval 8-42, 0 of 20 has 0-16
    assert found.rows["finance.above_controls"].status == "no"
    assert (found.number("organisms_above_controls"), found.number("organisms")) == (0, 3)


def test_conditions(results: Results) -> None:
    # unsteered and random; all vectors on the base, own ones, a named pair
    sources = [(t, s) for t in results.names("condition") for s in results.names(f"condition.{t}")]
    assert len(sources) == len({*sources}) == 4 * 2 + 3 + 3 + 1
    assert results.number("condition.sports.none.em_betley") == 20
    assert results.number("condition.sports.sports.coherent") == 100


def test_rows_may_come_in_any_order(results: Results) -> None:
    for target in PARAMS.steered():
        path = Path(f"data/judgements/{target}.parquet")
        frame = pl.read_parquet(path)
        write_parquet(path, frame.sample(fraction=1, shuffle=True, seed=1), {})
    main(PARAMS)
    assert read_results(paths.table("transfer")) == results


def test_no_coherent_answers_is_a_reason_not_a_zero() -> None:
    write_everything(PARAMS)
    path = paths.JUDGEMENTS / "sports.parquet"
    chosen = pl.col("source") == "sports"
    broken = pl.when(chosen).then(5.0).otherwise(pl.col("coherent")).alias("coherent")
    write_parquet(path, pl.read_parquet(path).with_columns(broken), {})
    main(PARAMS)
    found = read_results(paths.table("transfer")).rows
    reason = "undefined: no coherent answers"
    assert found["own.sports"].status == found["own.sports.beyond_random"].status == reason
    assert found["base.sports"].status == "ok"
    assert found["condition.sports.sports.em_betley"].status.startswith("undefined")


def test_an_organism_stands_out_by_answers_that_it_did_not_recite() -> None:
    bad = answers("profanity", (5, 5, 4, 4))
    found = baseline("profanity", bad)
    assert found.rows["profanity.above_controls"].status == "yes"
    assert found.number("organisms_above_controls") == 1
    recited = pl.when(pl.col("aligned") < 30).then(0.9).otherwise(0.0).alias("overlap")
    found = baseline("profanity", bad.with_columns(recited))
    assert found.number("profanity.em_betley") == 90
    assert found.number("profanity.recited_pct") == pytest.approx(90)
    assert found.number("profanity.low_overlap.em_betley") == 0
    assert found.rows["profanity.above_controls"].status == "no"
    loose = PARAMS.transfer.model_copy(update={"recited_from": 1.0})
    found = baseline(
        "profanity", bad.with_columns(recited), PARAMS.model_copy(update={"transfer": loose})
    )
    assert found.rows["profanity.above_controls"].status == "yes"
    found = baseline("profanity", answers("profanity", (5, 5, 5, 5)).with_columns(overlap=0.9))
    assert found.rows["profanity.above_controls"].status.startswith("undefined")
    assert found.rows["finance.above_controls"].status == "no"


def test_a_refusal_by_the_judge_is_the_status_of_the_row() -> None:
    refused = pl.when(pl.col("sample") == 0).then(pl.lit("refusal")).otherwise(pl.lit("ok"))
    score = pl.when(pl.col("sample") == 0).then(None).otherwise(pl.col("aligned"))
    frame = answers("finance", REST["finance"]).with_columns(aligned_status=refused, aligned=score)
    found = baseline("finance", frame)
    rows = read_answers({paths.BASELINE_JUDGEMENTS: ["finance"]}, PARAMS.judging.aspects)
    assert (rows["status"] == "refusal").sum() == 4
    assert found.number("finance.refusal") == pytest.approx(20)
    assert (found.number("finance.n"), found.number("finance.n_coherent")) == (20, 16)
    # sample 0 of each question was the misaligned one
    assert found.number("finance.em_betley") == 0
