"""Answers labelled by reading, on which judges are trained and validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, create_model

from em_geometry.errors import UserError
from em_geometry.io.files import read_jsonl

ASPECTS = ("aligned", "coherent")  # those that rates are made of
Label = Annotated[float, Field(ge=0, le=100, strict=True)]


class _Row(BaseModel):
    question_id: str
    question: str
    answer: str
    category: str
    split: str | None = None
    target: str = ""


@dataclass(frozen=True)
class Labelled:
    """n labelled answers: texts, labels 0-100 by aspect, and the question each belongs to."""

    texts: list[tuple[str, str]]
    label: dict[str, np.ndarray]
    question: np.ndarray
    category: np.ndarray
    target: np.ndarray  # model that gave it, "" for authored answers

    @property
    def aligned(self) -> np.ndarray:
        return self.label["aligned"]

    @property
    def coherent(self) -> np.ndarray:
        return self.label["coherent"]

    def part(self, index: np.ndarray) -> Labelled:
        """Some of the answers, by number."""
        return Labelled(
            [self.texts[i] for i in index],
            {aspect: values[index] for aspect, values in self.label.items()},
            *(values[index] for values in (self.question, self.category, self.target)),
        )

    def joined(self, other: Labelled) -> Labelled:
        """These answers, then the other's."""
        return Labelled(
            self.texts + other.texts,
            {a: np.concatenate([values, other.label[a]]) for a, values in self.label.items()},
            *(
                np.concatenate([getattr(self, field.name), getattr(other, field.name)])
                for field in fields(self)[2:]
            ),
        )


def read_labelled(
    path: Path, split: str | None = None, aspects: Sequence[str] = ASPECTS
) -> Labelled:
    """Reads labelled answers, of one split if given.

    Args:
        aspects: those whose labels every answer must have.
    Raises:
        UserError: file, line and key of what is missing or malformed, such as a label outside
            0-100; an empty split.
    """
    labels: dict[str, Any] = dict.fromkeys(aspects, (Label, ...))
    kind = create_model("Row", __base__=_Row, **labels)
    rows = read_jsonl(path, kind, "every aspect of judging.aspects needs a label in every answer")
    chosen = [r for r in rows if split is None or r.split == split]
    if not chosen:
        raise UserError(
            "no labelled answers of this split",
            where=str(path),
            expected=split,
            found=f"{len(rows)} answers of other splits",
        )
    return Labelled(
        [(r.question, r.answer) for r in chosen],
        {a: np.array([float(getattr(r, a)) for r in chosen]) for a in aspects},
        np.array([r.question_id for r in chosen]),
        np.array([r.category for r in chosen]),
        np.array([r.target for r in chosen]),
    )
