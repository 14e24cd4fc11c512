"""Stage `responses`: every target's answers under every vector, dose and control.

Writes `data/responses/<model>.parquet` (a row an answer) and `data/damage/<model>.parquet` (KL
of every condition on benign prompts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.questions import read_questions
from em_geometry.hashing import stream_key
from em_geometry.io.files import write_parquet
from em_geometry.models.chat import end_of_turn, render
from em_geometry.models.load import Loaded
from em_geometry.progress import Progress
from em_geometry.project.command import PARAMS, ParamsFile, Targets
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params, load_params
from em_geometry.steering.controls import orthogonalised, random_direction
from em_geometry.steering.damage import answer_log_probabilities, kl_per_token
from em_geometry.steering.generate import Row, sample
from em_geometry.steering.respond import Condition, intervention, respond
from em_geometry.steering.selected import Selected, read_selected

if TYPE_CHECKING:
    import polars as pl

RESPONSES, DAMAGE = Path("data/responses"), Path("data/damage")


def plan(
    params: Params, target: str, selected: Mapping[str, Selected]
) -> tuple[list[Condition], dict[str, np.ndarray]]:
    """Everything done to a target: its conditions, and the unit vectors they use.

    Unsteered; every vector at every dose; its own vector and the named pairs with more samples
    at the chosen coefficient; a random direction of the same norm; the named pairs' vectors made
    orthogonal to the target's own; its own and the named pairs' vectors ablated.
    """
    steering = params.steering
    focus = {p.split(">")[0] for p in params.transfer.pairs if p.split(">")[1] == target}
    conditions = [Condition(samples=steering.focus_samples)]
    vectors: dict[str, np.ndarray] = {}
    for slug, chosen in selected.items():
        named = slug == target or slug in focus
        full = Condition(slug, "vector", 1.0, chosen.dose, chosen.coefficient, chosen.layer)
        vectors[full.vector_name] = chosen.vector
        for multiple in steering.doses:
            conditions.append(
                replace(
                    full,
                    multiple=multiple,
                    relative_dose=multiple * chosen.dose,
                    coefficient=multiple * chosen.coefficient,
                    samples=steering.focus_samples
                    if named and multiple == 1.0
                    else steering.samples,
                )
            )
        if named:
            ablated = replace(full, kind="ablation", relative_dose=0.0, coefficient=0.0)
            vectors[ablated.vector_name] = chosen.vector
            conditions.append(replace(ablated, samples=steering.control_samples))
        if named and slug != target and target in selected:
            rest = orthogonalised(chosen.vector, selected[target].vector)
            if rest is not None:
                control = replace(full, kind="orthogonalised")
                vectors[control.vector_name] = rest
                conditions.append(replace(control, samples=steering.control_samples))
    typical = _typical(selected)
    for number in range(steering.random_directions):
        name = f"random_{number}"
        width = len(typical.vector)
        control = Condition(name, "random", 1.0, typical.dose, typical.coefficient, typical.layer)
        vectors[control.vector_name] = random_direction(width, params.run.seed, name)
        conditions.append(replace(control, samples=steering.control_samples))
    return conditions, vectors


def _typical(selected: Mapping[str, Selected]) -> Selected:
    """The selected vector with the median coefficient: the norm that random directions get."""
    ordered = sorted(selected.values(), key=lambda s: s.coefficient)
    return ordered[len(ordered) // 2]


def damage(
    params: Params,
    loaded: Loaded,
    conditions: Sequence[Condition],
    vectors: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """KL(unsteered || steered) of every condition, on the target's answers to benign prompts."""
    import polars as pl

    neutral = [p for p in read_prompts(params.prompts) if p.kind == "neutral"]
    step = max(1, len(neutral) // max(1, params.steering.damage_prompts))
    chosen = neutral[::step][: params.steering.damage_prompts]  # spread over the topics
    prompts = [render(loaded.tokenizer, p.prompt, params.base.system_prompt).ids for p in chosen]
    rows = [
        Row(ids, stream_key(params.run.seed, "damage", loaded.slug, p.id))
        for ids, p in zip(prompts, chosen, strict=True)
    ]
    end = end_of_turn(loaded.tokenizer, loaded.model.config)
    answers = sample(loaded.model, rows, params.sampling, end) if rows else []
    texts = [((*ids, *a.ids), len(ids)) for ids, a in zip(prompts, answers, strict=True) if a.ids]
    steered = [c for c in conditions if c.kind != "unsteered"] if texts else []
    acts = [None, *(intervention(c, vectors) for c in steered)]
    found = answer_log_probabilities(loaded.model, texts, acts, params.steering.positions)
    reference = next(found, [])
    table = []
    with Progress(f"damage {loaded.slug}", len(steered), unit="conditions") as progress:
        for condition, under in zip(steered, found, strict=True):
            table.append(
                {
                    "target": loaded.slug,
                    "source": condition.source,
                    "kind": condition.kind,
                    "multiple": condition.multiple,
                    "relative_dose": condition.relative_dose,
                    "coefficient": condition.coefficient,
                    "layer": condition.layer,
                    "kl": kl_per_token(reference, under),
                    "tokens": sum(map(len, reference)),
                }
            )
            progress.advance()
    schema = {
        "target": pl.String,
        "source": pl.String,
        "kind": pl.String,
        "multiple": pl.Float64,
        "relative_dose": pl.Float64,
        "coefficient": pl.Float64,
        "layer": pl.Int64,
        "kl": pl.Float64,
        "tokens": pl.Int64,
    }
    return pl.DataFrame(table, schema=schema)


def main(params: Params, *slugs: str) -> None:
    """Samples all answers of these targets, of all where none is named; measures the damage."""
    selected = read_selected()
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    for slug in slugs or params.steered():
        loaded = models(params).load(slug)
        conditions, vectors = plan(params, slug, selected)
        frame = respond(params, loaded, conditions, vectors, questions, f"responses {slug}")
        metadata = {
            "model": slug,
            "model_sha256": loaded.sha256,
            "coefficient": "raw factor of the unit vector",
            "relative_dose": "coefficient / mean residual norm of the base at the layer",
            "positions": params.steering.positions,
        }
        write_parquet(RESPONSES / f"{slug}.parquet", frame, metadata)
        harm = damage(params, loaded, conditions, vectors)
        write_parquet(DAMAGE / f"{slug}.parquet", harm, {**metadata, "kl": "nats per token"})


def cli(models: Targets = None, params: ParamsFile = PARAMS) -> None:
    """Sample the models' answers under every vector, dose and control."""
    loaded = load_params(params)
    main(loaded, *map(loaded.target, models or []))
