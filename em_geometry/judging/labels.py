"""Answers that were labelled by reading: authored ones, and such as models really gave.

docs/method.md: judge. Labels are 0-100, one an aspect; data/README.md says who read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import BaseModel, Field, create_model

from em_geometry.errors import UserError
from em_geometry.io.files import read_jsonl
from em_geometry.judging.rates import ASPECTS
from em_geometry.settings import Probe

NO_SAMPLED = "no sampled answers are labelled"

NO_LABELS = pl.DataFrame(
    schema=dict.fromkeys(("target", "condition", "question", "answer"), pl.String)
    | dict.fromkeys(ASPECTS, pl.Float64)
)

Label = Annotated[float, Field(ge=0, le=100, strict=True)]


class _Row(BaseModel):
    question_id: str
    question: str
    answer: str
    category: str
    target: str = ""
    condition: str = ""
    split: str | None = None


def read_labelled(
    path: Path, split: str | None = None, aspects: Sequence[str] = ASPECTS
) -> pl.DataFrame:
    """Labelled answers: question_id, question, answer, category, and a column an aspect.

    `target` is the model that gave the answer and `condition` what was done to it (`unsteered`,
    `vector <slug>`, `random`); both are "" for authored ones.

    Raises:
        UserError: file, line and key of what is missing or malformed; an empty split.
    """
    labels: dict[str, Any] = dict.fromkeys(aspects, (Label, ...))
    kind = create_model("Row", __base__=_Row, **labels)
    rows = read_jsonl(path, kind, "every aspect of judging.aspects needs a label in every answer")
    chosen = [r for r in rows if split is None or r.split == split]
    if not chosen:
        what, found = "no labelled answers of this split", f"{len(rows)} answers of other splits"
        raise UserError(what, where=path, expected=split, found=found)
    return pl.DataFrame(r.model_dump(exclude={"split"}) for r in chosen)


@dataclass(frozen=True)
class Labelled:
    """The labelled answers of a run: authored, and such as models really gave (None without).

    A judge is trained on two of the sets and never sees the others.
    """

    train: pl.DataFrame
    held_out: pl.DataFrame
    sampled_train: pl.DataFrame | None
    sampled: pl.DataFrame | None

    @classmethod
    def read(cls, settings: Probe, aspects: Sequence[str]) -> Self:
        """All sets of a run.

        Raises:
            UserError: as `read_labelled`; a question is both trained on and validated on.
        """
        authored = Path(settings.labelled)
        train, held_out = (read_labelled(authored, s, aspects) for s in ("train", "held_out"))
        more, sampled = (
            read_labelled(Path(path), None, aspects) if path else None
            for path in (settings.sampled_train, settings.sampled)
        )
        known, asked = (
            {q for data in sets if data is not None for q in data["question"]}
            for sets in ((train, more), (held_out, sampled))
        )
        if known & asked:
            expected = "labelled (train) and sampled_train share no question with the held-out sets"
            raise UserError(
                "the judge would be validated on questions it was trained on",
                where="params.yaml: judging.probe",
                found=sorted(known & asked)[:3],
                expected=expected,
            )
        return cls(train, held_out, more, sampled)
