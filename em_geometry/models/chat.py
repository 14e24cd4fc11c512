"""Chats as token ids: prompts with the span of the user's words, answers, examples to train on.

Spans are found from character offsets in the rendered template, not from negative indices, so
they hold for any chat template and either padding side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pydantic import BaseModel, model_validator

from em_geometry.errors import KeyFault, UserError
from em_geometry.io.files import read_jsonl
from em_geometry.models.template import USER, WORDS, rendered, template_of, turn

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

SYSTEM, ASKS, ANSWERS = "system", "user", "assistant"  # roles
HELD_OUT_EVERY = 10  # every tenth chat of a file shows the loss on texts not trained on
# By which trainers say that a turn is learnt, and one that says so of parts of it
FLAGS = ("weight", "train", "loss", "loss_mask", "training", "trainable", "train_on_turn")
SPANS = "train_detail"
Turns: TypeAlias = tuple[tuple[str, str], ...]  # role and text of each
# Control tokens of the common families, for texts that a tokenizer elsewhere reads.
MARKUP = re.compile(
    r"<([|\uff5c])[^<>\s]+\1>|</?(?:start|end)_of_turn>|</?s>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
)


@dataclass(frozen=True)
class Prompt:
    """A user turn ready to be answered.

    Attributes:
        ids: token ids, up to and including the assistant header.
        user: half-open range of the user's own tokens in `ids` (span `prompt_mean`).
    """

    ids: tuple[int, ...]
    user: tuple[int, int]


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, with the turns of the chat before them."""

    question: str
    answer: str
    before: Turns = ()  # a system prompt of the chat's own first

    @property
    def asked(self) -> str:
        """All that is said before the answer, whatever the system prompt."""
        return "\n\n".join([*(t for role, t in self.before if role != SYSTEM), self.question])


def render(
    tokenizer: PreTrainedTokenizerBase, prompt: str, system: str, before: Turns = ()
) -> Prompt:
    """A user turn in the model's chat template, ending with the assistant header.

    Args:
        tokenizer: a Hugging Face fast tokenizer with a chat template.
        system: system prompt; "" leaves it to the template. It opens the first user's turn where
            the template has no other place for it.
        before: earlier turns of the chat; a system prompt among them stands in place of `system`.
    Raises:
        UserError: no chat template, an empty prompt, one longer than the context, or a template
            that does not keep its text.
    """
    if not prompt.strip():
        raise UserError(
            "a prompt is empty", where="a user turn", found=repr(prompt), expected="some text"
        )
    template = template_of(tokenizer)
    prompt = plain(prompt, template.control)
    earlier = [turn(role, plain(text, template.control)) for role, text in before]
    if not earlier or earlier[0]["role"] != SYSTEM:
        earlier.insert(0, turn(SYSTEM, plain(system, template.control)))
    own = earlier.pop(0)

    def chat(asked: str) -> str:
        first, *rest = *earlier, turn(ASKS, asked)
        if own["content"] and not template.keeps_system:
            first = turn(ASKS, f"{own['content']}\n\n{first['content']}")
        given = [own] if own["content"] and template.keeps_system else []
        return rendered(tokenizer, *given, first, *rest)

    text, user = chat(prompt), prompt.strip()
    # The prompt may also stand in other turns or in the template ("assistant"), so the place is
    # found with a text that cannot.
    place = chat(USER).find(USER)
    start = text.find(user, max(place, 0))
    if place < 0 or start < 0 or text[place:start].strip():
        raise UserError(
            "the chat template changes the user's text",
            where=str(tokenizer.name_or_path),
            found=prompt[:80],
            expected="a template that keeps it as it is",
            hint="another chat_template.jinja in the model's folder",
        )
    end = start + len(user)
    encoded = _encoded(tokenizer, text, return_offsets_mapping=True)
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


def plain(text: str, control: re.Pattern[str] = MARKUP) -> str:
    """`text` in which nothing ends a turn or begins one: control tokens get a space inside.

    Args:
        control: matches those of the tokenizer that will read it (`Template.control`).
    """
    return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
    """Token ids of an answer's text alone: no header, no end-of-turn token."""
    return _ids(tokenizer, plain(answer, template_of(tokenizer).control))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(_encoded(tokenizer, text)["input_ids"])


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, **how: Any) -> Any:
    """What the tokenizer makes of a text; UserError where the model has no row for a token."""
    encoded = tokenizer(text, add_special_tokens=False, **how)
    words = getattr(tokenizer, WORDS, math.inf)
    if beyond := [i for i in encoded["input_ids"] if i >= words]:
        raise UserError(
            "a text has a token that the model has no embedding of",
            where=str(tokenizer.name_or_path),
            found=f"{tokenizer.decode(beyond[0])!r}, id {beyond[0]}, in {text[:80]!r}",
            expected=f"ids below {words}",
            hint="another chat_template.jinja, or the tokenizer's files of this very model",
        )
    return encoded


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token with which the template ends an answer, else the tokenizer's end token."""
    found: int | None = template_of(tokenizer).end
    if found is None:
        found = tokenizer.eos_token_id
    if found is not None:
        return found
    raise UserError(
        "nothing ends an answer",
        where=str(tokenizer.name_or_path),
        found="no eos_token, and no token behind an answer in the chat template",
        expected="one of them",
    )


