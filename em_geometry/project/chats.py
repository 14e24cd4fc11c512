"""`em-geometry chats convert IN OUT`: anybody's chats as files that organisms are trained on.

IN has `messages` (OpenAI), `conversations` (ShareGPT), `instruction`, `input` and `output`
(Alpaca), `prompt` and `completion`, or the like, as JSON lines, JSON, CSV or Parquet. Organisms
learn every answer of a chat, behind its system prompt and earlier turns. What is left out or
changed is counted and printed.
"""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import typer

from em_geometry.errors import UserError
from em_geometry.io.files import fresh, write_text
from em_geometry.io.records import read_records
from em_geometry.models.chat import ANSWERS, ASKS, FLAGS, SPANS, SYSTEM
from em_geometry.project.command import PLAIN, command

ROLES = {
    "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant",
    "model": "assistant",
}  # fmt: skip
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
LISTS = ("messages", "conversations", "conversation")
PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"),
    ("instruction", "response"), ("question", "answer"), ("input", "output"),
)  # fmt: skip
app = typer.Typer(**PLAIN, help=__doc__, no_args_is_help=True)
app.callback()(lambda: None)  # keeps `convert` a subcommand


@app.command()
@command
def convert(given: Path, out: Path) -> None:
    """Write the chats of a file as JSON lines that organisms can be trained on."""
    fresh(out)
    notes: Counter[str] = Counter()
    kept: dict[str, str] = {}  # what is said before the last answer -> the chat
    for number, row in enumerate(read_records(given), start=1):
        chat = in_turn(row, f"{given}, row {number}", notes)
        asked = json.dumps(chat[:-1])
        if asked in kept:
            notes["left out: the question came before"] += 1
        elif chat:
            kept[asked] = json.dumps({"messages": chat}, ensure_ascii=False) + "\n"
    told = "; ".join(f"{count} {note}" for note, count in notes.items() if count)
    if not kept:
        found = told or "no rows"
        raise UserError("no chats to train on", where=given, found=found, expected="one at least")
    write_text(out, "".join(kept.values()))
    print(f"{len(kept)} chats in {out}" + f"; {told}" * bool(told))
    print(f"`dvc exp run --temp` takes along what Git knows: git add {out}")


def in_turn(row: Mapping[str, Any], where: str, notes: Counter[str]) -> list[dict[str, Any]]:
    """The messages of a chat; none, with a note of the reason, where nothing can be learnt."""
    turns = _turns(row, where, notes)
    first = next((n for n, (role, *_) in enumerate(turns) if role != SYSTEM), len(turns))
    system, rest = [text for _, text, _ in turns[:first]], turns[first:]
    if len(rest) % 2:
        notes["without their last question, which has no answer"] += rest[-1][0] == ASKS
        rest.pop()
    if not rest or [role for role, *_ in rest] != [ASKS, ANSWERS] * (len(rest) // 2):
        notes["left out: no questions and answers in turn"] += 1
        return []
    if not any(learnt for role, _, learnt in rest if role == ANSWERS):
        notes["left out: the answer has weight 0"] += 1
        return []
    notes["of several questions"] += len(rest) > 2
    notes["with a system prompt"] += bool(system)
    told = [{"role": SYSTEM, "content": "\n\n".join(system)}] if system else []
    return [*told, *({"role": r, "content": t} | ({} if w else {"weight": 0}) for r, t, w in rest)]


def _turns(row: Mapping[str, Any], where: str, notes: Counter[str]) -> list[tuple[str, str, bool]]:
    """(role, text, is it learnt) of every turn of a row in any of the shapes."""
    row = _plain(row)
    found = next((row[key] for key in LISTS if isinstance(row.get(key), list)), None)
    pair = next((pair for pair in PAIRS if {*pair} <= row.keys()), None)
    if found is None and pair is not None and not row.get("history"):
        asked, answered = (row[key] for key in pair)
        if pair[0] == "instruction" and (given := row.get("input")):
            if not isinstance(given, str) or not isinstance(asked, str):
                what, found = "not a turn of a chat", f"instruction {asked!r}, input {given!r}"
                raise UserError(what, where=where, found=found, expected="texts, or no input")
            asked = f"{asked}\n\n{given}"
        found = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        if isinstance(asked, list) and isinstance(answered, list):  # of turns, as TRL has them
            found = [*asked, *answered]
    if found is None or not all(isinstance(turn, dict) for turn in found):
        expected = f"{', '.join(LISTS)}; or both of {', '.join(map(' and '.join, PAIRS))}"
        keys = ", ".join(map(str, row))
        raise UserError("a chat of an unknown shape", where=where, found=keys, expected=expected)
    if row.get("system"):
        found = [{"role": "system", "content": row["system"]}, *found]
    notes["turns without the thought before them"] += sum(
        any(turn.get(key) for key in THOUGHTS) for turn in found
    )
    weight = row.get("weight")  # of a cell of a CSV, a text
    if str(weight) not in ("None", "", "0", "1", "0.0", "1.0", "True", "False"):
        what, expected = "a chat is learnt or not", "0 or 1"
        raise UserError(what, where=f"{where}, weight", found=weight, expected=expected)
    whole = str(weight) not in ("0", "0.0", "False")
    return [
        (role, text, learnt and whole) for role, text, learnt in map(_turn, found, repeat(where))
    ]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).strip().lower(): value for key, value in row.items()}


def _turn(given: Mapping[str, Any], where: str) -> tuple[str, str, bool]:
    turn = _plain(given)
    role = str(turn.get("role", turn.get("from"))).lower()
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content]  # an image has none
        content = "\n".join(texts) if all(isinstance(text, str) for text in texts) else None
    if turn.get(SPANS):
        what, expected = "an answer is learnt as a whole", f"no {SPANS}, or the row left out"
        raise UserError(what, where=where, found=f"{SPANS} {turn[SPANS]}", expected=expected)
    flags = [turn.get(flag) for flag in FLAGS]
    known = all(flag in (0, 1, None) for flag in flags)
    if not isinstance(content, str) or not content.strip() or not known:
        flags_of = f"0 or 1 in {', '.join(FLAGS)} if they are there"
        what, expected = "not a turn of a chat", f"a text in content or value, and {flags_of}"
        raise UserError(what, where=where, found=repr(given), expected=expected)
    return ROLES.get(role, role), content.strip(), 0 not in flags
