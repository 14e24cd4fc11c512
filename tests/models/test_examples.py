"""Chat data for fine-tuning: what is read and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from em_geometry.errors import UserError
from em_geometry.models.chat import read_examples


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


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", chat("q", "a"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_examples(path) == [("q", "a")]


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
        ({"messages": []}, "found:    []"),
        ({"messages": [USER]}, "found:    ['user']"),
        ({"messages": [ASSISTANT, USER]}, "found:    ['assistant', 'user']"),
        ({"messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]}, "'system'"),
        ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, "roles"),
        ({"messages": ["q", "a"]}, "messages.0"),
        ({"messages": [{"role": ["user"]}, ASSISTANT]}, "messages.0.role"),
        (chat("", "a"), "the user message is empty"),
        (chat("q", " \n"), "the assistant message is empty"),
        (chat("q", None), "messages.1.content"),
        (chat("q", ["a"]), "messages.1.content"),
        ({"messages": [USER, {"role": "assistant"}]}, "'messages.1.content' is missing"),
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
    with pytest.raises(UserError, match="line 2"):
        read_examples(path, 1)
