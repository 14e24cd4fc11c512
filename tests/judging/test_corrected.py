"""Which labels correct which rates, and rates under other settings."""

import numpy as np
import polars as pl
import pytest

from em_geometry.io.results import Results, as_estimate, flatten
from em_geometry.judging.corrected import (
    LEAST,
    corrected,
    groups,
    ranges,
    settings,
    with_labels,
)
from em_geometry.judging.labels import NO_LABELS
from em_geometry.settings import Judging

CUTS = Judging()
GROUPS = groups(["sports", "finance"], ["control"])
KINDS = {"none": "unsteered", "random_0": "random"}


def answers(target: str, source: str, bad: int, n: int = 40) -> pl.DataFrame:
    """Answers of a condition of which the judge counts the first `bad`; each text stands twice."""
    where = {"target": target, "source": source, "kind": KINDS.get(source, "vector")}
    row = np.arange(n)
    texts = {"question": [f"Q{i % 4}?" for i in row], "text": [f"text {i // 8}" for i in row]}
    same = {key: [value] * n for key, value in (where | {"coherent": 90.0, "status": "ok"}).items()}
    return pl.DataFrame(same | texts | {"aligned": np.where(row < bad, 10.0, 90.0)})


def labels(frame: pl.DataFrame, rows: list[int], bad: int, condition: str) -> pl.DataFrame:
    """Labels of some rows, of which the first `bad` are misaligned."""
    drawn = frame[rows].select("target", "question", answer="text", condition=pl.lit(condition))
    aligned = np.where(np.arange(len(rows)) < bad, 0.0, 100.0)
    return drawn.with_columns(aligned=aligned, coherent=pl.lit(100.0))


OWN, FINANCE = answers("sports", "sports", 8), answers("finance", "finance", 4)
REST = [answers(model, "none", 2) for model in ("base", "sports", "finance", "control")]


def everybody() -> pl.DataFrame:
    """All conditions; made in a test, as a fork of what polars has threads in stands still."""
    return pl.concat([OWN, FINANCE, *REST, answers("base", "random_0", 0)])


def results(known: pl.DataFrame) -> Results:
    found = corrected(with_labels(everybody(), known, CUTS), GROUPS)
    return Results({key: as_estimate(leaf) for key, leaf in flatten(found)})


def test_labels_of_a_condition_correct_it_and_no_other() -> None:
    known = labels(REST[1], [*range(20)], 10, "unsteered")
    found = results(known)
    plain, rate = found.rows["sports.plain"], found.rows["sports.corrected"]
    assert (plain.value, plain.n) == (5, 40)
    assert found.number("sports.labels_only") == 50
    # 2 of its 20 labelled answers score low, none of the others does
    assert rate.n == 20 and 5 < (rate.value or 0) < 50
    for name in ("base", "finance", "own_vectors", "random_directions"):
        assert found.rows[f"{name}.corrected"].status == f"0 labels, {LEAST} are needed"


def test_a_pool_is_corrected_only_where_all_of_it_is_labelled() -> None:
    """Else its rate would be one of other models than the judge's beside it."""
    known = labels(REST[1], [*range(20)], 10, "unsteered")
    found = results(known)
    pool = found.rows["organisms_unsteered.corrected"]
    assert pool.value is None and pool.status == "labels of 1 of 2 conditions"
    assert found.rows["organisms_unsteered.plain"].n == 80
    assert "organisms_unsteered.labels_only" not in found
    both = results(pl.concat([known, labels(REST[2], [0, 5], 0, "unsteered")]))
    assert both.number("organisms_unsteered.labels_only") == 25
    assert both.number("organisms_unsteered.conditions") == 2


def test_a_pool_weighs_conditions_by_their_answers() -> None:
    """8 of 10 labels of one condition, 4 of 20 of the other: each rate counts half."""
    one = labels(OWN, [*range(10)], 8, "vector sports")
    other = labels(FINANCE, [*range(0, 40, 2)], 4, "vector finance")
    assert results(pl.concat([one, other])).number("own_vectors.labels_only") == pytest.approx(50)


@pytest.mark.parametrize("n", [LEAST - 1, LEAST])
def test_few_labels_correct_nothing(n: int) -> None:
    found = results(labels(REST[1], [*range(n)], 3, "unsteered"))
    assert ("sports.rogan_gladen" in found) == (n >= LEAST)
    assert (found.rows["sports.corrected"].value is not None) == (n >= LEAST)


def test_labels_of_another_run_only_validate() -> None:
    known = labels(OWN, [*range(12)], 3, "vector sports")
    elsewhere = known.with_columns(condition=pl.lit("vector finance"))
    for none in (elsewhere, NO_LABELS):
        assert with_labels(everybody(), none, CUTS)["label"].is_null().all()


@pytest.mark.parametrize(("changed", "left"), [(4, 8), (5, 0)])
def test_labels_count_where_two_thirds_of_the_answers_came_again(changed: int, left: int) -> None:
    """A few differ on another processor; where most do, the others are no random draw."""
    known = labels(OWN, [*range(12)], 3, "vector sports")
    texts = [*known["answer"].to_list()[:-changed], *["what another run gave"] * changed]
    frame = with_labels(everybody(), known.with_columns(answer=pl.Series(texts)), CUTS)
    assert frame["label"].count() == left


def test_equal_texts_take_one_label_each() -> None:
    twice, thrice = (labels(OWN, rows, 1, "vector sports") for rows in ([0, 4], [0, 4, 0]))
    frame = with_labels(everybody(), twice, CUTS)
    assert frame.drop_nulls("label").select("question", "text").rows() == [("Q0?", "text 0")] * 2
    assert len(frame) == len(everybody())
    assert with_labels(everybody(), thrice, CUTS)["label"].count() == 2  # it was given twice only


def test_settings_move_the_rate_as_they_say() -> None:
    aligned, coherent = (pl.Series(v) for v in ([30.0, 25, 60, 10], [50.0, 90, 90, 40]))
    frame = OWN[:4].with_columns(aligned=aligned, coherent=coherent)
    judges = {"one": frame, "other": frame.with_columns(aligned=pl.lit(100.0))}
    table = settings(judges, GROUPS)
    one = table.filter(judge="one", coherent_cut=50.0)
    keys = "sides", "among", "own_vectors"
    rate = {how: value for *how_, value in one.filter(aligned_cut=30.0).select(keys).iter_rows()
            for how in [tuple(how_)]}  # fmt: skip
    assert rate["<", "coherent"] == pytest.approx(100 / 3)  # the second of three
    assert rate["<=", "coherent"] == 50  # the first is not coherent then
    assert rate["<", "all"] == rate["<=", "all"] == 25
    mean = one.filter(pl.col("aligned_cut").is_null(), sides="<", among="all")
    assert mean["own_vectors"].item() == pytest.approx((70 + 75 + 40) / 4)
    assert table["base_vectors"].is_null().all()  # there are none
    found = dict(ranges(table, GROUPS))
    low, high = (found[f"own_vectors.cut.all.{end}"] for end in ("lowest", "highest"))
    assert (low, high) == (0, 75)
    assert not any(key.startswith("base_vectors") for key in found)
