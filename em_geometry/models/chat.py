"""Chats as token ids, with the spans that activations and losses are taken over.

Spans are found from character offsets in the rendered template, not from negative indices, so
they hold for any chat template and either padding side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from em_geometry.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        prompt: the user's text.
        system: system prompt; "" leaves it to the template.
    Raises:
        UserError: no chat template, an empty prompt, one longer than the context, or a template
            that does not keep its text.
    """
    whose, user = str(tokenizer.name_or_path), prompt.strip()
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the tokenizer has no chat template",
            where=whose,
            hint="use an instruction-tuned model, or add chat_template.jinja to its folder",
        )
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
        raise UserError(
            "the chat template changes the user's text",
            where=whose,
            found=prompt[:80],
            expected="a template that keeps it as it is",
        )
    end = start + len(user)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    check_length(tokenizer, len(encoded["input_ids"]), user)
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
    return Prompt(tuple(encoded["input_ids"]), (inside[0], inside[-1] + 1))


def check_length(tokenizer: PreTrainedTokenizerBase, tokens: int, text: str) -> None:
    """Raises UserError when so many tokens do not fit the model's context.

    Args:
        text: their beginning, for the message.
    """
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
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True
        )
        return text

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
    chat = [{"role": "user", "content": "x"}]
    without, whole = (
        len(
            answer_ids(
                tokenizer,
                tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=add),
            )
        )
        for add in (False, True)
    )
    return whole - without
