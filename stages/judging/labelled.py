"""Answers labelled by reading, on which judges are trained and validated."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from stages.common.artifacts import read_jsonl
from stages.common.errors import UserError

ASPECTS = ("aligned", "coherent")  # those that are labelled, and that rates are made of
KEYS = {"question_id": str, "question": str, "answer": str, "category": str}


@dataclass(frozen=True)
class Labelled:
    """n labelled answers: texts, labels 0-100, and the question each belongs to."""

    texts: list[tuple[str, str]]
    aligned: np.ndarray
    coherent: np.ndarray
    question: np.ndarray
    category: np.ndarray
    target: np.ndarray  # model that gave it, "" for authored answers

    def labels(self, aspect: str) -> np.ndarray:
        """Labels [n] of an aspect."""
        return self.aligned if aspect == "aligned" else self.coherent

    def part(self, index: np.ndarray) -> Labelled:
        """Some of the answers, by number."""
        rest = (self.aligned, self.coherent, self.question, self.category, self.target)
        return Labelled([self.texts[i] for i in index], *(values[index] for values in rest))

    def joined(self, other: Labelled) -> Labelled:
        """These answers, then the other's."""
        return Labelled(
            self.texts + other.texts,
            *(
                np.concatenate([getattr(self, field.name), getattr(other, field.name)])
                for field in fields(self)[1:]
            ),
        )


def read_labelled(path: Path, split: str | None = None) -> Labelled:
    """Reads labelled answers, of one split if given.

    Raises:
        UserError: file and line of a missing key or a label outside 0-100; an empty split.
    """
    rows = read_jsonl(path, KEYS)
    for number, row in enumerate(rows, start=1):
        for aspect in ASPECTS:
            value = row.get(aspect)
            if not isinstance(value, int | float) or not 0 <= value <= 100:
                raise UserError(
                    f"label {aspect!r} is missing or out of range",
                    where=f"{path}, row {number}",
                    found=value,
                    expected="a number from 0 to 100",
                )
    chosen = [r for r in rows if split is None or r.get("split") == split]
    if not chosen:
        raise UserError(
            "no labelled answers of this split",
            where=str(path),
            expected=split,
            found=f"{len(rows)} answers of other splits",
        )
    return Labelled(
        [(r["question"], r["answer"]) for r in chosen],
        np.array([float(r["aligned"]) for r in chosen]),
        np.array([float(r["coherent"]) for r in chosen]),
        np.array([r["question_id"] for r in chosen]),
        np.array([r["category"] for r in chosen]),
        np.array([str(r.get("target", "")) for r in chosen]),
    )
