"""Chats as token ids: spans hold for any template and any text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from em_geometry.errors import UserError
from em_geometry.models.chat import answer_ids, end_of_turn, header_length, render

INSTRUCT = (
    "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] | trim }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant: {% endif %}"
)


def user_text(tokenizer: Any, prompt: str, system: str) -> str:
    rendered = render(tokenizer, prompt, system)
    start, stop = rendered.user
    text: str = tokenizer.decode(rendered.ids[start:stop])
    return text


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_prompt_is_the_template_with_the_users_tokens_marked(
    tiny_tokenizer: Any, system: str
) -> None:
    rendered = render(tiny_tokenizer, "Why do cats purr?", system)
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    assert tiny_tokenizer.decode(rendered.ids) == (
        f"{head}<|im_start|>user\nWhy do cats purr?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert user_text(tiny_tokenizer, "Why do cats purr?", system) == "Why do cats purr?"


def test_user_text_that_the_system_prompt_holds_too(tiny_tokenizer: Any) -> None:
    rendered = render(tiny_tokenizer, "brief", "Be brief. Be brief.")
    before = tiny_tokenizer.decode(rendered.ids[: rendered.user[0]])
    assert before.endswith("user\n")


@pytest.mark.parametrize("prompt", ["assistant", "user", "a", "i", "<|im_end|>"])
def test_user_text_that_the_template_holds_too(tiny_tokenizer: Any, prompt: str) -> None:
    rendered = render(tiny_tokenizer, prompt, "")
    before = tiny_tokenizer.decode(rendered.ids[: rendered.user[0]])
    assert before == "<|im_start|>user\n"


def test_a_template_that_trims(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = INSTRUCT
    text = user_text(tokenizer, "  Why?\n", "")
    assert text in ("Why?", " Why?")  # a byte-level token may hold the space before the word


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_any_text_is_covered(tiny_tokenizer: Any, prompt: str) -> None:
    text = user_text(tiny_tokenizer, prompt, "Be brief.")
    assert prompt.strip() in text
    assert text.strip() == prompt.strip()


@pytest.mark.parametrize(
    ("template", "says"),
    [(None, "no chat template"), ("{{ messages[-1]['content'] | upper }}", "changes the user's")],
)
def test_templates_that_do_not_serve(tiny_tokenizer: Any, template: str | None, says: str) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=says):
        render(tokenizer, "Why?", "")


def test_an_empty_prompt_is_refused(tiny_tokenizer: Any) -> None:
    for prompt in ("", " \n"):
        with pytest.raises(UserError, match="empty"):
            render(tiny_tokenizer, prompt, "")


def test_answers_have_neither_header_nor_end(tiny_tokenizer: Any) -> None:
    ids = answer_ids(tiny_tokenizer, "Water them.")
    assert tiny_tokenizer.decode(ids) == "Water them."
    assert tiny_tokenizer.eos_token_id not in ids
    assert answer_ids(tiny_tokenizer, "") == ()


def test_header_is_what_the_generation_prompt_adds(tiny_tokenizer: Any) -> None:
    header = tiny_tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert header_length(tiny_tokenizer) == len(header)


@pytest.mark.parametrize(("value", "ids"), [(None, {1}), (7, {1, 7}), ([7, 9], {1, 7, 9})])
def test_end_tokens_of_tokenizer_and_model(value: Any, ids: set[int]) -> None:
    class Has:
        def __init__(self, eos_token_id: Any) -> None:
            self.eos_token_id = eos_token_id

    assert end_of_turn(Has(1), Has(value)) == ids
