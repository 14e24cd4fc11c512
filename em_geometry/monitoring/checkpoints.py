"""Organisms trained again on mixtures of bad and benign data, and measured while they train.

All mixtures of an organism start from one adapter and see their batches in one order: where the
100 % mixture shows a bad example, the others show it or a benign one. Each checkpoint is merged
into a copy of the model, measured and let go; its activations and answers are kept.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from em_geometry.activations.capture import at_block
from em_geometry.activations.prompts import ActivationPrompt, text_of
from em_geometry.errors import UserError
from em_geometry.hashing import file_sha256, stream_key, value_sha256
from em_geometry.io.files import read_parquet, read_tensors, write_tensors
from em_geometry.models.chat import render
from em_geometry.models.load import Loaded, Models, setup_torch
from em_geometry.models.train import Unit, fit, read_split, retrained, with_adapter
from em_geometry.settings import Monitoring, Organism, Recipe
from em_geometry.stats.arrays import Floats

CODE = 2  # raise when the way a checkpoint is made or measured changes

Item = TypeVar("Item")
Answers = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One training, as measured."""

    steps: list[int]  # optimiser steps done at each checkpoint
    activations: npt.NDArray[np.float32]  # [checkpoints, prompts, width] at the organism's block
    answers: Answers  # rows of unsteered answers, with the key `step`; not in the file
    examples: int
    bad_examples: int
    loss_last_steps: float  # mean of the last three steps


@dataclass(frozen=True)
class Plan:
    """What is measured at every checkpoint."""

    blocks: Mapping[str, int]  # organism -> block whose output is read
    choice: str  # contrast and span of the vectors that will be looked for
    span: str  # of the prompts
    prompts: Sequence[ActivationPrompt]
    batch_size: int  # prompts in one pass


def unmeasured(settings: Monitoring, organisms: Mapping[str, Organism]) -> str | None:
    """Why there is nothing to train; None when there is; UserError for an unknown organism."""
    chosen = settings.organisms
    known = [slug for slug, o in organisms.items() if o.role == "organism"]
    if not set(chosen) <= set(known):
        raise UserError(
            "only organisms of the run can be monitored",
            where="params.yaml: monitoring.organisms",
            found=", ".join(chosen),
            expected="of " + ", ".join(known),
        )
    if not chosen:
        return "not measured: monitoring.organisms is empty"
    if any(organisms[slug].source is not None for slug in chosen):
        return "not measurable: organisms are loaded, not trained"
    return None


