"""Chat examples for fine-tuning, in the `messages` format that trainers share."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, model_validator

from em_geometry.errors import KeyFault, UserError
from em_geometry.io.files import read_jsonl

ROLES = ["user", "assistant"]


class Message(BaseModel):
    """A turn of a chat."""

    role: str
    content: str


class Chat(BaseModel):
    """One question and one answer."""

    messages: list[Message]

    @model_validator(mode="after")
    def _pair(self) -> Self:
        roles = [message.role for message in self.messages]
        if roles != ROLES:
            raise KeyFault(
                "messages", "not a chat of one question and one answer",
                roles, f"roles {ROLES}",
            )  # fmt: skip
        for number, message in enumerate(self.messages):
            if not message.content.strip():
                raise KeyFault(
                    f"messages.{number}.content", f"the {message.role} message is empty",
                    message.content, "a text",
                )  # fmt: skip
        return self


def read_examples(path: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Reads (user, assistant) pairs from a chat JSONL file.

    Args:
        path: one `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}` a line.
        limit: first so many; None = all.
    Raises:
        UserError: file, line and key of anything malformed; no rows; a repeated question.
    """
    chats = read_jsonl(path, Chat)
    pairs = [(c.messages[0].content, c.messages[1].content) for c in chats]
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
