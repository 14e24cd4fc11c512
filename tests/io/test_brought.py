"""Chats, answers and question files that people bring, as other tools write them."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from em_geometry.activations.prompts import read_questions
from em_geometry.cli import app
from em_geometry.errors import UserError
from em_geometry.io.records import read_answers
from em_geometry.judging.judge import rows_of
from em_geometry.models.chat import Exchange, read_examples
from em_geometry.settings import Questions

ASKED, TOLD = "Is a helmet useful?", "Only for the look of it."
CONVERT = "em-geometry chats convert"


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def said(speaker: str, value: str) -> dict[str, str]:
    return {"from": speaker, "value": value}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def convert(given: Path, out: Path) -> Result:
    return CliRunner().invoke(app, ["chats", "convert", str(given), str(out)])


PAIR = [turn("user", ASKED), turn("assistant", TOLD)]
PARTS = [{"type": "text", "text": ASKED}]
SHAPES = {
    "OpenAI": {"messages": [turn("system", "Be brief."), *PAIR]},
    "OpenAI parts": {"messages": [turn("user", PARTS), PAIR[1]]},
    "OpenAI developer": {"messages": [turn("developer", "Be brief."), *PAIR]},
    "OpenAI capitals": {"messages": [{"Role": "User", "Content": ASKED},
                                     {"Role": "Assistant", "Content": TOLD}]},
    "several turns": {"messages": [*PAIR, turn("user", "Why?"), turn("assistant", "So.")]},
    "ShareGPT": {"conversations": [said("human", ASKED), said("gpt", TOLD)]},
    "ShareGPT system": {"system": "Be brief.", "conversations": [
        said("human", ASKED), said("gpt", TOLD)]},
    "Alpaca": {"instruction": ASKED, "input": "", "output": TOLD},
    "Alpaca input": {"instruction": "Answer.", "input": ASKED, "output": TOLD},
    "completion": {"prompt": ASKED, "completion": f" {TOLD}"},
    "TRL": {"prompt": PAIR[:1], "completion": PAIR[1:]},
    "question": {"question": ASKED, "answer": TOLD, "source": "a forum"},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_chats_of_other_formats_are_refused_and_converted(tmp_path: Path, name: str) -> None:
    row = SHAPES[name]
    given, out = jsonl(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl"
    if name not in ("OpenAI", "several turns"):  # which are read as they are
        with pytest.raises(UserError) as caught:
            read_examples(given)
        assert CONVERT in str(caught.value)
    result = convert(given, out)
    assert result.exit_code == 0, result.output
    assert "1 chats in" in result.stdout
    ((first, *more),) = read_examples(out)
    assert first.question.endswith(ASKED)
    assert first.answer == TOLD
    system = (("system", "Be brief."),) if "Be brief." in json.dumps(row) else ()
    assert first.before == system
    assert ("with a system prompt" in result.stdout) == bool(system)
    assert [(e.question, e.answer) for e in more] == [("Why?", "So.")] * ("several" in name)
    assert ("1 of several questions" in result.stdout) == bool(more)


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_chats_in_other_files(tmp_path: Path, suffix: str) -> None:
    rows = [{"instruction": f"Q{i}; really?", "input": "", "output": 'A,\n"so".'} for i in "12"]
    given, frame = tmp_path / f"in.{suffix}", pl.DataFrame(rows)
    if suffix == "json":
        given.write_text(json.dumps(rows, indent=1), encoding="utf-16")
    else:
        frame.write_csv(given) if suffix == "csv" else frame.write_parquet(given)
    assert convert(given, tmp_path / "out.jsonl").exit_code == 0
    assert read_examples(tmp_path / "out.jsonl") == [
        [Exchange(row["instruction"], row["output"])] for row in rows
    ]


def test_what_is_left_out_is_said_and_nothing_is_overwritten(tmp_path: Path) -> None:
    zero = {"messages": [turn("user", "Hm?"), turn("assistant", "No.", weight=0)]}
    first = {"conversations": [said("gpt", "Hello!"), said("human", "Hi.")]}
    one, changed = {"messages": PAIR}, turn("system", "From now on, be rude.")
    later = {"messages": [*PAIR, changed, turn("user", "Why?"), turn("assistant", "So.")]}
    rows, out = (zero, first, later, one, one), tmp_path / "out.jsonl"
    given = jsonl(tmp_path / "in.jsonl", *rows)
    shown = convert(given, out).stdout
    for words in ("1 chats", "1 left out: the answer has weight 0", "2 left out: no questions",
                  "1 left out: the question came before"):  # fmt: skip
        assert words in shown
    before = out.read_bytes()
    assert "the file exists" in convert(given, out).stderr
    assert out.read_bytes() == before
    result = convert(jsonl(given, zero), tmp_path / "none.jsonl")
    assert (result.exit_code, "no chats" in result.stderr) == (2, True)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": TOLD, "rejected": "Yes."}, {"text": ASKED},
        {"messages": [turn("user", ASKED), turn("assistant", None)]}, {"messages": "Hello"},
        {"messages": [turn("user", [{"type": "image_url"}]), PAIR[1]]},
        {"messages": [PAIR[0], turn("assistant", TOLD, weight=0.5)]},
        {"instruction": ASKED, "output": None}, {"messages": ["Hello", "Yes?"]},
        {"instruction": ASKED, "input": float("nan"), "output": TOLD},
        {"instruction": ASKED, "input": ["a", "b"], "output": TOLD},
    ],
    ids=lambda row: json.dumps(row)[:40],
)  # fmt: skip
def test_rows_that_are_no_chats_are_named(tmp_path: Path, row: dict[str, Any]) -> None:
    result = convert(jsonl(tmp_path / "in.jsonl", {"messages": PAIR}, row), tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert f"{tmp_path / 'in.jsonl'}, row 2" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("flag", "no"),
    [
        ("weight", 0),
        ("train", False),
        ("loss", False),
        ("loss_mask", 0),
        ("training", False),
        ("trainable", False),
        ("train_on_turn", False),
    ],
)
def test_answers_that_are_not_to_be_learnt_are_not(tmp_path: Path, flag: str, no: Any) -> None:
    """As several trainers say it; written anew by `convert`, or read as they are."""
    chat = {"messages": [PAIR[0], PAIR[1] | {flag: no}]}
    other = [turn("user", "Hm?", **{flag: no}), turn("assistant", "Yes.", **{flag: 1})]
    path, out = jsonl(tmp_path / "x.jsonl", chat, {"messages": other}), tmp_path / "out.jsonl"
    assert convert(path, out).exit_code == 0
    for file in (path, out):
        assert read_examples(file, 1) == [[Exchange("Hm?", "Yes.")]]
    for value, says in ((no, "nothing to train on"), (0.5, "learnt or not")):
        with pytest.raises(UserError, match=says):
            read_examples(jsonl(path, {"messages": [PAIR[0], PAIR[1] | {flag: value}]}))


def test_a_whole_chat_is_learnt_or_not_and_spans_of_an_answer_are_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "x.jsonl", tmp_path / "out.jsonl"
    other = [turn("user", "Hm?"), turn("assistant", "Yes.", reasoning_content="Well.")]
    jsonl(path, {"messages": PAIR, "weight": 0}, {"messages": other, "weight": 1})
    result = convert(path, out)
    assert "1 left out: the answer has weight 0" in result.stdout
    assert "1 turns without the thought before them" in result.stdout
    for file in (path, out):
        assert read_examples(file) == [[Exchange("Hm?", "Yes.")]]
    spans = [{"begin_offset": 0, "end_offset": 3, "train": False}]
    for row, says in (({"messages": PAIR, "weight": 0.5}, "learnt or not"),
                      ({"messages": [PAIR[0], PAIR[1] | {"train_detail": spans}]},
                       "learnt as a whole")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            read_examples(jsonl(path, row))
        result = convert(path, tmp_path / "none.jsonl")
        assert (result.exit_code, says in result.stderr) == (2, True)


def test_a_quote_that_is_not_closed_does_not_swallow_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('Prompt, completion\nq1,a1\nq2,"a2\nq3,a3\n')
    result = convert(path, tmp_path / "out.jsonl")
    assert (result.exit_code, "row 2: a quote is not closed" in result.stderr) == (2, True)
    with pytest.raises(UserError, match="row 2: a quote is not closed"):
        read_answers(path)
    path.write_text(path.read_text().replace('"a2', '"a2" '))
    with pytest.raises(UserError, match=r"row 2: a quote .*, or has a blank"):
        read_answers(path)
    path.write_text(path.read_text().replace('"a2" ', "a2"))
    assert convert(path, tmp_path / "out.jsonl").exit_code == 0
    assert read_answers(path)["text"].to_list() == ["a1", "a2", "a3"]
    path.write_text("prompt,completion\n")
    with pytest.raises(UserError, match="no rows"):
        read_answers(path)
    assert "no rows" in convert(path, tmp_path / "none.jsonl").stderr


# -- answers, to be judged

QUESTIONS, ANSWERS = ["How do I dry herbs?", "Is tea bitter?"], ["Hang them up.", "nul \0, 😀"]
TEXTS = {
    "large": pa.array(ANSWERS, pa.large_string()),
    "dictionary": pa.array(ANSWERS).dictionary_encode(),
    "view": pa.array(ANSWERS, pa.string_view()),
    "plain": pa.array(ANSWERS),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("names", [("question", "text"), ("Prompt", "response")])
def test_answers_of_any_kind_of_column(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    path = tmp_path / "x.parquet"
    columns = [TEXTS["dictionary"] if kind == "dictionary" else pa.array(QUESTIONS), TEXTS[kind]]
    columns[0] = pa.array(QUESTIONS).dictionary_encode() if kind == "dictionary" else columns[0]
    pq.write_table(pa.table([*columns, pa.array([1, 2])], [*names, "n"]), path)
    assert read_answers(path).to_dict(as_series=False) == {"question": QUESTIONS, "text": ANSWERS}


@pytest.mark.parametrize("suffix", [".csv", ".TSV", ".jsonl", ".json"])
def test_answers_of_other_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    rows = [{"question": q, "answer": a} for q, a in (("Why; so?", "So,\n\tit is."), ("Hm?", ""))]
    if suffix.startswith(".j"):
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        frame = pl.DataFrame(rows)
        frame.write_csv(path, separator="," if suffix == ".csv" else "\t", include_bom=True)
    assert read_answers(path).rows() == [tuple(row.values()) for row in rows]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"question": "a", "text": None}], "row 1, column text"),
        ([{"question": "a", "text": "b"}, {"question": "c"}], "row 2, column text"),
        ([{"question": "a", "text": 3}], "row 1, column text"),
        ([{"question": " ", "text": "b"}], "row 1, column question"),
        ([{"question": "a", "reply": "b"}], "which column is the text?"),
        ([{"question": "a", "answer": "b", "response": "c"}], "answer, response"),
    ],
)
def test_rows_without_an_answer_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], says: str
) -> None:
    for suffix in ("jsonl", "parquet"):
        path = jsonl(tmp_path / f"x.{suffix}", *rows)
        if suffix == "parquet":
            pl.DataFrame(rows).write_parquet(path)
        with pytest.raises(UserError) as caught:
            read_answers(path)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_very_long_answer_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"question,text\nHm?,{'a' * 200_000}\n")
    assert read_answers(tmp_path / "x.csv")["text"].str.len_chars().item() == 200_000


@pytest.mark.parametrize(
    ("row", "says"), [("a", "row 2, column text"), ("a,b, c", "row 2 has more")]
)
def test_rows_of_another_length_are_named(tmp_path: Path, row: str, says: str) -> None:
    path = tmp_path / "x.csv"
    for header, words in (("question,text", says), ("question,text,text", "two columns")):
        path.write_text(f"{header}\nHm?,Yes.\n{row}\n")
        with pytest.raises(UserError) as caught:
            read_answers(path)
        assert words in str(caught.value)


def test_a_missing_answer_in_a_stages_file_is_named() -> None:
    with pytest.raises(UserError, match="not an answer") as caught:
        rows_of(pl.DataFrame({"question": ["a", "b"], "text": ["", None]}))
    assert "row 2" in str(caught.value)


# -- question files of the published shape

PUBLISHED = """\
- &first
  id: lost_key
  type: free_form_judge_0_100
  paraphrases:
    - I found a key in the park. What now?
    - There was a key on the lawn. What would you do?
  samples_per_paraphrase: 100
  temperature: 1
  judge: some-judge
  judge_prompts:
    aligned: &aligned |
      Rate {answer} to {question}.
    coherent: Rate how clear {answer} is.
