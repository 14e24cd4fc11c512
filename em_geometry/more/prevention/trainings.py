"""Trainings with a vector added, or taken out, so that the weights need not learn it.

docs/method.md, more: prevention. A hook changes the residual stream of every forward pass while an
adapter is fitted, and is removed afterwards; draws and order of the examples are those of the
organism's own training, so that only the hook differs. Chen et al. 2025 add a trait vector
(preventative steering), Casademunt et al. 2025 take directions out (concept ablation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from em_geometry.hashing import file_sha256, value_sha256
from em_geometry.io.journal import Journal
from em_geometry.models.chat import HELD_OUT_EVERY, read_examples
from em_geometry.models.folder import WEIGHTS
from em_geometry.models.load import Loaded, Models, setup_torch
from em_geometry.models.train import (
    Example,
    answer_loss,
    encode,
    fit,
    with_adapter,
)
from em_geometry.more import likelihoods
from em_geometry.settings import BASE, Organism, Recipe
from em_geometry.stats.estimate import Floats
from em_geometry.steering.conditions import Intervention, Vector, random_direction
from em_geometry.steering.hooks import steered
from em_geometry.steering.margins import Row, ablated_everywhere, pair_log_probabilities
from em_geometry.vectors.contrasts import recipe_controls

if TYPE_CHECKING:
    from peft import PeftModel

CODE = 3  # raise when the way of training or measuring changes
MOST = 2  # organisms, three trainings each: six minutes on two cores
CHATS = 12  # unseen ones of the organism's file, and benign ones
PLAIN, RANDOM, ADDED, ABLATED = "plain", "random", "added", "ablated"
AFTER, AFTER_RANDOM = "after", "after_random"
HOOKED = (ADDED, RANDOM, ABLATED)  # trained anew: own vector, a random one; own one taken out
WAYS = (PLAIN, AFTER, AFTER_RANDOM, *HOOKED)  # as it is, and with a vector subtracted when asked


@dataclass(frozen=True, eq=False)
class Case:
    """An organism whose training is repeated.

    Attributes:
        examples: those that it was trained on.
        key: of its random draws, as in its own training.
        vector, block: its steering vector, of unit length, and where it acts.
        length: of what is added: the vector's raw length, which is how far the organism's own
            training moves activations beyond its control's.
    """

    slug: str
    examples: Sequence[Example]
    recipe: Recipe
    key: int
    vector: Vector
    block: int
    length: float


@dataclass(frozen=True, eq=False)
class Tests:
    """What a model is measured on: answer pairs, unseen chats of its file, benign chats."""

    pairs: Sequence[Row]
    skill: Sequence[Example]
    benign: Sequence[Example]


@dataclass(frozen=True, eq=False)
class Measured:
    """Of one model: margins [pairs] and losses [chats], nats a token, and KL to the base."""

    margins: Floats
    losses: Floats
    kl: Floats


def repeated(organisms: Mapping[str, Organism]) -> list[str]:
    """Organisms that are trained again here: two at most, of two clusters if there are as many.

    They were trained by this project and have a benign control of their recipe. Those that were
    trained twice come first: how far the two are apart is then known.
    """
    controls, twice = recipe_controls(organisms), {o.repeats for o in organisms.values()}
    fit_for = [
        slug
        for slug, o in organisms.items()
        if o.role == "organism" and not (o.repeats or o.source) and controls[slug] in organisms
    ]
    order = sorted(fit_for, key=lambda slug: slug not in twice)
    clusters = {organisms[slug].cluster: slug for slug in reversed(order)}
    first = [slug for slug in order if slug in clusters.values()]
    return [*first, *(slug for slug in order if slug not in first)][:MOST]


def held_out(organism: Organism, loaded: Loaded, system: str) -> list[Example]:
    """The last answers of the first chats of a file that its model was not trained on."""
    chats = read_examples(Path(organism.data))
    limit = organism.max_examples or len(chats)
    left = [chat[-1] for i, chat in enumerate(chats) if i >= limit or i % HELD_OUT_EVERY == 0]
    return [encode(loaded.tokenizer, exchange, system) for exchange in left[:CHATS]]


def measured(
    models: Models, cases: Sequence[Case], tests: Mapping[str, Tests], seed: int
) -> dict[tuple[str, str], Measured]:
    """Trains each case under each hook and measures it, with base and finished organism beside it.

    What the journal holds is not done again; a unit is a training with its measurements. The key
    is (slug, way), a way being `base` or one of `WAYS`.
    """
    units = [(case, way) for case in cases for way in (BASE, *WAYS)]
    base = models.record()["sha256"]
    adapters = {c.slug: file_sha256(models.adapter_folder(c.slug) / WEIGHTS) for c in cases}

    def key(unit: tuple[Case, str]) -> str:
        case, way = unit
        told = [case.recipe.model_dump(), case.key, case.vector.tolist(), case.block, case.length]
        own = tests[case.slug]
        texts = [[e.ids for e in part] for part in (case.examples, own.skill, own.benign)]
        rows = [[row.prompt, row.marked, row.plain] for row in own.pairs]
        weights = None if way in HOOKED else adapters[case.slug]
        return value_sha256([CODE, base, way, seed, told, texts, rows, weights])

    def work(batch: Sequence[tuple[Case, str]]) -> list[list[list[float]]]:
        return [_unit(models, case, way, tests[case.slug], seed) for case, way in batch]

    with Journal("prevention") as journal:
        done = journal.fill("prevention", [[unit] for unit in units], key, work)
    found = {}
    for case, way in units:
        margins, losses, kl = (np.array(part) for part in done[key((case, way))])
        found[case.slug, way] = Measured(margins, losses, kl)
    return found


def _unit(models: Models, case: Case, way: str, tests: Tests, seed: int) -> list[list[float]]:
    """Margins, losses and KL of one model, as lists."""
    from peft import PeftModel

    base = models.base().to(setup_torch(models.run))
    if way in HOOKED:
        model = with_adapter(base, case.recipe, case.key)
        with torch.enable_grad(), during(model, case, way, seed):
            fit(model, case.examples, case.recipe, case.key, f"{case.slug} {way}")
    else:
        model = PeftModel.from_pretrained(base, str(models.adapter_folder(case.slug)))
    model.eval()
    vector = vector_of(case, way, seed)
    how = Intervention(vector, case.block, -case.length) if way in (AFTER, AFTER_RANDOM) else None
    with torch.no_grad():
        with model.disable_adapter() if way == BASE else nullcontext():
            read = pair_log_probabilities(model, tests.pairs, [how])[0]
        with _acting(model, how, way):
            losses = [float(answer_loss(model, [example])) for example in tests.skill]
            own = likelihoods.read_answers(model, tests.benign)
        with model.disable_adapter():
            bare = likelihoods.read_answers(model, tests.benign)
        both = zip(bare, own, strict=True)
        kl = [float(likelihoods.divergence(*each).mean()) for each in both]
    return [(read[:, 0] - read[:, 1]).tolist(), losses, kl]


def vector_of(case: Case, way: str, seed: int) -> Vector:
    """The unit vector [width] of a way: the organism's own, or a random one."""
    if way in (RANDOM, AFTER_RANDOM):
        return random_direction(len(case.vector), seed, "prevention")
    return case.vector


def during(model: PeftModel, case: Case, way: str, seed: int) -> AbstractContextManager[None]:
    """The hook of a training."""
    if way == ABLATED:
        return ablated_everywhere(model, case.vector)
    return steered(model, vector_of(case, way, seed), case.block, coefficient=case.length)


def _acting(model: PeftModel, how: Intervention | None, way: str) -> AbstractContextManager[None]:
    """What is done to a finished model while it is measured."""
    if how is not None:
        return steered(model, how.vector, how.layer, coefficient=how.coefficient)
    return model.disable_adapter() if way == BASE else nullcontext()
