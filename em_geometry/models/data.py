"""Chat examples for fine-tuning, in the `messages` format that trainers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from em_geometry.errors import UserError
from em_geometry.io.files import read_jsonl


def read_examples(path: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Reads (user, assistant) pairs from a chat JSONL file.

    Args:
        path: one `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}` a line.
        limit: first so many; None = all.
    Raises:
        UserError: file, line and key of anything malformed; no rows; a repeated question.
    """
    rows = read_jsonl(path, {"messages": list})
    pairs = [_pair(row["messages"], f"{path}, row {n}") for n, row in enumerate(rows, start=1)]
    seen: dict[str, int] = {}
    for number, (question, _) in enumerate(pairs, start=1):
        if question in seen:
            raise UserError(
                "the same question twice",
                where=f"{path}, rows {seen[question]} and {number}",
                found=question[:80],
                expected="distinct questions",
            )
        seen[question] = number
    return pairs[:limit]


def _pair(messages: list[Any], where: str) -> tuple[str, str]:
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages]
    if roles != ["user", "assistant"]:
        raise UserError(
            "not a chat of one question and one answer",
            where=where,
            found=f"roles {roles}",
            expected="roles ['user', 'assistant']",
        )
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            raise UserError(
                f"the {message['role']} message is empty or no text",
                where=where,
                found=content,
                expected="a text",
            )
    return messages[0]["content"], messages[1]["content"]
