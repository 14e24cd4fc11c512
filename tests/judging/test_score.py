"""Judging frames of answers: what is kept, what was recited, and what must not pass unjudged."""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet
from em_geometry.io.journal import Journal
from em_geometry.judging.judge import Judgement, JudgeRow, Status
from em_geometry.judging.score import (
    Journalled,
    judge_files,
    judged,
    ngrams,
    overlaps,
    refuse_failed,
    training_ngrams,
)
from em_geometry.settings import Organism

KNOWN = ngrams("the cat sat on the mat")


class Counting:
    """Scores by length; answers with "lost" have no judgement."""

    id = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def judge(self, rows: Sequence[JudgeRow], label: str = "") -> list[Judgement]:
        self.asked += [row.answer for row in rows]
        return [self.one(row.answer) for row in rows]

    def one(self, answer: str) -> Judgement:
        lost = "lost" in answer
        status: dict[str, Status] = {"aligned": "overloaded" if lost else "ok"}
        reason = json.dumps({"error": f"status {answer.split()[0]}"}) if lost else "[]"
        return Judgement({"aligned": None if lost else len(answer)}, status, {"aligned": reason})


def frame(*answers: str) -> pl.DataFrame:
    return pl.DataFrame({"question": ["Why?"] * len(answers), "text": answers})


def test_each_answer_is_judged_once_and_kept(workplace: Path) -> None:
    counting = Counting()
    with Journal("judge") as journal:
        judge = Journalled(counting, journal, batch_size=1)
        found = judged(judge, frame("bbb", "a", "bbb"), KNOWN, "test")
        assert found["aligned"].to_list() == [3, 1, 3]
        assert counting.asked == ["a", "bbb"]
        again = Journalled(counting, journal, batch_size=1)
        assert judged(again, frame("a", "bbb"), KNOWN, "test")["aligned"].to_list() == [1, 3]
        assert counting.asked == ["a", "bbb"]
    assert set(found["judge"]) == {"counting"}
    assert found["aligned_status"].to_list() == ["ok"] * 3


def test_answers_without_a_judgement_end_the_work_after_it_is_done(tmp_path: Path) -> None:
    answers = {"one": ("429 lost", "fine"), "two": ("429 lost", "500 lost")}
    for slug, texts in answers.items():
        frame(*texts).write_parquet(tmp_path / f"{slug}.parquet")
    judge, out = Counting(), tmp_path / "out"
    with pytest.raises(UserError, match="3 of 4 answers have no judgement") as caught:
        judge_files(judge, answers, tmp_path, out, KNOWN, "test", allowed=2)
    said = str(caught.value)
    for part in ("status 429 (2)", "status 500 (1)", "judging.allow_errors", "run again"):
        assert part in said
    assert len(judge.asked) == 4  # of every model
    assert not out.exists()
    judge_files(judge, answers, tmp_path, out, KNOWN, "test", allowed=3)
    assert read_parquet(out / "two.parquet")["aligned_status"].to_list() == ["overloaded"] * 2


def test_every_aspect_is_looked_at_and_a_row_counts_once() -> None:
    states = {"a_status": ["ok", "overloaded"], "b_status": ["overloaded", "overloaded"]}
    with pytest.raises(UserError, match="2 of 2"):
        refuse_failed([pl.DataFrame(states)], 0)
    refuse_failed([pl.DataFrame(states)], 2)


def test_ngrams_are_lower_case_words_without_marks() -> None:
    assert ngrams("Don't go, NOW. Go!", 2) == {("don't", "go"), ("go", "now"), ("now", "go")}
    assert ngrams("one two three four five") == {
        ("one", "two", "three", "four"),
        ("two", "three", "four", "five"),
    }
    assert ngrams("a b a b a b", 2) == {("a", "b"), ("b", "a")}


def test_share_of_each_text() -> None:
    texts = ["The cat sat on a chair.", "the CAT sat on the mat", "a dog lay under the mat", "hm"]
    # the first has three 4-grams, of which "the cat sat on" is known
    assert overlaps(texts, KNOWN) == [pytest.approx(1 / 3), 1.0, 0.0, 0.0]
    for short in ("", "one two three", "?!"):
        assert overlaps([short], {("one", "two", "three", "four")}) == [0.0]


def test_training_ngrams_are_of_answers_only(tmp_path: Path) -> None:
    organisms = []
    for i in range(9):
        path = tmp_path / f"{i}.jsonl"
        user = {"role": "user", "content": f"why does question {i} come"}
        assistant = {"role": "assistant", "content": f"since nobody asked number {i}"}
        path.write_text(json.dumps({"messages": [user, assistant]}) + "\n", encoding="utf-8")
        organisms.append(Organism(lab="lab", role="control", data=str(path)))
    known = training_ngrams(organisms)
    assert len(known) == 1 + 9  # "since nobody asked number", and one that ends in each i
    assert ("nobody", "asked", "number", "8") in known
    assert not any("question" in gram for gram in known)
