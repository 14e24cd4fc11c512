"""Chat data for fine-tuning: what is read and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from em_geometry.errors import UserError
from em_geometry.models.data import read_examples


def chat(question: Any, answer: Any) -> dict[str, Any]:
    roles = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return {"messages": list(roles)}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pairs_in_order_up_to_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *(chat(f"q{i}", f"a{i}") for i in range(5)))
    assert read_examples(path) == [(f"q{i}", f"a{i}") for i in range(5)]
    assert read_examples(path, 2) == [("q0", "a0"), ("q1", "a1")]


def test_further_keys_are_allowed(tmp_path: Path) -> None:
    """Other trainers' files carry more than we need."""
    path = write(tmp_path / "x.jsonl", chat("q", "a") | {"id": 7, "source": "elsewhere"})
    assert read_examples(path) == [("q", "a")]


USER, ASSISTANT = chat("q", "a")["messages"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"text": "q a"}, "messages"),
        ({"messages": "q a"}, "messages"),
        ({"messages": []}, "roles []"),
        ({"messages": [USER]}, "roles ['user']"),
        ({"messages": [ASSISTANT, USER]}, "roles ['assistant', 'user']"),
        ({"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]}, "'system'"),
        ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, "roles"),
        ({"messages": ["q", "a"]}, "roles [None, None]"),
        ({"messages": [{"role": ["user"]}, ASSISTANT]}, "roles"),
        (chat("", "a"), "the user message is empty"),
        (chat("q", " \n"), "the assistant message is empty"),
        (chat("q", None), "the assistant message is empty or no text"),
        (chat("q", ["a"]), "the assistant message is empty or no text"),
        ({"messages": [USER, {"role": "assistant"}]}, "the assistant message is empty"),
        (chat("good", "another"), "the same question twice"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_rows_are_named(tmp_path: Path, bad: Any, says: str) -> None:
    path = write(tmp_path / "x.jsonl", chat("good", "answer"), bad, chat("last", "answer"))
    with pytest.raises(UserError) as caught:
        read_examples(path)
    text = str(caught.value)
    assert says in text
    assert f"{path}, " in text
    assert "2" in text.replace(str(path), "")


def test_a_bad_row_beyond_the_limit_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", chat("good", "answer"), chat("", "answer"))
    with pytest.raises(UserError, match="row 2"):
        read_examples(path, 1)
