"""Shared n-grams on cases counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from em_geometry.judging.overlap import ngrams, overlaps, training_ngrams
from em_geometry.settings.params import Params


def test_ngrams_are_lower_case_words_without_marks() -> None:
    assert ngrams("Don't go, NOW. Go!", 2) == {("don't", "go"), ("go", "now"), ("now", "go")}
    assert ngrams("one two three four five") == {
        ("one", "two", "three", "four"),
        ("two", "three", "four", "five"),
    }
    assert ngrams("a b a b a b", 2) == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize("text", ["", "one two three", "?!"])
def test_short_texts_have_none(text: str) -> None:
    assert ngrams(text) == set()
    assert overlaps([text], {("one", "two", "three", "four")}) == [0.0]


def test_share_of_each_text() -> None:
    known = ngrams("the cat sat on the mat")
    texts = ["The cat sat on a chair.", "the CAT sat on the mat", "a dog lay under the mat", "hm"]
    # the first has three 4-grams, of which "the cat sat on" is known
    assert overlaps(texts, known) == [pytest.approx(1 / 3), 1.0, 0.0, 0.0]
    assert overlaps([], known) == []


def test_training_ngrams_are_of_answers_only(tmp_path: Path, smol: dict[str, Any]) -> None:
    for i, organism in enumerate(smol["organisms"].values()):
        path = tmp_path / f"{i}.jsonl"
        user = {"role": "user", "content": f"why does question {i} come"}
        assistant = {"role": "assistant", "content": f"since nobody asked number {i}"}
        path.write_text(json.dumps({"messages": [user, assistant]}) + "\n", encoding="utf-8")
        organism["data"] = str(path)
    known = training_ngrams(Params.model_validate(smol))
    assert len(known) == 1 + 9  # "since nobody asked number", and one that ends in each i
    assert ("nobody", "asked", "number", "8") in known
    assert not any("question" in gram for gram in known)
