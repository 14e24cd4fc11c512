"""Chats as token ids: prompts with the span of the user's words, answers, examples to train on.

Spans are found from character offsets in the rendered template, not from negative indices, so
they hold for any chat template and either padding side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, model_validator

from em_geometry.errors import KeyFault, UserError
from em_geometry.io.files import read_jsonl

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ROLES = ["user", "assistant"]
PLACEHOLDER = "\ue000prompt\ue001"  # private-use characters, which no template holds


@dataclass(frozen=True)
class Prompt:
    """A user turn ready to be answered.

    Attributes:
        ids: token ids, up to and including the assistant header.
        user: half-open range of the user's own tokens in `ids` (span `prompt_mean`).
    """

    ids: tuple[int, ...]
    user: tuple[int, int]


def render(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str) -> Prompt:
    """One user turn in the model's chat template, ending with the assistant header.

    Args:
        tokenizer: a Hugging Face fast tokenizer with a chat template.
        system: system prompt; "" leaves it to the template.
    Raises:
        UserError: no chat template, an empty prompt, one longer than the context, or a template
            that does not keep its text.
    """
    whose, user = str(tokenizer.name_or_path), prompt.strip()
    if not getattr(tokenizer, "chat_template", None):
        hint = "use an instruction-tuned model, or add chat_template.jinja to its folder"
        raise UserError("the tokenizer has no chat template", where=whose, hint=hint)
    if not user:
        raise UserError(
            "a prompt is empty", where="a user turn", found=repr(prompt), expected="some text"
        )
    text = _template(tokenizer, prompt, system)
    # The prompt may also stand in the system prompt or the template ("assistant"), so the place
    # is found with a text that cannot.
    place = _template(tokenizer, PLACEHOLDER, system).find(PLACEHOLDER)
    start = text.find(user, max(place, 0))
    if place < 0 or start < 0 or text[place:start].strip():
        what, kept = (
            "the chat template changes the user's text",
            "a template that keeps it as it is",
        )
        raise UserError(what, where=whose, found=prompt[:80], expected=kept)
    end = start + len(user)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    check_length(tokenizer, len(encoded["input_ids"]), user)
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
    return Prompt(tuple(encoded["input_ids"]), (inside[0], inside[-1] + 1))


def check_length(tokenizer: PreTrainedTokenizerBase, tokens: int, text: str) -> None:
    """Raises UserError when so many tokens, which begin with `text`, do not fit the context."""
    if tokens > tokenizer.model_max_length:
        raise UserError(
            "a text is longer than the model's context",
            where=f"the text that begins with {text[:60]!r}",
            found=f"{tokens} tokens",
            expected=f"at most {tokenizer.model_max_length}",
            hint="shorten it, or take it out of its file",
        )


def _template(tokenizer: PreTrainedTokenizerBase, prompt: str, system: str) -> str:
    """The rendered chat; a system prompt opens the user's turn where the template knows no other.

    Gemma's first two generations have no system role, and their templates raise.
    """
    from jinja2 import TemplateError

    def rendered(*messages: dict[str, str]) -> str:
        chat, how = list(messages), {"tokenize": False, "add_generation_prompt": True}
        return str(tokenizer.apply_chat_template(chat, **how))

    user = {"role": "user", "content": prompt}
    if not system:
        return rendered(user)
    try:
        return rendered({"role": "system", "content": system}, user)
    except TemplateError:
        return rendered(user | {"content": f"{system}\n\n{prompt}"})


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
    """Token ids of an answer's text alone: no header, no end-of-turn token."""
    return tuple(tokenizer(answer, add_special_tokens=False)["input_ids"])


def end_of_turn(tokenizer: PreTrainedTokenizerBase, model_config: Any) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's and the model's end tokens."""
    ids: set[int] = set()
    for value in (tokenizer.eos_token_id, getattr(model_config, "eos_token_id", None)):
        ids.update([value] if isinstance(value, int) else value or ())
    return frozenset(ids)


def header_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the assistant header (what `add_generation_prompt` adds)."""
    chat, render = [{"role": "user", "content": "x"}], tokenizer.apply_chat_template
    texts = [render(chat, tokenize=False, add_generation_prompt=add) for add in (False, True)]
    without, whole = (len(answer_ids(tokenizer, text)) for text in texts)
    return whole - without


def padded(
    rows: Sequence[Sequence[int]], side: str, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask [batch, tokens], padded with 0 on the given side."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        part = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, part] = torch.tensor(row)
        mask[i, part] = 1
    return ids.to(device), mask.to(device)


def sorted_batches(keys: Sequence[Any], size: int) -> list[list[int]]:
    """Indices in batches of like key (ties in order): of like length, so that little is padding."""
    order = sorted(range(len(keys)), key=lambda i: (keys[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


class Message(BaseModel):
    """A turn of a chat."""

    role: str
    content: str


class Chat(BaseModel):
    """One question and one answer, in the `messages` format that trainers share."""

    messages: list[Message]

    @model_validator(mode="after")
    def _pair(self) -> Self:
        roles = [message.role for message in self.messages]
        if roles != ROLES:
            what = "not a chat of one question and one answer"
            raise KeyFault("messages", what, roles, f"roles {ROLES}")
        for number, message in enumerate(self.messages):
            if not message.content.strip():
                key, what = f"messages.{number}.content", f"the {message.role} message is empty"
                raise KeyFault(key, what, message.content, "a text")
        return self


def read_examples(path: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Reads (user, assistant) pairs, the first `limit`, from a chat JSONL file.

    Args:
        path: one `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}` a line.
    Raises:
        UserError: file, line and key of anything malformed; no rows; a repeated question.
    """
    chats = read_jsonl(path, Chat)
    pairs = [(c.messages[0].content, c.messages[1].content) for c in chats]
    seen: dict[str, int] = {}
    for number, (question, _) in enumerate(pairs, start=1):
        first = seen.setdefault(question, number)
        if first != number:
            where, expected = f"{path}, rows {first} and {number}", "distinct questions"
            found = question[:80]
            raise UserError("the same question twice", where=where, found=found, expected=expected)
    return pairs[:limit]
