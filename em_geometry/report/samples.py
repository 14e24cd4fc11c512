"""A sample of judged answers per condition, so that a reader sees what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from em_geometry.io.files import read_parquet
from em_geometry.report.text import NONE, decimals
from em_geometry.settings import Params

BUDGET = 600_000  # characters of answers on the page, which must stay below 2 MB
LONGEST, SHORTEST = 4000, 200  # an answer is cut between these
KEYS = ["source", "kind", "multiple", "relative_dose"]


@dataclass(frozen=True)
class Answer:
    """One answer as the page shows it.

    Attributes:
        condition: what was done to the target, in words.
        text: the answer; `cut` says how many characters are left out.
        scores: aspect -> score or why there is none.
    """

    target: str
    source: str
    condition: str
    question: str
    text: str
    cut: int
    scores: dict[str, str]


def condition_text(source: str, kind: str, multiple: float, dose: float) -> str:
    """A condition in words."""
    if kind == "unsteered":
        return "unsteered"
    if kind == "ablation":
        return f"{source} ablated"
    label = {"orthogonalised": f"{source}, orthogonalised"}.get(kind, source)
    sign = "+" if multiple > 0 else ""
    return f"{label} {sign}{decimals(multiple, 2)} (relative dose {decimals(dose, 2)})"


def read_answers(params: Params, folder: Path) -> list[Answer]:
    """`report.responses_shown` answers of every condition of every target, the same at each run.

    Targets without a file are left out.
    """
    frames = [
        read_parquet(folder / f"{target}.parquet")
        for target in params.targets
        if (folder / f"{target}.parquet").is_file()
    ]
    rows = [row for frame in frames for row in _sample(frame, params.report.responses_shown)]
    limit = max(SHORTEST, min(LONGEST, BUDGET // max(1, len(rows))))
    rows = rows[: BUDGET // SHORTEST]
    return [_answer(row, params.judging.aspects, limit) for row in rows]


def _sample(frame: pl.DataFrame, count: int) -> list[dict[str, Any]]:
    """The first answers of each condition, spread over its questions; conditions as in the plan."""
    ranked = frame.with_columns(
        turn=pl.int_range(pl.len()).over([*KEYS, "question_id"]),
        place=pl.col("question_id").rank("dense").over(KEYS),
    ).sort(["turn", "place"], maintain_order=True)
    chosen = ranked.group_by(KEYS, maintain_order=True).head(count)
    return chosen.to_dicts()


def _answer(row: dict[str, Any], aspects: Sequence[str], limit: int) -> Answer:
    text = str(row["text"])
    scores = {}
    for aspect in aspects:
        score, status = row.get(aspect), row.get(f"{aspect}_status")
        scores[aspect] = decimals(score, 0) if score is not None else str(status or NONE)
    return Answer(
        target=str(row["target"]),
        source=str(row["source"]),
        condition=condition_text(row["source"], row["kind"], row["multiple"], row["relative_dose"]),
        question=str(row["question"]),
        text=text[:limit],
        cut=max(0, len(text) - limit),
        scores=scores,
    )
