"""A sample of judged answers per condition, so that a reader sees what the numbers mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from em_geometry.io.files import read_parquet
from em_geometry.report.text import NONE, decimals
from em_geometry.steering.conditions import UNSTEERED

BUDGET = 600_000  # characters of answers on the page, which must stay below 2 MB
LONGEST, SHORTEST = 4000, 200  # an answer is cut between these
KEYS = ["source", "relative_dose"]


@dataclass(frozen=True)
class Answer:
    """One answer as the page shows it."""

    target: str
    source: str
    condition: str  # what was done to the target, in words
    question: str
    text: str
    cut: int  # characters that are left out
    scores: Mapping[str, str]  # aspect -> score or why there is none


def read_answers(
    folders: Sequence[Path], targets: Sequence[str], aspects: Sequence[str], shown: int
) -> list[Answer]:
    """Judged answers of every target, by condition and folder, the same at each run.

    Targets without a file are left out.

    Args:
        shown: answers of a condition, spread over its questions.
    """
    files = [folder / f"{target}.parquet" for target in targets for folder in folders]
    rows = [row for path in files if path.is_file() for row in _sample(read_parquet(path), shown)]
    limit = max(SHORTEST, min(LONGEST, BUDGET // max(1, len(rows))))
    return [_answer(row, aspects, limit) for row in rows[: BUDGET // SHORTEST]]


def _sample(frame: pl.DataFrame, count: int) -> list[dict[str, Any]]:
    """The first answers of each condition, spread over its questions; conditions as in the plan."""
    ranked = frame.with_columns(
        turn=pl.int_range(pl.len()).over([*KEYS, "question_id"]),
        place=pl.col("question_id").rank("dense").over(KEYS),
    ).sort(["turn", "place"], maintain_order=True)
    return ranked.group_by(KEYS, maintain_order=True).head(count).to_dicts()


def _answer(row: Mapping[str, Any], aspects: Sequence[str], limit: int) -> Answer:
    text, scores = str(row["text"]), {}
    for aspect in aspects:
        score, status = row.get(aspect), row.get(f"{aspect}_status")
        scores[aspect] = decimals(score, 0) if score is not None else str(status or NONE)
    return Answer(
        target=row["target"],
        source=row["source"],
        condition=_condition(*(row[key] for key in KEYS)),
        question=row["question"],
        text=text[:limit],
        cut=max(0, len(text) - limit),
        scores=scores,
    )


def _condition(source: str, dose: float) -> str:
    """A condition in words."""
    if source == UNSTEERED:
        return "unsteered"
    return f"{source} (relative dose {decimals(dose, 2)})"
