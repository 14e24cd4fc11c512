"""What steering vectors do to the margin of misaligned over aligned reference answers.

METHOD.md: layer_sweep, part (i): forward passes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from em_geometry.activations.questions import Question
from em_geometry.errors import UserError
from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.models.chat import answer_ids, render
from em_geometry.models.load import Loaded
from em_geometry.progress import Progress
from em_geometry.settings.params import BASE, Params
from em_geometry.steering.conditions import random_direction
from em_geometry.steering.forced import answer_log_probabilities
from em_geometry.steering.hooks import Intervention
from em_geometry.vectors.files import INDEX, VECTORS

RANDOM = "random"


@dataclass(frozen=True)
class Candidates:
    """Unit vectors of one contrast.

    Attributes:
        units: float32 [block, width] by organism; a zero row where undefined.
        norms: raw norms [block] by organism.
        residual: mean residual norm [block].
    """

    units: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    residual: np.ndarray


def read_candidates(params: Params) -> Candidates:
    """The organisms' vectors under the params' contrast and span; UserError if one has none."""
    import polars as pl

    name = f"{params.vectors.contrast}.{params.vectors.span}"
    tensors, _ = read_tensors(VECTORS)
    if name not in tensors:
        raise UserError(
            "no vectors of this contrast and span",
            where="params.yaml: vectors",
            found=name,
            expected="one of " + ", ".join(sorted(tensors)),
        )
    index = read_parquet(INDEX).filter(
        pl.col("contrast") == params.vectors.contrast, pl.col("span") == params.vectors.span
    )
    units, norms = {}, {}
    for slug in params.slugs("organism"):
        raw = tensors[name][params.targets.index(slug)]
        rows = index.filter(pl.col("model") == slug).sort("layer")
        norms[slug] = rows["norm"].to_numpy()
        if not norms[slug].any():
            raise UserError(
                "this organism has no steering vector under the chosen contrast",
                where=f"params.yaml: vectors.contrast, organism {slug}",
                found=rows["status"][0],
                hint="choose another contrast",
            )
        units[slug] = raw / np.maximum(norms[slug], 1e-30)[:, None].astype(np.float32)
    residual = index.filter(pl.col("model") == BASE).sort("layer")["residual_norm"].to_numpy()
    return Candidates(units, norms, residual)


def margins(
    loaded: Loaded,
    questions: Sequence[Question],
    interventions: Sequence[Intervention | None],
    positions: Any,
    label: str,
) -> np.ndarray:
    """Log-probability margins [interventions, questions], nats per answer token.

    Mean log-probability of the misaligned reference answer minus that of the aligned one.
    """
    texts = []
    for question in questions:
        prompt = render(loaded.tokenizer, question.prompt, question.system).ids
        for answer in (question.reference.misaligned, question.reference.aligned):
            texts.append(((*prompt, *answer_ids(loaded.tokenizer, answer)), len(prompt)))
    result = np.zeros((len(interventions), len(questions)))
    with Progress(label, len(interventions), unit="conditions") as progress:
        every = answer_log_probabilities(loaded.model, texts, interventions, positions)
        for i, found in enumerate(every):
            means = []
            for (ids, start), table in zip(texts, found, strict=True):
                target = table.new_tensor(ids[start:]).long()
                means.append(float(table.gather(-1, target[:, None]).mean()))
            result[i] = np.array(means).reshape(-1, 2) @ np.array([1.0, -1.0])
            progress.advance()
    return result


def margin_gains(
    params: Params, loaded: Loaded, candidates: Candidates, questions: Sequence[Question]
) -> dict[str, np.ndarray]:
    """Mean margin gain [layer of the grid] by organism, and of a random direction."""
    settings = params.layer_sweep
    width = candidates.units[next(iter(candidates.units))].shape[-1]
    direction = random_direction(width, params.run.seed, RANDOM)
    units = {
        **candidates.units,
        RANDOM: np.broadcast_to(direction, (len(candidates.residual), width)),
    }
    plan = [
        Intervention(units[name][layer], layer, settings.dose * float(candidates.residual[layer]))
        for name in units
        for layer in settings.layers
    ]
    found = margins(loaded, questions, [None, *plan], params.steering.positions, "layer sweep")
    gain = (found[1:] - found[0]).mean(-1).reshape(len(units), -1)
    return dict(zip(units, gain, strict=True))
