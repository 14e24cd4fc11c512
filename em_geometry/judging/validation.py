"""How far a judge can be believed: what it says of answers that were labelled by reading.

docs/method.md: judge. Labels and scores are 0-100, a missing score is NaN; the cuts are those of
the rates. Intervals are over questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, Field, create_model

from em_geometry.errors import UserError
from em_geometry.io.files import read_jsonl
from em_geometry.judging.judge import Judge
from em_geometry.judging.rates import ASPECTS, positive
from em_geometry.judging.score import judged
from em_geometry.settings import Judging, Probe
from em_geometry.stats.agreement import agreement, alpha, kappa
from em_geometry.stats.arrays import Floats
from em_geometry.stats.estimate import Estimate

BINS = 10  # of the scale, for the calibration error
JUDGED, CHANCE = "judged", 0.5  # status of an aspect that can be read; AUROC without knowledge
NO_SCORES, NO_VARIATION = "undefined: no scores", "undefined: no variation"
NO_SAMPLED = "no sampled answers are labelled"

Label = Annotated[float, Field(ge=0, le=100, strict=True)]
Texts = Sequence[tuple[str, str]]  # question and answer


class _Row(BaseModel):
    question_id: str
    question: str
    answer: str
    category: str
    target: str = ""
    split: str | None = None


def read_labelled(
    path: Path, split: str | None = None, aspects: Sequence[str] = ASPECTS
) -> pl.DataFrame:
    """Labelled answers: question_id, question, answer, category, target, and a column an aspect.

    `target` is the model that gave the answer, "" for authored ones.

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


class Validation:
    """One judge on labelled answers; scores are kept in its journal, so nothing is asked twice.

    Attributes:
        asked: every frame that was judged, for `score.refuse_failed`.
    """

    def __init__(self, judge: Judge, judging: Judging) -> None:
        self.judge, self.judging = judge, judging
        self.asked: list[pl.DataFrame] = []

    def whole(self, data: Labelled) -> dict[str, Any]:
        """Authored held-out answers and really sampled ones, apart."""
        return {
            "judge": self.judge.id,
            "held_out": self.on(data.held_out),
            "sampled": {"status": NO_SAMPLED} if data.sampled is None else self.on(data.sampled),
        }

    def scores(self, texts: Texts) -> dict[str, Floats]:
        """Scores of (question, answer) by aspect, NaN where there is none."""
        schema = {"question": pl.String, "text": pl.String}
        asked = pl.DataFrame(texts, schema, orient="row")
        self.asked.append(judged(self.judge, asked, set(), "judge, validation"))
        found, none = self.asked[-1].to_dict(), pl.Series([np.nan] * len(texts))
        return {a: found.get(a, none).to_numpy() for a in self.judging.aspects}

    def on(self, data: pl.DataFrame) -> dict[str, Any]:
        """Agreement with the labels of each aspect, and mean labels and scores by category."""
        scores = self.scores(texts_of(data))
        aspects = [a for a in self.judging.aspects if a in data.columns]
        found: dict[str, Any] = {
            a: self.agreement(data, scores[a], a) for a in aspects if not np.isnan(scores[a]).all()
        }
        means = {"category": data["category"]}
        for a in aspects:
            means |= {f"mean_{a}_label": data[a], f"mean_{a}_score": pl.Series(scores[a])}
        frame = pl.DataFrame(means).fill_nan(None).sort("category")
        by = frame.group_by("category", maintain_order=True)
        category = {
            row.pop("category"): {k: v for k, v in row.items() if v is not None}
            for row in by.agg(pl.len().alias("n"), pl.all().mean()).iter_rows(named=True)
        }
        return found | {"category": category}

    def agreement(self, data: pl.DataFrame, scores: Floats, aspect: str) -> dict[str, Any]:
        """AUROC, kappa and rank correlation, and calibration, of the scored answers."""
        scored = ~np.isnan(scores)
        labels, scores = data[aspect].to_numpy()[scored], scores[scored]
        found = partial(positive, aspect=aspect, judging=self.judging)
        question = data["question_id"].to_numpy()[scored]
        falling = aspect == "aligned"
        return {
            "n": len(data),
            "n_scored": len(labels),
            "n_positive": int(found(labels).sum()),
            **agreement(labels, scores, found, question, falling),
            "calibration_error": calibration_error(labels, scores),
            "mean_label": float(labels.mean()),
            "mean_score": float(scores.mean()),
        }


def texts_of(data: pl.DataFrame) -> Texts:
    """(question, answer) of labelled answers."""
    return data.select("question", "answer").rows()


def calibration_error(labels: Floats, scores: Floats) -> float:
    """Expected calibration error: mean |mean label - mean score| over tenths of the scale."""
    bins = np.minimum((scores / 100 * BINS).astype(int), BINS - 1)
    n, excess = np.bincount(bins), np.bincount(bins, weights=labels - scores)
    return float(np.abs(excess).sum() / n.sum())


def raters_agreement(scores: Mapping[str, Floats], judging: Judging) -> dict[str, Any]:
    """Kappa at the misalignment cut and Krippendorff's alpha, for every pair of raters.

    Args:
        scores: aligned scores by rater, of the same answers in the same order.
    """
    result: dict[str, Any] = {}
    for one, other in combinations(scores, 2):
        pair = np.stack([scores[one], scores[other]])
        pair = pair[:, ~np.isnan(pair).any(0)]
        found = {"kappa": np.nan, "alpha": alpha(pair)}
        if pair.size:
            found["kappa"] = kappa(*(positive(values, "aligned", judging) for values in pair))
        shown = {k: v if np.isfinite(v) else NO_VARIATION for k, v in found.items()}
        result[f"{one}__{other}"] = {"n": pair.shape[1]} | shown
    return result


def gate(sampled: Mapping[str, Any], least: float) -> str:
    """The kappa gate on really sampled answers: passed, or failed with the figure."""
    if "status" in sampled:
        return f"failed: {sampled['status']}"
    found = sampled.get("aligned", {}).get("kappa", Estimate.undefined(NO_SCORES))
    if found.value is None:
        return f"failed: kappa {found.status}"
    failed = f"failed: kappa {found.value:.2f} below {least:.2f}"
    return "passed" if found.value >= least else failed


def believed(validated: Mapping[str, Any], aspect: str) -> str:
    """`judged`, or why an aspect's scores are not to be read: they may order answers by chance.

    Decided on answers that models really gave where there are labelled ones, else on authored ones.
    """
    where = "held_out" if "status" in validated["sampled"] else "sampled"
    found = validated[where].get(aspect, {}).get("auroc", Estimate.undefined("undefined"))
    if found.value is None:
        return f"not judged: AUROC {found.status}"
    if found.low is None:
        return f"not judged: AUROC {found.value:.2f} hangs on one question"
    if found.low <= CHANCE:
        return f"not judged: AUROC {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    return JUDGED
