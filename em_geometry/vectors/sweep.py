"""Which block and which coefficient each steering vector gets (docs/method.md: layer_sweep).

On the held-out questions only: (i) what adding the unit vector at a fixed relative dose to the
*base* does to the log-probability margin of misaligned over aligned reference answers, at every
block of a grid; (ii) at the best few blocks, judged generations at several doses; the strongest
dose that keeps answers coherent is kept. Beside the chosen contrast, what every other one does to
the margin: the contrast is a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from em_geometry.activations.prompts import Question
from em_geometry.errors import UserError
from em_geometry.io.results import Leaf
from em_geometry.models.chat import answer_ids, render
from em_geometry.models.load import Loaded
from em_geometry.progress import Progress
from em_geometry.settings import Contrast, LayerSweep, Vectors
from em_geometry.stats.arrays import Floats
from em_geometry.stats.intervals import t_interval
from em_geometry.steering.conditions import (
    Condition,
    Intervention,
    Positions,
    Selected,
    random_direction,
)
from em_geometry.steering.reading import answer_log_probabilities
from em_geometry.vectors.contrasts import OF_ANSWERS, OK, Array, VectorTable, prompt_span

if TYPE_CHECKING:
    import polars as pl

RANDOM = "random"
ANSWER_SPAN = "response_mean"
Rule: TypeAlias = Literal["common", "per_model"] | int  # `vectors.layer`
# (slug, block, relative dose) -> n, coherent_pct, misaligned_pct, mean_aligned (None: no scores)
Trials: TypeAlias = dict[tuple[str, int, float], dict[str, float | None]]
# (interventions, label of the progress) -> margins [interventions, questions]
Margins: TypeAlias = Callable[[Sequence[Intervention | None], str], Floats]


@dataclass(frozen=True)
class Choice:
    """Block and dose of one organism, and why these where it is not plain."""

    layer: int
    dose: float
    status: str = OK


def candidates(table: VectorTable, choice: str, organisms: Sequence[str]) -> dict[str, Array]:
    """Unit vectors [block, width] of the organisms; UserError where there are none."""
    if choice not in table.raw:
        raise UserError(
            "no vectors of this contrast and span",
            where="params.yaml: vectors",
            found=choice,
            expected="one of " + ", ".join(sorted(table.raw)),
        )
    for slug in organisms:
        if not table.norms[choice][table.models.index(slug)].any():
            raise UserError(
                "this organism has no steering vector under the chosen contrast",
                where=f"params.yaml: vectors.contrast, organism {slug}",
                found=table.status(choice, slug, 0),
                hint="choose another contrast",
            )
    return {slug: table.units(choice, slug) for slug in organisms}


def margins(
    loaded: Loaded,
    questions: Sequence[Question],
    positions: Positions,
    interventions: Sequence[Intervention | None],
    label: str,
) -> Floats:
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
    margin: Margins, units: Mapping[str, Array], residual: Floats, settings: LayerSweep, seed: int
) -> dict[str, Floats]:
    """Mean margin gain [layer of the grid] by organism, and of a random direction."""
    shape = next(iter(units.values())).shape
    every = {**units, RANDOM: np.broadcast_to(random_direction(shape[-1], seed, RANDOM), shape)}
    plan = [
        Intervention(unit[layer], layer, settings.dose * float(residual[layer]))
        for unit in every.values()
        for layer in settings.layers
    ]
    found = margin([None, *plan], "layer sweep")
    gain = (found[1:] - found[0]).mean(-1).reshape(len(every), -1)
    return dict(zip(every, gain, strict=True))


def layers_to_judge(
    gains: Mapping[str, Floats], organisms: Sequence[str], settings: LayerSweep, rule: Rule
) -> dict[str, list[int]]:
    """The blocks whose generations are judged, by organism."""
    if isinstance(rule, int):
        return {slug: [rule] for slug in organisms}
    mean = np.mean([gains[slug] for slug in organisms], axis=0)
    gain = {slug: mean if rule == "common" else gains[slug] for slug in organisms}
    order = {slug: np.argsort(-each, kind="stable") for slug, each in gain.items()}
    return {s: sorted(settings.layers[i] for i in o[: settings.best]) for s, o in order.items()}


def conditions(
    units: Mapping[str, Array],
    residual: Floats,
    layers: Mapping[str, Sequence[int]],
    settings: LayerSweep,
) -> tuple[list[Condition], dict[str, Array]]:
    """What is done to the base at these blocks, and the unit vectors by their names."""
    plan, vectors = [], {}
    for slug, layer in ((slug, layer) for slug, blocks in layers.items() for layer in blocks):
        name = f"{slug}@{layer}"
        vectors[f"vector:{name}"] = units[slug][layer]
        for dose in settings.doses:
            size = float(dose * residual[layer])
            plan.append(Condition(name, "vector", dose, dose, size, layer, settings.samples))
    return plan, vectors


def trials_of(answers: pl.DataFrame, settings: LayerSweep) -> Trials:
    """What the judge says of each trial; an answer that its endpoint failed on counts nowhere."""
    import polars as pl

    coherent = (pl.col("coherent") >= settings.coherent_above).fill_null(False)
    misaligned = (pl.col("aligned") < settings.misaligned_below).fill_null(False) & coherent
    judged = answers.filter(pl.col("aligned_status") != "api_error")
    table = judged.group_by("source", "relative_dose").agg(
        n=pl.len(),
        coherent_pct=coherent.mean() * 100,
        misaligned_pct=misaligned.mean() * 100,
        mean_aligned=pl.col("aligned").mean(),
    )
    trials: Trials = {}
    for source, dose, *numbers in table.iter_rows():
        slug, _, layer = source.rpartition("@")
        trials[slug, int(layer), dose] = dict(zip(table.columns[2:], numbers, strict=True))
    return trials


def choose(
    trials: Trials, layers: Mapping[str, Sequence[int]], rule: Rule, min_coherent: float
) -> dict[str, Choice]:
    """Block and dose by organism.

    A trial is allowed when enough answers stay coherent; among these, the one with the lowest
    mean alignment wins (steadier than a rate of a few answers). The common block is the one
    whose winners are lowest on average.
    """
    why = f"no dose keeps {min_coherent:g} % of the answers coherent; the lowest taken"
    best: dict[tuple[str, int], tuple[float, float, str]] = {}
    for slug, layer in ((slug, layer) for slug, blocks in layers.items() for layer in blocks):
        own = {dose: t for (s, at, dose), t in trials.items() if (s, at) == (slug, layer)}
        allowed = [
            (t["mean_aligned"], dose)
            for dose, t in own.items()
            if t["mean_aligned"] is not None and (t["coherent_pct"] or 0.0) >= min_coherent
        ]
        best[slug, layer] = (*min(allowed), OK) if allowed else (100.0, min(own), why)
    if rule == "per_model":
        at = {s: min((best[s, layer][0], layer) for layer in of)[1] for s, of in layers.items()}
    else:
        shared = next(iter(layers.values()))
        common = min((np.mean([best[s, layer][0] for s in layers]), layer) for layer in shared)[1]
        at = dict.fromkeys(layers, common)
    return {slug: Choice(layer, *best[slug, layer][1:]) for slug, layer in at.items()}


def selected_of(
    table: VectorTable, units: Mapping[str, Array], chosen: Mapping[str, Choice], how: Vectors
) -> dict[str, Selected]:
    """The chosen vectors with their coefficients."""
    norms, found = table.norms[f"{how.contrast}.{how.span}"], {}
    for slug, c in chosen.items():
        size = float(c.dose * table.residual[c.layer])
        norm = float(norms[table.models.index(slug), c.layer])
        vector = units[slug][c.layer].astype(np.float32)
        found[slug] = Selected(vector, c.layer, c.dose, size, norm, how.contrast, how.span)
    return found


def contrast_efficacy(
    margin: Margins,
    table: VectorTable,
    blocks: Mapping[str, int],
    chosen: Vectors,
    spans: Sequence[str],
    dose: float,
    seed: int,
) -> dict[str, Leaf]:
    """Mean margin gain over the organisms' vectors, in nats per token, by contrast.

    Args:
        blocks: of each organism, at which the vectors of all contrasts are tried.
        spans: of prompts, as captured.
        dose: relative dose.
    """

    def added(vector: Array, block: int) -> Intervention:
        return Intervention(vector, block, dose * float(table.residual[block]))

    others = prompt_span(chosen.span, spans)
    names = {c: ANSWER_SPAN if c == OF_ANSWERS else others for c in get_args(Contrast)}
    names[chosen.contrast] = chosen.span
    plan: dict[tuple[str, str | int], Intervention] = {}
    why: dict[tuple[str, str], str] = {}
    for contrast, span in names.items():
        for slug, block in blocks.items():
            choice = f"{contrast}.{span}"
            why[contrast, slug] = table.status(choice, slug, block)
            if why[contrast, slug] == OK:
                plan[contrast, slug] = added(table.units(choice, slug)[block], block)
    chance = random_direction(next(iter(table.raw.values())).shape[-1], seed, RANDOM)
    plan |= {(RANDOM, block): added(chance, block) for block in sorted(set(blocks.values()))}
    found = margin([None, *plan.values()], "contrasts")
    gains = dict(zip(plan, found[1:] - found[0], strict=True))
    results: dict[str, Leaf] = {}
    for contrast, span in names.items():
        used, key = [s for s in blocks if why[contrast, s] == OK], f"efficacy.{contrast}"
        results |= {f"{key}.span": span, f"{key}.vectors": len(used)}
        results |= {f"{key}.without.{s}": why[contrast, s] for s in blocks if s not in used}
        results[key] = "undefined for every organism"
        if used:
            mean = np.mean([gains[contrast, slug] for slug in used], axis=0)
            random = np.mean([gains[RANDOM, blocks[slug]] for slug in used], axis=0)
            results |= {key: t_interval(mean), f"{key}.beyond_random": t_interval(mean - random)}
    return results


def sweep_results(
    chosen: Mapping[str, Choice],
    selected: Mapping[str, Selected],
    trials: Trials,
    gains: Mapping[str, Floats],
    layers: Sequence[int],
) -> dict[str, Leaf]:
    """What was chosen for each organism, and how it fared there, by dotted key."""
    used = {c.layer for c in chosen.values()}
    results: dict[str, Leaf] = {"layer": used.pop() if len(used) == 1 else "per model"}
    for slug, c in chosen.items():
        size, norm = selected[slug].coefficient, selected[slug].norm
        entry: dict[str, Leaf] = {"layer": c.layer, "dose": c.dose, "coefficient": size}
        entry |= {"raw_norm": norm, "status": c.status}
        for name, value in trials[slug, c.layer, c.dose].items():
            entry[name] = "undefined: no scored answers" if value is None else value
        if c.layer in layers:
            at = layers.index(c.layer)
            entry["margin_gain"] = float(gains[slug][at])
            entry["random_margin_gain"] = float(gains[RANDOM][at])
        entry["best_layer_by_margin"] = layers[int(np.argmax(gains[slug]))]
        results |= {f"{slug}.{name}": value for name, value in entry.items()}
    return results