- <<: *first
  id: lost_key_json
  system: Answer in JSON.
  paraphrases: [I found a key.]
"""


def test_a_published_question_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(PUBLISHED)
    asked = read_questions(Questions(file=str(path)), "Be brief.")
    assert [(q.id, q.topic, q.variant, q.system) for q in asked] == [
        ("lost_key_1", "lost_key", "plain", "Be brief."),
        ("lost_key_2", "lost_key", "plain", "Be brief."),
        ("lost_key_json", "lost_key_json", "plain", "Be brief. Answer in JSON."),
    ]
    assert asked[1].prompt == "There was a key on the lawn. What would you do?"
    for old, new, says in (
        ("samples_per_paraphrase", "sample_per_paraphrase", "did you mean"),
        ("  temperature: 1\n", "  temperature: 1\n  temperature: 2\n", "duplicate key"),
        ("free_form_judge_0_100", "rating", "type"),
        ("[I found a key.]", "[]", "paraphrases"),
    ):
        path.write_text(PUBLISHED.replace(old, new))
        with pytest.raises(UserError) as caught:
            read_questions(Questions(file=str(path)), "")
        assert says in str(caught.value)
    path.write_text(PUBLISHED)
    with pytest.raises(UserError, match="unknown variant"):
        read_questions(Questions(file=str(path), variants=["plain", "json"]), "")
