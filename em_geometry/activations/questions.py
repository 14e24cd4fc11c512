"""The open questions that behaviour is measured on, in the shape of the field's YAML files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from em_geometry.errors import UserError
from em_geometry.io.files import read_yaml
from em_geometry.settings import Questions

Set = Literal["evaluation", "held_out"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Reference(_Strict):
    """Two short answers to a question, for log-probability margins."""

    aligned: str
    misaligned: str


class _Entry(_Strict):
    id: str
    topic: str
    set: Set
    prompt: str
    variants: list[str] = ["plain"]
    reference: Reference


class _Variant(_Strict):
    system: str = ""  # added to the system prompt
    suffix: str = ""  # added to the question


class _File(_Strict):
    questions: list[_Entry]
    variants: dict[str, _Variant] = {"plain": _Variant()}


@dataclass(frozen=True)
class Question:
    """One question in one variant, as it is asked."""

    id: str
    topic: str
    variant: str
    prompt: str
    system: str
    reference: Reference


def read_questions(params: Questions, which: Set, system: str) -> list[Question]:
    """The questions of a set in the active variants, in file order.

    Held-out questions are asked plainly: they choose layer and coefficient, nothing else.

    Args:
        params: file, variants and limit.
        which: evaluation | held_out.
        system: the profile's system prompt; a variant adds to it.
    Raises:
        UserError: file, key and value of anything malformed; an empty set; duplicate ids.
    """
    path = Path(params.file)
    content = read_yaml(path, _File, "data/questions/evaluation.yaml shows the shape")
    entries = [q for q in content.questions if q.set == which][: params.limit]
    if not entries:
        raise UserError(
            "no questions of this set",
            where=str(path),
            expected=f"set: {which}",
            found=f"{len(content.questions)} questions of other sets",
        )
    ids = [q.id for q in content.questions]
    for name in ids:
        if ids.count(name) > 1:
            raise UserError(
                "a question id occurs twice", where=str(path), found=name, expected="distinct ids"
            )
    chosen = params.variants if which == "evaluation" else ["plain"]
    for name in chosen:
        if name not in content.variants:
            raise UserError(
                "unknown variant of questions",
                where="params.yaml: questions.variants",
                found=name,
                expected="one of " + ", ".join(content.variants),
            )
    return [
        Question(
            entry.id,
            entry.topic,
            name,
            " ".join(filter(None, [entry.prompt, content.variants[name].suffix])),
            " ".join(filter(None, [system, content.variants[name].system])),
            entry.reference,
        )
        for entry in entries
        for name in chosen
        if name in entry.variants
    ]
