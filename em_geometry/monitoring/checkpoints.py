"""Organisms trained again on mixtures of bad and benign data, and measured while they train.

All mixtures of an organism start from one adapter and see their batches in one order: where the
100 % mixture shows a bad example, the others show it or a benign one. Each checkpoint is merged
into a copy of the model, measured and let go; its activations and answers are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from em_geometry.activations.capture import captured
from em_geometry.activations.prompts import ActivationPrompt
from em_geometry.activations.questions import Question, read_questions
from em_geometry.activations.store import text_of
from em_geometry.hashing import file_sha256, stream_key, value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.chat import render
from em_geometry.models.load import Loaded, setup_torch
from em_geometry.models.train import fit, read_split, with_adapter
from em_geometry.project.inputs import models
from em_geometry.settings.params import Params
from em_geometry.steering.conditions import Condition
from em_geometry.steering.respond import CODE as RESPOND_CODE
from em_geometry.steering.respond import respond

CODE = 2  # raise when the way a checkpoint is made or measured changes

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One training, as measured.

    Attributes:
        steps: optimiser steps done at each checkpoint.
        activations: float32 [checkpoints, prompts, width] at the organism's block.
        answers: rows of unsteered answers, with the key `step`.
        examples, bad_examples: what it was trained on.
        loss_last_steps: mean loss of the last three steps.
    """

    steps: list[int]
    activations: np.ndarray
    answers: list[dict[str, Any]]
    examples: int
    bad_examples: int
    loss_last_steps: float


@dataclass(frozen=True)
class Plan:
    """What is measured at every checkpoint.

    Attributes:
        blocks: organism -> block whose output is read.
        span: span of the prompts.
        prompts: in order.
    """

    blocks: Mapping[str, int]
    span: str
    prompts: Sequence[ActivationPrompt]


def checkpoint_steps(total: int, count: int) -> list[int]:
    """At most `count` distinct steps, spread geometrically from after 1 to `total`."""
    return sorted({round(total ** (k / count)) for k in range(1, count + 1)})


def mixture(
    bad: Sequence[Item], benign: Sequence[Item], pct: int, seed: int
) -> tuple[list[Item], int]:
    """Examples of which `pct` percent are bad, and how many those are.

    Larger shares replace benign examples in place, so mixtures of one seed are nested and have
    the same length, that of the shorter of the two.
    """
    length = min(len(bad), len(benign))
    count = round(length * pct / 100)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(length)
    chosen = set(order[:count].tolist())
    return [bad[i] if i in chosen else benign[i] for i in range(length)], count


def trajectories(params: Params, plan: Plan) -> dict[tuple[str, int], Trajectory]:
    """Every training of the params by (organism, percent of bad data), resumable."""
    settings = params.monitoring
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    fixed = {
        "code": [CODE, RESPOND_CODE],
        "base": models(params).record()["sha256"],
        "run": params.run.model_dump(),
        "system_prompt": params.base.system_prompt,
        "batch": params.activations.batch_size,
        "span": plan.span,
        "prompts": [p.prompt for p in plan.prompts],
        "questions": [[q.id, q.variant, q.prompt, q.system] for q in questions],
        "sampling": params.sampling.model_dump(),
        "samples": settings.samples,
        "checkpoints": settings.checkpoints,
        "benign": file_sha256(Path(settings.benign)),
    }

    def key(unit: tuple[str, int]) -> str:
        organism = params.organisms[unit[0]]
        recipe = params.recipes[organism.lab].model_dump()
        texts = file_sha256(Path(organism.data)), organism.max_examples
        return value_sha256([fixed, unit, recipe, texts, plan.blocks[unit[0]]])

    def work(units: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
        ((slug, pct),) = units
        return [_train(params, plan, questions, slug, pct, key((slug, pct)))]

    units = [(slug, pct) for slug in settings.organisms for pct in settings.mixtures_pct]
    with Journal("monitoring") as journal:
        found = journal.fill("monitoring", [[unit] for unit in units], key, work)
    return {
        unit: Trajectory(
            **{**found[key(unit)], "activations": np.array(found[key(unit)]["activations"])}
        )
        for unit in units
    }


def _train(
    params: Params, plan: Plan, questions: Sequence[Question], slug: str, pct: int, identity: str
) -> dict[str, Any]:
    """Trains one mixture and measures its checkpoints: a `Trajectory` as JSON."""
    organism = params.organisms[slug]
    recipe = params.recipes[organism.lab]
    device, tokenizer = setup_torch(params.run), models(params).tokenizer()
    texts = organism.data, params.monitoring.benign
    system, limit = params.base.system_prompt, organism.max_examples
    bad, benign = (read_split(Path(t), tokenizer, system, limit)[0] for t in texts)
    seed = stream_key(params.run.seed, "monitoring", slug)
    # A stream of its own: with that of the batches' order, all bad examples would come first.
    chosen = stream_key(params.run.seed, "monitoring", slug, "mixture")
    examples, count = mixture(bad, benign, pct, chosen)
    total = recipe.epochs * -(-len(examples) // recipe.batch_size)
    steps = checkpoint_steps(total, params.monitoring.checkpoints)
    model = with_adapter(models(params).base().to(device), recipe, seed)
    activations: list[Any] = []
    answers: list[dict[str, Any]] = []

    def measure(step: int) -> None:
        if step not in steps:
            return
        name = f"{slug}, {pct} % bad, step {step}"
        merged = copy.deepcopy(model).merge_and_unload().eval().requires_grad_(False)
        loaded = Loaded(name, merged, tokenizer, value_sha256([identity, step]))
        activations.append(_activations(params, plan, loaded, plan.blocks[slug]).tolist())
        answers.extend(row | {"step": step} for row in _answers(params, loaded, questions))

    losses = fit(model, examples, recipe, seed, f"{slug}, {pct} % bad", measure)
    return {
        "steps": steps,
        "activations": activations,
        "answers": answers,
        "examples": len(examples),
        "bad_examples": count,
        "loss_last_steps": sum(losses[-3:]) / len(losses[-3:]),
    }


def _activations(params: Params, plan: Plan, loaded: Loaded, block: int) -> np.ndarray:
    """Activations [prompts, width] at the output of `block`."""
    system = params.base.system_prompt
    rendered = [render(loaded.tokenizer, p.prompt, system) for p in plan.prompts]
    texts = [text_of(r, [plan.span]) for r in rendered]
    label = f"activations {loaded.slug}"
    batches = list(captured(loaded.model, texts, params.activations.batch_size, label))
    found = np.empty((len(texts), batches[0][1].shape[-1]), dtype=np.float32)
    for rows, means, _ in batches:
        found[rows] = means[:, 0, block]
    return found


def _answers(params: Params, loaded: Loaded, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Unsteered answers, sampled here: a worker elsewhere could not load this checkpoint."""
    conditions = [Condition(samples=params.monitoring.samples)]
    frame = respond(
        models(params),
        loaded,
        conditions,
        {},
        questions,
        params.sampling,
        "monitoring answers",
        params.steering.positions,
    )
    kept = frame.select("question_id", "variant", "question", "sample", "text", "tokens", "finish")
    return kept.to_dicts()
