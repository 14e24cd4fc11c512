"""A sample of judged answers per condition, so that a reader sees what the numbers mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from em_geometry.io.files import read_parquet
from em_geometry.report.text import NONE, decimals
from em_geometry.settings import BASE, Organism
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
    contrasts: Sequence[str]  # organisms whose contrast it belongs to


def read_answers(
    folders: Sequence[Path],
    organisms: Mapping[str, Organism],
    aspects: Sequence[str],
    shown: int,
) -> list[Answer]:
    """Judged answers of every model by question, organism before control before base.

    The same at each run; models without a file are left out.

    Args:
        shown: answers of a condition, spread over its questions.
    """
    models = sorted(organisms, key=lambda slug: organisms[slug].role != "organism")
    files = [folder / f"{target}.parquet" for target in (*models, BASE) for folder in folders]
    rows = [row for path in files if path.is_file() for row in _sample(read_parquet(path), shown)]
    limit = max(SHORTEST, min(LONGEST, BUDGET // max(1, len(rows))))
    asked = list(dict.fromkeys(row["question"] for row in rows))
    rows.sort(key=lambda row: asked.index(row["question"]))
    member = _contrasts(organisms)
    return [_answer(row, aspects, limit, member) for row in rows[: BUDGET // SHORTEST]]


def _contrasts(organisms: Mapping[str, Organism]) -> dict[tuple[str, str], list[str]]:
    """Model and vector -> the organisms that they help to see in contrast.

    A contrast is an organism, the first control of its recipe, and the base under its vector.
    """
    controls = {o.lab: slug for slug, o in [*organisms.items()][::-1] if o.role == "control"}
    found: dict[tuple[str, str], list[str]] = {}
    for slug, organism in organisms.items():
        if organism.role == "organism":
            places = (slug, UNSTEERED), (controls.get(organism.lab, ""), UNSTEERED), (BASE, slug)
            for place in places:
                found.setdefault(place, []).append(slug)
    return found


def _sample(frame: pl.DataFrame, count: int) -> list[dict[str, Any]]:
    """The first answers of each condition, spread over its questions; conditions as in the plan."""
    ranked = frame.with_columns(
        turn=pl.int_range(pl.len()).over([*KEYS, "question_id"]),
        place=pl.col("question_id").rank("dense").over(KEYS),
    ).sort(["turn", "place"], maintain_order=True)
    return ranked.group_by(KEYS, maintain_order=True).head(count).to_dicts()


def _answer(
    row: Mapping[str, Any],
    aspects: Sequence[str],
    limit: int,
    member: Mapping[tuple[str, str], Sequence[str]],
) -> Answer:
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
        contrasts=member.get((row["target"], row["source"]), ()),
    )


def _condition(source: str, dose: float) -> str:
    """A condition in words."""
    if source == UNSTEERED:
        return "unsteered"
    kind = "a random direction" if source.startswith("random") else f"the vector of {source}"
    return f"with {kind} (dose {decimals(dose, 2)})"