def chosen_prompts(
    prompts: Sequence[ActivationPrompt], limit: int | None
) -> list[ActivationPrompt]:
    """So many prompts of each kind, spread evenly; UserError when they are of one topic."""
    kept = []
    for kind in dict.fromkeys(p.kind for p in prompts):
        mine = [p for p in prompts if p.kind == kind]
        count = min(limit or len(mine), len(mine))
        kept += [mine[i * len(mine) // count] for i in range(count)]
    topics = {p.topic for p in kept}
    if len(topics) < 2:
        raise UserError(
            "an interval over topics needs prompts of two or more",
            where="params.yaml: monitoring.prompts",
            found=f"{len(kept)} prompts of {', '.join(topics)}",
            hint="raise its limit, or give its file prompts of further topics",
        )
    return kept


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


def trajectories(
    models: Models,
    recipes: Mapping[str, Recipe],
    settings: Monitoring,
    plan: Plan,
    answer: Callable[[Loaded], Answers],
    asked: Mapping[str, Any],
) -> dict[Unit, Trajectory]:
    """Every training by (organism, percent of bad data), resumable.

    Args:
        answer: unsteered answers of a checkpoint.
        asked: what decides those answers, JSON-able.
    """
    fixed = {
        **asked,
        "batch": plan.batch_size,
        "span": plan.span,
        "prompts": [p.prompt for p in plan.prompts],
        "samples": settings.samples,
        "checkpoints": settings.checkpoints,
        "benign": file_sha256(Path(settings.benign)),
    }
    train = partial(_train, models, recipes, settings, plan, answer)
    units = [(slug, pct) for slug in settings.organisms for pct in settings.mixtures_pct]
    found = retrained("monitoring", models, recipes, units, plan.blocks, fixed, train)
    return {
        unit: Trajectory(**{**each, "activations": np.array(each["activations"], dtype=np.float32)})
        for unit, each in found.items()
    }


def _train(
    models: Models,
    recipes: Mapping[str, Recipe],
    settings: Monitoring,
    plan: Plan,
    answer: Callable[[Loaded], Answers],
    slug: str,
    pct: int,
    identity: str,
) -> dict[str, Any]:
    """Trains one mixture and measures its checkpoints: a `Trajectory` as JSON."""
    device, tokenizer, system = setup_torch(models.run), models.tokenizer(), models.system_prompt
    organism = models.organisms[slug]
    recipe = recipes[organism.lab]
    bad, benign = (
        read_split(Path(data), tokenizer, system, organism.max_examples)[0]
        for data in (organism.data, settings.benign)
    )
    seed = stream_key(models.run.seed, "monitoring", slug)
    # A stream of its own: with that of the batches' order, all bad examples would come first.
    chosen = stream_key(models.run.seed, "monitoring", slug, "mixture")
    examples, count = mixture(bad, benign, pct, chosen)
    total = recipe.epochs * -(-len(examples) // recipe.batch_size)
    steps = checkpoint_steps(total, settings.checkpoints)
    model = with_adapter(models.base().to(device), recipe, seed)
    rendered = [render(tokenizer, p.prompt, system) for p in plan.prompts]
    texts = [text_of(r, [plan.span]) for r in rendered]
    activations: list[Any] = []
    answers: Answers = []

    def measure(step: int) -> None:
        if step not in steps:
            return
        name = f"{slug}, {pct} % bad, step {step}"
        merged = copy.deepcopy(model).merge_and_unload().eval().requires_grad_(False)
        loaded = Loaded(name, merged, tokenizer, value_sha256([identity, step]))
        how = plan.batch_size, f"activations {name}", 0, plan.blocks[slug]
        activations.append(at_block(merged, texts, *how).tolist())
        answers.extend(row | {"step": step} for row in answer(loaded))

    losses = fit(model, examples, recipe, seed, f"{slug}, {pct} % bad", measure)
    return {
        "steps": steps,
        "activations": activations,
        "answers": answers,
        "examples": len(examples),
        "bad_examples": count,
        "loss_last_steps": sum(losses[-3:]) / len(losses[-3:]),
    }


def all_answers(found: Mapping[Unit, Trajectory]) -> pl.DataFrame:
    """The answers of all trainings with their organism and percent of bad data."""
    return pl.concat(
        pl.DataFrame(t.answers).select(
            pl.lit(slug).alias("organism"), pl.lit(pct).alias("bad_pct"), pl.all()
        )
        for (slug, pct), t in found.items()
    )


def write_trajectories(path: Path, plan: Plan, slug: str, found: Mapping[int, Trajectory]) -> None:
    """Writes an organism's trainings by percent of bad data, without their answers."""
    kept = ("steps", "examples", "bad_examples", "loss_last_steps")
    about = {
        "trainings": json.dumps({p: {k: getattr(t, k) for k in kept} for p, t in found.items()}),
        "block": str(plan.blocks[slug]),
        "choice": plan.choice,
        "span": plan.span,
        "prompts": json.dumps([asdict(p) for p in plan.prompts]),
        "units": "residual stream of the organism's checkpoints",
        "axes": "checkpoint, prompt, width",
    }
    write_tensors(path, {f"mix_{pct}": t.activations for pct, t in found.items()}, about)


def read_trajectories(path: Path) -> tuple[Plan, dict[int, Trajectory]]:
    """Reads what `write_trajectories` wrote; the plan is that of this organism alone."""
    tensors, about = read_tensors(path)
    try:
        prompts = [ActivationPrompt(**p) for p in json.loads(about["prompts"])]
        blocks = {path.stem: int(about["block"])}
        plan = Plan(blocks, about["choice"], about["span"], prompts, len(prompts))
        return plan, {
            int(pct): Trajectory(activations=tensors[f"mix_{pct}"], answers=[], **facts)
            for pct, facts in json.loads(about["trainings"]).items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "these are no activations of checkpoints",
            where=str(path),
            found=f"{type(error).__name__}: {error}",
            hint="dvc repro checkpoints",
        ) from None


def stored(folder: Path, model: str, plan: Plan, block: int) -> Floats:
    """Activations [prompts, width] of a model of the run on the plan's prompts, after `block`."""
    path = folder / f"{model}.safetensors"
    rows = read_parquet(path.with_suffix(".parquet"))["prompt_id"].to_list()
    places = {name: i for i, name in enumerate(rows)}
    missing = [p.id for p in plan.prompts if p.id not in places]
    if missing:
        raise UserError(
            "activations were taken on other prompts",
            where=str(path),
            found=f"no {missing[0]}",
            hint="dvc repro activations",
        )
    chosen = [places[p.id] for p in plan.prompts]
    return read_tensors(path)[0][plan.span][chosen, block].astype(np.float64)
