"""What a chat template does, found by rendering: system prompts, answers, ends, control tokens."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from em_geometry.errors import UserError, explained
from em_geometry.settings import Base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, USER, ANSWER = (f"\ue000{part}\ue001" for part in "sua")  # private use: in no template
DAY = Base.model_fields["date"].default
MARKS = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")  # what templates write as text, such as [/INST]
# Attributes of a tokenizer: day and arguments of its template, and rows of its model's embeddings
STYLE, WORDS = "chat_style", "model_words"


@dataclass(frozen=True)
class Template:
    """What was found.

    Attributes:
        keeps_system: some templates refuse a system prompt, others pass over it.
        told: a question and an answer (`USER`, `ANSWER`) as the template writes them.
        end: the token that it writes behind an answer; None where that is text, or nothing.
        control: matches what may stand in no text: special tokens, and what is written around it.
    """

    keeps_system: bool
    told: str
    end: int | None
    control: re.Pattern[str]


def turn(role: str, content: str) -> dict[str, str]:
    """One message of a chat."""
    return {"role": role, "content": content}


def set_template_arguments(tokenizer: PreTrainedTokenizerBase, origin: Base) -> None:
    """From now on the tokenizer's chat template gets `base.date` and `base.template_arguments`."""
    setattr(tokenizer, STYLE, (origin.date, json.dumps(origin.template_arguments)))


def rendered(tokenizer: PreTrainedTokenizerBase, *chat: dict[str, str], ask: bool = True) -> str:
    """The chat as text; with `ask`, the header of an answer follows.

    Raises:
        UserError: no chat template, or one that cannot write this.
    """
    whose, (day, arguments) = str(tokenizer.name_or_path), _style(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        hint = "use an instruction-tuned model, or add chat_template.jinja to its folder"
        raise UserError("the tokenizer has no chat template", where=whose, hint=hint)
    today = datetime.date.fromisoformat(day)
    with explained(
        "the chat template cannot write this chat",
        where=whose,
        expected="a Jinja template for turns of " + ", ".join(turn["role"] for turn in chat),
        hint="mend chat_template.jinja in the model's folder, or base.template_arguments",
    ):
        template = _on_the_day(tokenizer.get_chat_template(), today)
        how = {"tokenize": False, "add_generation_prompt": ask, "chat_template": template}
        given = {"date_string": f"{today:%d %b %Y}", **json.loads(arguments)}
        return str(tokenizer.apply_chat_template(list(chat), **how, **given))


def _on_the_day(template: str, today: datetime.date) -> str:
    """The template with a `strftime_now` of its own: that of transformers asks the clock."""
    if "strftime_now" not in template:
        return template
    codes = [f"%{flag}{code}" for flag in ("", "-") for code in "aAbBcdHIjmMpSUwWxXyYzZ"]
    steps = "".join(f" | replace({code!r}, {today.strftime(code)!r})" for code in codes)
    # An empty expression last: behind a block, a line break of the template would be dropped.
    macro = "{% macro strftime_now(format) %}{{ format" + steps + " }}{% endmacro %}{{ '' }}"
    return macro + template


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """What the tokenizer's template does."""
    return _template(tokenizer, str(tokenizer.chat_template), *_style(tokenizer))


def _style(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    found: tuple[str, str] = getattr(tokenizer, STYLE, (DAY, "{}"))
    return found


@lru_cache(maxsize=2)  # of the base and a judge; a tokenizer is too large to be kept for nothing
def _template(tokenizer: PreTrainedTokenizerBase, *_: str) -> Template:
    told = rendered(tokenizer, turn("user", USER), turn("assistant", ANSWER), ask=False)
    try:
        with_system = rendered(tokenizer, turn("system", SYSTEM), turn("user", USER))
    except UserError:
        with_system = ""
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.content.strip()}
    behind = told.partition(ANSWER)[2].lstrip()
    nearest = max((t for t in added if behind.startswith(t)), key=len, default=None)
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    written = {*MARKS.findall(told + with_system), *(t for t in added if t in told)}
    control = sorted((t for t in special | written if len(t) > 1), key=lambda t: (-len(t), t))
    return Template(
        keeps_system=SYSTEM in with_system,
        told=told,
        end=None if nearest is None else added[nearest],
        control=re.compile("|".join(map(re.escape, control)) or "(?!)"),
    )


def template_notes(tokenizer: PreTrainedTokenizerBase, origin: Base) -> list[str]:
    """What the template does of its own accord with the chats of a profile.

    Raises:
        UserError: it knows no such argument, or an answer would stand where it writes none.
    """
    words = set(re.findall(r"\w+", str(tokenizer.chat_template)))
    unknown = [name for name in origin.template_arguments if name not in words]
    if unknown:
        where, expected = "params.yaml: base.template_arguments", "names that it reads"
        what, found = "the chat template has no such argument", ", ".join(unknown)
        raise UserError(what, where=where, found=found, expected=expected, hint="remove it")
    notes, template = [], template_of(tokenizer)
    before, _, asked = rendered(tokenizer, turn("user", USER)).partition(USER)
    if origin.system_prompt and not template.keeps_system:
        notes.append("has no system role: the system prompt opens the user's turn")
    elif not origin.system_prompt and template.keeps_system:
        given = rendered(tokenizer, turn("system", SYSTEM), turn("user", USER))
        first, _, then = given.partition(USER)[0].partition(SYSTEM)
        own = before.removeprefix(first).removesuffix(then)
        if first + own + then == before and own.strip():
            notes.append(f"adds a system prompt of its own: {own.strip()[:200]!r}")
    written, answer, _ = template.told.partition(USER)[2].partition(ANSWER)
    if not answer:
        return [*notes, "drops the text of an answer from a chat"]
    same = sum(asked[:n] == written[:n] for n in range(1, min(len(asked), len(written)) + 1))
    asks, writes = asked[same:].strip(), written[same:].strip()
    opened = [tag for tag in re.findall(r"<(\w+)>", asks) if f"</{tag}>" not in asks]
    if opened or re.search(r"<[^<>\s]+>", writes):  # an open thought, a thought, a channel
        raise UserError(
            "the chat template asks for an answer otherwise than it writes one",
            where=str(tokenizer.name_or_path),
            found=f"asked with {asks!r}, but written behind {writes!r}",
            expected="an answer right behind the header that asks for it",
            hint="base.template_arguments: {enable_thinking: false} where the template thinks "
            "first; else another chat_template.jinja in the model's folder",
        )
    if asks or writes:
        notes.append(f"asks for an answer with {asks!r}, but writes it behind {writes!r}")
    return notes