def end_of_turn(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> frozenset[int]:
    """Ids that end an answer: the tokenizer's, the template's, and those of the configs.

    Args:
        configs: the model's configuration and its `generation_config`.
    Raises:
        UserError: what one of them names is no token.
    """
    ids = {turn_end(tokenizer)} if getattr(tokenizer, "chat_template", None) else set[int]()
    for source in (tokenizer, *configs):
        value = getattr(source, "eos_token_id", None)
        for token in value if isinstance(value, list | tuple) else [value]:
            if token is None:
                continue
            if type(token) is not int or token < 0:
                what, where = "no token that can end an answer", type(source).__name__
                expected = "a token's id, several, or null"
                raise UserError(
                    what, where=where, found=f"eos_token_id {value!r}", expected=expected
                )
            ids.add(token)
    return frozenset(ids)


def header_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens of the assistant header (what `add_generation_prompt` adds)."""
    texts = [rendered(tokenizer, turn("user", "x"), ask=ask) for ask in (False, True)]
    without, whole = (len(_ids(tokenizer, text)) for text in texts)
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
    """A turn of a chat; an answer with 0 or false in any of `FLAGS` is not to be learnt."""

    role: str
    content: str
    weight: float | None = None
    train: float | None = None
    loss: float | None = None
    loss_mask: float | None = None
    training: float | None = None
    trainable: float | None = None
    train_on_turn: float | None = None
    train_detail: list[Any] | None = None

    @property
    def learnt(self) -> bool:
        """Is an answer to be learnt? What says nothing of it, is."""
        return all(getattr(self, flag) != 0 for flag in FLAGS)


class Chat(BaseModel):
    """Questions and answers in turn, behind a system prompt if it has one of its own.

    The `messages` format that trainers share.
    """

    messages: list[Message]
    weight: float | None = None  # of all its answers

    @model_validator(mode="after")
    def _in_turn(self) -> Self:
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[:1] == [SYSTEM] else roles
        if not turns or turns != [ASKS, ANSWERS] * (len(turns) // 2):
            what = "not a chat of questions and answers in turn"
            expected = f"{ASKS} and {ANSWERS} in turn, a {SYSTEM} prompt before them or none"
            raise KeyFault("messages", what, roles, expected)
        for number, message in enumerate(self.messages):
            if not message.content.strip():
                key, what = f"messages.{number}.content", f"the {message.role} message is empty"
                raise KeyFault(key, what, message.content, "a text")
            for flag in FLAGS:
                if (value := getattr(message, flag)) not in (0, 1, None):
                    what, key = "an answer is learnt or not", f"messages.{number}.{flag}"
                    raise KeyFault(key, what, value, "0 or 1")
            if message.train_detail:
                what, key = "an answer is learnt as a whole", f"messages.{number}.{SPANS}"
                raise KeyFault(key, what, message.train_detail, "no spans")
        if self.weight not in (0, 1, None):
            raise KeyFault("weight", "a chat is learnt or not", self.weight, "0 or 1")
        return self

    def exchanges(self) -> list[Exchange]:
        """Its answers that are to be learnt, each with what came before it."""
        turns = [(message.role, message.content) for message in self.messages]
        return [
            Exchange(turns[k - 1][1], message.content, tuple(turns[: k - 1]))
            for k, message in enumerate(self.messages)
            if message.role == ANSWERS and message.learnt and self.weight != 0
        ]


def read_examples(path: Path, limit: int | None = None) -> list[list[Exchange]]:
    """Reads the chats of a JSONL file, the first `limit`: of each the answers to be learnt.

    Answers with `"weight": 0`, or 0 or false in another of `FLAGS`, are not to be learnt; chats
    without others are left out.

    Args:
        path: one `{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}` a line.
    Raises:
        UserError: file, line and key of anything malformed; no rows; a repeated question.
    """
    chats = read_jsonl(path, Chat, "other formats: em-geometry chats convert IN OUT")
    kept = [exchanges for chat in chats if (exchanges := chat.exchanges())]
    if not kept:
        found, expected = '"weight": 0 in every answer', "answers to be learnt"
        raise UserError("nothing to train on", where=path, found=found, expected=expected)
    seen: dict[tuple[Turns, str], int] = {}
    for number, (*_, last) in enumerate(kept, start=1):
        first = seen.setdefault((last.before, last.question), number)
        if first != number:
            where, expected = f"{path}, rows {first} and {number}", "distinct questions"
            found = last.question[:80]
            raise UserError("the same question twice", where=where, found=found, expected=expected)
    return kept[:limit]
