"""Held-out efficacy of every contrast: which reading of "steering vector" steers at all.

METHOD.md: steering vectors. The contrast is a choice, so what the vectors of each do to the margin
of misaligned over aligned reference answers stands beside that of the chosen one: on the base, at
the chosen blocks, at the relative dose of the layer sweep. Forward passes only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from em_geometry.activations.questions import Question
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.models.load import Loaded
from em_geometry.settings.params import Params
from em_geometry.settings.sections import Contrast
from em_geometry.steering.conditions import random_direction
from em_geometry.steering.hooks import Intervention
from em_geometry.steering.selected import Selected
from em_geometry.vectors.files import INDEX, VECTORS
from em_geometry.vectors.margins import RANDOM, margins

OF_ANSWERS, ANSWER_SPAN = "response_contrast", "response_mean"
Vectors = dict[str, np.ndarray | str]  # organism -> unit vector [width], or why there is none


def span_of(params: Params, contrast: str) -> str:
    """The span on which a contrast is tried: the chosen one, where the contrast has it."""
    chosen, spans = params.vectors.span, params.activations.spans
    if contrast == params.vectors.contrast:
        return chosen
    if contrast == OF_ANSWERS:
        return ANSWER_SPAN
    return chosen if chosen in spans else spans[0]


def unit_vectors(params: Params, contrast: str, blocks: Mapping[str, int]) -> Vectors:
    """Vectors of the organisms at their blocks."""
    import polars as pl

    span = span_of(params, contrast)
    tensors, _ = read_tensors(VECTORS)
    index = read_parquet(INDEX).filter(pl.col("contrast") == contrast, pl.col("span") == span)
    found: Vectors = {}
    for slug, block in blocks.items():
        row = index.filter(pl.col("model") == slug, pl.col("layer") == block).row(0, named=True)
        if row["status"] != "ok":
            found[slug] = str(row["status"])
        else:
            raw = tensors[f"{contrast}.{span}"][params.targets.index(slug), block]
            found[slug] = raw / np.float32(row["norm"])
    return found


def contrast_efficacy(
    params: Params,
    loaded: Loaded,
    questions: Sequence[Question],
    chosen: Mapping[str, Selected],
    residual: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Mean margin gain over the organisms' vectors, in nats per token, by contrast.

    Args:
        loaded: the base.
        questions: held out; the intervals are over them.
        chosen: vector of each organism, at whose block all are tried.
        residual: mean residual norm [block].
    """
    blocks = {slug: vector.layer for slug, vector in chosen.items()}
    width = len(next(iter(chosen.values())).vector)
    chance = random_direction(width, params.run.seed, RANDOM)

    def added(vector: np.ndarray, block: int) -> Intervention:
        return Intervention(vector, block, params.layer_sweep.dose * float(residual[block]))

    table = {c: unit_vectors(params, c, blocks) for c in get_args(Contrast)}
    plan: dict[tuple[str, Any], Intervention] = {
        (contrast, slug): added(vector, blocks[slug])
        for contrast, vectors in table.items()
        for slug, vector in vectors.items()
        if not isinstance(vector, str)
    }
    plan |= {(RANDOM, block): added(chance, block) for block in sorted(set(blocks.values()))}
    acts = [None, *plan.values()]
    found = margins(loaded, questions, acts, params.steering.positions, "contrasts")
    gains = dict(zip(plan, found[1:] - found[0], strict=True))
    result: dict[str, dict[str, Any]] = {}
    for contrast, vectors in table.items():
        missing = {s: why for s, why in vectors.items() if isinstance(why, str)}
        used = [slug for slug in blocks if slug not in missing]
        entry: dict[str, Any] = {"span": span_of(params, contrast), "vectors": len(used)}
        if missing:
            entry["without"] = "; ".join(f"{slug}: {why}" for slug, why in missing.items())
        if used:
            mean = np.mean([gains[contrast, slug] for slug in used], axis=0)
            random = np.mean([gains[RANDOM, blocks[slug]] for slug in used], axis=0)
            entry |= over_questions(mean) | {"beyond_random": over_questions(mean - random)}
        else:
            entry["status"] = "undefined for every organism"
        result[contrast] = entry
    return result


def over_questions(values: np.ndarray) -> dict[str, Any]:
    """Mean of values [question] with its 95 % interval by Student's t."""
    from scipy.stats import t

    n = len(values)
    entry: dict[str, Any] = {"value": float(values.mean()), "n": n}
    if n < 2:
        return entry | {"status": "no interval: one question"}
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return entry | {"low": entry["value"] - half, "high": entry["value"] + half, "status": "ok"}
