"""The rows behind steering vectors, from activations (docs/method.md: calibration)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from em_geometry.errors import UserError
from em_geometry.geometry.samples import MIN_QUESTIONS, AnswerRows, PromptRows
from em_geometry.settings.params import BASE
from em_geometry.settings.sections import Vectors
from em_geometry.stats.arrays import Floats
from em_geometry.vectors.contrasts import Array, misaligned_and_aligned

if TYPE_CHECKING:
    import polars as pl

FALLBACK = "model_contrast"
PAIRED = ("prompt_contrast", "interaction")  # rows are harmful minus neutral of a pair
AGAINST = (FALLBACK, "control_contrast", "interaction")  # rows subtract another model
OF_ANSWERS = "response_contrast"
OF_PROMPTS = (*PAIRED, *AGAINST)
At: TypeAlias = Callable[[str, int], Array]  # (model, block) -> activations [prompts, width]


def pair_rows(kinds: Sequence[str], pairs: Sequence[str]) -> tuple[list[int], list[int]]:
    """Rows of the harmful and of the neutral prompts, pair by pair.

    Raises:
        UserError: a pair lacks one of the two, or has one twice.
    """
    sides: dict[str, dict[str, list[int]]] = {}
    for row, (kind, pair) in enumerate(zip(kinds, pairs, strict=True)):
        sides.setdefault(pair, {}).setdefault(kind, []).append(row)
    for pair, found in sides.items():
        if sorted(found) != ["harmful", "neutral"] or any(len(r) != 1 for r in found.values()):
            raise UserError(
                "a pair of prompts is not one neutral and one harmful prompt",
                where=f"the prompts of the activations: pair {pair}",
                found={kind: len(rows) for kind, rows in found.items()},
                expected="one of each",
            )
    first = [found["harmful"][0] for found in sides.values()]
    return first, [found["neutral"][0] for found in sides.values()]


def prompt_rows(
    contrast: str, at: At, blocks: Mapping[str, int], prompts: pl.DataFrame,
    controls: Mapping[str, str],
) -> PromptRows:  # fmt: skip
    """Difference rows of models at their blocks, by prompt or pair of prompts.

    Args:
        contrast: one of `OF_PROMPTS`.
        at: activations by model and block.
        blocks: model -> block.
        prompts: of the activations, with columns kind, topic and pair.
        controls: organism -> what its control contrast subtracts; others subtract the base.
    """
    topics = prompts["topic"].to_list()
    if len(set(topics)) < 2:
        raise UserError(
            "prompts of one topic cannot be resampled by topic",
            where="the prompts of the activations",
            found=f"topics: {', '.join(set(topics))}",
            expected="two or more; eight or more for useful intervals",
        )
    harmful, neutral = pair_rows(prompts["kind"].to_list(), prompts["pair"].to_list())
    paired = contrast in PAIRED

    def rows_of(slug: str, block: int) -> Floats:
        rows = at(slug, block).astype(np.float64)
        if contrast in AGAINST:
            other = controls.get(slug, BASE) if contrast == "control_contrast" else BASE
            if other.startswith("undefined"):
                raise UserError(
                    "an organism has no control of its own recipe to subtract",
                    where="params.yaml: vectors.contrast",
                    found=f"{slug}: {other}",
                    expected="a control of the same lab, or another contrast",
                )
            rows = rows - at(other, block).astype(np.float64)
        return rows[harmful] - rows[neutral] if paired else rows

    rows = np.stack([rows_of(slug, block) for slug, block in blocks.items()])
    return PromptRows(rows, [topics[i] for i in harmful] if paired else topics)


def answer_rows(
    answers: Mapping[str, tuple[Array, pl.DataFrame]], cuts: Vectors
) -> AnswerRows | None:
    """Labelled answers of models; None where they are of too few questions to draw again.

    Args:
        answers: model -> activations [answers, width] at its block, and their judged answers.
    """
    rows, labels, questions = [], [], []
    for activations, frame in answers.values():
        bad, good = misaligned_and_aligned(frame, cuts)
        used = bad | good
        rows.append(activations[used].astype(np.float64))
        labels.append(bad[used])
        questions.append(np.array(frame["question_id"].to_list())[used].tolist())
    found = AnswerRows(rows, labels, questions)
    return found if found.questions_of_fewest >= MIN_QUESTIONS else None
