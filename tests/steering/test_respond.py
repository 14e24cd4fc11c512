"""Answers under a list of conditions: resumable, in plan order, whatever the batches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny_steering import WIDTH, loaded, questions, tiny_params, unit

import em_geometry.steering.answers as module
from em_geometry.errors import UserError
from em_geometry.io.journal import LOCATION_VARIABLE
from em_geometry.models.chat import render
from em_geometry.models.load import Loaded
from em_geometry.project.inputs import models
from em_geometry.steering.answers import Answer, Row, respond, sample
from em_geometry.steering.conditions import Condition, Intervention

CONDITIONS = [
    Condition(samples=2),
    Condition("finance", "vector", 1.0, 0.2, 5.0, 1, samples=2),
    Condition("finance", "vector", -1.0, -0.2, -5.0, 1),
    Condition("random_0", "random", 1.0, 0.2, 5.0, 2),
]
VECTORS = {"finance": unit(1), "random_0": unit(1)}


@pytest.fixture(scope="module")
def base() -> Loaded:
    return loaded()


def answers(base: Loaded, **changes: Any) -> pl.DataFrame:
    """`respond` with some arguments or sections of the params replaced."""
    sections = {k: changes.pop(k) for k in ("run", "sampling", "steering") if k in changes}
    params = tiny_params(**sections)
    arguments = {
        "models": models(params),
        "loaded": base,
        "conditions": CONDITIONS,
        "vectors": VECTORS,
        "questions": questions(),
        "sampling": params.sampling,
        "label": "test",
        "positions": params.steering.positions,
    }
    return respond(**(arguments | changes))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Rows that were sampled; sampling itself is replaced by something instant."""
    seen: list[Row] = []

    def instant(model: Any, rows: Sequence[Row], *rest: Any) -> list[Answer]:
        seen.extend(rows)
        return [Answer((row.stream % 50 + 40,), "stop") for row in rows]

    monkeypatch.setattr(module, "sample", instant)
    return seen


def test_rows_are_in_plan_order(base: Loaded) -> None:
    frame = answers(base)
    found = frame.select("source", "kind", "multiple", "question_id", "sample").rows()
    expected = [
        (c.source, c.kind, c.multiple, q.id, i)
        for c in CONDITIONS
        for q in questions()
        for i in range(c.samples)
    ]
    assert found == expected
    named = "target source kind multiple relative_dose coefficient layer question_id variant"
    assert frame.columns == f"{named} question sample text tokens finish".split()
    assert set(frame["finish"]) <= {"stop", "length"}
    assert frame["tokens"].max() == 6
    assert frame["text"].n_unique() > len(frame) / 2


def test_each_row_holds_its_own_answer(base: Loaded) -> None:
    """The steering, prompt and stream of a row are those that its columns name."""
    params = tiny_params()
    frame = answers(base)
    plan = base, CONDITIONS, VECTORS, questions(), params.sampling, "all", params.run.seed
    units = module.units(*plan)
    for unit_, wanted in zip(units, frame.iter_rows(named=True), strict=True):
        how = None
        if wanted["kind"] != "unsteered":
            how = Intervention(unit(1), wanted["layer"], wanted["coefficient"])
        ids = render(base.tokenizer, wanted["question"], "").ids
        row = Row(ids, unit_.row.stream, how)
        alone = sample(base.model, [row], params.sampling, frozenset({257}))
        text = base.tokenizer.decode(alone[0].ids, skip_special_tokens=True).strip()
        assert (wanted["text"], wanted["tokens"]) == (text, len(alone[0].ids))


def test_batch_size_changes_no_answer_and_a_second_call_does_no_work(
    base: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    whole = answers(base)
    monkeypatch.setenv(LOCATION_VARIABLE, str(tmp_path / "other"))
    small = {"temperature": 1.0, "max_new_tokens": 6, "batch_size": 3}
    assert answers(base, sampling=small).equals(whole)
    monkeypatch.setattr(module, "sample", None)
    assert answers(base, sampling=small).equals(whole)


def test_what_a_killed_run_has_finished_is_kept(
    base: Loaded, asked: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    instant = module.sample

    def killed(model: Any, rows: Sequence[Row], *rest: Any) -> list[Answer]:
        if asked:
            raise KeyboardInterrupt
        return instant(model, rows, *rest)

    monkeypatch.setattr(module, "sample", killed)
    with pytest.raises(KeyboardInterrupt):
        answers(base)
    assert len(asked) == 8
    monkeypatch.setattr(module, "sample", instant)
    frame = answers(base)
    assert len({row.stream for row in asked}) == len(asked) == len(frame) == 12


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, 0),
        ({"vectors": VECTORS | {"finance": unit(2)}}, 6),
        ({"conditions": [*CONDITIONS[:2], replace(CONDITIONS[2], coefficient=-6.0)]}, 2),
        ({"conditions": [CONDITIONS[0], replace(CONDITIONS[1], layer=3)]}, 4),
        ({"conditions": [replace(CONDITIONS[0], samples=3)]}, 2),
        ({"run": {"seed": 1, "device": "cpu", "threads": 1}}, 12),
        ({"sampling": {"temperature": 0.9, "max_new_tokens": 6, "batch_size": 1}}, 12),
        ({"sampling": {"temperature": 1.0, "max_new_tokens": 7, "batch_size": 1}}, 12),
        ({"steering": {"positions": "response"}}, 12),
        ({"loaded": "other weights"}, 12),
        ({"loaded": "other slug"}, 12),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value),
)
def test_only_what_changed_is_sampled_again(
    base: Loaded, asked: list[Row], change: dict[str, Any], again: int
) -> None:
    change = dict(change)
    singly = {"temperature": 1.0, "max_new_tokens": 6, "batch_size": 1}
    change.setdefault("sampling", singly)  # one row a batch, so that calls count units
    answers(base, sampling=singly)
    assert len(asked) == 12
    asked.clear()
    if "loaded" in change:
        other = {"other weights": {"sha256": "new"}, "other slug": {"slug": "finance"}}
        change["loaded"] = replace(base, **other[change["loaded"]])
    answers(base, **change)
    assert len(asked) == again


def test_a_bad_vector_stops_before_any_work(base: Loaded, asked: list[Row]) -> None:
    with pytest.raises(UserError, match="is zero") as caught:
        answers(base, vectors=VECTORS | {"finance": np.zeros(WIDTH, np.float32)})
    assert caught.value.where == "finance"
    assert not asked
