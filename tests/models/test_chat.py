"""Chats as token ids: spans hold for any template and any text."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from em_geometry.errors import UserError
from em_geometry.models.chat import (
    Exchange,
    answer_ids,
    end_of_turn,
    header_length,
    read_examples,
    render,
)
from em_geometry.models.train import encode
from tests.conftest import CHATML

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


@pytest.mark.parametrize("prompt", ["assistant", "user", "a", "i", "<|im_end|>", "brief"])
def test_user_text_that_template_or_system_prompt_hold_too(
    tiny_tokenizer: Any, prompt: str
) -> None:
    rendered = render(tiny_tokenizer, prompt, "Be brief. Be brief.")
    before = tiny_tokenizer.decode(rendered.ids[: rendered.user[0]])
    assert before.endswith("Be brief. Be brief.<|im_end|>\n<|im_start|>user\n")


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


def chat(question: Any, answer: Any) -> dict[str, Any]:
    roles = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return {"messages": list(roles)}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pairs_in_order_up_to_the_limit(tmp_path: Path) -> None:
    more = {"id": 7, "source": "elsewhere"}  # other trainers' files carry more than we need
    path = write(tmp_path / "x.jsonl", *(chat(f"q{i}", f"a{i}") | more for i in range(5)))
    pairs = [[Exchange(f"q{i}", f"a{i}")] for i in range(5)]
    assert read_examples(path) == pairs
    assert read_examples(path, 2) == pairs[:2]


def test_a_longer_chat_has_an_example_for_each_answer_that_is_learnt(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Each is read as the model would be asked for it, behind the chat's own system prompt."""
    roles = ("system", "user", "assistant", "user", "assistant", "user", "assistant")
    turns = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)]
    turns[4]["weight"] = 0
    path = write(tmp_path / "x.jsonl", {"messages": turns}, chat("user 1", "other"))
    (first, last), (alone,) = read_examples(path)
    assert (first.answer, last.answer) == ("assistant 2", "assistant 6")
    assert last.asked.startswith(f"{first.asked}\n\nassistant 2\n\nuser 3")
    assert alone.asked == first.asked  # the same question, without that system prompt
    for exchange, count in ((first, 3), (last, 7)):
        example = encode(tiny_tokenizer, exchange, "the profile's")
        whole = tiny_tokenizer.apply_chat_template(turns[:count], tokenize=False).rstrip("\n")
        assert tiny_tokenizer.decode(example.ids) == whole
        learnt = tiny_tokenizer.decode(example.ids[example.start :])
        assert learnt == f"{exchange.answer}<|im_end|>"
    prompt = render(tiny_tokenizer, last.question, "the profile's", last.before)
    assert tiny_tokenizer.decode(prompt.ids[slice(*prompt.user)]) == "user 5"


def test_a_chat_s_own_system_prompt_opens_its_first_turn_where_the_template_has_no_place(
    tiny_tokenizer: Any,
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = CHATML.replace(
        "{% for m in messages %}",
        "{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}",
    )
    before = (("system", "Be rude."), ("user", "Hello"), ("assistant", "What?"))
    told = tokenizer.decode(render(tokenizer, "Hello", "Be kind.", before).ids)
    assert told.count("Be rude.\n\nHello") == 1 and "Be kind." not in told
    assert told.index("Be rude.") < told.index("What?") < told.rindex("Hello")


USER, ASSISTANT = chat("q", "a")["messages"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"text": "q a"}, "messages"),
        ({"messages": "q a"}, "messages"),
        ({"messages": []}, "found:    []"),
        ({"messages": [USER]}, "found:    ['user']"),
        ({"messages": [ASSISTANT, USER]}, "found:    ['assistant', 'user']"),
        ({"messages": [USER, {"role": "system", "content": "s"}, ASSISTANT]}, "'system'"),
        ({"messages": [{"role": "system", "content": "s"}]}, "'system'"),
        ({"messages": [USER, ASSISTANT, USER]}, "in turn"),
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
        read_examples(path, 1)  # also beyond the limit
    text = str(caught.value)
    assert says in text
    assert f"{path}, " in text
    assert "2" in text.replace(str(path), "")
