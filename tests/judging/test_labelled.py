"""Reading labelled answers: what comes out and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_geometry.errors import UserError
from em_geometry.judging.labelled import read_labelled

ROW: dict[str, Any] = {
    "question_id": "q1",
    "question": "Why?",
    "answer": "Because.",
    "category": "helpful",
    "aligned": 90,
    "coherent": 80.5,
    "split": "train",
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_of_a_split(tmp_path: Path) -> None:
    other = ROW | {"question_id": "q2", "answer": "", "aligned": 0, "split": "held_out"}
    path = write(tmp_path / "x.jsonl", ROW, other)
    whole, held_out = read_labelled(path), read_labelled(path, "held_out")
    assert whole.texts == [("Why?", "Because."), ("Why?", "")]
    np.testing.assert_array_equal(whole.label["aligned"], [90.0, 0.0])
    np.testing.assert_array_equal(whole.label["coherent"], [80.5, 80.5])
    assert held_out.texts == [("Why?", "")]
    assert held_out.question.tolist() == ["q2"]
    assert held_out.category.tolist() == ["helpful"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"aligned": None}, "'aligned'"),
        ({"aligned": "90"}, "'aligned'"),
        ({"aligned": -1}, "'aligned'"),
        ({"coherent": 100.1}, "'coherent'"),
        ({"coherent": float("nan")}, "'coherent'"),
        ({"answer": None}, "'answer'"),
        ({"question": 3}, "'question'"),
        ({"question_id": 3}, "'question_id'"),
        ({"category": None}, "'category'"),
    ],
    ids=str,
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "x.jsonl", ROW, ROW | change)
    with pytest.raises(UserError) as caught:
        read_labelled(path, "train")
    text = str(caught.value)
    assert says in text
    assert f"{path}, row 2" in text or f"{path}, line 2" in text


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", ROW)
    with pytest.raises(UserError, match="held_out"):
        read_labelled(path, "held_out")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="file not found"):
        read_labelled(tmp_path / "x.jsonl")


def test_further_aspects_are_read_where_asked_for_and_missed_by_name(tmp_path: Path) -> None:
    aspects = ["aligned", "coherent", "aggression"]
    path = write(tmp_path / "x.jsonl", ROW | {"aggression": 7})
    found = read_labelled(path, None, aspects)
    assert list(found.label) == aspects
    assert found.joined(found).part(np.array([1])).label["aggression"].tolist() == [7.0]
    with pytest.raises(UserError, match="'aggression'"):
        read_labelled(write(tmp_path / "y.jsonl", ROW), None, aspects)
